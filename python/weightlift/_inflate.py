"""Raw deflate (RFC 1951), streamed: the decoded lane's work for one member of an archive.

Memory is bounded by two pieces of a mebibyte, whatever the stream claims or does; the output never exceeds
what the layout promised.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._checksum import crc32
from weightlift._layout import Extent
from weightlift._steps import Deflate
from weightlift.errors import ChecksumError, FormatError
from weightlift.protocols import Reader

__all__ = ["inflate", "inflate_parts", "whole_items"]

Array = npt.NDArray[np.uint8]
_PIECE = 1 << 20


def inflate(
    reader: Reader, extent: Extent, step: Deflate, out: Any, *, verify: bool = True, tensor: str | None = None
) -> None:
    """Inflate ``extent`` of ``reader`` into ``out``, a writable buffer of ``step.nbytes - step.skip`` bytes.

    What is in ``out`` after an error is undefined. For the rest see :func:`inflate_parts`.
    """
    target = memoryview(out).cast("B")
    if len(target) != step.nbytes - step.skip:
        raise ValueError(f"out has {len(target)} bytes, {step.nbytes - step.skip} are needed")
    at = 0
    for part in inflate_parts(reader, extent, step, verify=verify, tensor=tensor):
        target[at : at + len(part)] = part
        at += len(part)


def inflate_parts(
    reader: Reader, extent: Extent, step: Deflate, *, verify: bool = True, tensor: str | None = None
) -> Iterator[memoryview]:
    """Inflate ``extent`` of ``reader``: the ``step.nbytes - step.skip`` bytes in parts of at most a mebibyte.

    Args:
        reader: The file; ``extent.source`` is not looked at.
        extent: Where the deflated bytes are.
        step: Sizes, and the CRC-32 of everything inflated.
        verify: Compare the CRC-32, if the step has one; that is known after the last part.
        tensor: Its name, for messages.

    Raises:
        FormatError: The stream is malformed, ends early, or is longer or shorter than ``step.nbytes``.
        ChecksumError: The CRC-32 differs.

    Both name the file and the extent's bytes. The GIL is free while zlib works, so members inflate in parallel in
    as many threads as call this.
    """
    check = verify and step.crc32 is not None
    made = found = 0
    try:
        for piece in _pieces(reader, extent, step.nbytes):
            if check:
                found = crc32(piece, found)
            if made + len(piece) > step.skip:
                yield memoryview(piece)[max(0, step.skip - made) :]
            made += len(piece)
        if check and found != step.crc32:
            raise ChecksumError(f"CRC-32 is {found:08x}, expected {step.crc32:08x}")
    except FormatError as error:
        error.locate(path=reader.name, tensor=tensor, offset=extent.offset, end=extent.offset + extent.nbytes)
        raise


def _pieces(reader: Reader, extent: Extent, nbytes: int) -> Iterator[bytes]:
    """All that is inflated, exactly ``nbytes`` bytes in the end."""
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    at, end = extent.offset, extent.offset + extent.nbytes
    made = 0
    waiting = b""
    while not decoder.eof:
        if not waiting and at < end:
            waiting = reader.read_at(at, min(_PIECE, end - at))
            at += len(waiting)
        try:
            # One byte more than is left shows a stream that is too long.
            piece = decoder.decompress(waiting, min(_PIECE, nbytes - made + 1))
        except zlib.error as error:
            raise FormatError(f"malformed deflate stream: {error}") from None
        waiting = decoder.unconsumed_tail
        if made + len(piece) > nbytes:
            raise FormatError(f"deflate stream holds more than the {nbytes} bytes it should")
        made += len(piece)
        if piece:
            yield piece
        elif not waiting and at >= end and not decoder.eof:
            raise FormatError(f"deflate stream ends after {made} of {nbytes} bytes")
    if made != nbytes:
        raise FormatError(f"deflate stream holds {made} bytes instead of {nbytes}")
    left = len(decoder.unused_data) + end - at
    if left:
        raise FormatError(f"{left} bytes after the end of the deflate stream")


def whole_items(parts: Iterable[Array], nbytes: int) -> Iterator[Array]:
    """The same bytes, cut only between items of ``nbytes`` bytes; what is over at the end is dropped."""
    rest = np.zeros(0, np.uint8)
    for part in parts:
        joined = np.concatenate([rest, part]) if len(rest) else part
        whole = len(joined) - len(joined) % nbytes
        if whole:
            yield joined[:whole]
        rest = joined[whole:].copy()
