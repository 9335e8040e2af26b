"""Arrays stored as chunks, each perhaps filtered (HDF5): one tile after another is decoded and put in its place."""

from __future__ import annotations

import struct
import zlib
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._lzf import unlzf
from weightlift._steps import Chunks
from weightlift.errors import ChecksumError, FormatError

__all__ = ["place_chunks"]

_Bytes = npt.NDArray[np.uint8]
_Data = bytes | memoryview


def place_chunks(step: Chunks, stored: Any, out: _Bytes | None = None, *, verify: bool = True) -> _Bytes:
    """The bytes of an array, in C order, whose stored chunks lie one after another in ``stored``.

    Args:
        step: What the chunks are.
        stored: Their bytes.
        out: Where the array is to be; None: in memory of its own.
        verify: Compare the chunks' own checksums.

    Raises:
        FormatError: A chunk does not decode to its size.
        ChecksumError: Its own checksum does not match.
    """
    flat: _Bytes = np.empty(prod(step.shape) * step.item, np.uint8) if out is None else out
    array = flat.reshape((*step.shape, step.item))
    array[...] = np.frombuffer(step.fill, np.uint8) if step.fill else 0
    tile = (*step.chunk, step.item)
    view, at = memoryview(stored), 0
    for origin, size, mask in zip(step.origins, step.sizes, step.masks, strict=True):
        try:
            data = _decoded(step, view[at : at + size], mask, verify)
        except zlib.error as error:
            raise FormatError(f"the chunk at {list(origin)} is malformed: {error}") from None
        if len(data) != prod(tile):
            raise FormatError(f"the chunk at {list(origin)} has {len(data)} bytes, expected {prod(tile)}")
        at += size
        inside = tuple(slice(o, min(o + c, n)) for o, c, n in zip(origin, step.chunk, step.shape, strict=True))
        kept = tuple(slice(0, s.stop - s.start) for s in inside)
        array[inside] = np.frombuffer(data, np.uint8).reshape(tile)[kept]
    return flat


def _decoded(step: Chunks, data: _Data, mask: int, verify: bool) -> _Data:
    """A chunk, its filters undone in reverse; bits of ``mask`` say which of them were left out."""
    full = prod(step.chunk) * step.item
    for number in reversed(range(len(step.filters))):
        if mask >> number & 1:
            continue
        name = step.filters[number]
        if name == "deflate":
            inflater = zlib.decompressobj()
            data = inflater.decompress(data, full + 8)  # a checksum may follow; more would be a bomb
            if not inflater.eof:
                raise FormatError("a deflated chunk is cut off, or larger than it should be")
        elif name == "shuffle":
            count = len(data) // step.item
            whole = np.frombuffer(data, np.uint8, count * step.item).reshape(step.item, count)
            rest = bytes(data[count * step.item :])
            turned = np.ascontiguousarray(whole.T).reshape(-1).data
            data = turned.tobytes() + rest if rest else turned
        elif name == "lzf":
            data = unlzf(data, full + 8)
        else:
            data = _checked(data, verify)
    return data


def _checked(data: _Data, verify: bool) -> _Data:
    """A chunk without its Fletcher-32 sum, which it matches."""
    body, stored = data[:-4], data[-4:]
    if len(stored) < 4:
        raise FormatError("a chunk is too short for its checksum")
    if verify and fletcher32(body) != struct.unpack("<I", stored)[0]:
        raise ChecksumError(f"Fletcher-32 of a chunk is {fletcher32(body):08x}, expected {bytes(stored)[::-1].hex()}")
    return body


def fletcher32(data: _Data) -> int:
    """The sum as HDF5 takes it: of big-endian words of 16 bits, an odd byte at the end as the upper half of one."""
    words = np.frombuffer(bytes(data) + b"\0" if len(data) % 2 else data, ">u2")
    low = high = 0
    for begin in range(0, len(words), 1 << 16):
        part = words[begin : begin + (1 << 16)].astype(np.uint64)
        weights = np.arange(len(part), 0, -1, dtype=np.uint64)
        high = (high + low * len(part) + int((part * weights).sum())) % 65535
        low = (low + int(part.sum())) % 65535
    # HDF5 folds carries, which never makes 0 of a sum that is not: 65535 stands for it.
    some = bool(words.any())
    return (((high or 65535) if some else 0) << 16) | ((low or 65535) if some else 0)
