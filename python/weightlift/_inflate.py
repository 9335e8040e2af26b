"""Raw deflate (RFC 1951), streamed: the decoded lane's work for one member of an archive.

Memory is bounded by two pieces of a mebibyte, whatever the stream claims or does; the output never exceeds
what the layout promised.
"""

from __future__ import annotations

import zlib
from typing import Any

from weightlift._checksum import crc32
from weightlift._layout import Deflate, Extent
from weightlift.errors import ChecksumError, FormatError
from weightlift.protocols import Reader

__all__ = ["inflate"]

_PIECE = 1 << 20


def inflate(
    reader: Reader, extent: Extent, step: Deflate, out: Any, *, verify: bool = True, tensor: str | None = None
) -> None:
    """Inflate ``extent`` of ``reader`` into ``out``.

    Args:
        reader: The file; ``extent.source`` is not looked at.
        extent: Where the deflated bytes are.
        step: Sizes, and the CRC-32 of everything inflated.
        out: Writable buffer of ``step.nbytes - step.skip`` bytes.
        verify: Compare the CRC-32, if the step has one.
        tensor: Its name, for messages.

    Raises:
        FormatError: The stream is malformed, ends early, or is longer or shorter than ``step.nbytes``.
        ChecksumError: The CRC-32 differs.

    Both name the file and the extent's bytes. What is in ``out`` then is undefined. The GIL is free while zlib
    works, so members inflate in parallel in as many threads as call this.
    """
    target = memoryview(out).cast("B")
    if len(target) != step.nbytes - step.skip:
        raise ValueError(f"out has {len(target)} bytes, {step.nbytes - step.skip} are needed")
    check = verify and step.crc32 is not None
    try:
        found = _stream(reader, extent, step, target, check)
        if check and found != step.crc32:
            raise ChecksumError(f"CRC-32 is {found:08x}, expected {step.crc32:08x}")
    except FormatError as error:
        error.locate(path=reader.name, tensor=tensor, offset=extent.offset, end=extent.offset + extent.nbytes)
        raise


def _stream(reader: Reader, extent: Extent, step: Deflate, target: memoryview, check: bool) -> int:
    """Inflate piece by piece; returns the CRC-32 of what was inflated (0 without ``check``)."""
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    at, end = extent.offset, extent.offset + extent.nbytes
    made = crc = 0
    waiting = b""
    while not decoder.eof:
        if not waiting and at < end:
            waiting = reader.read_at(at, min(_PIECE, end - at))
            at += len(waiting)
        try:
            # One byte more than is left shows a stream that is too long.
            piece = decoder.decompress(waiting, min(_PIECE, step.nbytes - made + 1))
        except zlib.error as error:
            raise FormatError(f"malformed deflate stream: {error}") from None
        waiting = decoder.unconsumed_tail
        if made + len(piece) > step.nbytes:
            raise FormatError(f"deflate stream holds more than the {step.nbytes} bytes it should")
        if check:
            crc = crc32(piece, crc)
        kept = piece[max(0, step.skip - made) :]
        begin = max(0, made - step.skip)
        target[begin : begin + len(kept)] = kept
        made += len(piece)
        if not piece and not waiting and at >= end and not decoder.eof:
            raise FormatError(f"deflate stream ends after {made} of {step.nbytes} bytes")
    if made != step.nbytes:
        raise FormatError(f"deflate stream holds {made} bytes instead of {step.nbytes}")
    left = len(decoder.unused_data) + end - at
    if left:
        raise FormatError(f"{left} bytes after the end of the deflate stream")
    return crc
