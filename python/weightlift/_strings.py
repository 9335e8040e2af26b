"""Strings of any length as stored bytes: each a little-endian uint32 byte length and its bytes, back to back.

This is TensorFlow.js's encoding of string weights. In memory they are object arrays of ``bytes``.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["MAX_STRING", "decode_strings", "encode_strings"]

MAX_STRING = 0xFFFFFFFF
"""Longest string that the length prefix can tell, in bytes."""

_LENGTH = Struct("<I")


def decode_strings(data: memoryview | bytes, count: int) -> list[bytes]:
    """The ``count`` strings that ``data`` holds, which they must fill exactly; FormatError says where they do not.

    Example:
        >>> decode_strings(b"\\x02\\x00\\x00\\x00ab\\x00\\x00\\x00\\x00", 2)
        [b'ab', b'']
    """
    view = memoryview(data)
    size, at = view.nbytes, 0
    strings: list[bytes] = []
    if 4 * count > size:
        raise FormatError(f"{count} strings need at least {4 * count} bytes, there are {size}")
    for i in range(count):
        begin = at + 4
        if begin > size:
            raise FormatError(f"string {i} of {count} has no length: the data ends after {size} bytes", offset=at)
        at = begin + _LENGTH.unpack_from(view, at)[0]
        if at > size:
            raise FormatError(
                f"string {i} of {count} says it has {at - begin} bytes, but {size - begin} are left", offset=begin - 4
            )
        strings.append(bytes(view[begin:at]))
    if at != size:
        raise FormatError(f"{size - at} bytes are left after {count} strings", offset=at, end=size)
    return strings


def encode_strings(array: npt.NDArray[Any]) -> bytes:
    """The stored bytes of an object array of ``bytes`` (kept) and ``str`` (as UTF-8), in C order.

    Example:
        >>> encode_strings(np.array([b"ab", "é"], object)).hex(" ")
        '02 00 00 00 61 62 02 00 00 00 c3 a9'
    """
    parts: list[bytes] = []
    for i, value in enumerate(np.asarray(array).ravel()):
        if isinstance(value, str):
            try:
                value = value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise UnsupportedFeatureError(f"string {i} is not text: {error.reason}") from None
        if not isinstance(value, bytes):
            raise UnsupportedFeatureError(
                f"element {i} is a {type(value).__name__}; an array of strings holds bytes or str"
            )
        if len(value) > MAX_STRING:
            raise UnsupportedFeatureError(f"string {i} has {len(value)} bytes; at most {MAX_STRING} can be stored")
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)
