"""A tensor's elements a few megabytes at a time: for work that needs every value and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import DType
from weightlift._layout import VARIABLE_STEPS, Cast, Step
from weightlift._load import read_arrays
from weightlift._source import Source
from weightlift._write_plan import segment_parts

__all__ = ["CHUNK", "iter_chunks", "value_bounds"]

CHUNK = 16 << 20
"""Bytes of decoded values a chunk."""


def iter_chunks(source: Source, row: int, dtype: DType | None = None) -> Iterator[npt.NDArray[Any]]:
    """Flat arrays of the elements in C order, converted to ``dtype`` if given; each is valid until the next.

    Tensors that are one extent of C order are streamed; others (straddling shards, deflated, Fortran order)
    are read whole.
    """
    table = source.table
    have = table.dtype(row)
    want = dtype or have
    cast: tuple[Step, ...] = (Cast(have.name, want.name),) if want != have else ()
    entry = table.entry(row)
    steps = (*(entry.pieces[0].steps if entry.pieces else ()), *cast)
    streamed = len(entry.pieces) == 1 and len(entry.pieces[0].extents) == 1 and entry.strides is None
    if not streamed or have.packed or any(isinstance(s, VARIABLE_STEPS) for s in steps):
        dtypes = {row: want} if cast else {}
        yield read_arrays(source, np.array([row], np.uint32), dtypes, verify=False)[0].reshape(-1)
        return
    (extent,) = entry.pieces[0].extents
    run = (extent.source, extent.offset, extent.nbytes, -1)
    for part in segment_parts(source.readers(), [run], steps, CHUNK):
        yield part.view(want.numpy)


def value_bounds(source: Source, row: int, dtype: DType) -> tuple[float, float] | None:
    """Smallest and largest value as ``dtype`` (float32); (nan, nan) if any is NaN; None for an empty tensor."""
    bounds: tuple[float, float] | None = None
    for chunk in iter_chunks(source, row, dtype):
        if chunk.size:
            low, high = _core.min_max(np.ascontiguousarray(chunk))
            bounds = (low, high) if bounds is None else (min(low, bounds[0]), max(high, bounds[1]))
            if low != low:
                return low, high
    return bounds
