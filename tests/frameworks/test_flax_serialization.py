"""Flax's files against Flax itself: it reads what we write, we read what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.frameworks.environments import run_script

import weightlift as wl
from weightlift.formats import _flax

OBJECT: dict[str, Any] = {
    "params": {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.arange(3).astype(ml_dtypes.bfloat16)},
    "step": 7,
    "rate": 0.5,
    "note": "é",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flax")


@pytest.fixture(scope="module")
def answer(folder: Path) -> Any:
    wl.save(OBJECT, folder / "ours.msgpack")
    wl.save({"list": [np.ones(2), np.full(1, 3.0)], "w": np.ones((2, 3), "f4")}, folder / "lists.msgpack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_flax, "CHUNK", 100)
        wl.save({"w": np.arange(66.0).reshape(2, 33)}, folder / "pieces.msgpack")
    return run_script("jax", Path(__file__).parent / "flax_script.py", folder)


def test_it_reads_what_we_write(answer: Any) -> None:
    found = answer["ours"]
    for name, array in OBJECT["params"].items():
        assert found["params"][name] == [str(array.dtype), list(array.shape), array.tobytes().hex()]
    assert (found["step"], found["rate"], found["note"]) == ("7", "0.5", "'é'")
    assert answer["list"] == [[1, 1], [3]]
    assert answer["pieces"]["w"] == ["float64", [2, 33], np.arange(66.0).tobytes().hex()]


def test_we_read_what_it_writes(answer: Any, folder: Path) -> None:
    found = wl.load(folder / "theirs.msgpack")
    assert found["params"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["params"]["b"].dtype == ml_dtypes.bfloat16
    assert (found["params"]["s"].shape, found["params"]["s"].dtype, float(found["params"]["s"])) == (
        (),
        np.float32,
        1.5,
    )
    assert found["list"]["0"].tolist() == [0, 1, 2]
    assert found["list"]["1"].shape == (0, 2)
    assert (found["step"], found["z"]) == (7, 1 + 2j)
    assert found["f8"].dtype == ml_dtypes.float8_e4m3fn
    assert np.array_equal(wl.load(folder / "chunked.msgpack")["w"], np.arange(100, dtype="f4").reshape(4, 25))
