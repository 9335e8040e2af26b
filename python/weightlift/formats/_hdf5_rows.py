"""Datasets of an HDF5 file as rows of a table: element types, where the bytes are, and what is refused."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, STRING, DType, from_name, from_numpy
from weightlift._layout import Chain, Extent, Fill, Inline, Piece, TensorEntry
from weightlift._steps import Byteswap, Chunks, Step, Strings
from weightlift._strings import encode_strings
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._hdf5_file import Hdf5File

__all__ = ["TYPE_ATTRIBUTE", "entry_of"]

TYPE_ATTRIBUTE = "dtype"
"""Keras says the type of opaque elements by it: ``bfloat16``."""

_MOST_UNSTORED = 4096
"""Bytes of a dataset that may be declared without being stored."""

_MAX_RATIO = 1032
"""Deflate cannot make more bytes of one."""

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_NAMED_FILTERS = {4: "szip", 5: "nbit", 6: "scaleoffset", 32001: "blosc", 32004: "lz4", 32015: "zstd"}
_MOST_CHUNKS = 1 << 22
_BFLOAT16 = (15, 7, 8, 0, 7)
"""Where HDF5 says that sign, exponent (and its size) and mantissa (and its size) are."""


def entry_of(file: Hdf5File, dataset: Any, source: int = 0) -> TensorEntry:
    """The row of a dataset, which is not read, unless it holds strings or lies among the structures.

    Raises:
        UnsafeContentError: Its data lies in other files.
        UnsupportedFeatureError: Its elements or filters are not known.
        FormatError: Shape, size and place do not fit together.
    """
    h5py, found = file.h5py, dataset.id
    plan = found.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
        raise UnsafeContentError("its data lies in other files, which are not opened")
    if found.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise UnsupportedFeatureError("it is a dataset without a shape, which no array stands for")
    shape = tuple(int(n) for n in found.shape)
    kind = found.get_type()
    if kind.get_class() == h5py.h5t.STRING and kind.is_variable_str():
        return _strings(file, dataset, shape)
    dtype, inner, swap = _element(file, dataset, kind)
    steps: tuple[Step, ...] = (Byteswap(dtype.word, dtype.bits // 8),) if swap else ()
    place = _Place(file, dataset, plan, kind.get_size(), source)
    pieces = place.pieces(shape, steps)
    return TensorEntry(dtype, (*shape, *inner), pieces)


# --- element types ----------------------------------------------------------------------------------
def _element(file: Hdf5File, dataset: Any, kind: Any) -> tuple[DType, tuple[int, ...], bool]:
    """The element type, the shape of an element that is an array itself, and whether bytes are to be swapped."""
    h5t = file.h5py.h5t
    if kind.get_class() == h5t.OPAQUE:
        return _opaque(file, dataset, kind.get_size()), (), False
    if kind.get_class() == h5t.FLOAT and kind.get_size() == 2 and tuple(kind.get_fields()) == _BFLOAT16:
        return from_name("bfloat16"), (), kind.get_order() == h5t.ORDER_BE
    try:
        numpy = kind.dtype
    except TypeError as error:
        raise UnsupportedFeatureError(f"its elements are of a type that NumPy lacks: {error}") from None
    inner: tuple[int, ...] = ()
    if numpy.subdtype is not None:
        numpy, inner = numpy.subdtype
    if numpy.hasobject or numpy.itemsize * prod(inner) != kind.get_size():
        raise UnsupportedFeatureError(f"its elements ({numpy}, of {kind.get_size()} bytes) are of no type known here")
    dtype = from_numpy(numpy)
    swap = dtype.core and not numpy.isnative
    return dtype, inner, swap


def _opaque(file: Hdf5File, dataset: Any, nbytes: int) -> DType:
    """The type that the dataset's attribute gives; raw bytes without one."""
    said = file.attribute(dataset, TYPE_ATTRIBUTE)
    if isinstance(said, bytes):
        said = said.decode("utf-8", "replace")
    known = DTYPES.get(said) if isinstance(said, str) else None
    if known is not None:
        if known.bits != 8 * nbytes:
            raise FormatError(f"opaque elements of {nbytes} bytes are said to be {said}")
        return known
    return from_numpy(np.dtype(f"V{nbytes}"))


def _strings(file: Hdf5File, dataset: Any, shape: tuple[int, ...]) -> TensorEntry:
    """Strings of any length, which lie scattered among the structures: they are read with them."""
    count = prod(shape)
    stored = int(dataset.id.get_storage_size())
    if count * 16 > max(_MOST_UNSTORED, stored):
        raise FormatError(f"{count} strings by its shape, but {stored} bytes are stored")
    with file.strings(count):
        values = np.asarray(dataset[()], object).reshape(-1)
    texts = np.empty(count, object)
    texts[:] = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    return TensorEntry(STRING, shape, (Piece(Inline(encode_strings(texts)), (Strings(count),)),))


# --- where the bytes are ----------------------------------------------------------------------------
class _Place:
    """Where the bytes of one dataset are."""

    def __init__(self, file: Hdf5File, dataset: Any, plan: Any, item: int, source: int) -> None:
        self.file, self.dataset, self.plan, self.item, self.source = file, dataset, plan, item, source
        self.stored = int(dataset.id.get_storage_size())

    def pieces(self, shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[Piece, ...]:
        """The pieces of an array of this shape; ``steps`` follow on those of its storage."""
        h5d = self.file.h5py.h5d
        nbytes = prod(shape) * self.item
        layout = self.plan.get_layout()
        limit = self.stored * _MAX_RATIO if layout == h5d.CHUNKED else self.stored
        if nbytes > max(_MOST_UNSTORED, limit):
            raise FormatError(f"{nbytes} bytes by its shape {list(shape)}, but {self.stored} are stored")
        if nbytes == 0:
            return (Piece(Fill(0)),)
        if layout == h5d.CHUNKED:
            return self._chunks(shape, steps)
        if layout == h5d.COMPACT:
            return (Piece(Inline(self._compact(nbytes)), steps),)
        offset = self.dataset.id.get_offset()
        if offset is None:
            fill = self._fill()
            return (Piece(Inline(fill * prod(shape)), steps) if any(fill) else Piece(Fill(nbytes)),)
        if self.stored != nbytes:
            raise FormatError(f"{nbytes} bytes by its shape {list(shape)}, but {self.stored} are stored")
        return (Piece(self._extent(int(offset), nbytes), steps),)

    def _extent(self, offset: int, nbytes: int) -> Extent:
        if offset + nbytes > self.file.size:
            raise FormatError(
                f"it lies at {offset} to {offset + nbytes} of an HDF5 file of {self.file.size} bytes",
                offset=self.file.begin + offset,
                end=self.file.begin + offset + nbytes,
            )
        return Extent(self.source, self.file.begin + offset, nbytes)

    def _compact(self, nbytes: int) -> bytes:
        """The bytes of a dataset that lies in its own header, in the order in which they are stored."""
        raw = np.empty(nbytes, np.uint8)
        h5py = self.file.h5py
        self.dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, self.dataset.id.get_type())
        return raw.tobytes()

    def _fill(self) -> bytes:
        """The element that stands where nothing is stored, as it would be stored; zeros unless it says another."""
        h5py = self.file.h5py
        if self.plan.fill_value_defined() != h5py.h5d.FILL_VALUE_USER_DEFINED:
            return bytes(self.item)
        value = np.zeros((), self.dataset.dtype)
        self.plan.get_fill_value(value)
        return value.tobytes()

    def _chunks(self, shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[Piece, ...]:
        chunk = tuple(int(n) for n in self.plan.get_chunk())
        names = self._filters()
        found: list[tuple[tuple[int, ...], int, int, int]] = []
        full = prod(chunk) * self.item
        bound = max(_MOST_UNSTORED, self.stored * _MAX_RATIO)
        if full > bound:
            raise FormatError(f"chunks of {full} bytes, but {self.stored} are stored altogether")

        def add(info: Any) -> None:
            found.append(
                (tuple(map(int, info.chunk_offset)), int(info.filter_mask), int(info.byte_offset), int(info.size))
            )

        if self.dataset.id.get_num_chunks() > _MOST_CHUNKS:
            raise FormatError(f"more than {_MOST_CHUNKS} chunks")
        self.dataset.id.chunk_iter(add)
        found.sort(key=lambda one: one[2])
        for origin, mask, _, size in found:
            if any(o % c or o >= n for o, c, n in zip(origin, chunk, shape, strict=True)):
                raise FormatError(f"a chunk begins at {list(origin)}, outside of {list(shape)}")
            if size != full and not any(not mask >> i & 1 for i in range(len(names))):
                raise FormatError(f"the chunk at {list(origin)} has {size} bytes, expected {full}")
        if len({origin for origin, *_ in found}) != len(found):
            raise FormatError("two chunks lie at one place")
        fill = self._fill()
        step = Chunks(
            self.item, shape, chunk, tuple(f[0] for f in found), tuple(f[3] for f in found),
            tuple(f[1] for f in found), names, fill if any(fill) else b"",
        )  # fmt: skip
        extents = tuple(self._extent(f[2], f[3]) for f in found)
        where = Chain(extents) if extents else Inline(b"")
        return (Piece(where, (step, *steps)),)

    def _filters(self) -> tuple[str, ...]:
        names = []
        for i in range(self.plan.get_nfilters()):
            number = int(self.plan.get_filter(i)[0])
            if number not in _FILTERS:
                known = f"{_NAMED_FILTERS.get(number, 'unknown')} (number {number})"
                raise UnsupportedFeatureError(
                    f"it is compressed by the HDF5 filter {known}; known are {', '.join(_FILTERS.values())}: "
                    'write it with compression="gzip" or none'
                )
            names.append(_FILTERS[number])
        return tuple(names)
