"""The main job in a minute, on every Python that is promised; needs NumPy, pytest and the installed package only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import weightlift as wl

TARGETS = ["model.safetensors", "model.npz", "model/model.json"]


def tensors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    return {
        "dense.kernel": generator.normal(size=(300, 70)).astype("float32"),
        "dense.bias": np.zeros(70, "float32"),
        "steps": np.array(12, "int32"),
        "empty": np.zeros((0, 4), "float32"),
    }


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert sorted(a) == sorted(b)
    for name, value in a.items():
        assert b[name].dtype == value.dtype
        np.testing.assert_array_equal(b[name], value)


@pytest.mark.parametrize("target", TARGETS)
def test_round_trip(target: str, tmp_path: Path) -> None:
    wl.save(tensors(), tmp_path / target)
    assert_same(tensors(), wl.load(tmp_path / target))
    assert wl.verify(tmp_path / target).ok


@pytest.mark.parametrize("source", TARGETS)
@pytest.mark.parametrize("target", TARGETS)
def test_conversion(source: str, target: str, tmp_path: Path) -> None:
    wl.save(tensors(), tmp_path / "a" / source)
    wl.convert(tmp_path / "a" / source, tmp_path / "b" / target)
    assert wl.diff(tmp_path / "a" / source, tmp_path / "b" / target).same


def test_npy(tmp_path: Path) -> None:
    value = tensors()["dense.kernel"]
    wl.save(value, tmp_path / "one.npy")
    np.testing.assert_array_equal(wl.load(tmp_path / "one.npy"), value)
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), value)


def test_structure_and_casts(tmp_path: Path) -> None:
    value = {"layers": [np.ones((2, 3), "float32"), np.arange(4)], "scale": np.array(2.0, ml_dtypes.bfloat16)}
    wl.save(value, tmp_path / "nested.safetensors")
    back = wl.load(tmp_path / "nested.safetensors")
    assert isinstance(back["layers"], list)
    assert back["scale"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(back["layers"][1], np.arange(4))
    half = wl.load(tmp_path / "nested.safetensors", dtype="float16")
    assert half["layers"][0].dtype == np.float16


def test_lazy_and_partial(tmp_path: Path) -> None:
    wl.save(tensors(), tmp_path / "m.safetensors")
    with wl.open(tmp_path / "m.safetensors") as weights:
        np.testing.assert_array_equal(weights["dense.kernel"][10:12], tensors()["dense.kernel"][10:12])
    assert list(wl.load(tmp_path / "m.safetensors", names="dense.b*")) == ["dense.bias"]


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    wl.save({"w": np.arange(1000, dtype="float32")}, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(wl.ChecksumError) as caught:
        wl.load(path)
    assert caught.value.tensor == "w"
    path.write_bytes(data[:-100])
    with pytest.raises(wl.WeightliftError):
        wl.load(path)


def test_command(tmp_path: Path) -> None:
    wl.save(tensors(), tmp_path / "m.safetensors")
    run = [sys.executable, "-m", "weightlift"]
    shown = subprocess.run(
        [*run, "inspect", str(tmp_path / "m.safetensors")], capture_output=True, text=True, check=True
    )
    assert "dense.kernel" in shown.stdout
    assert subprocess.run([*run, "verify", str(tmp_path / "m.safetensors")], capture_output=True).returncode == 0
