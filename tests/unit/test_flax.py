"""Flax's MessagePack files: every form of a value, arrays in pieces, what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.conftest import shared_fixtures
from tests.unit.test_npy_pickle import same

import weightlift as wl
from weightlift.formats import _flax

OBJECT: dict[str, Any] = {
    "params": {
        "w": np.arange(6, dtype="f4").reshape(2, 3),
        "b": np.arange(3).astype(ml_dtypes.bfloat16),
        "f8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        "none": np.zeros((2, 0, 3), "i8"),
        "one": np.array(1.5),
        "flag": np.array([True, False]),
        "c": np.array([1 + 2j], "c8"),
        "large": np.arange(20_000, dtype="f8"),
    },
    "step": 7, "rate": 0.5, "note": "é" * 40, "off": None, "on": True, "z": 1 + 2j, "raw": b"\0\xff",
    "numbers": {str(n): n for n in (0, 127, 128, 255, 256, 65536, 1 << 40, (1 << 64) - 1, -1, -32, -33, -(1 << 63))},
}  # fmt: skip


def text(value: str) -> bytes:
    return bytes((0xA0 + len(value),)) + value.encode()


def array(shape: bytes = b"\x91\x02", name: bytes = text("float32"), data: bytes = b"\xc4\x08" + bytes(8)) -> bytes:
    inner = b"\x93" + shape + name + data
    return b"\xc7" + bytes((len(inner), 1)) + inner


def chunked(shape: bytes, chunks: list[bytes]) -> bytes:
    named = b"".join(text(str(i)) + chunk for i, chunk in enumerate(chunks))
    return (
        b"\x83\xbb__msgpack_chunked_array__".replace(b"\xbb", bytes((0xA0 + 25,)))
        + b"\xc3" + text("shape") + shape + text("chunks") + bytes((0x80 + len(chunks),)) + named
    )  # fmt: skip


def write(folder: Path, data: bytes) -> Path:
    path = folder / "x.msgpack"
    path.write_bytes(data)
    return path


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.msgpack"
    assert wl.save(OBJECT, path).format == "flax"
    assert same(OBJECT, wl.load(path))
    assert wl.verify(path).ok
    (tmp_path / "x.msgpack.crc32c").unlink()
    assert same(OBJECT, wl.load(path))
    with wl.open(path) as weights:
        assert weights["params.large"][100:103].tolist() == [100, 101, 102]
        assert weights["params.large"].stored_nbytes == 160_000


@pytest.mark.parametrize("obj", [np.ones(3, "f4"), [np.ones(2), (np.zeros(1), 3)], {}, {"a": np.ones((2, 2))}])
def test_containers_come_back(obj: Any, tmp_path: Path) -> None:
    wl.save(obj, tmp_path / "x.msgpack")
    assert same(obj, wl.load(tmp_path / "x.msgpack"))


@pytest.mark.parametrize("nbytes", [1, 2, 3, 8, 16, 200, 255, 256, 65535, 65536])
def test_every_length_has_its_code(nbytes: int, tmp_path: Path) -> None:
    obj = {"w": np.arange(nbytes, dtype="u1"), "k" * min(nbytes, 300): "v" * nbytes}
    wl.save(obj, tmp_path / "x.msgpack")
    assert same(obj, wl.load(tmp_path / "x.msgpack"))


def test_a_large_array_is_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flax, "CHUNK", 100)
    obj = {"w": np.arange(66, dtype="f8").reshape(2, 33), "v": np.ones(2)}
    wl.save(obj, tmp_path / "x.msgpack")
    assert b"__msgpack_chunked_array__" in (tmp_path / "x.msgpack").read_bytes()
    assert same(obj, wl.load(tmp_path / "x.msgpack"))
    assert wl.verify(tmp_path / "x.msgpack").ok
    with wl.open(tmp_path / "x.msgpack") as weights:
        assert len(weights["w"].extents) == 6
    wl.convert(tmp_path / "x.msgpack", tmp_path / "y.safetensors")
    assert same(obj, wl.load(tmp_path / "y.safetensors"))


def test_a_dict_of_another_order_than_its_file(tmp_path: Path) -> None:
    obj = {"a": np.ones(2, "i1"), "l": {"x": np.ones(3, "f8"), "y": np.ones(2, "f2")}}
    wl.save(obj, tmp_path / "x.safetensors")
    wl.convert(tmp_path / "x.safetensors", tmp_path / "y.msgpack")
    assert same(obj, wl.load(tmp_path / "y.msgpack"))
    assert wl.verify(tmp_path / "y.msgpack").ok


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        ({3: np.ones(1)}, "text for keys"),
        ({"a": 1 << 64}, "64 bits"),
        ({"a": {1, 2}}, "no place for a set"),
        ({"a": np.array(["x"])}, "cannot hold"),
    ],
)
def test_what_flax_has_no_place_for_is_refused(obj: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=reason):
        wl.save(obj, tmp_path / "x.msgpack")
    assert not list(tmp_path.iterdir())


GOOD = b"\x81" + text("w") + array()
FORMS = {
    "an array's type as bytes": array(name=b"\xc4\x07float32"),
    "a long form of everything": b"\xc9" + struct.pack(">I", 30) + b"\x01\x93\xdd\0\0\0\x01\xce\0\0\0\x02"
    + b"\xd9\x07float32" + b"\xc4\x08" + bytes(8),
    "a scalar of NumPy": array(b"\x90", data=b"\xc4\x04" + bytes(4)).replace(b"\x01\x93", b"\x03\x93"),
    "chunks": chunked(b"\x81" + text("0") + b"\x04", [array(), array()]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_read(form: str, tmp_path: Path) -> None:
    found = wl.load(write(tmp_path, b"\x81" + text("w") + FORMS[form]))["w"]
    assert found.dtype == np.float32
    assert not found.any()


HOSTILE: dict[str, bytes] = {
    "a map of 2**32 - 1": b"\xdf\xff\xff\xff\xff" + text("w") + array(),
    "a list of 2**32 - 1": b"\x81" + text("w") + b"\xdd\xff\xff\xff\xff",
    "text of 2**32 - 1": b"\x81" + text("w") + b"\xdb\xff\xff\xff\xff",
    "bytes of 2**32 - 1": b"\x81" + text("w") + b"\xc6\xff\xff\xff\xff",
    "an extension of 2**32 - 1": b"\x81" + text("w") + b"\xc9\xff\xff\xff\xff\x01",
    "an array beyond its extension": b"\x81" + text("w") + array(data=b"\xc4\x09" + bytes(8)),
    "an array shorter than its extension": b"\x81" + text("w") + array(data=b"\xc4\x07" + bytes(8)),
    "an array of another size": b"\x81" + text("w") + array(b"\x91\x03"),
    "a negative size": b"\x81" + text("w") + array(b"\x91\xff"),
    "a size that is text": b"\x81" + text("w") + array(b"\x91" + text("2")),
    "sizes that overflow": b"\x81" + text("w") + array(b"\x92" + (b"\xcf" + b"\xff" * 8) * 2),
    "65 axes": b"\x81" + text("w") + array(b"\xdc\0\x41" + b"\x01" * 65),
    "an array of objects": b"\x81" + text("w") + array(name=text("object")),
    "an array of four-bit numbers": b"\x81" + text("w") + array(name=text("int4")),
    "an array without a type": b"\x81" + text("w") + array(name=b"\x01"),
    "an array of text": b"\x81" + text("w") + array(data=text("x" * 8)),
    "an array of two parts": b"\x81" + text("w") + b"\xc7\x03\x01\x92\x90\x90",
    "an unknown extension": b"\x81" + text("w") + b"\xd4\x05\0",
    "a date": b"\x81" + text("w") + b"\xd6\xff" + bytes(4),
    "a complex number of text": b"\x81" + text("w") + b"\xc7\x04\x02\x92\xa1x\x01",
    "a complex number of three": b"\x81" + text("w") + b"\xd6\x02\x93\x01\x01\x01",
    "a key twice": b"\x82" + (text("w") + b"\x01") * 2,
    "a key that is a list": b"\x82" + text("w") + b"\x01\x90\x01",
    "a key that is an array": b"\x82" + text("w") + b"\x01" + array() + b"\x01",
    "a byte that begins nothing": b"\x81" + text("w") + b"\xc1",
    "text that is not UTF-8": b"\x81" + text("w") + b"\xa2\xff\xfe",
    "lists in lists": b"\x81" + text("w") + b"\x91" * 100_000 + b"\xc0",
    "maps in maps": b"\x81\xa1a" * 100_000 + b"\xc0",
    "bytes behind": GOOD + b"\0",
    "no value": b"\x81" + text("w"),
    "chunks of two types": b"\x81" + text("w")
    + chunked(b"\x81" + text("0") + b"\x04", [array(), array(name=text("int32"))]),
    "chunks that are numbers": b"\x81" + text("w") + chunked(b"\x81" + text("0") + b"\x04", [b"\x01"]),
    "no chunks": b"\x81" + text("w") + chunked(b"\x81" + text("0") + b"\0", []),
    "chunks of another size": b"\x81" + text("w") + chunked(b"\x81" + text("0") + b"\x05", [array(), array()]),
    "a chunked shape that is a list": b"\x81" + text("w") + chunked(b"\x91\x04", [array(), array()]),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_malformed_is_refused(case: str, tmp_path: Path) -> None:
    path = write(tmp_path, HOSTILE[case])
    with pytest.raises(wl.FormatError) as caught:
        wl.load(path)
    assert str(path) in str(caught.value)
    assert "array of objects" in case or "four-bit" in case or not wl.verify(path).ok


def test_the_good_one_loads(tmp_path: Path) -> None:
    """What the cases above differ from is right: else they would test nothing."""
    assert wl.load(write(tmp_path, GOOD))["w"].tolist() == [0, 0]


def test_only_what_lies_between_arrays_is_read(tmp_path: Path) -> None:
    from weightlift.testing import MemoryFiles

    wl.save({str(i): np.zeros(1 << 18) for i in range(4)}, tmp_path / "x.msgpack", durable=False)
    files = MemoryFiles({"x": (tmp_path / "x.msgpack").read_bytes()})
    _flax.FLAX.read(files, "x")
    assert sum(reader.bytes_read for reader in files.readers.values()) < 1 << 16


def test_a_checkpoint_of_flax() -> None:
    """It has no suffix: its content tells."""
    folder = shared_fixtures("frameworks") / "jax-0.10"
    with np.load(folder / "ckpt_dir.truth.npz") as truth, wl.open(folder / "ckpt_dir" / "checkpoint_1") as weights:
        assert weights.format == "flax"
        assert set(truth.files) == {name.replace(".", "/") for name in weights}
        for name in truth.files:
            array = weights[name.replace("/", ".")][...]
            assert array.dtype == truth[name].dtype
            assert np.array_equal(array, truth[name])
