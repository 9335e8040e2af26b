"""Save and load through the public API: structures, dtypes, memory layouts, options; every local format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import weightlift as wl

RNG = np.random.default_rng(7)
FORMATS = {"safetensors": "x.safetensors", "npz": "x.npz", "tfjs": "x/model.json"}


def array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


STRUCTURES: dict[str, Any] = {
    "one": array(3, 4),
    "scalar": np.float32(2.5),
    "list": [array(2), array(3, 1), np.arange(4, dtype=np.int32)],
    "tuple": (array(2), array(2)),
    "dict": {"b": array(2, 3), "a": array(4)},
    "nested": {"net": {"w": array(2, 2), "b": array(2)}, "steps": [array(1), {"m": array(3)}], 3: array(2)},
    "empty dict": {},
    "empty list": [],
    "zero size": {"z": array(0, 5), "w": array(1)},
}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", STRUCTURES)
def test_what_was_saved_comes_back(kind: str, fmt: str, tmp_path: Path) -> None:
    obj, path = STRUCTURES[kind], tmp_path / FORMATS[fmt]
    wl.save(obj, path)
    assert equal(wl.load(path), np.asarray(obj) if kind == "scalar" else obj)
    assert wl.verify(path).ok


DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip
REFUSED = {"safetensors": {"complex128"}, "npz": set(), "tfjs": {"int64", "uint32", "uint64", "float64", "complex128"}}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_bit_for_bit(name: str, fmt: str, tmp_path: Path) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    raw = np.frombuffer(RNG.bytes(64 * dtype.itemsize), np.uint8)
    values = (raw & 1).astype(bool)[:64] if name == "bool" else raw.view(dtype)
    if fmt == "tfjs" and name.startswith("float8"):
        values = values[~np.isnan(values.astype(np.float32))]  # float32 has no room for a float8 NaN's payload
    path = tmp_path / FORMATS[fmt]
    if name in REFUSED[fmt]:
        with pytest.raises(wl.UnsupportedFeatureError, match="w"):
            wl.save({"w": values}, path)
        assert not list(tmp_path.rglob("*.*"))
        return
    wl.save({"w": values}, path)
    assert equal({"w": values}, wl.load(path))


LAYOUTS = {
    "transposed": lambda a: a.T,
    "strided": lambda a: a[::2, 1::3],
    "reversed": lambda a: a[::-1, ::-1],
    "fortran": np.asfortranarray,
    "broadcast": lambda a: np.broadcast_to(a[0], a.shape),
    "big-endian": lambda a: a.astype(">f4"),
    "big-endian transposed": lambda a: a.astype(">f4").T,
    "read-only": lambda a: (a.setflags(write=False), a)[1],
    "offset": lambda a: a.reshape(-1)[3:],
    "permuted": lambda a: a.reshape(4, 5, 6).transpose(2, 0, 1),
}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout: str, fmt: str, tmp_path: Path) -> None:
    values = LAYOUTS[layout](array(10, 12))
    wl.save({"w": values}, tmp_path / FORMATS[fmt])
    loaded = wl.load(tmp_path / FORMATS[fmt])["w"]
    assert loaded.dtype == np.float32 and np.array_equal(loaded, values)


def test_objects_with_array_interfaces(tmp_path: Path) -> None:
    class ViaArray:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.arange(3.0)

    class ViaDlpack:
        def __init__(self) -> None:
            self.inner = np.arange(4, dtype=np.int32)

        def __dlpack__(self, **options: Any) -> Any:
            return self.inner.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.inner.__dlpack_device__()

    wl.save({"a": ViaArray(), "d": ViaDlpack(), "n": 5, "m": memoryview(b"abc")}, tmp_path / "x.safetensors")
    loaded = wl.load(tmp_path / "x.safetensors")
    assert loaded["a"].tolist() == [0, 1, 2] and loaded["d"].tolist() == [0, 1, 2, 3]
    assert loaded["n"].tolist() == 5 and loaded["m"].tobytes() == b"abc"


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([{}, {}]), None, "text?"[:0] or object])
def test_not_arrays_are_refused_by_name(value: Any, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="bad"):
        wl.save({"good": array(2), "bad": value}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fmt", FORMATS)
def test_names_load_only_those(fmt: str, tmp_path: Path) -> None:
    tensors = {f"layer.{i}.{k}": array(3, i + 1) for i in range(4) for k in ("weight", "bias")}
    path = tmp_path / FORMATS[fmt]
    wl.save(tensors, path)
    assert list(wl.load(path, names="layer.2.*")) == ["layer.2.weight", "layer.2.bias"]
    assert set(wl.load(path, names=["layer.0.bias", "*.1.weight"])) == {"layer.0.bias", "layer.1.weight"}
    with pytest.raises(wl.MismatchError, match=r"layer\.9") as error:
        wl.load(path, names=["layer.9.weight"])
    assert error.value.missing == ["layer.9.weight"]
    renamed = wl.load(path, names="layer.0.*", rename={"layer.0.": "encoder."})
    assert set(renamed) == {"encoder.weight", "encoder.bias"}
    assert set(wl.load(path, rename=[(r"layer\.(\d)", r"h\1")])) == {n.replace("layer.", "h") for n in tensors}


def bytes_read() -> int:
    """By this process, by whatever system call."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


@pytest.mark.parametrize("fmt", FORMATS)
def test_names_and_rows_read_only_their_bytes(fmt: str, tmp_path: Path) -> None:
    path, large = tmp_path / FORMATS[fmt], 8 << 20
    wl.save({f"w{i}": np.full((256, large // 1024), i, np.float32) for i in range(6)}, path)
    before = bytes_read()
    wl.load(path, names="w3")
    assert large <= bytes_read() - before < large + (1 << 20)
    with wl.open(path, memory="arena") as weights:
        before = bytes_read()
        assert weights["w4"][10:12].shape == (2, large // 1024)
        assert large // 128 <= bytes_read() - before < large // 4


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("memory", ["arena", "tensor", "map", "pool"])
def test_memory_policies(memory: str, fmt: str, tmp_path: Path) -> None:
    tensors = {"a": array(100, 100), "b": array(7), "c": array(2, 3, dtype=np.float16)}
    path = tmp_path / FORMATS[fmt]
    wl.save(tensors, path)
    loaded = wl.load(path, memory=wl.BufferPool(1 << 24) if memory == "pool" else memory)
    assert equal(tensors, loaded)
    if memory != "map":
        assert all(a.flags.writeable and a.ctypes.data % 64 == 0 for a in loaded.values())


@pytest.mark.parametrize("fmt", FORMATS)
def test_out_and_dtype(fmt: str, tmp_path: Path) -> None:
    tensors = {"a": array(30, 20), "b": array(5)}
    path = tmp_path / FORMATS[fmt]
    wl.save(tensors, path)
    out = {"a": np.empty((30, 20), np.float32), "b": np.empty(5, np.float64)}
    result = wl.load(path, out=out)
    assert result["a"] is out["a"] and np.array_equal(out["a"], tensors["a"])
    assert np.array_equal(out["b"], tensors["b"].astype(np.float64))
    strided = {"a": np.empty((60, 20), np.float32)[::2], "b": np.empty(5, np.float32)}
    wl.load(path, out=strided)
    assert np.array_equal(strided["a"], tensors["a"])
    with pytest.raises(wl.MismatchError) as error:
        wl.load(path, out={"a": np.empty((3, 3), np.float32), "z": np.empty(1)})
    assert error.value.missing == ["b"] and error.value.unexpected == ["z"] and error.value.wrong_shape[0][0] == "a"
    half = wl.load(path, dtype="bfloat16")
    assert half["a"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(half["a"], tensors["a"].astype(ml_dtypes.bfloat16))
    wl.save(tensors, tmp_path / "h.safetensors", dtype={"a": "float16"})
    loaded = wl.load(tmp_path / "h.safetensors")
    assert loaded["a"].dtype == np.float16 and np.array_equal(loaded["a"], tensors["a"].astype(np.float16))
    assert loaded["b"].dtype == np.float32


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("memory", ["map", "arena"])
def test_open_and_rows(memory: str, fmt: str, tmp_path: Path) -> None:
    tensors = {"a": array(50, 6), "s": np.float32(3).reshape(()), "e": array(0, 4)}
    path = tmp_path / FORMATS[fmt]
    wl.save(tensors, path)
    with wl.open(path, memory=memory) as weights:
        assert dict.fromkeys(weights) == dict.fromkeys(tensors) and len(weights) == 3 and "a" in weights
        view, want = weights["a"], tensors["a"]
        assert view.shape == (50, 6) and str(view.dtype) == "float32" and view.checksum
        for key in (
            slice(3, 9),
            slice(40, 3, -4),
            7,
            -1,
            (slice(2, 5), 3),
            (4, slice(1, 3)),
            [5, 1, 5, 30],
            np.arange(50) % 3 == 0,
            ...,
        ):
            assert np.array_equal(view[key], want[key]), key
        assert np.array_equal(np.asarray(view), want)
        with pytest.raises(IndexError):
            view[50]
        assert weights["s"][...] == 3 and weights["e"][...].shape == (0, 4)
        kept = view[...]
        with pytest.raises(KeyError):
            weights["nope"]
    assert np.array_equal(kept, want)
    with pytest.raises(wl.StorageError, match="closed"):
        len(weights)


@pytest.mark.parametrize("quantize", ["uint8", "uint16", "float16", {"uint8": "big*"}])
def test_quantised_tfjs(quantize: Any, tmp_path: Path) -> None:
    tensors = {"big/kernel": array(64, 64), "small": array(3), "n": np.arange(4, dtype=np.int32), "empty": array(0)}
    path = tmp_path / "m" / "model.json"
    wl.save(tensors, path, quantize=quantize)
    loaded = wl.load(path)
    q, scale, low = wl.quantize(tensors["big/kernel"], quantize if isinstance(quantize, str) else "uint8")
    assert np.array_equal(loaded["big/kernel"], wl.dequantize(q, scale, low))
    assert loaded["n"].tolist() == [0, 1, 2, 3] and loaded["empty"].shape == (0,)
    with pytest.raises(wl.UnsupportedFeatureError, match="nan"):
        wl.save({"nan": np.array([np.nan, 1], "f4")}, path, quantize="uint8")
    assert equal(loaded, wl.load(path)), "a refused save leaves the old model"


@pytest.mark.parametrize("fmt", ["safetensors", "tfjs"])
def test_shards(fmt: str, tmp_path: Path) -> None:
    tensors = {f"w{i}": array(100, 10 + i) for i in range(8)}
    path = tmp_path / ("model.safetensors" if fmt == "safetensors" else "model.json")
    result = wl.save(tensors, path, shard_size=10_000)
    assert len(result.files) > 3 and all(Path(f).is_file() for f in result.files)
    assert equal(tensors, dict(sorted(wl.load(result.files[0]).items())))
    assert wl.verify(result.files[0]).ok
    fewer = {k: v + 1 for k, v in list(tensors.items())[:6]}
    again = wl.save(fewer, path, shard_size=10_000)
    assert equal(fewer, dict(sorted(wl.load(again.files[0]).items())))
    assert not [p for p in tmp_path.iterdir() if not re.search(r"-?\d+-?of-?\d+", p.name) and p.suffix != ".json"], (
        "no odd names stay"
    )


def test_shared_memory_is_reported(tmp_path: Path) -> None:
    w = array(4, 4)
    result = wl.save({"a": w, "tied": w, "other": array(4, 4)}, tmp_path / "x.safetensors")
    assert result.shared == (("a", "tied"),) and not result.stored_once
    assert equal(wl.load(tmp_path / "x.safetensors")["tied"], w)


def test_metadata_and_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    wl.save(
        {"w": array(300, 300)},
        tmp_path / "x.safetensors",
        metadata={"step": "7"},
        progress=lambda d, t: seen.append((d, t)),
    )
    assert seen and seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    assert wl.open(tmp_path / "x.safetensors").metadata == {"step": "7"}
    seen.clear()
    wl.load(tmp_path / "x.safetensors", progress=lambda d, t: seen.append((d, t)))
    assert seen[-1] == (360_000, 360_000)
    wl.save({"w": array(2)}, tmp_path / "x.npz", metadata={"step": 7})
    assert wl.open(tmp_path / "x.npz").metadata == {"step": 7}


def test_compressed_npz(tmp_path: Path) -> None:
    tensors = {"z": np.zeros((1000, 100), np.float32), "r": array(50, 50), "t": array(20, 30).T}
    wl.save(tensors, tmp_path / "x.npz", compression="deflate")
    assert (tmp_path / "x.npz").stat().st_size < 100_000
    loaded = wl.load(tmp_path / "x.npz")
    assert all(np.array_equal(loaded[k], v) for k, v in tensors.items()) and wl.verify(tmp_path / "x.npz").ok
    with np.load(tmp_path / "x.npz") as archive:
        assert all(np.array_equal(archive[k], v) for k, v in tensors.items())
    wl.convert(tmp_path / "x.npz", tmp_path / "y.safetensors")
    assert wl.diff(tmp_path / "x.npz", tmp_path / "y.safetensors").same
    wl.convert(tmp_path / "y.safetensors", tmp_path / "z.npz", compression="deflate")
    assert wl.diff(tmp_path / "y.safetensors", tmp_path / "z.npz").same


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_convert_every_pair(source: str, target: str, tmp_path: Path) -> None:
    tensors = {
        "a": array(200, 130),
        "half": array(33, dtype=np.float16),
        "i": np.arange(9, dtype=np.int32),
        "t": array(6, 7).T.copy(),
    }
    (tmp_path / "s").mkdir()
    there = tmp_path / "s" / FORMATS[source]
    wl.save({"net": tensors, "more": [array(2)]}, there)
    result = wl.convert(there, tmp_path / FORMATS[target])
    assert wl.diff(there, tmp_path / FORMATS[target]).same and wl.verify(tmp_path / FORMATS[target]).ok
    assert equal(wl.load(there), wl.load(tmp_path / FORMATS[target])) and result.tensors == 5


def test_every_bfloat16_survives_tensorflow_js(tmp_path: Path) -> None:
    """Stored as float32, which has room for every bit, the payloads of NaNs and signalling ones included."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    wl.save({"w": codes.view(ml_dtypes.bfloat16)}, tmp_path / "model.json")
    widened = np.fromfile(tmp_path / "weights.bin", np.uint32)
    assert np.array_equal(widened, codes.astype(np.uint32) << 16)
    assert np.array_equal(wl.load(tmp_path)["w"].view(np.uint16), codes)
    with wl.open(tmp_path) as weights:
        assert weights["w"].stored == "float32"
        assert np.array_equal(weights["w"][...].view(np.uint16), codes)
    wl.convert(tmp_path / "model.json", tmp_path / "w.safetensors")
    assert np.array_equal(wl.load(tmp_path / "w.safetensors")["w"].view(np.uint16), codes)
    half = wl.load(tmp_path, dtype="float16")["w"]
    assert np.array_equal(half, codes.view(ml_dtypes.bfloat16).astype(np.float16), equal_nan=True)


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_every_float8_survives_tensorflow_js(name: str, tmp_path: Path) -> None:
    """But that NaNs of float8_e5m2, the one of these types with more than one NaN a sign, become the quiet one."""
    codes = np.arange(256, dtype=np.uint8)
    wl.save({"w": codes.view(getattr(ml_dtypes, name))}, tmp_path / "model.json")
    expected = codes.copy()
    if name == "float8_e5m2":
        expected[[0x7D, 0x7F]], expected[[0xFD, 0xFF]] = 0x7E, 0xFE
    assert np.array_equal(wl.load(tmp_path)["w"].view(np.uint8), expected)
