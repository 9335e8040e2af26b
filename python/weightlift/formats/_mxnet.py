"""MXNet's files of arrays (``mx.nd.save``, ``npx.save``, ``save_parameters``, ``export``), without MXNet.

A number, how many arrays, the arrays one after another (``_mxnet_record``), and behind them the names of all, or none:
then it is a list. There is no index, so the headers are found one by one (``_mxnet_trail``). MXNet 2 writes
``.npy`` and ``.npz`` files instead, which are those formats' business.

Writing: version 3 ("mxnet": NumPy's shapes, for ``npx.load`` and ``load_parameters``) or 2 ("mxnet-v2", for
``mx.nd.load`` and MXNet before 1.5). There is no place for checksums, which go to the sidecar.

Specification: docs/formats/mxnet.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

import numpy as np

from weightlift._dtypes import DType, byte_size, from_name
from weightlift._json import impostor
from weightlift._layout import Extent, Layout, Piece, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._tree import SINGLE
from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._mxnet_record import CODES, Record, header_of, read_record
from weightlift.formats._mxnet_trail import Trail
from weightlift.formats._npy import check_options
from weightlift.formats._sparse_limit import too_large
from weightlift.formats._storable import refuse
from weightlift.protocols import Files, Reader

__all__ = ["MXNET", "MXNET_V2", "Mxnet"]

_MAGIC = 0x112
_START = Struct("<QQQ")
_U64 = Struct("<Q")
_HEAD = 4096
_LEAST_RECORD = 4
"""Bytes of the shortest record: an array of before 0.11 without axes."""

_MAX_ARRAYS = 1 << 20
_MAX_NAMES = 256 << 20
"""Bytes."""


@dataclass(frozen=True)
class Mxnet:
    """The format, which writes records of one version; see the module."""

    name: str = "mxnet"
    version: int = 3
    suffixes: Sequence[str] = (".params",)
    metadata_in_file = False

    def sniff(self, head: bytes, size: int) -> bool:
        """By the number it begins with, and the zeros behind it."""
        return head.startswith(_U64.pack(_MAGIC) + bytes(8))

    def read(self, files: Files, name: str) -> Layout:
        """The arrays, by their names or numbers."""
        reader = files.open(name)
        try:
            layout = _layout(name, *_read(reader), reader.size)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return layout.validate([reader.size])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Arrays are stored as they are, in the types and shapes that MXNet has."""
        if quantize:
            raise UnsupportedFeatureError(f"{self.name} has no quantisation; use format='tfjs', or dtype='float16'")
        refuse(self.name, self._refused(specs), f", or use format='npz'; the types are {', '.join(CODES)}")
        return {}

    def _refused(self, specs: TensorSpecs) -> Iterator[str]:
        """What the version has no place for, and why."""
        for i, (name, dtype, shape) in enumerate(zip(specs.names, specs.dtypes, specs.shapes, strict=True)):
            if i in specs.strings or dtype.name not in CODES:
                yield f"{name!r} ({'strings' if i in specs.strings else dtype})"
            elif self.version == 2 and (not shape or 0 in shape):
                yield f"{name!r} ({dtype} of shape {list(shape)}, for which it needs format='mxnet')"

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Each array behind its header, in the order of ``specs``, and then the names."""
        check_options(self.name, options, compressions=())
        structure, listed = _rename(specs, options.structure)
        literals = [(0, _START.pack(_MAGIC, 0, len(specs)))]
        offsets, at = [], _START.size
        for dtype, shape, nbytes in zip(specs.dtypes, specs.shapes, specs.nbytes.tolist(), strict=True):
            header = header_of(self.version, dtype.name, shape)
            literals.append((at, header))
            offsets.append(at + len(header))
            at += len(header) + nbytes
        names = b"" if listed else b"".join(_U64.pack(len(raw)) + raw for raw in map(_encoded, specs.names))
        tail = _U64.pack(0 if listed else len(specs)) + names
        literals.append((at, tail))
        rows, first = np.arange(len(specs), dtype=np.uint32), np.zeros(len(specs), np.uint32)
        placements = Placements.whole(rows, first, np.array(offsets, np.uint64), specs.nbytes.copy())
        file = PackedFile(name, at + len(tail), tuple(literals))
        return Packing([file], placements, sidecar=True, structure=structure)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the file depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise FormatError("mxnet has no manifest")


def _rename(specs: TensorSpecs, structure: Any) -> tuple[Any, bool]:
    """Number the rows of a single array or of a flat list; the structure in new names, and whether it is a list."""
    if structure == SINGLE:
        specs.names = ["0"]
        return "0", True
    if isinstance(structure, dict) and structure.keys() <= {"list", "tuple"}:
        (items,) = structure.values()
        if all(isinstance(item, str) for item in items):  # named by their numbers, as flatten does
            return structure, True
    return structure, False


def _encoded(name: str) -> bytes:
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnsupportedFeatureError(f"the name is not text: {error.reason}", tensor=name) from None


# --- reading --------------------------------------------------------------------------------------
def _read(reader: Reader) -> tuple[list[Record], list[str] | None]:
    """The records, and their names; None if they have none."""
    start = reader.read_at(0, min(_HEAD, reader.size))[: _START.size]
    if len(start) < _START.size or not MXNET.sniff(start, reader.size):
        found = impostor(start)
        raise FormatError(
            f"not a file of MXNet's: it {'is ' + found if found is not None else f'begins with {start[:16]!r}'}",
            offset=0,
        )
    count = _START.unpack(start)[2]
    if count > (reader.size - _START.size) // _LEAST_RECORD:
        raise FormatError(f"{count} arrays in a file of {reader.size} bytes", offset=16, end=24)
    if count > _MAX_ARRAYS:
        raise UnsupportedFeatureError(f"{count} arrays; at most {_MAX_ARRAYS} are read", offset=16, end=24)
    trail = Trail(reader, count)
    records, at = [], _START.size
    for number in range(count):
        trail.header_at(at)
        try:
            record = read_record(trail.read, at)
            if record.end > reader.size:
                raise FormatError(
                    f"truncated: {record.dtype} of shape {list(record.shape)} takes {record.nbytes} bytes, "
                    f"{reader.size - record.begin} are there",
                    offset=record.begin,
                    end=reader.size,
                )
        except FormatError as error:
            raise error.locate(tensor=str(number)) from None
        records.append(record)
        at = record.end
    trail.header_at(at)
    return records, _read_names(trail, at, reader.size, count)


def _read_names(trail: Trail, at: int, size: int, count: int) -> list[str] | None:
    """The names, which end with the file."""
    if size - at > _MAX_NAMES:
        raise FormatError(f"{size - at} bytes behind the arrays; names of at most {_MAX_NAMES} are read", offset=at)
    data = trail.read(at, size - at)
    names: list[str] = []
    here = _U64.size
    if here > len(data):
        raise FormatError("truncated: the file ends before the names", offset=at, end=size)
    (found,) = _U64.unpack_from(data)
    if found not in (0, count):
        raise FormatError(f"{found} names of {count} arrays", offset=at, end=at + here)
    for i in range(found):
        begin = here + _U64.size
        length = _U64.unpack_from(data, here)[0] if begin <= len(data) else 0
        if begin + length > len(data):
            raise FormatError(f"truncated: the file ends in name {i} of {found}", offset=at + here, end=size)
        here = begin + length
        try:
            names.append(data[begin:here].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise FormatError(f"name {i} is not UTF-8: {error.reason}", offset=at + begin, end=at + here) from None
    if here != len(data):
        raise FormatError(
            f"{len(data) - here} bytes behind the names, which MXNet would ignore: two files in one, or damage",
            offset=at + here,
            end=size,
        )
    return names if found else None


def _refuse_twice(keys: list[str]) -> None:
    """FormatError for a name that two arrays have."""
    seen: set[str] = set()
    for key in keys if len(set(keys)) != len(keys) else ():
        if key in seen:
            raise FormatError("two arrays have this name, of which MXNet would drop the first", tensor=key)
        seen.add(key)


def _layout(name: str, records: list[Record], names: list[str] | None, size: int) -> Layout:
    """The layout: what is sparse comes whole, what was never given values as None."""
    keys = [str(i) for i in range(len(records))] if names is None else names
    _refuse_twice(keys)
    named = list(zip(keys, records, strict=True))
    refused = too_large({key: byte_size(r.dtype, r.shape) for key, r in named if r.sparse and r.dtype}, size)
    rows = _Rows()
    for key, record in named:
        if key in refused:
            rows.add_parts(key, record)
        elif record.dtype is not None:
            rows.add(key, record.dtype, record)
    nodes = [key if record.dtype is not None else {"value": None} for key, record in named]
    structure: Any = None
    if names is None and records:
        structure = {"list": nodes}
    elif any(record.dtype is None for record in records):
        structure = {"dict": [[key, node] for key, node in zip(keys, nodes, strict=True)]}
    layout = Layout("mxnet", rows.table(), (name,), objects=refused, structure=structure)
    versions = sorted({record.version for record in records})
    layout.extra = {"versions": versions, **({"sparse": rows.kinds} if rows.kinds else {})}
    return layout


@dataclass
class _Rows:
    """The table in the making, in columns, and what is beside it."""

    names: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    dtypes: dict[DType, int] = field(default_factory=dict)
    pieces: dict[int, tuple[Piece, ...]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, dtype: DType, record: Record) -> None:
        """The row of one array."""
        if record.sparse is None:
            self._row(name, dtype, record.shape, record.begin, record.nbytes)
            return
        self.kinds[name] = record.sparse.kind
        self.pieces[len(self.names)] = (Piece(Extent(0, record.begin, record.nbytes), (record.sparse,)),)
        self._row(name, dtype, record.shape, 0, 0)

    def _row(self, name: str, dtype: DType, shape: tuple[int, ...], offset: int, nbytes: int) -> None:
        self.names.append(name)
        self.shapes.append(shape)
        self.index.append(self.dtypes.setdefault(dtype, len(self.dtypes)))
        self.offset.append(offset)
        self.nbytes.append(nbytes)

    def add_parts(self, name: str, record: Record) -> None:
        """The rows of a sparse array's parts."""
        assert record.sparse is not None
        at = record.begin
        for part, kind, count in record.sparse.parts:
            dtype = from_name(kind)
            shape: tuple[int, ...] = (count,)
            if part == "data" and record.sparse.kind == "row_sparse":
                shape = (record.sparse.parts[1][2], *record.shape[1:])
            nbytes = byte_size(dtype, shape)
            self._row(f"{name}/{part}", dtype, shape, at, nbytes)
            at += nbytes

    def table(self) -> TensorTable:
        """The columns."""
        return TensorTable(
            self.names,
            tuple(self.dtypes),
            np.array(self.index, np.uint32),
            self.shapes,
            np.zeros(len(self.names), np.uint32),
            np.array(self.offset, np.uint64),
            np.array(self.nbytes, np.uint64),
            pieces=self.pieces,
        )


MXNET = Mxnet()
"""The format, as it stands in ``FORMATS``."""

MXNET_V2 = Mxnet("mxnet-v2", 2)
"""The same, but for what it writes."""
