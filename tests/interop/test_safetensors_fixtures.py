"""Every safetensors file that the reference library wrote, and every hostile one beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures

from weightlift.errors import FormatError, WeightliftError
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.testing import MemoryFiles, read_tensors

FOLDER = shared_fixtures("frameworks")
MANIFEST: list[dict[str, Any]] = [
    f
    for f in json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    if f["format"].startswith("safetensors")
]

REFUSED_BY_CHOICE = {"safetensors-0.8/bad_dupkey.safetensors"}
"""The library loads it, the format forbids it: of two tensors with one name each reader sees another."""


def contents_beside(path: Path) -> MemoryFiles:
    return MemoryFiles({p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()})


def cases(refused: bool) -> list[str]:
    return [f["id"] for f in MANIFEST if (bool(f["must_be_rejected"]) or f["id"] in REFUSED_BY_CHOICE) == refused]


def test_there_are_fixtures_of_both_kinds() -> None:
    assert len(cases(True)) >= 15 and len(cases(False)) >= 4


@pytest.mark.parametrize("name", cases(False))
def test_loads_equal_to_its_truth(name: str) -> None:
    path = FOLDER / name
    files = contents_beside(path)
    layout = SAFETENSORS.read(files, path.name)
    tensors = read_tensors(layout, files)
    truth = np.load(FOLDER / f"{name}.truth.npz")
    described = json.loads((FOLDER / f"{name}.truth.json").read_text(encoding="utf-8"))["tensors"]
    assert set(tensors) == set(truth.files) == set(described)
    for key, array in tensors.items():
        assert str(array.dtype) == described[key]["dtype"]
        assert list(array.shape) == described[key]["shape"]
        assert array.tobytes() == truth[key].tobytes()


@pytest.mark.parametrize("name", cases(True))
def test_refused(name: str) -> None:
    path = FOLDER / name
    with pytest.raises(WeightliftError) as caught:
        SAFETENSORS.read(contents_beside(path), path.name)
    assert caught.value.path is not None


def test_the_duplicate_is_named() -> None:
    path = FOLDER / "safetensors-0.8/bad_dupkey.safetensors"
    with pytest.raises(FormatError, match="two tensors have this name"):
        SAFETENSORS.read(contents_beside(path), path.name)
