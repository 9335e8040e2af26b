"""Arrays and scalars in a pickle of NumPy as rows of a table and as plain values."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, from_numpy
from weightlift._layout import Extent, Inline, Piece, TensorEntry
from weightlift._steps import Byteswap
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._numpy_vocabulary import NumpyArray
from weightlift.formats._pickle import Blob

__all__ = ["array_row", "nested", "plain_value"]

_NUMBERS = (bool, int, float, complex)


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


def array_row(array: NumpyArray) -> TensorEntry:
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
    held = _raw(data, nbytes)
    return Inline(held), len(held)


def _raw(data: bytes | str, nbytes: int) -> bytes:
    """The bytes of elements; Python 2 did not tell text from bytes, and only one way back gives the right length."""
    if isinstance(data, bytes):
        return data
    raw = data.encode("utf-8", "surrogatepass")
    if len(raw) == nbytes:
        return raw
    try:
        return data.encode("latin-1")
    except UnicodeEncodeError:
        raise FormatError("an array's elements are text") from None


def plain_value(scalar: NumpyArray) -> Any:
    """A scalar of NumPy, whose bytes are held, as the value of Python that has all of its bits.

    Raises:
        UnsupportedFeatureError: Python has no such value: dates, long doubles, records.
        FormatError: It has other bytes than its type needs, or text that is none.
    """
    if scalar.dtype is None or isinstance(scalar.data, Blob):
        raise FormatError("the pickle holds a scalar that it never sets")
    kind = scalar.dtype.resolved()
    data = _raw(scalar.data, kind.itemsize)
    if len(data) != kind.itemsize:
        raise FormatError(f"a scalar of {kind} takes {kind.itemsize} bytes, the pickle holds {len(data)}")
    if kind.kind == "S":
        return data.rstrip(b"\0")
    if kind.kind == "U":
        return _text(data, kind)
    value = np.frombuffer(data, kind)[0]
    if kind.kind in "biufc" and type(found := value.item()) in _NUMBERS:
        return found
    if kind.name in DTYPES and kind.name.startswith(("bfloat", "float")):
        return float(value)
    raise UnsupportedFeatureError(f"a NumPy scalar of {kind}, which no plain value stands for")


def _text(data: bytes, kind: np.dtype[Any]) -> str:
    """Text of NumPy, which itself fails on what is no character."""
    try:
        return data.decode("utf-32-le" if kind.str[0] == "<" else "utf-32-be").rstrip("\0")
    except UnicodeDecodeError as error:
        raise FormatError(f"a scalar of {kind} is no text: {error}") from None
