"""Arrays in the pickle of an npy file: a list or a dict that ``np.save`` was given.

Such a file holds an array of Python objects: of no axes around a dict, of one axis for a list. What is in it comes
back as lists and dicts of tensors, each of which is an extent of the file, because a pickle holds an array's elements
as one string of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from weightlift._dtypes import from_numpy
from weightlift._layout import Extent, Inline, Piece, TensorEntry
from weightlift._steps import Byteswap
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._numpy_vocabulary import NumpyArray, NumpyVocabulary
from weightlift.formats._pickle import Blob, Pickled, decode_pickle
from weightlift.formats._torch_tree import TableWalk

__all__ = ["ArrayWalk", "check_repeated", "decode_objects"]

_MAX_RATIO = 1032
_ALWAYS = 64 << 20
"""Arrays may be named more than once: bytes that all of them take, times the file's and at least; see _torch_rows."""


class ArrayWalk(TableWalk):
    """The arrays in an object, by name."""

    array = NumpyArray
    leaves = (NumpyArray,)

    def _node(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Blob):
            value = value.data
            if value is None:
                raise UnsupportedFeatureError(f"the pickle holds long bytes at {'.'.join(path) or 'the top'}")
        if isinstance(value, NumpyArray) and value.items is not None:
            value = nested(value)
        return super()._node(value, path)

    def _entry(self, value: Any) -> TensorEntry:
        return entry_of(value)


def decode_objects(
    data: Pickled, shape: tuple[int, ...], *, where: int, located: bool, skip_unsafe: bool, under: tuple[str, ...] = ()
) -> ArrayWalk:
    """What an array of objects holds.

    Args:
        data: Its pickle, and nothing else.
        shape: As its header says.
        where: Offset of ``data`` in the file.
        located: Arrays are extents of the file; else their bytes are in the table.
        skip_unsafe: Leave out what is code.
        under: Path in front of all names.

    Raises:
        UnsafeContentError: It names code.
        FormatError: It is malformed.
    """
    root, end = decode_pickle(data, NumpyVocabulary(skip_unsafe=skip_unsafe), where=where, located=located)
    if end != len(data):
        raise FormatError(f"{len(data) - end} bytes after the pickle", offset=where + end, end=where + len(data))
    if not isinstance(root, NumpyArray) or root.items is None:
        raise FormatError("the pickle is not of an array of objects, which the header speaks of", offset=where)
    if root.shape != shape:
        raise FormatError(
            f"the pickle is of an array of shape {list(root.shape)}, the header says {list(shape)}", offset=where
        )
    read = getattr(data, "fetched", end)
    return ArrayWalk(nested(root), budget=10 * read + 1000, under=under)


def nested(array: NumpyArray) -> Any:
    """The objects of an array: the one of an array without axes, else lists of lists."""
    items = array.items or []
    if not array.shape:
        return items[0]
    if not items:
        return []
    level = items
    for size in array.shape[:0:-1]:
        level = [level[i : i + size] for i in range(0, len(level), size)]
    return level


def entry_of(array: NumpyArray) -> TensorEntry:
    """The row of an array."""
    if array.dtype is None:
        raise FormatError("the pickle holds an array that it never sets")
    if array.dtype.objects:
        raise UnsafeContentError("the pickle holds Python objects in place of elements")
    stored = array.dtype.resolved()
    if stored.itemsize == 0 or stored.hasobject:
        raise UnsupportedFeatureError(f"elements of type {stored}")
    dtype = from_numpy(stored)
    steps = (Byteswap(dtype.word, dtype.bits // 8),) if dtype.core and not stored.isnative else ()
    nbytes = prod(array.shape) * stored.itemsize
    where, found = _where(array.data, nbytes)
    if found != nbytes:
        raise FormatError(f"{dtype} of shape {list(array.shape)} takes {nbytes} bytes, the pickle holds {found}")
    both_orders = nbytes == 0 or sum(n != 1 for n in array.shape) < 2
    strides = None
    if array.fortran and not both_orders:
        strides = tuple(stored.itemsize * prod(array.shape[:axis]) for axis in range(len(array.shape)))
    return TensorEntry(dtype, array.shape, (Piece(where, steps),), strides)


def _where(data: Blob | bytes | str, nbytes: int) -> tuple[Extent | Inline, int]:
    """Where an array's elements are, and how many bytes they take."""
    if isinstance(data, Blob):
        return Extent(0, data.offset, data.nbytes), data.nbytes
    if isinstance(data, str):  # Python 2 did not tell text from bytes; only one way back gives the right length
        raw = data.encode("utf-8")
        if len(raw) != nbytes:
            try:
                raw = data.encode("latin-1")
            except UnicodeEncodeError:
                raise FormatError("an array's elements are text") from None
        data = raw
    return Inline(data), len(data)


def check_repeated(entries: Mapping[str, TensorEntry], size: int) -> None:
    """UnsafeContentError where naming arrays again and again makes far more of a file's ``size`` bytes."""
    total = sum(entry.nbytes for entry in entries.values())
    limit = max(_MAX_RATIO * size, _ALWAYS)
    if total > limit:
        raise UnsafeContentError(
            f"the arrays take {total} bytes by naming some again and again, in a file of {size}; at most {limit} "
            "are made"
        )
