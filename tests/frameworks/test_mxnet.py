"""The real MXNet and we read each other's files, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.frameworks.environments import run_script

import weightlift as wl

TYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8")
X = np.linspace(-2, 2, 12).reshape(3, 4)
COMMON: dict[str, Any] = {
    "list": [X.astype("f4"), np.arange(3, dtype="i8")],
    "one": X.astype("f4"),
    "dict": {f"arg:{np.dtype(t).name}": np.arange(12).reshape(3, 4).astype(t) for t in TYPES},
    "names": {"näme/with.sep": X.astype("f4"), "aux:a b": X.astype("f4")},
    "bfloat16": {"w": X.astype(ml_dtypes.bfloat16)},
}
V3_ONLY: dict[str, Any] = {
    "scalar": {"s": np.array(2.5, "f4"), "empty": np.zeros((0, 3), "f4"), "bool": X > 0},
    "axes": [np.ones((1, 2, 1, 1, 1, 1, 3), "f4")],
}
CASES = [*(("mxnet-v2", n) for n in COMMON), *(("mxnet", n) for n in (*COMMON, *V3_ONLY))]


def file_of(format: str, name: str) -> str:
    return f"{'v2' if format == 'mxnet-v2' else 'v3'}-{name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mxnet")
    for format, name in CASES:
        value = {**COMMON, **V3_ONLY}[name]
        wl.save(value, folder / file_of(format, name), format=format, checksums=False, durable=False)
        (folder / f"{file_of(format, name)}.crc32c").unlink(missing_ok=True)  # of metadata and structure
    return folder


@pytest.fixture(scope="module")
def answer(folder: Path) -> Any:
    return run_script("mxnet", Path(__file__).with_name("mxnet_check.py"), folder)


def described(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    raw = value.astype("f4") if value.dtype == ml_dtypes.bfloat16 else value
    return [str(value.dtype), list(value.shape), raw.tobytes().hex()]


@pytest.mark.parametrize(("format", "name"), CASES)
def test_mxnet_loads_what_we_write(format: str, name: str, answer: Any) -> None:
    value = {**COMMON, **V3_ONLY}[name]
    expected = described([value] if isinstance(value, np.ndarray) else value)
    assert answer["ours"][file_of(format, name)] == expected


@pytest.mark.parametrize("name", ["nd-one", "nd-list", "nd-dict", "nd-sparse", "np-one", "np-dict", "np-list"])
def test_we_load_what_mxnet_writes(name: str, folder: Path, answer: Any) -> None:
    expected = answer["theirs"][name]
    assert described(wl.load(folder / name)) == ([expected] if name.endswith("one") else expected)


def test_parameters_of_a_network(answer: Any) -> None:
    found = answer["parameters"]
    shapes = {"hidden.weight": [256, 20], "hidden.bias": [256], "output.weight": [10, 256], "output.bias": [10]}
    assert found["names"] == shapes
    assert found["mxnet"] and found["mxnet-v2"], "a clone that loads our file gives the same bits"
    assert found["same bytes"], "what we write is what save_parameters writes"


def test_the_chapter_with_live_networks(tmp_path: Path) -> None:
    """One array, a list, a dict; parameters, a clone, the first two layers in another network."""
    found = run_script("mxnet", Path(__file__).with_name("mxnet_live_check.py"), tmp_path)
    assert found.pop("names") == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert "initialize" in found.pop("early")
    assert found.pop("report") == [["0.weight", "0.bias", "1.weight", "1.bias"], 2]
    assert found.pop("wrong before the first pass") == [["2.weight", [32, -1], [10, 64]]]
    exports = found.pop("exports")
    assert len(exports) == 9 and all(exports.values()), exports
    assert [name for name, _, _ in found.pop("wrong")] == ["1.weight", "1.bias", "2.weight"]
    assert set(found) == {"one", "list", "dict", "theirs", "clone", "two layers", "renamed", "tied"}
    assert all(found.values()), found
