"""Views of storages to rows of a table.

A tensor of torch is a view: storage, first element, size and strides. One whose elements lie in C order is an extent;
one whose elements lie in Fortran order is an extent with strides; any other (a transposed or sliced view, a memory
format such as channels_last, axes that repeat) is an extent over all that it touches, and a step that picks the
elements. Everything is checked here in exact arithmetic, before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from weightlift._dtypes import DType, from_name
from weightlift._layout import Checksum, Extent, Piece, TensorEntry, TensorTable
from weightlift._steps import Byteswap, Deflate, Step, Strided
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._numpy_rows import array_row
from weightlift.formats._numpy_vocabulary import NumpyArray
from weightlift.formats._torch_vocabulary import Storage, StoredTensor

__all__ = [
    "MAX_RATIO",
    "MOST_ALWAYS",
    "Place",
    "core_dtype",
    "core_shape",
    "entry_of",
    "row_of",
    "storage_bytes",
    "table_of",
]

MAX_RATIO = 1032
"""A file's tensors may take so many times its bytes, by sharing and repeating them: as much as deflate could do."""

MOST_ALWAYS = 64 << 20
"""Bytes that they may take whatever the file's size: a mask of one repeated element is small, and rightly so."""

_CORE = {
    **{name: name for name in (
        "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16",
        "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
        "float8_e5m2fnuz", "float8_e8m0fnu",
    )},
    "qint8": "int8", "quint8": "uint8", "qint32": "int32", "complex32": "float16", "float4_e2m1fn_x2": "float4_e2m1fn",
}  # fmt: skip
"""torch's types to ours. Quantised ones are their integers; complex32 is a last axis of real and imaginary parts."""

_PAIRED = {"complex32", "float4_e2m1fn_x2"}
"""An element of these is two of ours."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a storage's bytes are.

    Attributes:
        offset: In the file.
        stored: Bytes there.
        nbytes: Bytes of the storage.
        deflated: They are compressed.
        crc32: Of the storage's bytes; None if it is not known.
    """

    offset: int
    stored: int
    nbytes: int
    deflated: bool = False
    crc32: int | None = None


def storage_bytes(storage: Storage) -> int:
    """How many bytes a storage has, by its type and size."""
    return storage.numel * (1 if storage.dtype is None else _item(storage.dtype))


def table_of(
    tensors: Mapping[str, StoredTensor | NumpyArray], place: Callable[[Storage], Place], size: int, *, big: bool = False
) -> TensorTable:
    """The table.

    Args:
        tensors: By name, and arrays of NumPy, whose elements are in the pickle.
        place: Where a storage is; FormatError if it is nowhere.
        size: Bytes in the file.
        big: Elements are stored in big-endian order.
    """
    entries: dict[str, TensorEntry] = {}
    total, limit = 0, max(MAX_RATIO * size, MOST_ALWAYS)
    for name, tensor in tensors.items():
        try:
            entry = row_of(tensor, place, big=big)
            total += entry.nbytes
            if total > limit:
                raise UnsafeContentError(
                    f"the tensors take {total} bytes and more, by sharing and repeating the {size} bytes of the file; "
                    f"at most {limit} are made"
                )
        except WeightliftError as error:
            raise error.locate(tensor=name) from None
        entries[name] = entry
    return TensorTable.from_entries(entries)


def row_of(tensor: StoredTensor | NumpyArray, place: Callable[[Storage], Place], *, big: bool) -> TensorEntry:
    """The row of a tensor, or of an array of NumPy beside it."""
    if isinstance(tensor, NumpyArray):
        return array_row(tensor)
    return entry_of(tensor, place(tensor.storage), big=big)


def core_dtype(dtype: str) -> DType:
    """Our type for one of torch's; UnsupportedFeatureError if there is none."""
    core = _CORE.get(dtype)
    if core is None:
        raise UnsupportedFeatureError(f"torch's type {dtype} is not supported")
    return from_name(core)


def _item(dtype: str) -> int:
    """Bytes of an element of one of torch's types."""
    return core_dtype(dtype).bits * (2 if dtype in _PAIRED else 1) // 8


def entry_of(tensor: StoredTensor, place: Place, *, big: bool) -> TensorEntry:
    """The row of one tensor, which lies in source 0."""
    item = _item(tensor.dtype)
    dtype = core_dtype(tensor.dtype)
    begin, end = _touched(tensor, place, item)
    order: tuple[Step, ...] = ()
    if big and item > 1:
        if tensor.storage.dtype is None:
            raise UnsupportedFeatureError(f"a big-endian file does not say how bytes of {tensor.dtype} are ordered")
        order = (Byteswap(dtype.word, dtype.bits // 8),) if dtype.word > 1 else ()
    shape, strides = _in_core_elements(tensor, dtype)
    nbytes = prod(shape) * dtype.bits // 8
    steps: tuple[Step, ...] = order
    extent = Extent(0, place.offset + begin, end - begin)
    if place.deflated:
        steps = (Deflate(place.nbytes, begin, place.crc32), *order)
        extent = Extent(0, place.offset, place.stored)
    whole = not place.deflated and (begin, end) == (0, place.nbytes) and place.crc32 is not None
    checksum = Checksum("crc32", place.crc32) if whole and place.crc32 is not None else None
    whole_rest = not place.deflated or end == place.nbytes
    resolved = tensor.conj or tensor.neg
    if nbytes == 0:
        return TensorEntry(dtype, shape, (Piece(Extent(0, place.offset, 0)),))
    if whole_rest and not resolved and end - begin == nbytes:
        if strides == _c_strides(shape, dtype) or _same_order(shape, strides, _c_strides(shape, dtype)):
            return TensorEntry(dtype, shape, (Piece(extent, steps),), checksum=checksum)
        fortran = _c_strides(shape[::-1], dtype)[::-1]
        if _same_order(shape, strides, fortran):
            return TensorEntry(dtype, shape, (Piece(extent, steps),), fortran, checksum)
    _check_view(tensor, dtype)
    view = Strided(dtype.name, shape, strides, tensor.conj and dtype.name.startswith("complex"), tensor.neg)
    return TensorEntry(dtype, shape, (Piece(extent, (*steps, view)),), checksum=checksum)


def _touched(tensor: StoredTensor, place: Place, item: int) -> tuple[int, int]:
    """The byte range of the storage that a tensor lies over."""
    storage = tensor.storage
    if storage_bytes(storage) != place.nbytes:
        raise FormatError(
            f"storage {storage.key[:80]!r} has {place.nbytes} bytes; {storage.numel} elements of "
            f"{storage.dtype or 'uint8'} take {storage_bytes(storage)}"
        )
    first, capacity = 0, place.nbytes
    if storage.view is not None:
        unit = 1 if storage.dtype is None else _item(storage.dtype)
        first, capacity = storage.view[0] * unit, storage.view[1] * unit
        if first + capacity > place.nbytes:
            raise FormatError(f"a view of storage {storage.key[:80]!r} reaches out of it")
    if 0 in tensor.size:
        return 0, 0
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if (last + 1) * item > capacity:
        raise FormatError(
            f"the tensor reaches to element {last} of storage {storage.key[:80]!r}, which has {capacity // item}: "
            f"offset {tensor.offset}, size {list(tensor.size)}, strides {list(tensor.stride)}"
        )
    return first + tensor.offset * item, first + (last + 1) * item


def core_shape(dtype: str, size: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, in our elements, of a tensor of one of torch's types and of this size."""
    if dtype == "complex32":
        return (*size, 2)
    if dtype == "float4_e2m1fn_x2":
        if not size:
            raise UnsupportedFeatureError(f"a tensor of {dtype} without axes is not supported")
        return (*size[:-1], size[-1] * 2)
    return size


def _in_core_elements(tensor: StoredTensor, dtype: DType) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape in our elements, strides in bytes."""
    strides = tuple(step * _item(tensor.dtype) for step in tensor.stride)
    if tensor.dtype == "complex32":
        strides = (*strides, dtype.bits // 8)
    return core_shape(tensor.dtype, tensor.size), strides


def _c_strides(shape: tuple[int, ...], dtype: DType) -> tuple[int, ...]:
    """Bytes a step along each axis of an array in C order; packed types a step of one byte along the last."""
    step = max(1, dtype.bits // 8)
    strides = []
    for axis in range(len(shape) - 1, -1, -1):
        strides.append(step)
        step *= shape[axis] if not dtype.packed or axis < len(shape) - 1 else shape[axis] * dtype.bits // 8
    return tuple(strides[::-1])


def _same_order(shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether strides are these but along axes of one element, where they mean nothing."""
    return all(n == 1 or have == want for n, have, want in zip(shape, strides, wanted, strict=True))


def _check_view(tensor: StoredTensor, dtype: DType) -> None:
    """UnsupportedFeatureError for views that no array shows."""
    if dtype.packed:
        raise UnsupportedFeatureError(f"a view of {tensor.dtype} with strides {list(tensor.stride)} is not supported")
    if tensor.conj and tensor.dtype == "complex32":
        raise UnsupportedFeatureError("a conjugated view of complex32 is not supported")
    if tensor.neg and (dtype.name == "bool" or dtype.name.startswith("uint") or tensor.scheme is not None):
        raise UnsupportedFeatureError(f"a negated view of {tensor.dtype} is not supported")
