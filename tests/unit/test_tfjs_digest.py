"""The digest of a model.json: what JavaScript writes anew is no damage, and anything else is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl
from weightlift._json import as_javascript
from weightlift.formats._tfjs_manifest import _digest

NUMBERS = [-0.0, 0.0, 1.0, -3.0, 1e16, -1.25e18, 1.5e20, 1e21, 1e-7, 0.1, 123456789012345680000.0]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Quantised weights whose smallest value is -0.0, and metadata with all kinds of numbers."""
    given = wl.ModelArtifacts(
        {"class_name": "Sequential"}, {"w": np.arange(3, dtype="f4")}, user_defined_metadata={"n": NUMBERS}
    )
    wl.save_model(given, tmp_path, quantize="uint8")
    return tmp_path / "model.json"


def test_what_javascript_writes_anew_is_no_damage(document: Path) -> None:
    text = document.read_bytes()
    again = as_javascript(text)
    assert again != text and b"-0.0" not in text
    document.write_bytes(again)
    assert wl.load_model(document).weights["w"].shape == (3,)
    document.write_bytes(
        again.replace(b"1.5e20", b"1.5e19").replace(b"150000000000000000000", b"150000000000000000001")
    )
    with pytest.raises(wl.ChecksumError):
        wl.load_model(document)


def test_the_digest_of_the_first_files_still_holds(document: Path) -> None:
    value = json.loads(document.read_bytes())
    first = _digest(value, first=True)
    assert first != value["weightlift"]["digest"]
    value["weightlift"]["digest"] = first
    document.write_text(json.dumps(value), "utf-8")
    assert wl.load_model(document).weights["w"].shape == (3,)
