"""Files that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.golden.make_numpy import ARRAYS, described

from weightlift.formats._npy import NPY
from weightlift.formats._npz import NPZ
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

FOLDER = Path(__file__).parent / "numpy"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_loads(name: str) -> None:
    files = MemoryFiles({name: (FOLDER / name).read_bytes()})
    layout = (NPY if name.endswith(".npy") else NPZ).read(files, name)
    assert {key: described(a) for key, a in read_tensors(layout, files).items()} == EXPECTED[name]


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # of Python 2
@pytest.mark.parametrize("name", EXPECTED)
def test_numpy_loads_the_same(name: str) -> None:
    loaded = np.load(FOLDER / name)
    arrays = {"tensor": loaded} if name.endswith(".npy") else dict(loaded)
    assert {key: described(a) for key, a in arrays.items()} == EXPECTED[name]


def test_what_we_write_has_not_changed() -> None:
    assert write_tensors(NPZ, ARRAYS, "x.npz").files["x.npz"] == (FOLDER / "weightlift.npz").read_bytes()


def test_every_golden_file_is_described() -> None:
    assert {p.name for p in FOLDER.iterdir()} == {*EXPECTED, "expected.json"}
