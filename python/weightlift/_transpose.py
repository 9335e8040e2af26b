"""Fortran order to C order in bounded memory: from a stream, or a file, into a file.

A slab is all elements of one index of the last axis (they follow one another in Fortran order) or of the first (they
do in C order). Slabs are taken a few at a time, turned in memory, and scattered to, or gathered from, where the
elements of each are. So a tensor takes as many small writes or reads for each 16 MiB as a slab has elements.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._ranges import read_ranges
from weightlift._stopping import check

__all__ = ["fits", "gather", "scatter", "scatters", "write_all"]

Bytes = npt.NDArray[np.uint8]
WINDOW = 16 << 20
"""Bytes that are turned at a time; there is as much again of them turned."""
_TILE = 256 << 10
"""Bytes that are copied out of the stored order before they are turned: they stay in the cache, which rows that lie a
power of two apart do not. That takes a fifth of the time."""
_LINE = 16
"""Elements along the shortest stride that are copied together at least."""
_LARGEST_SLAB = 4 * WINDOW
_DEARER = 8
"""A tensor that can be scattered as it comes is read once, in order, and not written to be gathered from."""


def scatters(shape: Sequence[int]) -> bool:
    """Whether to scatter a tensor of this shape: else its slabs along the first axis are by far the smaller ones."""
    return prod(shape[:-1]) <= _DEARER * prod(shape[1:])


def fits(shape: Sequence[int], item: int) -> bool:
    """Whether the slabs are small enough for bounded memory: not where two axes are short and one between is huge."""
    return item * prod(shape[:-1] if scatters(shape) else shape[1:]) <= _LARGEST_SLAB


def scatter(parts: Iterable[Bytes], shape: Sequence[int], item: int, fd: int, offset: int) -> None:
    """Write a tensor, whose bytes come in Fortran order, to a file in C order.

    Args:
        parts: Its bytes, in any sizes.
        shape: In elements; at least two axes, none of them 0.
        item: Bytes of an element.
        fd: The file.
        offset: Where the tensor begins in it.
    """
    slab, length = prod(shape[:-1]), shape[-1]
    at = 0
    for block in _blocks(parts, max(1, WINDOW // (slab * item)) * slab * item):
        check()
        count = len(block) // (slab * item)
        turned = _turned(block, item, (*shape[:-1], count))
        width = count * item
        if count == length:
            write_all(fd, turned, offset)
        else:
            pieces = turned.data
            for k in range(slab):
                piece, begin = pieces[k * width : (k + 1) * width], offset + (k * length + at) * item
                if os.pwrite(fd, piece, begin) != width:
                    write_all(fd, piece, begin)  # once more: it seldom is not all
        at += count


def gather(reader: Any, shape: Sequence[int], item: int, fd: int, offset: int) -> None:
    """Write a tensor, which fills the file of ``reader`` in Fortran order, to a file in C order; see ``scatter``."""
    slab, length = prod(shape[1:]), shape[0]
    step = max(1, WINDOW // (slab * item))
    memory = np.empty(slab * min(step, length) * item, np.uint8)
    for begin in range(0, length, step):
        check()
        count = min(step, length - begin)
        width = count * item
        block = memory[: slab * width]
        read_ranges(reader, [((k * length + begin) * item, width) for k in range(slab)], block)
        offset += write_all(fd, _turned(block, item, (count, *shape[1:])), offset)


def _turned(block: Bytes, item: int, shape: tuple[int, ...]) -> Bytes:
    """The bytes of an array in C order, from those in Fortran order."""
    kind = np.dtype(f"u{item}") if item in (1, 2, 4, 8) else np.dtype((np.void, item))
    stored = block.view(kind).reshape(shape[::-1])
    result = np.empty(shape, kind)
    width = max(_LINE, _TILE // (len(block) // shape[0]))
    for i in range(0, shape[0], width):
        result[i : i + width] = np.ascontiguousarray(stored[..., i : i + width]).transpose()
    return result.reshape(-1).view(np.uint8)


def _blocks(parts: Iterable[Bytes], nbytes: int) -> Iterator[Bytes]:
    """The same bytes, ``nbytes`` at a time; the last block may be shorter. Each is valid until the next."""
    block = np.empty(nbytes, np.uint8)
    filled = 0
    for part in parts:
        taken = 0
        while taken < len(part):
            n = min(nbytes - filled, len(part) - taken)
            block[filled : filled + n] = part[taken : taken + n]
            filled, taken = filled + n, taken + n
            if filled == nbytes:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def write_all(fd: int, part: Any, offset: int) -> int:
    """Write all of ``part``; returns its size."""
    left = memoryview(part).cast("B")
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written
    return len(part)
