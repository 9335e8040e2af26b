"""LZF, decoded: what h5py packs chunks with where it is told to be quick.

Format: runs of up to 32 bytes as they are, and repetitions of 3 to 264 bytes that lie at most 8192 bytes back. What is
made is bounded as it is made. At Python's own speed it is for files that are small: some megabytes a second.
"""

from __future__ import annotations

from weightlift.errors import FormatError

__all__ = ["unlzf"]

_LITERAL = 32
_LONG = 9
"""A repetition of so many bytes and as many more as the byte that follows says."""


def unlzf(data: bytes | memoryview, limit: int) -> bytes:
    """What ``data`` was; FormatError where it is malformed, or makes more than ``limit`` bytes.

    Example:
        >>> unlzf(bytes((2, 97, 98, 99, 0xE0, 0, 2)), 100)
        b'abcabcabcabc'
    """
    out = bytearray()
    data = bytes(data)  # of which single bytes come twice as fast
    at, end = 0, len(data)
    try:
        while at < end:
            control = data[at]
            if control < _LITERAL:
                following = at + control + 2
                if following > end:
                    raise FormatError("LZF data ends inside a run of bytes")
                out += data[at + 1 : following]
                at = following
            else:
                count = (control >> 5) + 2
                at += 1
                if count == _LONG:
                    count += data[at]
                    at += 1
                back = ((control & 31) << 8 | data[at]) + 1
                at += 1
                begin = len(out) - back
                if begin < 0:
                    raise FormatError(f"LZF data repeats what lies {back} bytes back, of {len(out)}")
                part = out[begin : begin + count]
                out += part if back >= count else (part * (count // back + 1))[:count]
            if len(out) > limit:
                raise FormatError(f"LZF data makes more than {limit} bytes")
    except IndexError:
        raise FormatError("LZF data ends inside a repetition") from None
    return bytes(out)
