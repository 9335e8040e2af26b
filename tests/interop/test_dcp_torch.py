"""Checkpoints that the torch at hand saves, by one process and by two, are read bit for bit."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.golden.test_dcp_golden import check

import weightlift as wl

SCRIPT = Path(__file__).parents[1] / "golden" / "make_dcp.py"

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcp") / "made"
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_what_torch_saves_is_read(made: Path, name: str) -> None:
    check(made / name)
    assert wl.verify(made / name).ok


def test_a_checkpoint_becomes_one_file(made: Path, tmp_path: Path) -> None:
    wl.convert(made / "sharded", tmp_path / "model.safetensors")
    with wl.open(made / "sharded") as there, wl.open(tmp_path / "model.safetensors") as here:
        assert set(here) == set(there)
        for name, view in there.items():
            assert np.asarray(view[...]).tobytes() == np.asarray(here[name][...]).tobytes()


def test_torch_loads_a_checkpoint_that_became_its_file(made: Path, tmp_path: Path) -> None:
    import torch

    wl.convert(made / "plain", tmp_path / "x.pt")
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    assert found["step"] == 7
    assert torch.equal(found["list"][2][0], torch.ones(2))
    assert found["types"]["float8"].dtype == torch.float8_e4m3fn
