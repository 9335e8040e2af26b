"""Networks that MXNet exported must always load, and what we write of them must not change by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import shared_fixtures
from tests.golden.make_mxnet_symbol import FOLDER

import weightlift as wl

SHAPES = [(4, 5), (4,), (4,), (4,), (4,), (4,), (3, 4), (3,)]
NAMES = {
    "one": [
        "dense0_weight", "dense0_bias", "batchnorm0_gamma", "batchnorm0_beta", "batchnorm0_running_mean",
        "batchnorm0_running_var", "dense1_weight", "dense1_bias",
    ],
    "two": [
        "0.weight", "0.bias", "1.gamma", "1.beta", "1.running_mean", "1.running_var", "2.weight", "2.bias",
    ],
}  # fmt: skip
OLD = {"mxnet-0.9.5": "0.9.5", "mxnet-0.11": "0.11.0", "mxnet-1.4.1": "1.4.1", "mxnet-1.9.1": "1.9.1"}


@pytest.mark.parametrize(("name", "version"), [("one", "1.9.1"), ("two", "2.0.0")])
def test_golden_network_loads(name: str, version: str, tmp_path: Path) -> None:
    model = wl.load_model(FOLDER / f"{name}-symbol.json", lazy=False)
    assert model.generated_by == f"MXNet {version}"
    assert list(model.weights) == NAMES[name]
    assert model.extra == {"auxiliaryStates": NAMES[name][4:6]}
    for number, (array, shape) in enumerate(zip(model.weights.values(), SHAPES, strict=True)):
        expected = np.arange(np.prod(shape)).reshape(shape) / 8 + number
        assert np.array_equal(array, expected.astype("f4"))
    wl.save_model(model, tmp_path / f"{name}-symbol.json")
    ends = ["-symbol.json", *(["-0000.params"] if name == "one" else [])]  # 2.0 has its parameters in an archive
    for file in (f"{name}{end}" for end in ends):
        assert (tmp_path / file).read_bytes() == (FOLDER / file).read_bytes()


@pytest.mark.parametrize("folder", OLD)
def test_checkpoints_of_old_versions(folder: str, tmp_path: Path) -> None:
    source = shared_fixtures("frameworks") / folder
    model = wl.load_model(source / "module-0001.params", lazy=False)
    assert model.generated_by == f"MXNet {OLD[folder]}"
    truth = np.load(source / "module-0001.params.truth.npz")
    assert set(model.weights) == {name.partition(":")[2] for name in truth.files}
    for name in truth.files:
        kind, _, plain = name.partition(":")
        assert np.array_equal(model.weights[plain], truth[name])
        assert (plain in model.extra["auxiliaryStates"]) == (kind == "aux")
    wl.save_model(model, tmp_path / "module-0001.params")
    assert (tmp_path / "module-symbol.json").read_bytes() == (source / "module-symbol.json").read_bytes()
