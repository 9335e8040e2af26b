"""Chunks of a tensor of torch.distributed.checkpoint: whether they fill it, and the row that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weightlift._dtypes import DType
from weightlift._layout import Extent, Piece, TensorEntry
from weightlift.formats._boxes import Box, check_filled, joined
from weightlift.formats._dcp_metadata import Chunk, ShardedTensor
from weightlift.formats._torch_rows import core_shape

__all__ = ["assembled", "check_chunks", "placed"]


def check_chunks(tensor: ShardedTensor) -> None:
    """FormatError unless the chunks, which lie within the tensor, fill it and do not overlap."""
    check_filled(tensor.shape, [(chunk.begin, chunk.size) for chunk in tensor.chunks])


def placed(entry: TensorEntry, source: int, offset: int) -> TensorEntry:
    """A row of an item, as one of the file that the item lies in."""
    return replace(entry, pieces=tuple(_placed(piece, source, offset) for piece in entry.pieces))


def _placed(piece: Piece, source: int, offset: int) -> Piece:
    if not isinstance(piece.where, Extent):
        return piece  # an array of NumPy, whose bytes the pickle held
    return replace(piece, where=Extent(source, offset + piece.where.offset, piece.where.nbytes))


def assembled(tensor: ShardedTensor, dtype: DType, parts: Sequence[TensorEntry]) -> TensorEntry:
    """The row of a tensor whose chunks are these rows, in their order."""
    boxes = [_box(tensor.dtype, chunk) for chunk in tensor.chunks]
    return joined(dtype, core_shape(tensor.dtype, tensor.shape), boxes, parts)


def _box(dtype: str, chunk: Chunk) -> Box:
    """A chunk in our elements."""
    size = core_shape(dtype, chunk.size)
    if len(size) > len(chunk.size):
        return (*chunk.begin, 0), size
    if size == chunk.size:
        return chunk.begin, size
    return (*chunk.begin[:-1], chunk.begin[-1] * 2), size
