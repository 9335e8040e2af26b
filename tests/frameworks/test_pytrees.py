"""Containers of arrays as ``into=``: NumPy's, torch's, and in its own environment JAX's, of Flax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.frameworks.environments import run_script

import weightlift as wl


def test_parameters_of_flax(tmp_path: Path) -> None:
    answer: Any = run_script("jax", Path(__file__).with_name("pytrees.py"), tmp_path)
    for suffix in ("safetensors", "npz", "pt"):
        assert answer[suffix] == [True, True, False], suffix
    assert answer["frozen"] == [True, True]
    assert answer["half"] is True
    assert answer["named"] == ["State", True]
    assert answer["part"] == [True, True]


def test_arrays_are_filled_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    wl.save({"a": {"w": np.arange(6.0).reshape(2, 3)}, "b": [np.arange(3), np.ones(2)]}, path)
    mine = {"a": {"w": np.zeros((2, 3), "f4")}, "b": [np.zeros(6, "i8")[::2], np.zeros(2, ">f8")], "c": None}
    kept = mine["a"]["w"], *mine["b"]
    assert wl.load(path, into=mine) is mine
    assert mine["a"]["w"] is kept[0] and mine["b"][0] is kept[1] and mine["b"][1] is kept[2]
    assert mine["a"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]] and mine["b"][0].tolist() == [0, 1, 2]
    assert mine["b"][1].tolist() == [1, 1]
    new = wl.load(path, into=mine, assign=True)
    assert new is not mine and new["a"]["w"] is not kept[0] and new["a"]["w"].dtype == np.float32
    assert new["b"][0].flags.c_contiguous and new["c"] is None


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    wl.save({"a": np.ones(3), "b": np.ones(2)}, path)
    mine = {"a": np.zeros(3), "b": np.zeros(3), "d": np.zeros(1)}
    with pytest.raises(wl.MismatchError) as caught:
        wl.load(path, into=mine)
    assert (caught.value.missing, caught.value.wrong_shape) == (["d"], [("b", (3,), (2,))])
    assert not any(array.any() for array in mine.values())
    with pytest.raises(wl.UnsupportedFeatureError, match=r"builtins\.object"):
        wl.load(path, into={"a": object()})
    with pytest.raises(wl.MismatchError, match=r"a is \[\], in the file \[3\]"):
        wl.load(path, into={"a": 3, "b": np.zeros(2)})
    mine["a"].flags.writeable = False
    with pytest.raises(wl.UnsupportedFeatureError, match="read-only"):
        wl.load(path, into=mine)
    with pytest.raises(wl.UnsupportedFeatureError, match=r"'a\.b'"):
        wl.load(path, into={"a": {"b": np.ones(1)}, "a.b": np.ones(1)})


def test_dicts_of_torch_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "tree.safetensors"
    wl.save({"a": torch.arange(3.0), "b": torch.arange(4).reshape(2, 2)}, path)
    mine = {
        "a": torch.zeros(3, dtype=torch.bfloat16, requires_grad=True),
        "b": torch.zeros(2, 2, dtype=torch.int64).t(),
    }
    a, version = mine["a"], mine["a"]._version
    assert wl.load(path, into=mine) is mine and mine["a"] is a and a.requires_grad
    assert a.tolist() == [0, 1, 2] and a._version > version and mine["b"].tolist() == [[0, 1], [2, 3]]
    new = wl.load(path, into=mine, assign=True)
    assert new["a"] is not a and new["a"].requires_grad and new["a"].dtype == torch.bfloat16
