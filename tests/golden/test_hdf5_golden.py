"""Files that once loaded must always load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.golden.make_hdf5 import FOLDER, WEIGHTS, described

import weightlift as wl

pytest.importorskip("h5py", reason="h5py is not installed")
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_loads(name: str) -> None:
    found = described(wl.load(FOLDER / name))
    assert found == EXPECTED[name]
    assert list(found) == list(EXPECTED[name])
    assert wl.verify(FOLDER / name).ok


def test_what_was_saved_is_what_is_there(tmp_path: Path) -> None:
    assert EXPECTED["ours.h5"] == described(WEIGHTS)
    wl.save(WEIGHTS, tmp_path / "x.h5", metadata={"note": "é"})
    assert described(wl.load(tmp_path / "x.h5")) == EXPECTED["ours.h5"]
    assert wl.open(FOLDER / "ours.h5").metadata == wl.open(tmp_path / "x.h5").metadata == {"note": "é"}


def test_every_golden_file_is_described() -> None:
    assert {p.name for p in FOLDER.iterdir()} == {*EXPECTED, "expected.json", "ours.h5.crc32c"}
