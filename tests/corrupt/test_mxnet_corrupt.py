"""Hostile and damaged files of MXNet: each is an error that names the file, soon, or harmless."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from tests.unit.mxnet_support import NONE, V3, dense, listed, named, shape_of, sparse

import weightlift as wl

X = np.arange(6, dtype="f4").reshape(2, 3)
W = dense(X)
START = struct.pack("<QQQ", 0x112, 0, 1)


def record(stype: int = 0, dims: tuple[int, ...] = (2, 3), code: int = 0, version: int = V3) -> bytes:
    """The header of an array and six floats."""
    return struct.pack("<Ii", version, stype) + shape_of(dims) + struct.pack("<iii", 1, 0, code) + X.tobytes()


HOSTILE = {
    "nothing": b"",
    "only the number": struct.pack("<Q", 0x112),
    "no count": struct.pack("<QQ", 0x112, 0),
    "2**60 arrays": listed([W], count=1 << 60),
    "2**64 - 1 arrays": listed([W], count=(1 << 64) - 1),
    "more arrays than there are": listed([W], count=2),
    "fewer arrays than there are": listed([W, W], count=1),
    "two million arrays": struct.pack("<QQQ", 0x112, 0, 2 << 20) + bytes(8 << 20) + bytes(8),
    "no names": START + W,
    "half a number of names": START + W + bytes(7),
    "two names of one array": listed([W], [b"a", b"b"]),
    "one name of two arrays": listed([W, W], [b"a"]),
    "2**60 names": START + W + struct.pack("<Q", 1 << 60),
    "a name of 2**64 - 1 bytes": START + W + struct.pack("<QQ", 1, (1 << 64) - 1) + b"a",
    "a name that ends late": START + W + struct.pack("<QQ", 1, 3) + b"ab",
    "a name that is not UTF-8": listed([W], [b"\xff\xfe"]),
    "an empty name": listed([W], [b""]),
    "a name twice": listed([W, W], [b"a", b"a"]),
    "bytes behind the names": listed([W]) + b"x",
    "another file behind the names": listed([W]) * 2,
    "2**30 axes": START + struct.pack("<Iii", V3, 0, 1 << 30),
    "-2 axes": START + struct.pack("<Iii", V3, 0, -2),
    "33 axes": listed([record(dims=(1,) * 33)]),
    "a negative axis": listed([record(dims=(-2, -3))]),
    "a product that overflows": listed([record(dims=(1 << 40, 1 << 40))]),
    "a product that overflows to what is there": listed([record(dims=((1 << 63) - 1, 2))]),
    "more bytes than there are": listed([record(dims=(2, 1 << 20))]),
    "element type 13": listed([record(code=13)]),
    "element type -1": listed([record(code=-1)]),
    "storage type 7": listed([record(stype=7)]),
    "storage type 1 in version 3": listed([record(stype=1)]),
    "an unknown version": listed([record(version=0xF993FACB)]),
    "an old record of 2**31 axes": START + struct.pack("<I", 1 << 31),
    "an old record of huge axes": START + struct.pack("<IIIiii", 2, 0xFFFFFFFF, 0xFFFFFFFF, 1, 0, 1),
    "a shape and no storage type": listed([record(stype=-1, version=0xF993FAC9)]),
    "sparse parts beyond the end": listed([sparse(1, (5, 3), X, [0, 1])[:-8]]),
    "a raw record": W,
}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "x.params"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case: str, tmp_path: Path) -> None:
    path = write(tmp_path, HOSTILE[case])
    begin = time.monotonic()
    for look in (wl.load, wl.open, lambda p: wl.convert(p, p.with_suffix(".npz"))):
        with pytest.raises((wl.FormatError, wl.TruncatedError), match=r"x\.params"):
            look(path)
    assert not wl.verify(path).ok
    assert time.monotonic() - begin < 30, "refusing takes milliseconds; what the file says would take for ever"
    assert [p.name for p in tmp_path.iterdir()] == ["x.params"]


def test_what_they_differ_from_is_right(tmp_path: Path) -> None:
    for good in (listed([W]), listed([record()]), listed([W], [b"a"]), listed([sparse(1, (5, 3), X, [0, 1])])):
        assert len(wl.load(write(tmp_path, good))) == 1


def test_a_file_of_nothing_is_small_work(tmp_path: Path) -> None:
    """A million arrays without values are the most that are read, and take no memory of theirs."""
    found = wl.load(write(tmp_path, listed([NONE] * 1000)))
    assert found == [None] * 1000


SAMPLE = named({"a": W, "r": sparse(1, (5, 3), X, [1, 4]), "b": dense(X.astype("i8"), 2), "c": dense(X, 0)})


def test_cut_off_anywhere(tmp_path: Path) -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises((wl.FormatError, wl.TruncatedError)):
            wl.load(write(tmp_path, SAMPLE[:length]), format="mxnet")


def test_flipped_bits_are_errors_or_other_values(tmp_path: Path) -> None:
    """The format has no checksum: a bit of a value, a name or a device changes just that."""
    for at in range(len(SAMPLE)):
        damaged = bytearray(SAMPLE)
        damaged[at] ^= 1 << at % 8
        try:
            found = wl.load(write(tmp_path, bytes(damaged)), format="mxnet")
        except wl.WeightliftError:
            continue
        assert len(found) == 4, f"byte {at}"
        assert sum(array.nbytes for array in found.values()) == 24 + 60 + 48 + 24 or at > 20, f"byte {at}"
