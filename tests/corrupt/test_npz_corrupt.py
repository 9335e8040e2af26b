"""Hostile and damaged npz files: each gets its error, with file and byte range, before anything large is allocated."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from weightlift._inflate import inflate
from weightlift._layout import Extent
from weightlift._packing import PackOptions
from weightlift._steps import Deflate
from weightlift.errors import (
    ChecksumError,
    FormatError,
    TruncatedError,
    UnsafeContentError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.formats._npz import NPZ
from weightlift.testing import MemoryFiles, MemoryReader, read_tensors, write_tensors

Arrays = dict[str, np.ndarray[Any, Any]]

ARRAYS: Arrays = {"x": np.arange(6, dtype="f4"), "empty": np.zeros((0, 2)), "y": np.ones((2, 2), "i2")}


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as target:
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def load(data: bytes) -> Arrays:
    files = MemoryFiles({"x.npz": data})
    return read_tensors(NPZ.read(files, "x.npz"), files)


def ours(compression: str | None = None) -> bytes:
    return write_tensors(NPZ, ARRAYS, "x.npz", PackOptions(compression=compression)).files["x.npz"]


def numpys(save: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    save(stream, **ARRAYS)
    return stream.getvalue()


FILES = {
    "savez": numpys(np.savez),
    "savez_compressed": numpys(np.savez_compressed),
    "ours": ours(),
    "ours deflated": ours("deflate"),
}
each_file = pytest.mark.parametrize("data", FILES.values(), ids=FILES)


def assert_right(arrays: Arrays) -> None:
    """What was saved, whatever became of the file's other bytes."""
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array)


# --- one archive to damage ------------------------------------------------------------------------
MEMBER = npy(np.arange(6, dtype="f4"))
ONE = archive({"x.npy": MEMBER})
LOCAL, ENTRY, END = 0, ONE.rindex(b"PK\1\2"), ONE.rindex(b"PK\5\6")
DATA = 30 + len("x.npy")


def patched(changes: dict[int, bytes], data: bytes = ONE) -> bytes:
    """``data`` with bytes replaced."""
    result = bytearray(data)
    for at, new in changes.items():
        result[at : at + len(new)] = new
    return bytes(result)


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def test_the_archive_to_damage_is_good() -> None:
    assert np.array_equal(load(ONE)["x"], np.arange(6, dtype="f4"))
    assert zipfile.ZipFile(io.BytesIO(ONE)).testzip() is None


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        # flags, methods, kinds of members
        ({LOCAL + 6: b"\1", ENTRY + 8: b"\1"}, UnsupportedFeatureError, "encrypted"),
        ({LOCAL + 6: u16(0x2000), ENTRY + 8: u16(0x2000)}, UnsupportedFeatureError, "encrypted"),
        ({LOCAL + 6: b"\x20", ENTRY + 8: b"\x20"}, UnsupportedFeatureError, "method"),
        ({LOCAL + 8: u16(12), ENTRY + 10: u16(12)}, UnsupportedFeatureError, "method 12"),
        ({LOCAL + 8: u16(93), ENTRY + 10: u16(93)}, UnsupportedFeatureError, "method 93"),
        ({ENTRY + 5: b"\3", ENTRY + 38: u32(0o120777 << 16)}, UnsafeContentError, "symbolic link"),
        ({ENTRY + 34: u16(1)}, UnsupportedFeatureError, "another disk"),
        # local header against entry
        ({LOCAL: b"PK\3\5"}, FormatError, "no local header"),
        ({LOCAL + 30: b"y"}, FormatError, "another name"),
        ({LOCAL + 26: u16(4)}, FormatError, "another name"),
        ({LOCAL + 8: u16(8)}, FormatError, "another method"),
        ({LOCAL + 6: b"\1"}, FormatError, "other flags"),
        ({LOCAL + 6: b"\x08"}, FormatError, "other flags"),
        ({LOCAL + 14: u32(1)}, FormatError, "CRC-32 and sizes"),
        ({LOCAL + 18: u32(1)}, FormatError, "CRC-32 and sizes"),
        ({LOCAL + 22: u32(1)}, FormatError, "CRC-32 and sizes"),
        ({LOCAL + 6: b"\x08", ENTRY + 8: b"\x08", LOCAL + 22: u32(1)}, FormatError, "CRC-32 and sizes"),
        ({LOCAL + 28: u16(60_000)}, FormatError, "into the directory"),
        # extents
        ({ENTRY + 42: u32(1 << 31)}, FormatError, "out of the archive"),
        ({ENTRY + 42: u32(0xFFFFFFFE)}, FormatError, "out of the archive"),
        ({ENTRY + 42: u32(0xFFFFFFFF)}, FormatError, "out of the archive"),
        ({ENTRY + 42: u32(1)}, FormatError, "out of the archive"),
        ({ENTRY + 20: u32(0), LOCAL + 18: u32(0)}, FormatError, "has 0 bytes but claims 152"),
        ({ENTRY + 24: u32(99), LOCAL + 22: u32(99)}, FormatError, "has 152 bytes but claims 99"),
        ({ENTRY + 20: u32(200) + u32(200), LOCAL + 18: u32(200) + u32(200)}, FormatError, "out of the archive"),
        # names
        ({LOCAL + 30: b"\0", ENTRY + 46: b"\0"}, FormatError, "NUL"),
        (
            {LOCAL + 6: u16(0x800), ENTRY + 8: u16(0x800), LOCAL + 30: b"\xff", ENTRY + 46: b"\xff"},
            FormatError,
            "not UTF-8",
        ),
        # the directory
        ({ENTRY: b"PK\1\3"}, FormatError, "malformed zip entry"),
        ({ENTRY + 28: u16(60_000)}, FormatError, "out of the directory"),
        ({ENTRY + 30: u16(60_000)}, FormatError, "out of the directory"),
        ({ENTRY + 32: u16(1)}, FormatError, "out of the directory"),
        # the end record
        ({END + 4: u16(1)}, UnsupportedFeatureError, "several disks"),
        ({END + 6: u16(1)}, UnsupportedFeatureError, "several disks"),
        ({END + 8: u16(2)}, UnsupportedFeatureError, "several disks"),
        ({END + 8: u16(0) + u16(0)}, FormatError, "51 bytes after the last of 0 zip entries"),
        ({END + 8: u16(2) + u16(2)}, FormatError, "cannot hold 2 entries"),
        ({END + 8: u16(60_000) + u16(60_000)}, FormatError, "cannot hold 60000 entries"),
        ({END + 8: u16(0xFFFF) + u16(0xFFFF)}, FormatError, "cannot hold 65535 entries"),
        ({END + 12: u32(0xFFFFFFFF)}, FormatError, "does not end at its end record"),
        ({END + 12: u32(50)}, FormatError, "does not end at its end record"),
        ({END + 16: u32(0xFFFFFFF0)}, FormatError, "does not end at its end record"),
        ({END + 20: u16(1)}, FormatError, "no end record"),
        # the array
        ({DATA: b"\x93NUMPX"}, FormatError, "not npy"),
        ({DATA + 8: u16(60_000)}, FormatError, "npy header of 60010 bytes in a zip member of 152"),
        ({DATA + 20: b"'<f8'"}, FormatError, "zip member of 152 bytes holds a header of 128 and an array of 48"),
        ({DATA + 21: b">"}, ChecksumError, "x"),
        ({DATA + 130: b"!"}, ChecksumError, "x"),
        ({ENTRY + 16: u32(1), LOCAL + 14: u32(1)}, ChecksumError, "x"),
        ({ENTRY + 16: u32(0), LOCAL + 14: u32(0)}, ChecksumError, "x"),
    ],
)
def test_damaged_field(changes: dict[int, bytes], error: type[WeightliftError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        load(patched(changes))
    assert caught.value.path == "x.npz" or caught.value.tensor == "x"
    assert caught.value.offset is not None or caught.value.tensor == "x"


# --- damage anywhere ------------------------------------------------------------------------------
@each_file
def test_truncated_at_every_byte(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises((FormatError, TruncatedError)):
            load(data[:length])


@each_file
def test_bytes_missing_at_the_front(data: bytes) -> None:
    for length in range(1, len(data), 7):
        with pytest.raises((FormatError, TruncatedError)):
            load(data[length:])


@each_file
def test_flipped_bits_are_an_error_or_harmless(data: bytes) -> None:
    harmless = 0
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                arrays = load(bytes(changed))
            except WeightliftError:
                continue
            assert_right(arrays)
            harmless += 1
    assert harmless  # dates and padding mean nothing


@each_file
@pytest.mark.parametrize("more", [b"\0", b"extra", b"PK\5\6" + bytes(18)], ids=["nul", "text", "empty archive"])
def test_extended(data: bytes, more: bytes) -> None:
    with pytest.raises(FormatError):
        load(data + more)


@each_file
def test_bytes_before_the_archive(data: bytes) -> None:
    with pytest.raises(FormatError, match="bytes were put before"):
        load(b"#!/bin/sh\n" + data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        bytes(100),
        b"PK\5\6" * 50,
    ],
)
def test_not_an_archive(data: bytes) -> None:
    with pytest.raises(FormatError, match="not a zip archive"):
        load(data)


# --- two views of one archive ---------------------------------------------------------------------
def test_duplicate_names() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target, pytest.warns(UserWarning, match="Duplicate name"):
        target.writestr("x.npy", npy(np.zeros(2)))
        target.writestr("x.npy", npy(np.ones(2)))
    with pytest.raises(FormatError, match=r"two zip members are called 'x\.npy'"):
        load(stream.getvalue())


def test_hidden_end_record_in_the_comment() -> None:
    inner = archive({"evil.npy": npy(np.zeros(1))})
    outer = patched({END + 20: u16(len(inner))}) + inner
    with pytest.raises(FormatError, match="several end records"):
        load(outer)


def test_members_that_share_bytes() -> None:
    data = archive({"a.npy": MEMBER, "b.npy": MEMBER})
    with pytest.raises(FormatError, match="overlap"):
        load(patched({data.rindex(b"PK\1\2") + 42: u32(0)}, data))


def test_member_inside_another_member() -> None:
    inner = archive({"a.npy": MEMBER})[: 30 + 5 + len(MEMBER)]
    data = archive({"b.npy": npy(np.frombuffer(inner, np.uint8)), "a.npy": MEMBER})
    with pytest.raises(FormatError, match="overlap"):
        load(patched({data.rindex(b"PK\1\2") + 42: u32(data.index(inner))}, data))


def test_member_that_covers_the_directory() -> None:
    data = archive({"a.npy": MEMBER})
    longer = u32(len(MEMBER) + 10) * 2
    with pytest.raises(FormatError, match="out of the archive"):
        load(patched({18: longer, data.rindex(b"PK\1\2") + 20: longer}, data))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/absolute", "C:\\windows", "a/../b", "."])
def test_names_are_keys_and_no_paths(name: str) -> None:
    assert list(load(archive({f"{name}.npy": MEMBER}))) == [name]


def test_empty_tensor_name() -> None:
    with pytest.raises(FormatError):
        load(archive({".npy": MEMBER}))


# --- ZIP64 ----------------------------------------------------------------------------------------
def zip64(**changes: int) -> bytes:
    """ONE with a ZIP64 end record and locator, fields changed by name."""
    f = {
        "rest": 44, "disk": 0, "entries_disk": 0, "here": 1, "count": 1, "size": END - ENTRY, "begin": ENTRY,
        "locator_disk": 0, "at": END, "disks": 1, "end_count": 0xFFFF, "end_size": 0xFFFFFFFF, "end_begin": 0xFFFFFFFF,
        **changes,
    }  # fmt: skip
    values = (f["disk"], f["entries_disk"], f["here"], f["count"], f["size"], f["begin"])
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", f["rest"], 45, 45, *values)
    locator = struct.pack("<4sIQI", b"PK\6\7", f["locator_disk"], f["at"], f["disks"])
    counts = (f["end_count"], f["end_count"], f["end_size"], f["end_begin"])
    return ONE[:END] + end64 + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, *counts, 0)


def test_zip64_end_record() -> None:
    assert list(load(zip64())) == ["x"]
    assert list(load(zip64(end_count=1, end_size=END - ENTRY, end_begin=ENTRY))) == ["x"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rest": 1 << 60}, "malformed zip64"),
        ({"rest": 45}, "malformed zip64"),
        ({"disk": 1}, "end records disagree: 0 and 1"),
        ({"here": 2}, "several disks"),
        ({"here": 2, "count": 2}, "cannot hold 2 entries"),
        ({"here": 1 << 62, "count": 1 << 62}, "cannot hold"),
        ({"size": 1 << 62}, "does not end at its end record"),
        ({"begin": (1 << 64) - 1}, "does not end at its end record"),
        ({"locator_disk": 1}, "several disks"),
        ({"disks": 2}, "several disks"),
        ({"at": 1 << 63}, "does not lie before"),
        ({"at": END - 1}, "malformed zip64"),
        ({"end_count": 2}, "end records disagree: 2 and 1"),
        ({"end_size": 1}, "end records disagree"),
        ({"end_begin": 0}, "end records disagree"),
    ],
)
def test_zip64_end_record_that_lies(changes: dict[str, int], match: str) -> None:
    with pytest.raises(FormatError, match=match):
        load(zip64(**changes))


@pytest.mark.parametrize("extra", [b"", u16(1) + u16(0), u16(1) + u16(8) + bytes(8), u16(9) + u16(100)])
def test_zip64_sizes_without_their_field(extra: bytes) -> None:
    data = patched({ENTRY + 20: u32(0xFFFFFFFF) * 2, ENTRY + 30: u16(len(extra))})
    data = data[:END] + extra + patched({12: u32(END - ENTRY + len(extra))}, data[END:])
    with pytest.raises(FormatError, match=r"too short|out of the archive"):
        load(data)


# --- bombs ----------------------------------------------------------------------------------------
def deflated(size: int, stream: bytes, crc: int = 0) -> bytes:
    """An archive whose one deflated member claims ``size`` bytes."""
    name = b"x.npy"
    common = (0, 8, 0, 33, crc, len(stream), size, len(name), 0)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, *common) + name
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, *common, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local + stream), 0)
    return local + stream + entry + end


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return coder.compress(data) + coder.flush()


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def assert_bounded(data: bytes, limit: int, match: str) -> None:
    """Loading fails, and takes no more memory than ``limit``."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=match):
            load(data)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_bomb_that_claims_more_than_deflate_can_hold() -> None:
    stream = raw_deflate(header((10,)) + bytes(10))
    assert_bounded(deflated(0xFFFFFFFE, stream), 1 << 20, "more than deflate can hold")


def test_bomb_that_claims_less_than_it_holds() -> None:
    stream = raw_deflate(header((1000,)) + bytes(100 << 20))
    assert_bounded(deflated(1128, stream), 4 << 20, "holds more than the 1128 bytes")


def test_bomb_behind_a_modest_header() -> None:
    stream = raw_deflate(header((1000,)) + bytes(100 << 20))
    assert_bounded(deflated(128 + (100 << 20), stream), 4 << 20, "an array of 1000")


def test_header_larger_than_headers_are() -> None:
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }" + b" " * (64 << 20)
    raw = b"\x93NUMPY\2\0" + u32(len(text)) + text + b"\1"
    assert_bounded(deflated(len(raw), raw_deflate(raw)), 4 << 20, "at most 1048576 are read")


def test_stream_of_empty_blocks() -> None:
    stream = b"\0\0\0\xff\xff" * 200_000 + raw_deflate(header((1,)) + b"\1")
    assert_bounded(deflated(129, stream), 4 << 20, "not npy|cut off")


def test_stream_that_ends_early() -> None:
    whole = header((5000,)) + np.random.default_rng(0).integers(0, 255, 5000, np.uint8).tobytes()
    with pytest.raises(FormatError, match="ends after"):
        load(deflated(len(whole), raw_deflate(whole)[:-100], zlib.crc32(whole)))


def test_stream_shorter_than_its_claim() -> None:
    whole = header((5000,)) + np.random.default_rng(0).integers(0, 255, 4000, np.uint8).tobytes()
    with pytest.raises(FormatError, match="4128 bytes instead of 5128"):
        load(deflated(len(whole) + 1000, raw_deflate(whole), zlib.crc32(whole)))


def test_bytes_after_the_stream() -> None:
    whole = header((10,)) + bytes(10)
    with pytest.raises(FormatError, match="3 bytes after the end"):
        load(deflated(len(whole), raw_deflate(whole) + b"abc", zlib.crc32(whole)))


def test_stream_that_is_none() -> None:
    with pytest.raises(FormatError, match="malformed deflate stream"):
        load(deflated(138, b"\xff" * 200))


def test_wrong_crc_of_a_deflated_member() -> None:
    whole = header((10,)) + bytes(10)
    with pytest.raises(ChecksumError, match="expected 00000001") as caught:
        load(deflated(len(whole), raw_deflate(whole), 1))
    assert (caught.value.tensor, caught.value.offset) == ("x", 35)


# --- inflate --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 127, 1 << 20, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("skip", [0, 128])
def test_inflate_in_pieces(size: int, skip: int) -> None:
    data = np.random.default_rng(size).integers(0, 60, skip + size, np.uint8).tobytes()
    stream = raw_deflate(data)
    extent = Extent(0, 6, len(stream))
    reader = MemoryReader(b"before" + stream + b"after", "f")
    out = bytearray(size)
    inflate(reader, extent, Deflate(len(data), skip, zlib.crc32(data)), out)
    assert out == data[skip:]
    inflate(reader, extent, Deflate(len(data), skip, 1), out, verify=False)
    with pytest.raises(ChecksumError, match=rf"file f, tensor 't', bytes 6-{6 + len(stream)}"):
        inflate(reader, extent, Deflate(len(data), skip, 1), out, tensor="t")


def test_inflate_into_the_wrong_size() -> None:
    with pytest.raises(ValueError, match="out has 3 bytes, 4 are needed"):
        inflate(MemoryReader(b"", "f"), Extent(0, 0, 0), Deflate(4), bytearray(3))
