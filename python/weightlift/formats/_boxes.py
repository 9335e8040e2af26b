"""Tensors that are stored in boxes: whether these fill one, and the row that they make up.

A box is where a part of a tensor begins, and its shape. Frameworks that spread a tensor over files or processes store
boxes: TensorFlow its slices, torch.distributed.checkpoint its chunks, Weightlift's checkpoints their pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from weightlift._checksum import crc32_combine, crc32c_combine
from weightlift._dtypes import DType, byte_size
from weightlift._layout import Chain, Checksum, Inline, Piece, TensorEntry
from weightlift._steps import Byteswap, Frame, Step, Tiles, Zstd
from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["Box", "check_filled", "contiguous_order", "joined"]

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where a part begins in the whole tensor, and its shape."""

_MAX_CELLS = 1 << 22
"""Cells of the grid into which the boxes' edges cut a tensor; 2,000 x 2,000 devices would make as many."""

_COMBINE = {"crc32": crc32_combine, "crc32c": crc32c_combine}


def check_filled(shape: tuple[int, ...], boxes: Sequence[Box], what: str = "chunk") -> None:
    """FormatError unless the boxes, which lie within the tensor, fill it and do not overlap."""
    if prod(shape) == 0 or (len(boxes) == 1 and boxes[0][1] == shape):
        return
    cuts = [sorted({0, n, *(b[a] for b, _ in boxes), *(b[a] + s[a] for b, s in boxes)}) for a, n in enumerate(shape)]
    if prod(len(c) - 1 for c in cuts) > _MAX_CELLS:
        raise UnsupportedFeatureError(f"{len(boxes)} {what}s cut the tensor into more than {_MAX_CELLS} cells")
    numbers = [{at: i for i, at in enumerate(axis)} for axis in cuts]
    owner = np.full([len(c) - 1 for c in cuts], -1, np.int32)
    for number, (begin, size) in enumerate(boxes):
        where = tuple(slice(of[b], of[b + n]) for of, b, n in zip(numbers, begin, size, strict=True))
        other = int(owner[where].max(initial=-1))
        if other >= 0:
            raise FormatError(f"{_called(what, boxes[number])} overlaps {_called(what, boxes[other])}")
        owner[where] = number
    if (owner < 0).any():
        cell = np.argwhere(owner < 0)[0] if owner.ndim else ()
        hole = [axis[i] for axis, i in zip(cuts, cell, strict=True)]
        raise FormatError(f"no {what} has the element at {hole} of the tensor of shape {list(shape)}")


def _called(what: str, box: Box) -> str:
    return f"the {what} of shape {list(box[1])} at {list(box[0])}"


def contiguous_order(shape: tuple[int, ...], boxes: Sequence[Box]) -> list[int] | None:
    """The order in which the boxes' elements make up the tensor in C order; None if they interleave.

    They do not where all but one axis are whole or of one element, and those before it of one.
    """
    for _, size in boxes:
        cut = next((i for i, (n, whole) in enumerate(zip(size, shape, strict=True)) if n != whole), len(shape))
        first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
        if cut < len(shape) and (cut != first or size[cut + 1 :] != shape[cut + 1 :]):
            return None
    return sorted(range(len(boxes)), key=lambda i: boxes[i][0])


def joined(dtype: DType, shape: tuple[int, ...], boxes: Sequence[Box], parts: Sequence[TensorEntry]) -> TensorEntry:
    """The row of a tensor whose boxes, which fill it, are these rows; UnsupportedFeatureError where none can be."""
    if prod(shape) == 0:
        return TensorEntry(dtype, shape, (Piece(Inline(b"")),))
    if len(parts) == 1:
        return parts[0]
    order = contiguous_order(shape, boxes)
    rows = parts if order is None else [parts[i] for i in order]
    steps: tuple[Step, ...] = rows[0].pieces[0].steps
    if any(isinstance(step, Zstd) for part in parts for step in part.pieces[0].steps):
        steps = (Zstd(tuple(frame for part in rows for frame in _frames(part))),)
    elif not all(_is_plain(part) and part.pieces[0].steps == rows[0].pieces[0].steps for part in parts):
        if order is None or any(part.strides is not None for part in parts):
            raise UnsupportedFeatureError("chunks of it are stored compressed, or not in C order")
        return TensorEntry(dtype, shape, _in_turn(rows))
    if order is None:
        steps = (*steps, Tiles(dtype.name, shape, tuple(boxes)))
    chain = Chain(tuple(extent for row in rows for extent in row.pieces[0].extents))
    return TensorEntry(dtype, shape, (Piece(chain, steps),), None, _checksum(rows))


def _is_plain(part: TensorEntry) -> bool:
    """Whether its elements are stored as they are, but for the order of their bytes."""
    return part.strides is None and all(isinstance(step, Byteswap) for step in part.pieces[0].steps)


def _frames(part: TensorEntry) -> tuple[Frame, ...]:
    """A row as parts of a ``Zstd``, whether it is compressed or not."""
    (piece,) = part.pieces
    if len(piece.steps) == 1 and isinstance(piece.steps[0], Zstd):
        return piece.steps[0].frames
    if piece.steps or part.strides is not None:
        raise UnsupportedFeatureError("some chunks of it are compressed, others not in C order")
    nbytes = sum(extent.nbytes for extent in piece.extents)
    return (Frame(nbytes, nbytes),)


def _in_turn(rows: Sequence[TensorEntry]) -> tuple[Piece, ...]:
    """Pieces that fill a tensor one after another."""
    pieces, at = [], 0
    for row in rows:
        nbytes = byte_size(row.dtype, row.shape)
        pieces.append(replace(row.pieces[0], region=(at, at + nbytes)))
        at += nbytes
    return tuple(pieces)


def _checksum(rows: Sequence[TensorEntry]) -> Checksum | None:
    """That of all their stored bytes, if all have one of the same kind."""
    kind = rows[0].checksum.kind if rows[0].checksum is not None else ""
    value = 0
    for row in rows:
        if row.checksum is None or row.checksum.kind != kind or row.checksum.initial:
            return None
        value = _COMBINE[kind](value, row.checksum.value, sum(e.nbytes for e in row.pieces[0].extents))
    return Checksum(kind, value)
