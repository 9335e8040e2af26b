"""A tensor's elements a few megabytes at a time: for work that needs every value and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import DType
from weightlift._inflate import whole_items
from weightlift._load import read_arrays
from weightlift._ops import core_steps, item_sizes
from weightlift._source import Source
from weightlift._steps import Cast, Step
from weightlift._stream import tensor_stream
from weightlift._write_plan import segment_parts

__all__ = ["CHUNK", "iter_chunks", "value_bounds"]

CHUNK = 16 << 20
"""Bytes of decoded values a chunk."""


def iter_chunks(
    source: Source, row: int, dtype: DType | None = None, *, stored_order: bool = False
) -> Iterator[npt.NDArray[Any]]:
    """Flat arrays of the elements in C order, converted to ``dtype`` if given; each is valid until the next.

    Args:
        source: The open file.
        row: The tensor's number.
        dtype: To convert to; None: as they are.
        stored_order: Elements may come in the order they are stored in, where that is another (Fortran order).

    Checksums are not compared. Only strings, packed and Fortran-order tensors are read whole, the last unless
    ``stored_order`` allows otherwise.
    """
    table = source.table
    have = table.dtype(row)
    want = dtype or have
    cast: tuple[Step, ...] = (Cast(have.name, want.name),) if want != have else ()
    entry = table.entry(row)
    stream = None
    if not have.packed and (entry.strides is None or stored_order):
        readers = source.readers(np.array([row], np.uint32))
        stream = tensor_stream(entry, readers, table.names[row], verify=False)
    if stream is None:
        dtypes = {row: want} if cast else {}
        yield read_arrays(source, np.array([row], np.uint32), dtypes, verify=False)[0].reshape(-1)
        return
    extents, steps = entry.pieces[0].extents, (*stream.steps, *cast)
    if len(extents) == 1 and stream.steps == entry.pieces[0].steps:
        run = (extents[0].source, extents[0].offset, extents[0].nbytes, -1)
        for part in segment_parts(readers, [run], steps, CHUNK):
            yield part.view(want.numpy)
        return
    in_core = core_steps(steps)
    read, made = (item_sizes(steps[0])[0], item_sizes(steps[-1])[1]) if steps else (have.numpy.itemsize,) * 2
    for part in whole_items(stream.parts, read):
        if steps:
            chunk = np.empty(len(part) // read * made, np.uint8)
            _core.run_pipeline(in_core, part, chunk)
            part = chunk
        yield np.require(part.view(want.numpy), requirements="A")


def value_bounds(source: Source, row: int, dtype: DType) -> tuple[float, float] | None:
    """Smallest and largest value as ``dtype`` (float32); (nan, nan) if any is NaN; None for an empty tensor."""
    bounds: tuple[float, float] | None = None
    for chunk in iter_chunks(source, row, dtype, stored_order=True):
        if chunk.size:
            low, high = _core.min_max(np.ascontiguousarray(chunk))
            bounds = (low, high) if bounds is None else (min(low, bounds[0]), max(high, bounds[1]))
            if low != low:
                return low, high
    return bounds
