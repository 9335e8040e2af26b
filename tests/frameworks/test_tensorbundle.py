"""Checkpoints both ways between TensorFlow, Keras 2 and us, bit for bit; see tensorbundle_cases.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.frameworks.environments import framework_python, run_script

framework_python("tensorflow")

SCRIPT = Path(__file__).parent / "tensorbundle_cases.py"
NAMES = re.findall(r"^@case\ndef (\w+)", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found: dict[str, str] = run_script("tensorflow", SCRIPT, tmp_path_factory.mktemp("bundles"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_case(results: dict[str, str], name: str) -> None:
    assert results[name] == ""
