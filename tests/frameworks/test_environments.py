"""The frameworks' environments run, and import the weightlift under test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.frameworks.environments import run_script

import weightlift

_VERSIONS = Path(__file__).with_name("versions.py")


@pytest.mark.parametrize(("name", "version"), [("mxnet", "1.9.1"), ("jax", "0.10.")])
def test_a_script_runs_beside_the_framework(name: str, version: str) -> None:
    answer = run_script(name, _VERSIONS, name)
    assert answer["version"].startswith(version)
    assert answer["weightlift"] == weightlift.__version__
