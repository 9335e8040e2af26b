"""Tensors of a sharded model that are stored in pieces, each a tensor of the shards by itself.

The index's ``metadata["weightlift.pieces"]`` says what the pieces make up (docs/formats/safetensors.md):
``{TENSOR: {"shape": [...], "pieces": {PIECE: [where it begins, ...], ...}}, ...}``. Tools that do not know it read the
pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightlift._layout import U32, TensorEntry, TensorTable
from weightlift.errors import FormatError
from weightlift.formats._boxes import Box, check_filled, joined

__all__ = ["PIECES_KEY", "Parts", "Pieces", "join_pieces", "parse_pieces", "piece_name", "pieces_json"]

PIECES_KEY = "weightlift.pieces"
Parts = Sequence[tuple[Box, TensorEntry]]
"""The pieces of a tensor: where each lies in it, and its row."""

_LIMIT = 1 << 62
_MAX_AXES = 64


@dataclass(frozen=True)
class Pieces:
    """What a tensor is stored as: its shape, and where each piece begins, by the piece's name."""

    shape: tuple[int, ...]
    begins: Mapping[str, tuple[int, ...]]


def piece_name(tensor: str, begin: Sequence[int], size: Sequence[int]) -> str:
    """What a piece is called: ``layer.weight[0:64,128:256]``, as a slice of the tensor is written."""
    return f"{tensor}[{','.join(f'{b}:{b + n}' for b, n in zip(begin, size, strict=True))}]"


def pieces_json(pieces: Mapping[str, Pieces]) -> dict[str, Any]:
    """As the index and a checkpoint's manifest hold it."""
    return {
        name: {"shape": list(of.shape), "pieces": {piece: list(begin) for piece, begin in of.begins.items()}}
        for name, of in pieces.items()
    }


def parse_pieces(raw: Any) -> dict[str, Pieces]:
    """What ``pieces_json`` gave; FormatError for anything else, and for a piece that is in two tensors."""
    if not isinstance(raw, dict):
        raise FormatError(f"{PIECES_KEY!r} is not an object")
    found: dict[str, Pieces] = {}
    owner: dict[str, str] = {}
    for name, of in raw.items():
        if not (isinstance(of, dict) and isinstance(of.get("pieces"), dict) and of["pieces"]):
            raise FormatError(f"malformed {PIECES_KEY!r}: the tensor has no pieces", tensor=name)
        shape = _numbers(of.get("shape"), name)
        begins = {piece: _numbers(begin, name) for piece, begin in of["pieces"].items()}
        if any(len(begin) != len(shape) for begin in begins.values()):
            raise FormatError("a piece begins at a place that has another number of axes than the tensor", tensor=name)
        for piece in begins:
            if owner.setdefault(piece, name) != name:
                raise FormatError(f"the piece {piece!r} is said to be part of {owner[piece]!r}, too", tensor=name)
        found[name] = Pieces(shape, begins)
    return found


def _numbers(raw: Any, tensor: str) -> tuple[int, ...]:
    ok = isinstance(raw, list) and len(raw) <= _MAX_AXES
    if not ok or any(type(n) is not int or not 0 <= n < _LIMIT for n in raw):
        raise FormatError(f"malformed {PIECES_KEY!r}: {str(raw)[:80]} is no shape or place", tensor=tensor)
    return tuple(raw)


def join_pieces(table: TensorTable, order: U32, pieces: Mapping[str, Pieces]) -> tuple[TensorTable, dict[str, Parts]]:
    """The table of the tensors that pieces make up and of those that are stored whole, and the pieces of the former.

    Args:
        table: What the shards hold.
        order: Its rows, in the order of the index.
        pieces: What the index says of them.

    Raises:
        FormatError: A piece is missing or of another type, reaches out of its tensor, or overlaps another one; the
            pieces leave a hole; a tensor has the name of one that is stored whole.
        UnsupportedFeatureError: The pieces cut a tensor into too many cells.
    """
    whole_of = {piece: name for name, of in pieces.items() for piece in of.begins}
    stored = {name: row for row, name in enumerate(table.names)}
    entries: dict[str, TensorEntry] = {}
    parts: dict[str, Parts] = {}
    names = list(dict.fromkeys(whole_of.get(table.names[row], table.names[row]) for row in order.tolist()))
    missing = next(iter(pieces.keys() - set(names)), None)
    if missing is not None:
        raise FormatError("none of its pieces is in the shards", tensor=missing)
    for name in names:
        if name not in pieces:
            entries[name] = table.entry(stored[name])
            continue
        if name in stored and whole_of.get(name) != name:
            raise FormatError("it is stored whole, and said to be stored in pieces", tensor=name)
        try:
            parts[name] = _boxes(table, stored, pieces[name])
            boxes, rows = zip(*parts[name], strict=True)
            entries[name] = joined(rows[0].dtype, pieces[name].shape, boxes, rows)
        except FormatError as error:
            raise error.locate(tensor=name) from None
    return TensorTable.from_entries(entries), parts


def _boxes(table: TensorTable, stored: Mapping[str, int], of: Pieces) -> Parts:
    """The pieces of a tensor, which fill it."""
    missing = next((piece for piece in of.begins if piece not in stored), None)
    if missing is not None:
        raise FormatError(f"its piece {missing!r} is not in the shards")
    rows = [table.entry(stored[piece]) for piece in of.begins]
    boxes = [(begin, row.shape) for begin, row in zip(of.begins.values(), rows, strict=True)]
    for piece, row, (begin, size) in zip(of.begins, rows, boxes, strict=True):
        if row.dtype != rows[0].dtype or row.dtype.packed:
            raise FormatError(f"its piece {piece!r} is of {row.dtype.name}, others of {rows[0].dtype.name}")
        if len(size) != len(of.shape) or any(b + n > m for b, n, m in zip(begin, size, of.shape, strict=True)):
            raise FormatError(
                f"its piece {piece!r} of shape {list(size)} at {list(begin)} reaches out of {list(of.shape)}"
            )
    check_filled(of.shape, boxes, "piece")
    return list(zip(boxes, rows, strict=True))
