"""ONNX models against the onnx package: it reads what we write, we read what it writes, external data too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.frameworks.environments import run_script
from tests.unit.test_onnx import OBJECT

import weightlift as wl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def answer(folder: Path) -> Any:
    wl.save(OBJECT, folder / "ours.onnx", metadata={"k": "é"})
    return run_script("jax", Path(__file__).parent / "onnx_script.py", folder)


def described(array: Any) -> list[Any]:
    return [str(array.dtype), list(array.shape), array.tobytes().hex()]


def test_it_reads_what_we_write(answer: Any) -> None:
    assert answer["read"] == {name: described(array) for name, array in OBJECT.items()}
    assert answer["metadata"] == {"k": "é"}


@pytest.mark.parametrize("name", ["theirs.onnx", "external.onnx"])
def test_we_read_what_it_writes(name: str, answer: Any, folder: Path) -> None:
    found = wl.load(folder / name)
    for key, truth in answer["truth"].items():
        assert described(found[key]) == truth
    assert found["typed"].tolist() == [[1, -2], [3, -4]]
    assert (found["halves"].dtype, found["halves"].tolist()) == (np.float16, [1, -2])
    with wl.open(folder / name) as weights:
        assert weights.metadata["k"] == "v"
        assert Path(weights["f32"].file).name == ("external.data" if name == "external.onnx" else name)
