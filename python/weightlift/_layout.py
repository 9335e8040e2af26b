"""The nouns: what a format says about a file, before a byte of payload is read.

A :class:`Layout` is a validated table of tensors and of the pieces of bytes they are made of. Most tensors
are one plain extent of one file, so the table is kept in columns (a hundred thousand tensors cost a few
arrays, not a hundred thousand objects); :class:`TensorEntry` is the view of one row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._checksum import from_hex
from weightlift._dtypes import DType, byte_size
from weightlift._steps import Step, Strings, VarintStrings
from weightlift.errors import FormatError

__all__ = [
    "Chain",
    "Checksum",
    "Extent",
    "Fill",
    "Inline",
    "Layout",
    "Piece",
    "ReadOptions",
    "TensorEntry",
    "TensorTable",
    "stored_axes",
]


# --- where bytes are ------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Extent:
    """``nbytes`` bytes at ``offset`` of source number ``source``."""

    source: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Chain:
    """Extents one after another, as one run of stored bytes (a tensor that straddles shards)."""

    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Inline:
    """Bytes that the header itself held."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes that are not stored: ``nbytes`` times ``value`` (0-255)."""

    nbytes: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a tensor: where its bytes are, what undoes their encoding, and where they land.

    ``region`` is the byte range of the decoded tensor (end exclusive, stored order); None: all of it.
    """

    where: Extent | Chain | Inline | Fill
    steps: tuple[Step, ...] = ()
    region: tuple[int, int] | None = None

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The stored extents, in order; none for inline and fill pieces."""
        if isinstance(self.where, Extent):
            return (self.where,)
        return self.where.extents if isinstance(self.where, Chain) else ()


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum over the stored bytes of a tensor, its pieces one after another.

    ``kind`` is ``"crc32c"`` or ``"crc32"``; ``initial`` the checksum of bytes before the payload that the
    stored value covers too (a zip member's npy header).
    """

    kind: str
    value: int
    initial: int = 0


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One row of the table.

    Attributes:
        dtype: Element type of the decoded tensor.
        shape: Its shape, in elements.
        pieces: What it is made of, in order.
        strides: Bytes a step along each axis, only where the stored order is not C order; see ``stored_axes``.
        checksum: If the format carries one.
    """

    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    strides: tuple[int, ...] | None = None
    checksum: Checksum | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded tensor."""
        return byte_size(self.dtype, self.shape)

    @property
    def plain(self) -> Extent | None:
        """The extent, when the tensor is exactly one of them, as it is."""
        if len(self.pieces) != 1:
            return None
        piece = self.pieces[0]
        return piece.where if isinstance(piece.where, Extent) and not piece.steps and piece.region is None else None


def stored_axes(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of a tensor that is not in C order, with neighbouring axes taken as one so that it is in Fortran order.

    The kernel of a convolution has its axes turned around, but for those of space, which stay in their order: they
    are one axis here. None for any other order, which a layout cannot have.
    """
    merged: list[tuple[int, int]] = []
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if merged and merged[-1][1] == n * stride:
            merged[-1] = (merged[-1][0] * n, stride)
        else:
            merged.append((n, stride))
    inner = all(b[1] == a[0] * a[1] for a, b in itertools.pairwise(merged))
    return (tuple(n for n, _ in merged) or tuple(shape[:1])) if inner else None


KINDS = ("none", "crc32c", "crc32")
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]


class TensorTable(Mapping[str, TensorEntry]):
    """Tensors by name, in file order, in columns.

    Columns (one row a tensor): ``names``; ``shapes``; ``dtypes[dtype_index]``; ``source``, ``offset`` and
    ``nbytes`` of the plain extent; ``check_kind`` (index into KINDS), ``check_value``, ``check_initial``.
    Rows in ``pieces`` are not plain (their extent columns are 0); rows in ``strides`` are not C order.
    """

    def __init__(
        self,
        names: list[str],
        dtypes: Sequence[DType],
        dtype_index: U32,
        shapes: list[tuple[int, ...]],
        source: U32,
        offset: U64,
        nbytes: U64,
        *,
        pieces: Mapping[int, tuple[Piece, ...]] | None = None,
        strides: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        """Take the columns as they are; see the class for what each holds."""
        n = len(names)
        self.names = names
        self.dtypes = tuple(dtypes)
        self.dtype_index = dtype_index
        self.shapes = shapes
        self.source = source
        self.offset = offset
        self.nbytes = nbytes
        self.pieces = dict(pieces or {})
        self.strides = dict(strides or {})
        self.check_kind: U8 = np.zeros(n, np.uint8)
        self.check_value: U32 = np.zeros(n, np.uint32)
        self.check_initial: U32 = np.zeros(n, np.uint32)
        self._index: dict[str, int] | None = None

    @classmethod
    def from_entries(cls, entries: Mapping[str, TensorEntry]) -> TensorTable:
        """A table from rows; for formats with few tensors or many kinds of them."""
        n = len(entries)
        dtypes: dict[DType, int] = {}
        table = cls(
            list(entries), (), np.zeros(n, np.uint32), [e.shape for e in entries.values()],
            np.zeros(n, np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint64),
        )  # fmt: skip
        for i, entry in enumerate(entries.values()):
            table.dtype_index[i] = dtypes.setdefault(entry.dtype, len(dtypes))
            extent = entry.plain
            if extent is not None:
                table.source[i], table.offset[i], table.nbytes[i] = extent.source, extent.offset, extent.nbytes
            else:
                table.pieces[i] = entry.pieces
            if entry.strides is not None:
                table.strides[i] = entry.strides
            if entry.checksum is not None:
                table.set_checksum(i, entry.checksum)
        table.dtypes = tuple(dtypes)
        return table

    def set_checksum(self, i: int, checksum: Checksum) -> None:
        """Give row ``i`` a checksum."""
        self.check_kind[i] = KINDS.index(checksum.kind)
        self.check_value[i] = checksum.value
        self.check_initial[i] = checksum.initial

    def set_crc32c(self, text: Any) -> bool:
        """Checksums of all rows, as ``to_hex`` writes them; False, and no change, for anything else."""
        values = from_hex(text, len(self))
        if values is None:
            return False
        self.check_value[:] = values
        self.check_kind[:] = KINDS.index("crc32c")
        self.check_initial[:] = 0
        return True

    def set_dtype(self, i: int, dtype: DType) -> None:
        """Let row ``i`` be of another type of the same size."""
        if dtype not in self.dtypes:
            self.dtypes = (*self.dtypes, dtype)
        self.dtype_index[i] = self.dtypes.index(dtype)

    def axes(self, i: int) -> tuple[int, ...]:
        """The shape of row ``i`` as it is stored: see ``stored_axes``; its own for C order."""
        strides = self.strides.get(i)
        found = None if strides is None else stored_axes(self.shapes[i], strides)
        return self.shapes[i] if found is None else found

    def index(self, name: str) -> int:
        """The row of ``name``; KeyError if there is none."""
        if self._index is None:
            self._index = {name: i for i, name in enumerate(self.names)}
        return self._index[name]

    def dtype(self, i: int) -> DType:
        """The element type of row ``i``."""
        return self.dtypes[int(self.dtype_index[i])]

    def entry(self, i: int) -> TensorEntry:
        """Row ``i``."""
        pieces = self.pieces.get(i)
        if pieces is None:
            pieces = (Piece(Extent(int(self.source[i]), int(self.offset[i]), int(self.nbytes[i]))),)
        kind = KINDS[self.check_kind[i]]
        checksum = None if kind == "none" else Checksum(kind, int(self.check_value[i]), int(self.check_initial[i]))
        return TensorEntry(self.dtype(i), self.shapes[i], pieces, self.strides.get(i), checksum)

    def __getitem__(self, name: str) -> TensorEntry:
        """The row called ``name``."""
        return self.entry(self.index(name))

    def __iter__(self) -> Iterator[str]:
        """Names in file order."""
        return iter(self.names)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self.names)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a file is to be read, where its format leaves a choice.

    Attributes:
        skip_unsafe: Leave out what a pickle would have to run code for, instead of refusing the file.
        dequantize: Tensors stored in blocks of quantised values are their float32 values, not raw blocks.
    """

    skip_unsafe: bool = False
    dequantize: bool = False


@dataclass
class Layout:
    """What a file holds and where.

    Attributes:
        format: The name of the format ("safetensors", "npz", "tfjs" ...).
        tensors: The table.
        sources: Relative names of the files its extents lie in, by source number.
        objects: Values that are not tensors, by name.
        metadata: The user's own metadata, as the format keeps it.
        structure: What was saved: see ``_tree``. None: a dict of tensors, as the names stand.
        extra: What only the format's own writer and the model level need (topology, signature ...).
        shared: Extents may overlap, because the format lets tensors share memory.
        expected: Sizes in bytes, by source number, of files that the layout took for granted unopened.
        order: Rows in the order of the dict that was saved, where that is not the table's.
        whole: Runs of bytes that hold many tensors and have a checksum each (a zip member), as tensors of bytes.
        damaged: Why the table itself does not match its checksum, if it does not.
        sidecar_of: The file whose sidecar speaks of the tensors, where it is not the one that was asked for.
        parts: Of tensors that are stored in boxes: where each begins, its shape, and its row.
    """

    format: str
    tensors: TensorTable
    sources: tuple[str, ...]
    objects: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    structure: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    whole: TensorTable | None = None
    damaged: str | None = None
    order: U32 | None = None
    expected: Mapping[int, int] | None = None
    sidecar_of: str | None = None
    parts: Mapping[str, Sequence[tuple[tuple[tuple[int, ...], tuple[int, ...]], TensorEntry]]] = field(
        default_factory=dict
    )

    def validate(self, source_sizes: Sequence[int]) -> Layout:
        """Check every row before anything is allocated or read; returns self.

        Overflow, bounds, overlap, size against shape, and names, in one pass. FormatError names the
        tensor and the byte range.
        """
        table = self.tensors
        plain = np.ones(len(table), bool)
        rows: list[tuple[int, Extent]] = []
        for i, pieces in table.pieces.items():
            plain[i] = False
            rows += [(i, extent) for piece in pieces for extent in piece.extents]
            self._check_pieces(i, pieces)
        bits = np.array([d.bits for d in table.dtypes], np.uint32)
        _core.validate_extents(
            table.names,
            table.shapes,
            bits[table.dtype_index] if len(table) else np.zeros(0, np.uint32),
            plain,
            table.source,
            table.offset,
            table.nbytes,
            np.array([i for i, _ in rows], np.uint32),
            np.array([e.source for _, e in rows], np.uint32),
            np.array([e.offset for _, e in rows], np.uint64),
            np.array([e.nbytes for _, e in rows], np.uint64),
            np.array(source_sizes, np.uint64),
            self.sources,
            self.shared,
            np.array(sorted(table.strides), np.uint32),
        )
        return self

    def _check_pieces(self, i: int, pieces: tuple[Piece, ...]) -> None:
        """The regions of a row's pieces tile the tensor in order."""
        table = self.tensors
        if any(isinstance(s, (Strings, VarintStrings)) for p in pieces for s in p.steps):
            return
        size, at = byte_size(table.dtype(i), table.shapes[i]), 0
        for piece in pieces:
            begin, end = piece.region or (0, size)
            if begin != at or end < begin:
                raise FormatError(f"pieces leave a hole or overlap at byte {at} of {size}", tensor=table.names[i])
            at = end
        if at != size:
            raise FormatError(f"pieces cover {at} of {size} bytes", tensor=table.names[i])
