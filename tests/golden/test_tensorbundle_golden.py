"""Files that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.golden.make_tensorbundle import FOLDER, described_strings, ours

import weightlift as wl

EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_checkpoint_loads(name: str) -> None:
    assert described_strings(wl.load(FOLDER / name)) == EXPECTED[name]
    assert wl.verify(FOLDER / name).ok


def test_what_we_write_has_not_changed(tmp_path: Path) -> None:
    assert ours(tmp_path) == {path.name: path.read_bytes() for path in FOLDER.glob("ours.*")}


def test_every_golden_file_is_described() -> None:
    assert {path.name.partition(".")[0] for path in FOLDER.iterdir()} == {*EXPECTED, "expected"}


def test_our_metadata_comes_back() -> None:
    assert wl.open(FOLDER / "ours").metadata == {"note": "é"}
