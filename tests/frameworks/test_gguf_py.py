"""GGUF against gguf-py: it reads what we write, and computes the same values of every block, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.frameworks.environments import run_script

import weightlift as wl
from weightlift._ggml import DEQUANTIZED

VALUES = np.concatenate(
    [
        np.random.default_rng(1).standard_normal((64, 32), "f4"),
        np.zeros((1, 32), "f4"),
        np.full((1, 32), 0.5, "f4"),
        np.arange(-16, 16, dtype="f4")[None] * 3.5,
        np.full((1, 32), 1e-40, "f4"),
        np.full((1, 32), 1e30, "f4"),
    ]
)
METADATA = {"general.architecture": "none", "n": 5, "t": True, "f": 0.5, "s": "é", "l": [1, 2], "w": ["a", "b"]}
OBJECT = {
    "w": VALUES,
    "f32": np.arange(6, dtype="f4").reshape(2, 3),
    "f16": np.arange(4, dtype="f2"),
    "bf16": np.arange(4).astype(ml_dtypes.bfloat16),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def answer(folder: Path) -> Any:
    np.save(folder / "values.npy", VALUES)
    wl.save(OBJECT, folder / "ours.gguf", quantize={"Q8_0": "w"}, metadata=METADATA)
    return run_script("jax", Path(__file__).parent / "gguf_script.py", folder)


def test_it_reads_what_we_write(answer: Any) -> None:
    kinds = {name: kind for name, (kind, _, _) in answer["read"].items()}
    assert kinds == {"w": "Q8_0", "f32": "F32", "f16": "F16", "bf16": "BF16"}
    for name in ("f32", "f16", "bf16"):
        assert answer["read"][name][1] == OBJECT[name].tobytes().hex()
    assert {key: answer["fields"][key] for key in METADATA} == METADATA


def test_blocks_are_those_that_it_makes(answer: Any) -> None:
    assert answer["read"]["w"][1] == answer["q8_0"]


def test_values_are_those_that_it_computes(answer: Any, folder: Path) -> None:
    ours = wl.load(folder / "ours.gguf", dequantize=True)
    assert ours["w"].tobytes().hex() == answer["read"]["w"][2]
    found = wl.load(folder / "random.gguf", dequantize=True)
    assert set(found) == set(DEQUANTIZED)
    for name, want in answer["blocks"].items():
        values = np.frombuffer(bytes.fromhex(want), "u4")
        same = found[name].reshape(-1).view("u4") == values
        numbers = ~np.isnan(values.view("f4"))  # of what is no number, the bits are the processor's
        assert np.all(same | ~numbers), name
        assert np.array_equal(np.isnan(found[name].reshape(-1)), ~numbers), name
        assert numbers.mean() > 0.5
