"""Hostile and damaged npy files: each gets its error, with file and byte range, before anything large is allocated."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest

from weightlift.errors import FormatError, TruncatedError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._npy import NPY
from weightlift.testing import MemoryFiles, read_tensors

MAGIC = b"\x93NUMPY"


def saved(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def load(data: bytes) -> np.ndarray[Any, Any]:
    files = MemoryFiles({"x.npy": data})
    return read_tensors(NPY.read(files, "x.npy"), files)["tensor"]


def header_file(text: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("latin-1")
    return MAGIC + bytes([version, 0]) + len(raw).to_bytes(2 if version == 1 else 4, "little") + raw + data


def described(descr: str, shape: str = "(1,)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


GOOD = saved(np.arange(6, dtype="f4").reshape(2, 3))


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_truncated_at_every_byte(length: int) -> None:
    with pytest.raises((FormatError, TruncatedError)) as caught:
        load(GOOD[:length])
    assert caught.value.path == "x.npy"
    assert caught.value.offset is not None


def test_extended() -> None:
    with pytest.raises(FormatError, match=r"5 bytes after the array.*bytes 152-157"):
        load(GOOD + b"extra")


def test_several_arrays_in_one_file() -> None:
    with pytest.raises(FormatError, match=r"another array begins there: use \.npz"):
        load(GOOD + GOOD)


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_flipped_bits_are_an_error_or_an_array(at: int) -> None:
    for bit in range(8):
        data = bytearray(GOOD)
        data[at] ^= 1 << bit
        try:
            array = load(bytes(data))
        except WeightliftError as error:
            assert error.path == "x.npy"
        else:
            assert array.nbytes == 24


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"", "it is an empty file"),
        (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", "it is an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x93NUMPX\1\0", "not npy"),
        (MAGIC, "cut off after 6 bytes"),
        (MAGIC + b"\2\0\1\0\0", "cut off after 11 bytes"),
        (MAGIC + b"\4\0" + bytes(80), r"version 4\.0"),
        (MAGIC + b"\1\1" + bytes(80), r"version 1\.1"),
        (MAGIC + b"\2\0\xff\xff\xff\xff" + bytes(80), "header of 4294967307 bytes; at most 1048576"),
        (MAGIC + b"\1\0\xff\xff" + bytes(80), "truncated: npy header of 65545 bytes in a file of 90"),
    ],
)
def test_bad_beginning(head: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        load(head)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected a value"),
        ("{", "expected"),
        ("{}", "must be a dict of"),
        ("[]", "must be a dict of"),
        ("{'descr': '<f4', 'fortran_order': False}", "must be a dict of"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "must be a dict of"),
        ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "repeated key"),
        ("{1: '<f4', 'fortran_order': False, 'shape': (1,)}", "expected a string as key"),
        (described("'<f4'") + " 1", "unexpected text after"),
        (described("'<f4'", "(1,,)"), "expected a value"),
        (described("'<f4'", "(1"), r"expected"),
        (described("'<f4'", "[1]"), "not a tuple of integers"),
        (described("'<f4'", "1"), "not a tuple of integers"),
        (described("'<f4'", "(True,)"), "not a tuple of integers"),
        (described("'<f4'", "('1',)"), "not a tuple of integers"),
        (described("'<f4'", "(-1,)"), "negative dimension"),
        (described("'<f4'", "(1.5,)"), "character"),
        (described("'<f4'", "(1_0,)"), "expected"),
        (described("'<f4'", "(" + "9" * 30 + ",)"), "more than 20 digits"),
        (described("'<f4'", "(4611686018427387904, 4)"), "exceeds 64 bits"),
        (described("'<f4'", "(0, 4611686018427387904, 4)"), "exceeds 64 bits"),
        (described("'<f4'", "(1000000000000,)"), "truncated"),
        (described("'<f4'", "(" + "1," * 65 + ")"), "65 dimensions"),
        (described("'<f4'", fortran="0"), "not True or False"),
        (described("'<f4'", fortran="None"), "unexpected word 'None'"),
        (described("__import__('os').system('true')"), "unexpected word|not a literal"),
        (described("'<f4'.lower()"), "not a literal|expected"),
        (described("'<f4' 'x'"), "expected"),
        (described("b'<f4'"), "not a literal"),
        (described("'<f4\n'"), "not a literal"),
        (described(r"'\q'"), "unknown escape"),
        (described(r"'\U00110000'"), "beyond the last code point"),
        (described("'<q9'"), "unknown npy element type '<q9'"),
        (described("'<f3'"), "unknown npy element type"),
        (described("'float32, float32'"), "unknown npy element type"),
        (described("'<V99999999999'"), "unknown npy element type"),
        (described("'<V4294967296'"), "no element type"),
        (described("'|V0'"), "no bytes"),
        (described("[]"), "no bytes"),
        (described("('<f4', (2,))"), "sub-array type"),
        (described("4"), "neither a type nor a list of fields"),
        (described("['<f4']"), "not .name, type."),
        (described("[('a',)]"), "not .name, type."),
        (described("[(1, '<f4')]"), "name is not a string"),
        (described("[('a', '<f4'), ('a', '<f4')]"), "malformed fields"),
        (described("[('a', '<f4', (-1,))]"), "sub-array shape"),
        (described("[('a', '<f4', 'x')]"), "sub-array shape"),
        (described("[('a', '<f4', (2147483647, 2))]"), "exceeds 2147483647 bytes"),
        (described("[('a', '|V2000000000'), ('b', '|V2000000000')]"), "more than 2147483647 bytes"),
        (described("[" * 40 + "]" * 40), "nested deeper than 32"),
        ("(" * 60_000, "nested deeper than 32"),
        ("{'descr': " * 5000, "nested deeper than 32"),
        ("'" * 60_001, "expected|unexpected|not a literal"),
        ("'" + "\\" * 60_000, "not a literal"),
        ("\0" * 100, "not a literal"),
    ],
)
def test_bad_header(text: str, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        load(header_file(text, bytes(4)))
    assert caught.value.path == "x.npy"
    assert len(str(caught.value)) < 400


def test_header_that_is_not_utf8() -> None:
    with pytest.raises(FormatError, match="not UTF-8"):
        load(header_file(b"{'descr': '\xff\xfe'}", version=3))


@pytest.mark.parametrize("descr", ["'|O'", "'O'", "'<O8'", "'|O4'", "[('a', '|O')]", "[('a', [('b', 'O', (2,))])]"])
def test_objects_anywhere_are_refused(descr: str) -> None:
    with pytest.raises(UnsafeContentError, match="Python objects"):
        load(header_file(described(descr), b"cos\nsystem\n(S'true'\ntR."))


def test_sub_array_that_numpy_cannot_have_is_unsupported() -> None:
    with pytest.raises(UnsupportedFeatureError, match="sub-array"):
        load(header_file(described("[('x', '<i2'), ('y', '<U0', (3,))]")))


def test_type_that_this_machine_lacks_is_unsupported() -> None:
    missing = [n for n in (10, 12, 16) if not hasattr(np, f"float{8 * n}")]
    for size in missing:
        with pytest.raises(UnsupportedFeatureError, match="NumPy here has no"):
            load(header_file(described(f"'<f{size}'"), bytes(size)))
    assert missing


@pytest.mark.parametrize("shape", ["(1000000000000000,)", "(1000000, 1000000, 1000)", "(4294967296,)"])
def test_nothing_is_allocated_for_what_the_header_claims(shape: str) -> None:
    data = header_file(described("'<f8'", shape), bytes(64))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="truncated"):
            load(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_file_that_shrinks_after_its_header_was_read() -> None:
    layout = NPY.read(MemoryFiles({"x.npy": GOOD}), "x.npy")
    with pytest.raises(TruncatedError):
        read_tensors(layout, MemoryFiles({"x.npy": GOOD[:-1]}))
