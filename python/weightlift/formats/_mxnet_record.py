"""One array in a file of MXNet's: the header in front of its data.

By the first number of four bytes:

- ``0xF993FACA`` (V3: NumPy's shapes, MXNet 1.5 and newer): storage type, shape, device, type;
- ``0xF993FAC9`` (V2, MXNet 0.12 and newer): the same, and the parts of sparse arrays;
- ``0xF993FAC8`` (V1, MXNet 0.11): shape, device, type;
- any other is the number of axes (before 0.11): axes of four bytes, device, type.

A shape is a number of axes and eight bytes for each. Everything is little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import NamedTuple

from weightlift._dtypes import DType, from_name
from weightlift._steps import Sparse
from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["CODES", "HEADER", "V2", "V3", "Read", "Record", "header_of", "read_record"]

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_VERSIONS = {V1: 1, V2: 2, V3: 3}

CODES = {
    name: code
    for code, name in enumerate(
        (
            "float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool", "int16", "uint16", "uint32",
            "uint64", "bfloat16",
        )
    )
}  # fmt: skip
"""MXNet's numbers of element types, by our names."""

_DTYPES: dict[int, DType] = {code: from_name(name) for name, code in CODES.items()}
_INDEX_TYPES = ("int64", "int32")
_UNDEFINED, _DENSE, _ROW_SPARSE, _CSR = -1, 0, 1, 2
_KINDS = {_ROW_SPARSE: ("row_sparse", ("indices",)), _CSR: ("csr", ("indptr", "indices"))}
_MAX_NDIM = 32
_CPU = (1, 0)
_U32, _I32, _TWO = Struct("<I"), Struct("<i"), Struct("<ii")
_SHAPES = [Struct(f"<{ndim}q") for ndim in range(_MAX_NDIM + 1)]

HEADER = 64
"""Bytes that hold nearly every header."""

Read = Callable[[int, int], bytes]
"""(offset, nbytes) to bytes, as many as there are before the end of the file."""


class Record(NamedTuple):
    """What a header says.

    Attributes:
        version: 0 to 3.
        dtype: Of the elements; None for an array that was never given values, which has none and no data.
        shape: Of the whole array, zeros of sparse ones included.
        begin: Where the data begin.
        nbytes: How many they are, the indices of sparse arrays included.
        sparse: How the data become the array, if it is sparse.
    """

    version: int
    dtype: DType | None
    shape: tuple[int, ...]
    begin: int
    nbytes: int
    sparse: Sparse | None = None

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.begin + self.nbytes


@dataclass
class _Cursor:
    """Reads a header number by number."""

    read: Read
    start: int
    data: bytes
    at: int = 0

    def unpack(self, layout: Struct) -> tuple[int, ...]:
        """The next numbers."""
        end = self.at + layout.size
        if end > len(self.data):
            self.data = self.read(self.start, end + HEADER)
            if end > len(self.data):
                raise FormatError(
                    f"truncated: the file ends in the header of an array, after {len(self.data)} bytes of it",
                    offset=self.start,
                    end=self.start + len(self.data),
                )
        found = layout.unpack_from(self.data, self.at)
        self.at = end
        return found

    def number(self) -> int:
        """One of four bytes."""
        return self.unpack(_I32)[0]

    def shape(self, ndim: int, *, unknown: bool = False) -> tuple[int, ...]:
        """``ndim`` axes of eight bytes; -1 is one that is not known."""
        if not 0 <= ndim <= _MAX_NDIM:
            raise FormatError(f"an array of {ndim} axes; at most {_MAX_NDIM} are read", offset=self.start)
        shape = self.unpack(_SHAPES[ndim])
        if shape and min(shape) < (-1 if unknown else 0):
            raise FormatError(f"an array of the shape {list(shape)}", offset=self.start)
        return shape


def read_record(read: Read, at: int) -> Record:
    """The header at ``at``.

    Raises:
        FormatError: It is none; the error says where.
    """
    cursor = _Cursor(read, at, read(at, HEADER))
    (first,) = cursor.unpack(_U32)
    version = _VERSIONS.get(first)
    if version is None:
        return _old_record(cursor, first)
    if version == 1:
        return _finish(cursor, 1, cursor.shape(cursor.number()))
    stype = cursor.number()
    if version == 3:
        return _shaped_record(cursor, stype)
    if stype in _KINDS:
        return _sparse_record(cursor, stype)
    if stype not in (_DENSE, _UNDEFINED):
        raise UnsupportedFeatureError(
            f"storage type {stype}; 0 (dense), 1 (row_sparse) and 2 (csr) are known", offset=at
        )
    shape = cursor.shape(cursor.number())
    if shape and stype == _UNDEFINED:
        raise FormatError("an array with a shape and no storage type", offset=at)
    return _finish(cursor, 2, shape)


def _shaped_record(cursor: _Cursor, stype: int) -> Record:
    """NumPy's shapes: no axes are a scalar's, and -1 stands for what is not known."""
    if stype != _DENSE:
        raise UnsupportedFeatureError(
            f"storage type {stype} in a record of version 3, which has dense ones only", offset=cursor.start
        )
    ndim = cursor.number()
    shape = (-1,) if ndim == -1 else cursor.shape(ndim, unknown=True)
    if -1 in shape:
        return Record(3, None, (), cursor.start + cursor.at, 0)
    return _finish(cursor, 3, shape, scalars=True)


def _old_record(cursor: _Cursor, ndim: int) -> Record:
    """Before 0.11: the first number is the number of axes."""
    if ndim > _MAX_NDIM:
        raise FormatError(
            f"an array's record begins with {ndim:#010x}, which is no version of MXNet's, nor a number of axes up to "
            f"{_MAX_NDIM}",
            offset=cursor.start,
        )
    return _finish(cursor, 0, cursor.unpack(Struct(f"<{ndim}I")))


def _finish(cursor: _Cursor, version: int, shape: tuple[int, ...], *, scalars: bool = False) -> Record:
    """Device and type, behind the shape; where no axes do not mean a scalar, there is no more."""
    if not shape and not scalars:
        return Record(version, None, (), cursor.start + cursor.at, 0)
    dtype = _type_behind_device(cursor)
    begin = cursor.start + cursor.at
    return Record(version, dtype, shape, begin, prod(shape) * dtype.bits // 8)


def _type_behind_device(cursor: _Cursor) -> DType:
    cursor.unpack(_TWO)  # the device, which means nothing elsewhere
    return _type_of(cursor.number(), cursor)


def _type_of(code: int, cursor: _Cursor) -> DType:
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise UnsupportedFeatureError(
            f"element type {code}; MXNet has 0 to {max(_DTYPES)}", offset=cursor.start, end=cursor.start + cursor.at
        )
    return dtype


def _sparse_record(cursor: _Cursor, stype: int) -> Record:
    """The shape of what is stored, the shape, device and type, then type and shape of each part's indices."""
    kind, names = _KINDS[stype]
    stored = cursor.shape(cursor.number())
    shape = cursor.shape(cursor.number())
    if not shape:
        return Record(2, None, (), cursor.start + cursor.at, 0)
    dtype = _type_behind_device(cursor)
    lengths: dict[str, int] = {}
    types: dict[str, str] = {}
    for name in names:
        index = _type_of(cursor.number(), cursor)
        axes = cursor.shape(cursor.number())
        if index.name not in _INDEX_TYPES or len(axes) != 1:
            raise FormatError(f"{name} of {kind} are {index} of the shape {list(axes)}", offset=cursor.start)
        lengths[name], types[name] = axes[0], index.name
    stored = _stored_shape(kind, stored, shape, lengths, cursor)
    parts = (("data", dtype.name, prod(stored)), *((name, types[name], lengths[name]) for name in names))
    nbytes = sum(count * from_name(part).bits // 8 for _, part, count in parts)
    return Record(2, dtype, shape, cursor.start + cursor.at, nbytes, Sparse(kind, shape, parts))


def _stored_shape(
    kind: str, stored: tuple[int, ...], shape: tuple[int, ...], lengths: dict[str, int], cursor: _Cursor
) -> tuple[int, ...]:
    """The shape of what is stored, once the sizes of the parts fit each other and the whole.

    MXNet counts by the indices: where it wrote an array that was still being computed, the shape says 0.
    """
    count = lengths["indices"]
    actual = (count, *stored[1:])
    fits = len(stored) > 0 and stored[0] in (0, count)
    if kind == "row_sparse":
        fits = fits and len(stored) == len(shape) and stored[1:] == shape[1:] and count <= shape[0]
    else:
        fits = fits and len(shape) == 2 and len(stored) == 1
        fits = fits and (lengths["indptr"] == shape[0] + 1 or (lengths["indptr"] == 0 and count == 0))
    if not fits:
        raise FormatError(
            f"a {kind} array of the shape {list(shape)} stores {list(stored)} elements with {lengths}",
            offset=cursor.start,
            end=cursor.start + cursor.at,
        )
    return actual


def header_of(version: int, dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a dense array, in version 2 or 3."""
    magic = {2: V2, 3: V3}[version]
    axes = _SHAPES[len(shape)].pack(*shape)
    return _U32.pack(magic) + _TWO.pack(_DENSE, len(shape)) + axes + _TWO.pack(*_CPU) + _I32.pack(CODES[dtype])
