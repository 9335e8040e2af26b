"""Tensors that stream through the temporary file of a conversion: cut in mid-element, deflated, Fortran order."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl
from weightlift.formats._tfjs_manifest import dump

VALUES = np.linspace(-3, 3, 1000, dtype=np.float32).reshape(20, 50)


def cut_model(folder: Path) -> Path:
    """A model.json whose one weight lies in two shards, the first of which ends in mid-element."""
    wl.save({"w": VALUES}, folder / "model.json")
    manifest = json.loads((folder / "model.json").read_text())
    data = (folder / "weights.bin").read_bytes()
    (folder / "a.bin").write_bytes(data[:1002])
    (folder / "b.bin").write_bytes(data[1002:])
    manifest["weightsManifest"][0]["paths"] = ["a.bin", "b.bin"]
    record = {key: value for key, value in manifest.pop("weightlift").items() if key != "digest"}
    (folder / "model.json").write_bytes(dump(manifest, record))
    return folder / "model.json"


def test_cut_in_mid_element(tmp_path: Path) -> None:
    model = cut_model(tmp_path)
    wl.convert(model, tmp_path / "same.safetensors")
    assert np.array_equal(wl.load(tmp_path / "same.safetensors")["w"], VALUES)
    assert wl.diff(model, tmp_path / "same.safetensors").same
    wl.convert(model, tmp_path / "half.npz", dtype="float16", compression="deflate")
    assert np.array_equal(wl.load(tmp_path / "half.npz")["w"], VALUES.astype(np.float16))


def test_cut_in_mid_element_and_corrupt(tmp_path: Path) -> None:
    model = cut_model(tmp_path)
    data = bytearray((tmp_path / "b.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "b.bin").write_bytes(data)
    with pytest.raises(wl.ChecksumError, match=r"crc32c is [0-9a-f]{8}, expected") as caught:
        wl.convert(model, tmp_path / "out.safetensors", dtype="float16")
    assert (caught.value.tensor, caught.value.path, caught.value.offset) == ("w", str(tmp_path / "a.bin"), 0)
    assert not (tmp_path / "out.safetensors").exists()
    wl.convert(model, tmp_path / "out.safetensors", dtype="float16", verify=False)


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">c8", "S3", "M8[s]"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_deflated(dtype: str, order: str, tmp_path: Path) -> None:
    values = np.asarray((VALUES * 10).astype(np.int64).astype(dtype), order=order)  # type: ignore[call-overload]
    np.savez_compressed(tmp_path / "a.npz", w=values)
    target = tmp_path / ("b.npz" if values.dtype.kind in "SM" else "b.safetensors")
    wl.convert(tmp_path / "a.npz", target)
    back = wl.load(target)["w"]
    assert back.dtype == values.dtype.newbyteorder("=") or back.dtype == values.dtype
    assert np.array_equal(back, values)
    assert wl.diff(tmp_path / "a.npz", target).same


@pytest.mark.parametrize(("window", "deflated"), [(1, False), (300, True), (1 << 20, False)])
@pytest.mark.parametrize("dtype", ["u1", ">f2", "<c16", "S3"])
@pytest.mark.parametrize(
    "shape", [(7, 5), (1, 9), (9, 1), (200, 3), (3, 200), (4, 5, 6), (2, 50, 3), (60, 2, 3), (2, 3, 2, 5)]
)
def test_fortran_order(
    shape: tuple[int, ...], dtype: str, deflated: bool, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned in windows of any size; what one window takes whole is the common case, and not the hard one."""
    monkeypatch.setattr("weightlift._transpose.WINDOW", window)
    values = np.asfortranarray(np.arange(math.prod(shape)).reshape(shape).astype(dtype))
    (np.savez_compressed if deflated else np.savez)(tmp_path / "a.npz", w=values)
    wl.convert(tmp_path / "a.npz", tmp_path / "b.npz", durable=False)
    back = wl.load(tmp_path / "b.npz")["w"]
    assert back.flags.c_contiguous and np.array_equal(back, values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "b.npz.crc32c"]


def test_slabs_too_large_for_memory_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlift._transpose._LARGEST_SLAB", 100)
    values = np.asfortranarray(np.arange(400, dtype=np.float32).reshape(2, 100, 2))
    np.save(tmp_path / "a.npy", values)
    wl.convert(tmp_path / "a.npy", tmp_path / "b.npy", durable=False)
    assert np.array_equal(wl.load(tmp_path / "b.npy"), values)


@pytest.mark.parametrize(
    "values",
    [VALUES, *(np.asfortranarray(VALUES.reshape(shape)) for shape in ((20, 50), (500, 2)))],
    ids=["C order", "Fortran 20 x 50", "Fortran 500 x 2"],
)
def test_damage_is_found_before_the_target_appears(values: np.ndarray, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", w=values)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(wl.FormatError) as caught:
        wl.convert(tmp_path / "a.npz", tmp_path / "b.safetensors")
    assert caught.value.tensor == "w"
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_values_that_differ_in_exact_types(tmp_path: Path) -> None:
    times = np.array(["2020-01-01", "NaT", "2021-01-01"], "M8[s]")
    wl.save({"t": times, "u": np.arange(3)}, tmp_path / "a.npz")
    wl.save({"t": times[[0, 1, 0]], "u": np.arange(3)}, tmp_path / "b.npz")
    (found,) = wl.diff(tmp_path / "a.npz", tmp_path / "b.npz").differences
    assert (found.name, found.kind, found.count) == ("t", "values", 1)  # and NaT equals NaT
