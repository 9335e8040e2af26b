"""Hostile and damaged safetensors files: each gets its error, and nothing large is allocated first."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from weightlift._packing import PackOptions
from weightlift.errors import (
    ChecksumError,
    FormatError,
    NotFoundError,
    TruncatedError,
    UnsafeContentError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.formats._safetensors_file import MAX_HEADER
from weightlift.formats._safetensors_index import MAX_SHARDS
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

Array = np.ndarray[Any, Any]


def file_of(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: Any, begin: Any, end: Any, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def load(contents: bytes | Mapping[str, bytes], name: str = "m.safetensors") -> dict[str, Array]:
    files = MemoryFiles(contents if isinstance(contents, Mapping) else {name: contents})
    layout = SAFETENSORS.read(files, name)
    if layout.damaged is not None:
        raise ChecksumError(layout.damaged)
    return read_tensors(layout, files)


TENSORS = {"a": np.arange(4, dtype="f4"), "b": np.arange(3, dtype="u1")}
GOOD = write_tensors(SAFETENSORS, TENSORS, "m.safetensors").files["m.safetensors"]
DATA = 8 + int.from_bytes(GOOD[:8], "little")
A = entry("F32", [2], 0, 8)

CASES: dict[str, tuple[bytes, type[WeightliftError], str]] = {
    # not safetensors at all
    "empty file": (b"", FormatError, "an empty file"),
    "five bytes": (b"\x05\0\0\0\0", FormatError, "5 bytes"),
    "zeros": (bytes(4096), FormatError, "expected '{'"),
    "HTML page": (b"<!DOCTYPE html>\n<html><title>404</title></html>", FormatError, "HTML"),
    "git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        FormatError,
        "git lfs pull",
    ),
    "plain text": (b"hello, this is not a weights file at all", FormatError, "a header of"),
    "another format": (b"\x93NUMPY\x01\x00v\x00" + b" " * 100, FormatError, "a header of"),
    "JSON without a weight map": (b'{"weightsManifest": []}', FormatError, "no 'weight_map'"),
    # the length
    "header of 2^64 - 1": (b"\xff" * 8 + b"{}", FormatError, "the format allows"),
    "header of 2^63": (file_of({}, length=1 << 63), FormatError, "the format allows"),
    "header above the limit": (file_of({}, length=MAX_HEADER + 1), FormatError, "the format allows"),
    "header at the limit, not there": (file_of({}, length=MAX_HEADER), TruncatedError, "the header ends"),
    "header longer than the file": (file_of({"a": A}, length=1000), TruncatedError, "the header ends"),
    "length, but no JSON": (file_of(b"hello", length=1000), FormatError, "no JSON object"),
    "length of zero": (file_of(b""), FormatError, "expected '{'"),
    "length cuts the JSON": (file_of({"a": A}, bytes(8), length=30), FormatError, "the end"),
    # the JSON
    "not JSON": (file_of(b"{'a': 1}"), FormatError, "expected '\"'"),
    "cut JSON": (file_of(b'{"a":{"dtype":"F'), FormatError, "ends inside a string"),
    "array at the top": (file_of([A]), FormatError, "expected '{'"),
    "trailing garbage": (file_of(b"{} x"), FormatError, "and then comes 'x'"),
    "two objects": (file_of(b"{}{}"), FormatError, "and then comes"),
    "padded with zeros": (file_of(b"{}\0\0"), FormatError, "and then comes"),
    "byte order mark": (file_of(b"\xef\xbb\xbf{}"), FormatError, "expected '{'"),
    "UTF-16": (file_of("{}".encode("utf-16")), FormatError, "expected '{'"),
    "not UTF-8": (file_of(b'{"a\xff":1}'), FormatError, "not UTF-8"),
    "overlong UTF-8": (file_of(b'{"a\xc0\xaf":1}'), FormatError, "not UTF-8"),
    "surrogates in UTF-8": (file_of(b'{"\xed\xa0\x80":1}'), FormatError, "not UTF-8"),
    "half a surrogate pair": (file_of(b'{"\\ud800":1}'), FormatError, "surrogate"),
    "control in a string": (file_of(b'{"a\n":1}'), FormatError, "control"),
    "deep arrays": (file_of(b"[" * 100_000), FormatError, "expected '{'"),
    "deep objects": (file_of(b'{"a":' * 100_000), FormatError, "nested deeper than 64"),
    "deep unknown field": (file_of(b'{"a":{"x":' + b"[" * 1_000_000), FormatError, "nested deeper than 64"),
    "NaN in a shape": (file_of(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), FormatError, "'N'"),
    "Infinity in offsets": (
        file_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}'),
        FormatError,
        "'I'",
    ),
    "NaN in an unknown field": (file_of(b'{"a":{"x":NaN}}'), FormatError, "'N'"),
    "comment": (file_of(b"{/* */}"), FormatError, "'/'"),
    # the tensors
    "duplicate name": (
        file_of(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), bytes(8)),
        FormatError,
        "two tensors have this name",
    ),
    "duplicate name by escape": (
        file_of(
            b'{"a":%b,"\\u0061":%b}' % (json.dumps(A).encode(), json.dumps(entry("F32", [0], 8, 8)).encode()),
            bytes(8),
        ),
        FormatError,
        "two tensors have this name",
    ),
    "duplicate field": (
        file_of(b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        FormatError,
        "dtype is there twice",
    ),
    "duplicate metadata": (
        file_of(b'{"__metadata__":{},"__metadata__":{}}'),
        FormatError,
        "__metadata__ is there twice",
    ),
    "duplicate metadata key": (
        file_of(b'{"__metadata__":{"k":"1","k":"2"}}'),
        FormatError,
        "'k' is there twice in __metadata__",
    ),
    "metadata not a string": (file_of({"__metadata__": {"k": 1}}), FormatError, "not a string"),
    "empty name": (file_of({"": A}, bytes(8)), FormatError, "name of a tensor is empty"),
    "no dtype": (file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), FormatError, "no dtype"),
    "no shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), FormatError, "no shape"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), FormatError, "no data_offsets"),
    "unknown dtype": (file_of({"a": entry("F33", [2], 0, 8)}, bytes(8)), FormatError, "unknown dtype 'F33'"),
    "six-bit dtype": (file_of({"a": entry("F6_E2M3", [4], 0, 3)}, bytes(3)), UnsupportedFeatureError, "F6_E2M3"),
    "negative dimension": (file_of({"a": entry("F32", [-2], 0, 8)}, bytes(8)), FormatError, "negative"),
    "negative offset": (file_of({"a": entry("F32", [2], -8, 0)}, bytes(8)), FormatError, "negative"),
    "fraction as dimension": (file_of({"a": entry("F32", [2.0], 0, 8)}, bytes(8)), FormatError, "fraction"),
    "text as dimension": (file_of({"a": entry("F32", ["2"], 0, 8)}, bytes(8)), FormatError, "integer"),
    "dimension beyond 64 bits": (file_of({"a": entry("F32", [1 << 64], 0, 8)}, bytes(8)), FormatError, "2\\^64"),
    "product overflows": (file_of({"a": entry("F32", [1 << 32] * 2, 0, 0)}), FormatError, "overflows"),
    "product overflows to the right size": (
        file_of({"a": entry("U8", [(1 << 63) + 4, 2], 0, 8)}, bytes(8)),
        FormatError,
        "overflows",
    ),
    "product overflows beside a zero": (
        file_of({"a": entry("F32", [1 << 40, 1 << 40, 0], 0, 0)}),
        FormatError,
        "overflows",
    ),
    "hundred dimensions": (file_of({"a": entry("F32", [1] * 100, 0, 4)}, bytes(4)), FormatError, "64 dimensions"),
    "size is not the shape's": (file_of({"a": entry("F32", [3], 0, 8)}, bytes(8)), FormatError, "need 12"),
    "end before begin": (file_of({"a": entry("F32", [2], 8, 0)}, bytes(8)), FormatError, "end before they begin"),
    "half a byte": (file_of({"a": entry("F4", [3], 0, 2)}, bytes(2)), FormatError, "whole bytes"),
    "overlapping": (
        file_of({"a": A, "b": entry("F32", [2], 4, 12)}, bytes(12)),
        FormatError,
        "overlaps the tensor before it",
    ),
    "the same bytes twice": (file_of({"a": A, "b": A}, bytes(8)), FormatError, "overlaps"),
    "hole at the start": (file_of({"a": entry("F32", [2], 4, 12)}, bytes(12)), FormatError, "a hole before"),
    "hole in the middle": (
        file_of({"a": A, "b": entry("F32", [2], 12, 20)}, bytes(20)),
        FormatError,
        "a hole before the tensor",
    ),
    "bytes after the last tensor": (file_of({"a": A}, bytes(9)), FormatError, "1 bytes after the last tensor"),
    "no tensors, but data": (file_of({}, b"payload"), FormatError, "7 bytes after"),
    "data cut": (file_of({"a": A}, bytes(7)), TruncatedError, "inside or before the tensor"),
    "an exabyte of nothing": (
        file_of({"a": entry("U8", [1 << 60], 0, 1 << 60)}, bytes(8)),
        TruncatedError,
        "inside or before the tensor",
    ),
    # our own keys
    "structure not JSON": (file_of({"__metadata__": {"weightlift.structure": "{"}}), FormatError, "structure"),
    "structure nested deep": (
        file_of({"__metadata__": {"weightlift.structure": "[" * 1000 + "]" * 1000}}),
        UnsafeContentError,
        "nested 1000 deep",
    ),
    "checksum of another header": (GOOD.replace(b'"a":', b'"c":'), ChecksumError, "the header was changed"),
    "payload flipped": (GOOD[:-1] + b"\xff", ChecksumError, "crc32c"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_its_error_and_place(case: str) -> None:
    data, error, message = CASES[case]
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message) as caught:
            load(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    if not isinstance(caught.value, ChecksumError):
        assert caught.value.path == "m.safetensors"


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_cut_anywhere_is_noticed(size: int) -> None:
    with pytest.raises((FormatError, TruncatedError)):
        load(GOOD[:size])


def test_errors_name_tensor_and_byte_range() -> None:
    with pytest.raises(TruncatedError) as caught:
        load(GOOD[:-1])
    assert caught.value.tensor == "b"
    assert (caught.value.offset, caught.value.end) == (DATA + 16, DATA + 19)
    with pytest.raises(FormatError) as extended:
        load(GOOD + b"xx")
    assert (extended.value.offset, extended.value.end) == (len(GOOD), len(GOOD) + 2)


def test_sizes_that_are_claimed_are_not_allocated() -> None:
    header = {f"t{i}": entry("U8", [1 << 40], i << 40, (i + 1) << 40) for i in range(100)}
    tracemalloc.start()
    with pytest.raises(TruncatedError):
        load(file_of(header, bytes(100)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "header",
    [
        b"{" + b" " * 20_000_000,
        b'{"' + b"a" * 20_000_000,
        b'{"' + b"\\u0041" * 3_000_000,
        b'{"a":{"x":' + b"[0," * 5_000_000,
        b'{"a":{' + b",".join(b'"x%d":0' % i for i in range(500_000)) + b"}}",
        b'{"a":{"dtype":"F32","shape":[' + b"1," * 10_000_000,
        b'{"__metadata__":{' + b",".join(b'"x%d":""' % i for i in range(500_000)) + b"}",
    ],
    ids=["spaces", "name", "escapes", "arrays", "fields", "shape", "metadata"],
)
def test_hostile_headers_take_linear_time(header: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(FormatError):
        load(file_of(header))
    assert time.perf_counter() - start < 5


# --- indexes ----------------------------------------------------------------------------------------
SHARD = file_of({"a": A}, bytes(8))

INDEXES: dict[str, tuple[bytes, type[WeightliftError], str]] = {
    "cut": (b'{"weight_map": {"a"', FormatError, "not valid JSON"),
    "not UTF-8": (b'{"weight_map": {"\xff": "s.safetensors"}}', FormatError, "not UTF-8"),
    "duplicate tensor": (
        b'{"weight_map": {"a": "s.safetensors", "a": "s.safetensors"}}',
        FormatError,
        "'a' is there twice",
    ),
    "duplicate map": (b'{"weight_map": {}, "weight_map": {}}', FormatError, "'weight_map' is there twice"),
    "NaN": (b'{"metadata": {"total_size": NaN}, "weight_map": {}}', FormatError, "NaN"),
    "deep": (b'{"weight_map": ' + b"[" * 100_000, UnsafeContentError, "nested"),
    "map is a list": (b'{"weight_map": ["s.safetensors"]}', FormatError, "'weight_map' is not an object"),
    "metadata is a list": (b'{"metadata": [1], "weight_map": {}}', FormatError, "'metadata' is not an object"),
    "file is a number": (b'{"weight_map": {"a": 1}}', FormatError, "not a file name"),
    "file is a list": (b'{"weight_map": {"a": ["s.safetensors"]}}', FormatError, "not a file name"),
    "absolute path": (b'{"weight_map": {"a": "/etc/passwd"}}', UnsafeContentError, "plain file names"),
    "path upwards": (b'{"weight_map": {"a": "../s.safetensors"}}', UnsafeContentError, "plain file names"),
    "path downwards": (b'{"weight_map": {"a": "x/s.safetensors"}}', UnsafeContentError, "plain file names"),
    "Windows path": (b'{"weight_map": {"a": "..\\\\s.safetensors"}}', UnsafeContentError, "plain file names"),
    "drive": (b'{"weight_map": {"a": "c:s.safetensors"}}', UnsafeContentError, "plain file names"),
    "URL": (b'{"weight_map": {"a": "http://h/s.safetensors"}}', UnsafeContentError, "plain file names"),
    "no name": (b'{"weight_map": {"a": ""}}', UnsafeContentError, "plain file names"),
    "dots": (b'{"weight_map": {"a": ".."}}', UnsafeContentError, "plain file names"),
    "missing shard": (b'{"weight_map": {"a": "t.safetensors"}}', NotFoundError, "'t.safetensors', which is not there"),
    "itself": (b'{"weight_map": {"a": "m.safetensors.index.json"}}', FormatError, "a header of"),
    "tensor not in the shard": (b'{"weight_map": {"b": "s.safetensors"}}', FormatError, "'b' .s.safetensors."),
    "structure is no text": (
        b'{"metadata": {"weightlift.structure": [1]}, "weight_map": {}}',
        FormatError,
        "not a string",
    ),
    "ten thousand and one shards": (
        json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(MAX_SHARDS + 1)}}).encode(),
        UnsafeContentError,
        "10001 files",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_index_refused_with_its_error(case: str) -> None:
    index, error, message = INDEXES[case]
    contents = {"m.safetensors.index.json": index, "s.safetensors": SHARD}
    with pytest.raises(error, match=message) as caught:
        load(contents, "m.safetensors.index.json")
    assert caught.value.path is not None


def test_a_shard_that_is_a_page_or_pointer() -> None:
    index = b'{"weight_map": {"a": "s.safetensors"}}'
    for content in (b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", b"", SHARD[:-1]):
        with pytest.raises(WeightliftError) as caught:
            load({"m.safetensors.index.json": index, "s.safetensors": content}, "m.safetensors.index.json")
        assert caught.value.path == "s.safetensors"


def test_a_damaged_shard_is_named() -> None:
    contents = write_tensors(SAFETENSORS, TENSORS, "m.safetensors", PackOptions(shard_size=16)).files
    shard = "m-00002-of-00002.safetensors"
    contents[shard] = contents[shard].replace(b'"U8"', b'"I8"')
    layout = SAFETENSORS.read(MemoryFiles(contents), "m.safetensors")
    assert layout.damaged is not None and layout.damaged.startswith(shard)
