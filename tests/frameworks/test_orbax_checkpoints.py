"""Checkpoints that Orbax writes are read bit for bit, and damaged ones are refused: in JAX's environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.frameworks.environments import run_script


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_script("jax", Path(__file__).with_name("orbax_script.py"), tmp_path_factory.mktemp("orbax"))


@pytest.mark.parametrize("way", ["standard", "ocdbt", "folders", "ocdbt3", "folders3"])
def test_what_is_saved_is_loaded(answer: Any, way: str) -> None:
    assert answer[way] == [True] * 5


def test_text_conversion_and_steps(answer: Any) -> None:
    assert answer["text"] == "{'rate': 0.5, 'step': 7, 'text': 'hello', 'w': [1.0, 1.0]}"
    assert answer["convert"] is True
    assert "unchecked" in answer["verify"] and "damaged" not in answer["verify"]
    assert answer["steps"][:2] == [True, True]
    assert answer["steps"][2][0] == "UnsupportedFeatureError" and "the items a, b are trees" in answer["steps"][2][1]


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("no chunk", "FormatError", "chunks of the array are missing: one is at [0, 1] of [1, 2]"),
        ("no array", "FormatError", "columns/.zarray"),
        ("cut chunk", "FormatError", "columns/0.0"),
        ("link", "UnsafeContentError", "link out of the directory"),
        ("grid", "FormatError", "chunks of the array are missing: 666666667000000 were saved, of"),
        ("huge", "UnsafeContentError", "the tensors take 64000000000000000 bytes"),
        ("name", "UnsafeContentError", "leads out of the checkpoint's directory"),
        ("no database", "FormatError", "does not exist"),
        ("no nodes", "FormatError", "tensorstore cannot read it"),
    ],
)
def test_damage_is_refused(answer: Any, what: str, error: str, text: str) -> None:
    found, message = answer["damage"][what]
    assert (found, text in message) == (error, True), message
    assert "tensorstore_spec" not in message


def test_older_versions_do_not_store_zeros(answer: Any) -> None:
    assert answer["damage"]["old"] is True


def test_two_processes_save_one_checkpoint(tmp_path: Path) -> None:
    """Each writes what is on its devices, in a database of its own; all of it is read."""
    found = run_script("jax", Path(__file__).with_name("orbax_processes.py"), tmp_path)
    assert found["written by"] == ["ocdbt.process_0", "ocdbt.process_1"]
    assert found["answers"] == {"ocdbt": [True] * 5, "folders": [True] * 5}
