"""Strings of any length as stored bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.tfjs_support import objects

from weightlift._strings import decode_strings, encode_strings
from weightlift.errors import FormatError, UnsupportedFeatureError


def test_strings_come_back() -> None:
    strings = [b"", b"a", "日本".encode(), b"\0" * 300]
    data = encode_strings(objects(*strings))
    assert decode_strings(memoryview(data), 4) == strings
    assert encode_strings(np.array([["a"], ["é"]], object)) == encode_strings(objects(b"a", "é".encode()))
    assert decode_strings(b"", 0) == []


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"\2\0\0\0ab", 2, "need at least 8 bytes"),
        (b"\2\0\0\0abc\0\0", 2, "has no length"),
        (b"\3\0\0\0ab", 1, "says it has 3 bytes, but 2 are left"),
        (b"\xff\xff\xff\xffab", 1, "4294967295 bytes"),
        (b"\1\0\0\0ab", 1, "1 bytes are left"),
        (b"a", 0, "1 bytes are left"),
    ],
)
def test_strings_that_do_not_fit(data: bytes, count: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode_strings(data, count)


@pytest.mark.parametrize("value", [3, None, "\ud800"])
def test_only_strings_are_strings(value: Any) -> None:
    with pytest.raises(UnsupportedFeatureError):
        encode_strings(np.array([value], object))
