"""From the entries of a TensorBundle to rows of a table: where each tensor's bytes lie, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from weightlift._checksum import crc32c_combine
from weightlift._dtypes import DTYPES, STRING, DType, byte_size
from weightlift._layout import KINDS, Chain, Checksum, Extent, Piece, TensorEntry, TensorTable
from weightlift._steps import Byteswap, Step, Tiles, VarintStrings
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._boxes import contiguous_order
from weightlift.formats._tensorbundle_proto import Entry, Header
from weightlift.formats._tensorbundle_slices import slice_boxes, slice_key

__all__ = ["NUMBERS", "STRING_TYPE", "TYPES", "Rows", "table_of"]

STRING_TYPE = 7

TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64", 10: "bool",
    11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16", 17: "uint16", 18: "complex128",
    19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn", 26: "float8_e4m3fnuz",
    28: "float8_e5m2fnuz", 29: "int8", 30: "uint8", 31: "int8", 32: "uint8",
}  # fmt: skip
"""Element types by TensorFlow's numbers. The quantised ones (11 to 16) are read as the integers that they are, and
those of two and four bits (29 to 32), which take a byte each, as bytes."""

_UNREADABLE = {20: "resource", 21: "variant", 27: "float8_e4m3b11fnuz", 33: "float4_e2m1fn"}

NUMBERS = {name: number for number, name in reversed(TYPES.items())}
"""TensorFlow's numbers by element type; of several the plain one."""

_CRC32C = KINDS.index("crc32c")


@dataclass
class Rows:
    """What ``table_of`` reads from.

    Attributes:
        header: Of the bundle.
        entries: By key; those of slices too.
        sources: Number of the layout's source, by number of the data file.
    """

    header: Header
    entries: Mapping[bytes, Entry]
    sources: Mapping[int, int]


@dataclass
class _Columns:
    """The table in the making."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: dict[DType, int] = field(default_factory=dict)
    dtype_index: list[int] = field(default_factory=list)
    extents: list[tuple[int, int, int]] = field(default_factory=list)
    checks: list[tuple[int, int]] = field(default_factory=list)
    pieces: dict[int, tuple[Piece, ...]] = field(default_factory=dict)

    def add(self, dtype: DType, shape: tuple[int, ...], piece: Piece | Extent, crc: int | None) -> None:
        """One row."""
        if isinstance(piece, Piece):
            self.pieces[len(self.shapes)] = (piece,)
            self.extents.append((0, 0, 0))
        else:
            self.extents.append((piece.source, piece.offset, piece.nbytes))
        self.shapes.append(shape)
        self.dtype_index.append(self.dtypes.setdefault(dtype, len(self.dtypes)))
        self.checks.append((0, 0) if crc is None else (_CRC32C, crc))


def table_of(rows: Rows, keys: Sequence[bytes], names: list[str]) -> TensorTable:
    """The table of the tensors with these keys, under these names.

    Raises:
        FormatError: An entry breaks a rule.
        UnsupportedFeatureError: A tensor is of a type that has no arrays.
    """
    columns = _Columns()
    for key, name in zip(keys, names, strict=True):
        try:
            _add(rows, key, rows.entries[key], columns)
        except FormatError as error:
            raise error.locate(tensor=name) from None
    columns_of = np.array(columns.extents, np.uint64).reshape(-1, 3)
    table = TensorTable(
        names,
        tuple(columns.dtypes),
        np.array(columns.dtype_index, np.uint32),
        columns.shapes,
        columns_of[:, 0].astype(np.uint32),
        columns_of[:, 1].copy(),
        columns_of[:, 2].copy(),
        pieces=columns.pieces,
    )
    checks = np.array(columns.checks, np.uint32).reshape(-1, 2)
    table.check_kind, table.check_value = checks[:, 0].astype(np.uint8), checks[:, 1].copy()
    return table


def _add(rows: Rows, key: bytes, entry: Entry, columns: _Columns) -> None:
    if entry.slices:
        dtype = _dtype(entry)
        whole = _assembled(rows, key, entry, dtype)
        columns.add(dtype, entry.shape, whole.pieces[0], None if whole.checksum is None else whole.checksum.value)
        return
    extent = _extent(rows, entry)
    if entry.dtype == STRING_TYPE:
        count = prod(entry.shape)
        if entry.size < count + 4:
            raise FormatError(f"{count} strings need at least {count + 4} bytes, the entry has {entry.size}")
        columns.add(STRING, entry.shape, Piece(extent, (VarintStrings(count, entry.crc),)), None)
        return
    dtype = _dtype(entry)
    swap = _swap(rows, dtype)
    columns.add(dtype, entry.shape, Piece(extent, swap) if swap else extent, entry.crc)


def _dtype(entry: Entry) -> DType:
    name = TYPES.get(entry.dtype)
    if name is None:
        what = _UNREADABLE.get(entry.dtype)
        if what is not None:
            raise UnsupportedFeatureError(f"the tensor is of TensorFlow's type {what}, which no array holds")
        raise FormatError(f"the tensor is of the unknown type {entry.dtype}")
    return DTYPES[name]


def _swap(rows: Rows, dtype: DType) -> tuple[Step, ...]:
    return (Byteswap(dtype.word, dtype.bits // 8),) if rows.header.big and dtype.word > 1 else ()


def _extent(rows: Rows, entry: Entry) -> Extent:
    """Where an entry's bytes are, as many as its type and shape say."""
    if entry.shard >= rows.header.shards:
        raise FormatError(f"the tensor is in data file {entry.shard}, of {rows.header.shards} from 0 on")
    if entry.dtype != STRING_TYPE:
        expected = byte_size(_dtype(entry), entry.shape)
        if entry.size != expected:
            raise FormatError(
                f"the entry has {entry.size} bytes; {_dtype(entry)} of shape {list(entry.shape)} takes {expected}"
            )
    return Extent(rows.sources[entry.shard], entry.offset, entry.size)


def _assembled(rows: Rows, key: bytes, entry: Entry, dtype: DType) -> TensorEntry:
    """The tensor that is stored in slices: one run of stored bytes, and a checksum of all of it."""
    boxes = slice_boxes(entry.shape, entry.slices)
    parts = [_slice(rows, key, entry, i, size) for i, (_, size) in enumerate(boxes)]
    order = contiguous_order(entry.shape, boxes)
    steps = _swap(rows, dtype)
    if order is None:
        order = list(range(len(boxes)))
        steps = (*steps, Tiles(dtype.name, entry.shape, tuple(boxes)))
    crc = 0
    for i in order:
        crc = crc32c_combine(crc, parts[i].crc, parts[i].size)
    chain = Chain(tuple(_extent(rows, parts[i]) for i in order))
    return TensorEntry(dtype, entry.shape, (Piece(chain, steps),), None, Checksum("crc32c", crc))


def _slice(rows: Rows, key: bytes, whole: Entry, number: int, size: tuple[int, ...]) -> Entry:
    part = rows.entries.get(slice_key(key, whole.slices[number]))
    if part is None:
        raise FormatError(f"slice {number} of {len(whole.slices)} of the tensor has no entry")
    if part.slices or part.dtype != whole.dtype or part.shape != size:
        raise FormatError(
            f"slice {number} of the tensor is of type {part.dtype} and shape {list(part.shape)}; "
            f"it should be of type {whole.dtype} and shape {list(size)}"
        )
    return part
