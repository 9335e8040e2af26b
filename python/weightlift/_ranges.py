"""Ranges of one file, read into one stretch of memory: for whoever reads bytes that belong to no layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from weightlift import _core
from weightlift._ops import NONE, ReadColumns, item_sizes
from weightlift._steps import Step

__all__ = ["read_ranges"]


def read_ranges(
    reader: Any,
    ranges: Sequence[tuple[int, int]],
    out: npt.NDArray[Any],
    *,
    steps: tuple[Step, ...] = (),
    apart: bool = False,
) -> None:
    """Fill ``out`` with ranges of one file, one behind the other: in parallel where there is much to read.

    Args:
        reader: As the core takes it.
        ranges: (offset, nbytes) of each; whole elements where there are steps.
        out: C-contiguous, of the bytes of all ranges as ``steps`` make them.
        steps: Of fixed size, done on the way.
        apart: Read each range by itself. Otherwise ranges that lie close together are read in one go with the bytes
            between them, which for a remote file may be 256 KiB.
    """
    columns = ReadColumns()
    read, made = (item_sizes(steps[0])[0], item_sizes(steps[-1])[1]) if steps else (1, 1)
    at = 0
    for number, (offset, nbytes) in enumerate(ranges):
        columns.one(NONE, number if apart else 0, offset, nbytes, 0, at, steps)
        at += nbytes // read * made
    readers = [reader] * (len(ranges) if apart else 1)  # ranges of one source only are joined
    _core.execute_read(readers, [out], *columns.finish(), columns.pipelines.columns)
