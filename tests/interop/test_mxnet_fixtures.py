"""Every file that MXNet 0.9 to 2.0 wrote, and every hostile one beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures

import weightlift as wl

FOLDER = shared_fixtures("frameworks")
MANIFEST: dict[str, dict[str, Any]] = {
    f["id"]: f
    for f in json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    if f["id"].startswith(("mxnet-", "malformed/mx_")) and not f["id"].endswith(".states")
}
"""All but the state of trainers, which is a pickle of Python objects."""
GOOD = [n for n, e in MANIFEST.items() if e["must_be_rejected"] is False]
BAD = [n for n, e in MANIFEST.items() if e["must_be_rejected"] is not False]
"""MXNet loads some of them all the same, in a way that two readers could see two things."""


def arrays(loaded: Any) -> dict[str, Any]:
    """By the names of the truth; an array that was never given values has none there."""
    if isinstance(loaded, np.ndarray):
        return {"value": loaded}
    items = loaded.items() if isinstance(loaded, dict) else enumerate(loaded)
    return {str(key): array for key, array in items if array is not None}


def test_there_are_files_of_every_version() -> None:
    assert len(GOOD) >= 50 and len(BAD) >= 12
    assert len({Path(n).parent.name for n in GOOD}) == 6


@pytest.mark.parametrize("name", GOOD)
def test_loads_equal_to_its_truth(name: str) -> None:
    loaded = wl.load(FOLDER / name)
    kind = {"dict": dict, "list": list, "tensor": np.ndarray}[MANIFEST[name]["container"]]
    assert type(loaded) is kind
    found, truth = arrays(loaded), np.load(FOLDER / f"{name}.truth.npz")
    described = json.loads((FOLDER / f"{name}.truth.json").read_text(encoding="utf-8"))["tensors"]
    assert set(found) == set(truth.files) == set(described)
    weights = wl.open(FOLDER / name)
    for key, array in found.items():
        assert (array.shape, array.tobytes()) == (truth[key].shape, truth[key].tobytes()), key
        assert str(array.dtype) == described[key]["dtype"], key
        parts = described[key].get("sparse", {})
        stored = {part: values.tolist() for part, values in weights[key].parts().items()} if parts else {}
        assert stored == parts
    assert wl.verify(FOLDER / name).ok


@pytest.mark.parametrize("name", [n for n in GOOD if "none_ok" not in n])
@pytest.mark.parametrize("target", ["out.safetensors", "out.params"])
def test_converts_and_stays_the_same(name: str, target: str, tmp_path: Path) -> None:
    wl.convert(FOLDER / name, tmp_path / target)
    assert not wl.diff(FOLDER / name, tmp_path / target).differences


@pytest.mark.parametrize("name", BAD)
def test_hostile_file_is_refused(name: str) -> None:
    for format in (None, "mxnet"):
        with pytest.raises(wl.FormatError, match=Path(name).name):
            wl.load(FOLDER / name, format=format)
