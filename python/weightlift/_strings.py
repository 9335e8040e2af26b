"""Strings of any length as stored bytes: as TensorFlow.js and as TensorFlow's checkpoints have them.

TensorFlow.js: each a little-endian uint32 byte length and its bytes, back to back. TensorFlow: all lengths as varints,
a checksum of them, then all bytes. In memory they are object arrays of ``bytes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._checksum import crc32c
from weightlift.errors import ChecksumError, FormatError, UnsupportedFeatureError

__all__ = [
    "MAX_STRING",
    "decode_strings",
    "decode_varint_strings",
    "encode_strings",
    "encode_varint_strings",
    "masked",
    "string_elements",
    "unmasked",
    "varint",
]

MAX_STRING = 0xFFFFFFFF
"""Longest string that the length prefix can tell, in bytes."""

_LENGTH = Struct("<I")
_MASK = 0xA282EAD8


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
    return b"".join(part for value in string_elements(array) for part in (_LENGTH.pack(len(value)), value))


def string_elements(array: npt.NDArray[Any]) -> list[bytes]:
    """The elements in C order, ``str`` as UTF-8; UnsupportedFeatureError for what is neither that nor ``bytes``."""
    strings: list[bytes] = []
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
        strings.append(value)
    return strings


# --- TensorFlow's ---------------------------------------------------------------------------------
def masked(crc: int) -> int:
    """A CRC-32C as TensorFlow stores it, so that a checksum of bytes that hold checksums stays a good one.

    Example:
        >>> f"{masked(0xe3069283):08x}"
        'c78ab0e5'
    """
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def unmasked(stored: int) -> int:
    """The CRC-32C again."""
    rotated = (stored - _MASK) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def decode_varint_strings(data: memoryview | bytes, count: int, crc: int | None) -> list[bytes]:
    """The ``count`` strings that ``data`` holds, which they must fill exactly.

    Args:
        data: As :func:`encode_varint_strings` makes it.
        count: How many there are.
        crc: The checksum that goes with it; None: no checksum is compared.

    Raises:
        FormatError: The lengths do not fit the data.
        ChecksumError: The data does not match its checksums.
    """
    view = memoryview(data).cast("B")
    if count + 4 > view.nbytes:
        raise FormatError(f"{count} strings need at least {count + 4} bytes, there are {view.nbytes}")
    lengths, at = _varints(view, count)
    begin = at + 4
    if begin + sum(lengths) != view.nbytes:
        raise FormatError(f"{count} strings of {sum(lengths)} bytes behind {begin} do not fill {view.nbytes} bytes")
    if crc is not None:
        of_lengths = _crc_of_lengths(lengths)
        stored = unmasked(_LENGTH.unpack_from(view, at)[0])
        if stored != of_lengths:
            raise ChecksumError(f"crc32c of the strings' lengths is {of_lengths:08x}, expected {stored:08x}")
        computed = crc32c(view[at:], of_lengths)
        if computed != crc:
            raise ChecksumError(f"crc32c is {computed:08x}, expected {crc:08x}")
    strings = []
    for length in lengths:
        strings.append(bytes(view[begin : begin + length]))
        begin += length
    return strings


def encode_varint_strings(strings: Sequence[bytes]) -> tuple[bytes, int]:
    """The stored bytes of strings, and the checksum that goes with them.

    Example:
        >>> encode_varint_strings([b"ab", b""])[0][:2].hex(" ")
        '02 00'
    """
    lengths = [len(string) for string in strings]
    of_lengths = _crc_of_lengths(lengths)
    rest = _LENGTH.pack(masked(of_lengths)) + b"".join(strings)
    return b"".join(map(varint, lengths)) + rest, crc32c(rest, of_lengths)


def _crc_of_lengths(lengths: Sequence[int]) -> int:
    if all(length <= MAX_STRING for length in lengths):
        return crc32c(np.array(lengths, "<u4").tobytes())
    return crc32c(b"".join(length.to_bytes(4 if length <= MAX_STRING else 8, "little") for length in lengths))


def _varints(view: memoryview, count: int) -> tuple[list[int], int]:
    """``count`` numbers, and where the next byte is."""
    numbers, at, size = [], 0, view.nbytes
    for i in range(count):
        value = shift = 0
        while True:
            if at >= size or shift > 63:
                raise FormatError(f"the length of string {i} of {count} is cut off", offset=at)
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(value)
    if at + 4 > size:
        raise FormatError(f"{count} strings have no checksum of their lengths: the data ends", offset=at)
    return numbers, at


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte, the lowest first; all bytes but the last have the high bit set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
