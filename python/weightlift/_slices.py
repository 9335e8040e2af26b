"""Boxes of tensors as tensors of their own, so that a process reads what it has of them, and no more. Pure.

A box of which all bytes are those of one stored piece keeps that piece's checksum. Others have none: a checksum is over
a piece, of which only a part is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._layout import Chain, Extent, Layout, Piece, TensorEntry, TensorTable
from weightlift._load import fill_arrays
from weightlift._source import Source
from weightlift._steps import Byteswap, Strided, Zstd
from weightlift._tree import replaced as with_nodes
from weightlift.errors import FormatError, MismatchError, UnsupportedFeatureError
from weightlift.formats._boxes import Box, joined

__all__ = ["fill_slices", "sliced"]

Array = npt.NDArray[Any]


def sliced(source: Source, boxes: Mapping[str, Sequence[Box]]) -> Source:
    """``source`` with boxes of some tensors in their places: of one box under the tensor's name, of several a list.

    Args:
        source: Open.
        boxes: By tensor. Tensors that the source does not have are passed over.

    Raises:
        MismatchError: A box does not lie in its tensor.
        UnsupportedFeatureError: A tensor is stored compressed, in Fortran order, or as something else than numbers.
    """
    layout = source.layout
    table = layout.tensors
    entries: dict[str, TensorEntry] = {}
    nodes: dict[str, Any] = {}
    for row in range(len(table)) if layout.order is None else layout.order.tolist():
        name = table.names[row]
        wanted = boxes.get(name)
        if wanted is None:
            entries[name] = table.entry(row)
            continue
        names = [name] if len(wanted) == 1 else [f"{name}.{number}" for number in range(len(wanted))]
        for part, box in zip(names, wanted, strict=True):
            entries[part] = slice_of(layout, row, box)
        if len(wanted) != 1:
            nodes[name] = {"list": names}
    structure = layout.structure
    if nodes:
        flat = {"dict": [[name, name] for name in table.names]}
        try:
            structure = with_nodes(flat if structure is None else structure, nodes)
        except (AttributeError, TypeError, ValueError):
            raise FormatError("malformed structure") from None
    made = Layout(
        layout.format, TensorTable.from_entries(entries), layout.sources, objects=layout.objects,
        metadata=layout.metadata, structure=structure, extra=layout.extra, shared=True, damaged=layout.damaged,
        expected=layout.expected,
    )  # fmt: skip
    return replace(source, layout=made)


def fill_slices(source: Source, wanted: Sequence[tuple[str, Box, Array]], *, verify: bool = True) -> None:
    """Read boxes of tensors into arrays of their shapes, converted to the arrays' types; errors as of ``sliced``."""
    layout = source.layout
    rows: dict[str, TensorEntry] = {}
    for i, (name, box, _) in enumerate(wanted):
        called = name if name not in rows else f"{name} ({i})"  # for messages
        rows[called] = slice_of(layout, layout.tensors.index(name), box)
    made = Layout(layout.format, TensorTable.from_entries(rows), layout.sources, shared=True, expected=layout.expected)
    fill_arrays(
        replace(source, layout=made), np.arange(len(wanted), dtype=np.uint32), [array for _, _, array in wanted],
        verify=verify, names=[name for name, _, _ in wanted],
    )  # fmt: skip


def slice_of(layout: Layout, row: int, box: Box) -> TensorEntry:
    """The row of a box of a tensor; errors as of ``sliced``."""
    table = layout.tensors
    name, shape, dtype = table.names[row], table.shapes[row], table.dtype(row)
    begin, size = box
    if len(begin) != len(shape) or any(b + n > m for b, n, m in zip(begin, size, shape, strict=True)):
        raise MismatchError(
            f"a box of shape {list(size)} at {list(begin)} is wanted of {list(shape)}", tensor=name, path=None
        )
    parts = layout.parts.get(name) or ((((0,) * len(shape), shape), table.entry(row)),)
    places: list[Box] = []
    rows: list[TensorEntry] = []
    for (at, extent), entry in parts if prod(size) else ():
        low = tuple(map(max, begin, at))
        high = tuple(min(b + n, a + m) for b, n, a, m in zip(begin, size, at, extent, strict=True))
        count = _minus(high, low)
        if any(n <= 0 for n in count):
            continue
        try:
            rows.append(entry if count == extent else _cut(entry, _minus(low, at), count))
        except UnsupportedFeatureError as error:
            raise error.locate(tensor=name) from None
        places.append((_minus(low, begin), count))
    return joined(dtype, tuple(size), places, rows)


def _minus(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _cut(entry: TensorEntry, begin: tuple[int, ...], size: tuple[int, ...]) -> TensorEntry:
    """A box of a row that is stored as it is, or with its bytes swapped: the runs of bytes that make it up."""
    piece = entry.pieces[0]
    if len(piece.steps) == 1 and isinstance(piece.steps[0], Zstd):
        return _cut_frame(entry, piece.steps[0], begin, size)
    plain = len(entry.pieces) == 1 and entry.strides is None and piece.region is None and not entry.dtype.packed
    if not plain or not piece.extents or not all(isinstance(step, Byteswap) for step in piece.steps):
        raise UnsupportedFeatureError(
            "only a part of it is wanted, and it is stored in a way of which no parts can be read"
        )
    item, shape = entry.dtype.numpy.itemsize, entry.shape
    inner = next((axis for axis in range(len(shape) - 1, 0, -1) if size[axis] != shape[axis]), 0)
    strides = [prod(shape[axis + 1 :]) * item for axis in range(len(shape))]
    first = sum(b * s for b, s in zip(begin, strides, strict=True))
    starts = np.zeros(size[:inner], np.int64) + first
    for axis in range(inner):
        steps = np.arange(size[axis]) * strides[axis]
        starts += steps.reshape([-1 if a == axis else 1 for a in range(inner)])
    run = prod(size[inner:]) * item
    extents = _mapped(piece.extents, starts.reshape(-1).tolist(), run)
    where = extents[0] if len(extents) == 1 else Chain(tuple(extents))
    return TensorEntry(entry.dtype, size, (Piece(where, piece.steps),))


def _cut_frame(entry: TensorEntry, step: Zstd, begin: tuple[int, ...], size: tuple[int, ...]) -> TensorEntry:
    """A box of a row that is compressed: all of it is read and checked, the box is kept."""
    (frame,), item, shape = step.frames, entry.dtype.numpy.itemsize, entry.shape
    strides = tuple(prod(shape[axis + 1 :]) * item for axis in range(len(shape)))
    first = sum(b * s for b, s in zip(begin, strides, strict=True))
    view = Strided(entry.dtype.name, size, strides, offset=first)
    piece = replace(entry.pieces[0], steps=(Zstd((replace(frame, view=view),)),))
    return TensorEntry(entry.dtype, size, (piece,), None, entry.checksum)


def _mapped(extents: Sequence[Extent], starts: Sequence[int], run: int) -> list[Extent]:
    """The places of runs of ``run`` bytes of what these extents hold one after another."""
    if len(extents) == 1:
        only = extents[0]
        return [Extent(only.source, only.offset + start, run) for start in starts]
    ends = np.cumsum([e.nbytes for e in extents])
    found: list[Extent] = []
    for start in starts:
        end, number = start + run, int(np.searchsorted(ends, start, "right"))
        while start < end:
            extent, upto = extents[number], min(end, int(ends[number]))
            found.append(Extent(extent.source, extent.offset + start - int(ends[number]) + extent.nbytes, upto - start))
            start, number = upto, number + 1
    return found
