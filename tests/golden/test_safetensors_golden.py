"""Files that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
from tests.golden.make_safetensors import described, ours

FOLDER = Path(__file__).parent / "safetensors"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
CONTENTS = {name: (FOLDER / name).read_bytes() for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_loads(name: str) -> None:
    assert described(CONTENTS, name) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.endswith(".json")])
def test_the_library_loads_the_same(name: str) -> None:
    loaded = {key: bytes(entry["data"]).hex() for key, entry in safetensors.deserialize(CONTENTS[name])}
    assert loaded == {key: entry["hex"] for key, entry in EXPECTED[name]["tensors"].items()}


def test_what_we_write_has_not_changed() -> None:
    for name, content in ours().items():
        assert content == CONTENTS[name], name


def test_every_golden_file_is_described() -> None:
    assert {p.name for p in FOLDER.iterdir()} == {*EXPECTED, "expected.json"}
