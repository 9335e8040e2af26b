"""Files that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.golden.make_torch import FOLDER, described, ours

import weightlift as wl

EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_loads(name: str) -> None:
    assert described(wl.load(FOLDER / name)) == EXPECTED[name]
    assert wl.verify(FOLDER / name).ok


def test_what_we_write_has_not_changed() -> None:
    assert ours() == (FOLDER / "ours.pt").read_bytes()


def test_both_forms_of_one_object_are_equal() -> None:
    assert EXPECTED["archive.pt"] == EXPECTED["legacy.pt"]


def test_every_golden_file_is_described() -> None:
    assert {p.name for p in FOLDER.iterdir()} == {*EXPECTED, "expected.json"}


def test_our_metadata_comes_back(tmp_path: Path) -> None:
    assert wl.open(FOLDER / "ours.pt").metadata == {"note": "é"}
    wl.convert(FOLDER / "ours.pt", tmp_path / "x.safetensors")
    assert described(wl.load(tmp_path / "x.safetensors")) == EXPECTED["ours.pt"]
