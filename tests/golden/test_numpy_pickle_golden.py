"""Pickled files that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.golden.make_numpy_pickle import FOLDER, OBJECT, write

import weightlift as wl


@pytest.mark.parametrize("name", ["numpy.npy", "weightlift.npy"])
def test_golden_file_loads(name: str) -> None:
    assert repr(wl.load(FOLDER / name)) == repr(OBJECT)
    assert repr(np.load(FOLDER / name, allow_pickle=True).item()) == repr(OBJECT)
    assert wl.verify(FOLDER / name).ok


def test_what_we_write_has_not_changed(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("weightlift.npy", "weightlift.npy.crc32c"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
