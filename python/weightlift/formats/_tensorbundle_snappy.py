"""Snappy, decoded: blocks of an index that other writers than TensorFlow's may have compressed.

Format: https://github.com/google/snappy/blob/main/format_description.txt. The output is bounded before a byte is made:
an element of the input makes at most 64 bytes of the output from at least 2 of the input.
"""

from __future__ import annotations

from weightlift.errors import FormatError
from weightlift.formats._tensorbundle_proto import read_varint

__all__ = ["decompress"]

_MOST_PER_BYTE = 64
_LITERAL = 60
"""Literals of more bytes than this say their length in the bytes after the tag."""


def decompress(data: bytes, limit: int) -> bytes:
    """What ``data`` was before it was compressed; FormatError where it is malformed, or claims more than ``limit``."""
    size, at = read_varint(data, 0)
    if size > min(limit, _MOST_PER_BYTE * len(data)):
        raise FormatError(f"a Snappy block of {len(data)} bytes claims to hold {size}")
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        at = _literal(data, at, tag >> 2, out) if tag & 3 == 0 else _copy(data, at, tag, out)
        if len(out) > size:
            raise FormatError(f"a Snappy block holds more than the {size} bytes that it claims")
    if len(out) != size:
        raise FormatError(f"a Snappy block holds {len(out)} of the {size} bytes that it claims")
    return bytes(out)


def _literal(data: bytes, at: int, count: int, out: bytearray) -> int:
    """Take bytes as they are; returns where the next element is."""
    if count >= _LITERAL:
        width = count - _LITERAL + 1
        count = int.from_bytes(data[at : at + width], "little")
        at += width
    end = at + count + 1
    if end > len(data):
        raise FormatError("a Snappy block ends inside a literal")
    out += data[at:end]
    return end


def _copy(data: bytes, at: int, tag: int, out: bytearray) -> int:
    """Repeat what came before; returns where the next element is."""
    width = (0, 1, 2, 4)[tag & 3]
    back = int.from_bytes(data[at : at + width], "little")
    if tag & 3 == 1:
        count, back = (tag >> 2 & 7) + 4, back | tag >> 5 << 8
    else:
        count = (tag >> 2) + 1
    if at + width > len(data) or not 0 < back <= len(out):
        raise FormatError(f"a Snappy block repeats what lies {back} bytes back, of {len(out)}")
    begin = len(out) - back
    repeated = bytes(out[begin : begin + count])
    out += (repeated * (count // len(repeated) + 1))[:count]
    return at + width
