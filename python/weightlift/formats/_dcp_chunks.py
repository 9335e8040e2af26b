"""Chunks of a tensor: whether they fill it, and the row that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from weightlift._checksum import crc32_combine
from weightlift._dtypes import DType, byte_size
from weightlift._layout import Chain, Checksum, Extent, Inline, Piece, TensorEntry
from weightlift._steps import Byteswap, Tiles
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._dcp_metadata import Chunk, ShardedTensor
from weightlift.formats._tensorbundle_slices import Box, contiguous_order
from weightlift.formats._torch_rows import core_shape

__all__ = ["assembled", "check_chunks", "placed"]

_MAX_CELLS = 1 << 22
"""Cells of the grid into which the chunks' edges cut a tensor; 2,000 x 2,000 devices would make as many."""


def check_chunks(tensor: ShardedTensor) -> None:
    """FormatError unless the chunks, which lie within the tensor, fill it and do not overlap."""
    shape, chunks = tensor.shape, tensor.chunks
    if prod(shape) == 0 or (len(chunks) == 1 and chunks[0].size == shape):
        return
    cuts = [sorted({0, n, *(c.begin[a] for c in chunks), *(c.begin[a] + c.size[a] for c in chunks)})
            for a, n in enumerate(shape)]  # fmt: skip
    if prod(len(c) - 1 for c in cuts) > _MAX_CELLS:
        raise UnsupportedFeatureError(f"{len(chunks)} chunks cut the tensor into more than {_MAX_CELLS} cells")
    numbers = [{at: i for i, at in enumerate(axis)} for axis in cuts]
    owner = np.full([len(c) - 1 for c in cuts], -1, np.int32)
    for number, chunk in enumerate(chunks):
        where = tuple(slice(of[b], of[b + n]) for of, b, n in zip(numbers, chunk.begin, chunk.size, strict=True))
        other = int(owner[where].max())
        if other >= 0:
            raise FormatError(f"{chunk} overlaps {chunks[other]}")
        owner[where] = number
    if (owner < 0).any():
        cell = np.argwhere(owner < 0)[0] if owner.ndim else ()
        hole = [axis[i] for axis, i in zip(cuts, cell, strict=True)]
        raise FormatError(f"no chunk has the element at {hole} of the tensor of shape {list(shape)}")


def placed(entry: TensorEntry, source: int, offset: int) -> TensorEntry:
    """A row of an item, as one of the file that the item lies in."""
    return replace(entry, pieces=tuple(_placed(piece, source, offset) for piece in entry.pieces))


def _placed(piece: Piece, source: int, offset: int) -> Piece:
    if not isinstance(piece.where, Extent):
        return piece  # an array of NumPy, whose bytes the pickle held
    return replace(piece, where=Extent(source, offset + piece.where.offset, piece.where.nbytes))


def assembled(tensor: ShardedTensor, dtype: DType, parts: Sequence[TensorEntry]) -> TensorEntry:
    """The row of a tensor whose chunks are these rows, in their order."""
    shape = core_shape(tensor.dtype, tensor.shape)
    if prod(shape) == 0:
        return TensorEntry(dtype, shape, (Piece(Inline(b"")),))
    if len(parts) == 1:
        return parts[0]
    boxes = [_box(tensor.dtype, chunk) for chunk in tensor.chunks]
    order = contiguous_order(shape, boxes)
    rows = parts if order is None else [parts[i] for i in order]
    if not all(_is_plain(part) and part.pieces[0].steps == rows[0].pieces[0].steps for part in parts):
        if order is None or any(part.strides is not None for part in parts):
            raise UnsupportedFeatureError("chunks of it are stored compressed, or not in C order")
        return TensorEntry(dtype, shape, _in_turn(rows))
    steps = rows[0].pieces[0].steps
    if order is None:
        steps = (*steps, Tiles(dtype.name, shape, tuple(boxes)))
    chain = Chain(tuple(extent for row in rows for extent in row.pieces[0].extents))
    return TensorEntry(dtype, shape, (Piece(chain, steps),), None, _checksum(rows))


def _is_plain(part: TensorEntry) -> bool:
    """Whether its elements are stored as they are, but for the order of their bytes."""
    return part.strides is None and all(isinstance(step, Byteswap) for step in part.pieces[0].steps)


def _in_turn(rows: Sequence[TensorEntry]) -> tuple[Piece, ...]:
    """Pieces that fill a tensor one after another."""
    pieces, at = [], 0
    for row in rows:
        nbytes = byte_size(row.dtype, row.shape)
        pieces.append(replace(row.pieces[0], region=(at, at + nbytes)))
        at += nbytes
    return tuple(pieces)


def _checksum(rows: Sequence[TensorEntry]) -> Checksum | None:
    """That of all their stored bytes, if all have one."""
    value = 0
    for row in rows:
        if row.checksum is None:
            return None
        value = crc32_combine(value, row.checksum.value, sum(e.nbytes for e in row.pieces[0].extents))
    return Checksum("crc32", value)


def _box(dtype: str, chunk: Chunk) -> Box:
    """A chunk in our elements."""
    size = core_shape(dtype, chunk.size)
    if len(size) > len(chunk.size):
        return (*chunk.begin, 0), size
    if size == chunk.size:
        return chunk.begin, size
    return (*chunk.begin[:-1], chunk.begin[-1] * 2), size
