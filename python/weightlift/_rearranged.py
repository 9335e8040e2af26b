"""A source with another table: its tensors by other names, with their axes and gates in another order.

Nothing is copied here. A tensor whose axes are turned stays where it is, and its row says so (``strides``); gates in
another order, taken out of a tensor or joined to one are put in their place when the tensor is read. Only the biases of
recurrent layers that are added, stacked or taken apart are read at once, as they are small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import STRING
from weightlift._layer_match import Key, Made, turned
from weightlift._layout import Inline, Piece, TensorEntry, TensorTable, stored_axes
from weightlift._load import check_only, read_arrays
from weightlift._source import Source
from weightlift._steps import VARIABLE_STEPS, Deflate, Strided, Tiles
from weightlift.errors import MismatchError, UnsupportedFeatureError

__all__ = ["c_order", "rearranged"]

Array = npt.NDArray[Any]

_MOST_BOXES = 1 << 20
"""Runs of a tensor whose gates are put in order: more than any layer of use has."""


def rearranged(source: Source, plan: Sequence[tuple[Mapping[Key, int], Made]], *, verify: bool) -> Source:
    """The source with another table: what is made of which rows."""
    entries: dict[str, TensorEntry] = {}
    for rows, made in plan:
        if made.name in entries:
            raise MismatchError(f"two tensors would be called {made.name!r}: choose with names=", tensor=made.name)
        try:
            entries[made.name] = _entry(source, [rows[key] for key in made.sources], made, verify=verify)
        except UnsupportedFeatureError as error:
            raise error.locate(path=source.paths()[0], tensor=source.table.names[rows[made.sources[0]]]) from None
    layout = replace(
        source.layout, tensors=TensorTable.from_entries(entries), structure=None, order=None, whole=None, objects={},
        extra={},
    )  # fmt: skip
    return replace(source, layout=layout)


def _entry(source: Source, rows: Sequence[int], made: Made, *, verify: bool) -> TensorEntry:
    first = source.table.entry(rows[0])
    if made.how == "keep":
        return first
    if first.dtype == STRING or first.dtype.packed:
        raise UnsupportedFeatureError(f"elements of {first.dtype} are not rearranged")
    if made.how == "turn" and not made.flipped:
        return _turn(_reordered(first, made), made)
    if made.how in ("turn", "part"):
        shape, piece = _viewed(first, made)
        return replace(first, shape=shape, pieces=(piece,), strides=None)
    if made.how == "join":
        return _joined(source, rows, made, verify=verify)
    arrays = read_arrays(source, np.array(rows, np.uint32), {}, verify=verify)
    return _inline(first, _biases(arrays, made))


def _inline(like: TensorEntry, array: Array) -> TensorEntry:
    data = np.ascontiguousarray(array.astype(like.dtype.numpy)).tobytes()
    return TensorEntry(like.dtype, array.shape, (Piece(Inline(data)),))


def _biases(arrays: Sequence[Array], made: Made) -> Array:
    """One tensor of those that keep the two biases of a recurrent layer: what is one in the source is the first."""
    each: dict[tuple[int, int], Array] = {}
    for array, given in zip(arrays, made.given, strict=True):
        for values, (first, *others) in zip(array.astype(np.float64).reshape(len(given), -1), given, strict=True):
            each |= {first: values, **{other: np.zeros_like(values) for other in others}}
    return np.concatenate([sum((each[one] for one in cell[1:]), each[cell[0]]) for cell in made.cells]).reshape(
        made.shape
    )


# --- gates --------------------------------------------------------------------------------------------------------
def _only_piece(entry: TensorEntry) -> Piece:
    """What a tensor is stored in, if its elements can be put in order as they are read."""
    (piece, *others) = entry.pieces
    if others or any(isinstance(step, VARIABLE_STEPS) for step in piece.steps[1:]):
        raise _stored_otherwise()
    if piece.steps and isinstance(piece.steps[0], VARIABLE_STEPS) and not isinstance(piece.steps[0], Deflate):
        raise _stored_otherwise()
    return piece


def _reordered(entry: TensorEntry, made: Made) -> TensorEntry:
    """The tensor with its gates where they go, put together from boxes when it is read."""
    if not made.gates:
        return entry
    piece = _only_piece(entry)
    axis = next(k for k, token in enumerate(made.before) if "g" in token)
    outer, count = prod(entry.shape[:axis]), len(made.gates)
    run = prod(entry.shape[axis:]) // count
    if outer * count > _MOST_BOXES or entry.strides is not None:
        raise _stored_otherwise()
    boxes = tuple(((k, place, 0), (1, 1, run)) for k in range(outer) for place in made.gates)
    step = Tiles(entry.dtype.name, (outer, count, run), boxes)
    return replace(entry, pieces=(replace(piece, steps=(*piece.steps, step)),))


def _viewed(entry: TensorEntry, made: Made) -> tuple[tuple[int, ...], Piece]:
    """The shape and the piece of what is seen of a tensor: one gate, or axes that are turned over."""
    have = entry.strides or c_order(entry.shape, entry.dtype.numpy.itemsize)
    found = turned(made, entry.shape, have)
    if found is None:
        raise _stored_otherwise()
    shape, strides, begin = found
    if made.how == "join" and not begin and _alike(shape, strides, c_order(shape, entry.dtype.numpy.itemsize)):
        if len(entry.pieces) > 1:
            raise _stored_otherwise()
        return shape, entry.pieces[0]
    piece = _only_piece(entry)
    step = Strided(entry.dtype.name, shape, strides, offset=begin)
    return shape, replace(piece, steps=(*piece.steps, step))


def _joined(source: Source, rows: Sequence[int], made: Made, *, verify: bool) -> TensorEntry:
    """One tensor of one for each gate. Their checksums are compared here, as it can have one only."""
    if verify:
        check_only(source, np.array(rows, np.uint32))
    stored = tuple(sorted(made.after, key=lambda token: "g" not in token))  # the gates one after another
    one = replace(made, after=tuple(token.replace("g", "") for token in stored))
    entries = [source.table.entry(row) for row in rows]
    pieces: list[Piece] = [Piece(Inline(b""))] * len(rows)
    for k, entry in enumerate(entries):
        if entry.dtype != entries[0].dtype or entry.nbytes != entries[0].nbytes:
            raise UnsupportedFeatureError("the tensors that are one are not of one type")
        _, piece = _viewed(entry, one)
        place = made.gates[k] if made.gates else k
        pieces[place] = replace(piece, region=(place * entry.nbytes, (place + 1) * entry.nbytes))
    sizes = dict(zip(made.after, made.shape, strict=True))
    whole = TensorEntry(entries[0].dtype, tuple(sizes[token] for token in stored), tuple(pieces))
    return _turn(whole, replace(made, before=stored))


# --- axes ---------------------------------------------------------------------------------------------------------
def _turn(entry: TensorEntry, made: Made) -> TensorEntry:
    """The tensor with its axes in another order: the same bytes, read with other strides."""
    if made.before == made.after:
        return entry
    have = entry.strides or c_order(entry.shape, entry.dtype.numpy.itemsize)
    found = turned(made, entry.shape, have)
    if found is None:
        raise _stored_otherwise()
    shape, strides, _ = found
    plain = c_order(shape, entry.dtype.numpy.itemsize)
    if not entry.nbytes or _alike(shape, strides, plain):
        return replace(entry, shape=shape, strides=None)
    if stored_axes(shape, strides) is None:
        raise _stored_otherwise()
    return replace(entry, shape=shape, strides=strides)


def _alike(shape: Sequence[int], strides: Sequence[int], others: Sequence[int]) -> bool:
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, others, strict=True))


def c_order(shape: Sequence[int], item: int) -> tuple[int, ...]:
    """The strides of a tensor in C order, in bytes."""
    strides = []
    for n in reversed(shape):
        strides.append(item)
        item *= n
    return tuple(reversed(strides))


def _stored_otherwise() -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        "the tensor is stored in pieces, or in an order, that is not rearranged as it is read: convert the file to "
        "safetensors first, without conventions="
    )
