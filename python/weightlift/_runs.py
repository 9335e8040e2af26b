"""Boxes of a tensor as runs of bytes: where each row of each lies, and where it goes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from weightlift._dtypes import from_name
from weightlift._layout import U32, U64, Extent
from weightlift._steps import Tiles

__all__ = ["Runs", "runs_of"]

_SHORTEST = 4096
"""Bytes: below that, joining boxes in memory takes less than a read for each run."""
_MOST = 1 << 17


class Runs(NamedTuple):
    """Columns: source, offset in it, bytes, and offset in the tensor, in stored order."""

    source: U32
    offset: U64
    nbytes: U64
    dest: U64


def runs_of(tiles: Tiles, extents: Sequence[Extent]) -> Runs | None:
    """The runs of boxes that are stored one an extent; None where they are short, many, or stored otherwise."""
    item = from_name(tiles.dtype).numpy.itemsize
    sizes = [prod(size) * item for _, size in tiles.boxes]
    if sizes != [extent.nbytes for extent in extents] or not all(sizes):
        return None
    rank = len(tiles.shape)
    strides = [prod(tiles.shape[axis + 1 :]) * item for axis in range(rank)]
    columns, count = [], 0
    for (begin, size), extent in zip(tiles.boxes, extents, strict=True):
        inner = next((axis for axis in range(rank - 1, 0, -1) if size[axis] != tiles.shape[axis]), 0)
        run, outer = prod(size[inner:]) * item, size[:inner]
        count += prod(outer)
        if run < _SHORTEST or count > _MOST:
            return None
        at = np.zeros(outer, np.uint64) + np.uint64(sum(b * s for b, s in zip(begin, strides, strict=True)))
        for axis, (n, stride) in enumerate(zip(outer, strides[:inner], strict=True)):
            steps = np.arange(n, dtype=np.uint64) * np.uint64(stride)
            at += steps.reshape([n if a == axis else 1 for a in range(inner)])
        number = np.arange(at.size, dtype=np.uint64)
        columns.append((
            np.full(at.size, extent.source, np.uint32), number * np.uint64(run) + np.uint64(extent.offset),
            np.full(at.size, run, np.uint64), at.reshape(-1),
        ))  # fmt: skip
    return Runs(*(np.concatenate(column) for column in zip(*columns, strict=True)))
