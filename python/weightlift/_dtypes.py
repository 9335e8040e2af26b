"""Element types: the core's one table, joined to NumPy and ml_dtypes.

A :class:`DType` names what is stored. Sub-byte types (``float4_e2m1fn``, ``int4``, ``uint4``) are packed
two elements a byte and travel as ``uint8`` arrays whose last axis holds bytes. Types that only NumPy knows
(fixed-width strings, datetimes, structs) get a DType of their own and travel as raw bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from weightlift import _core
from weightlift.errors import UnsupportedFeatureError

__all__ = ["DTYPES", "STRING", "DType", "array_shape", "byte_size", "from_name", "from_numpy"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: NumPy's or ml_dtypes' name (``"float32"``, ``"bfloat16"``); for NumPy-only types its ``str``.
        bits: Bits an element takes in storage.
        word: Bytes of one byte-order unit (4 for complex64; 1 where order does not matter).
        numpy: The type of arrays that hold it, native byte order; ``uint8`` for packed types.
        core: Known to the core's table (casts, formats other than NumPy's own).
    """

    name: str
    bits: int
    word: int
    numpy: np.dtype[Any]
    core: bool = True

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte."""
        return self.bits % 8 != 0

    def __str__(self) -> str:
        """The name."""
        return self.name


_PACKED = {"float4_e2m1fn", "int4", "uint4"}


def _numpy_type(name: str) -> np.dtype[Any]:
    if name in _PACKED:
        return np.dtype(np.uint8)
    return np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)


DTYPES: dict[str, DType] = {
    name: DType(name, bits, word, _numpy_type(name)) for name, bits, word in _core.dtype_table()
}
"""Every element type of the core, by name, in code order."""

STRING = DType("string", 0, 1, np.dtype(object), core=False)
"""Strings of any length: object arrays of ``bytes`` (TensorFlow.js, as TensorFlow's own ``.numpy()``)."""

_BY_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES.values() if not d.packed}


def from_name(name: str) -> DType:
    """The DType called ``name``; UnsupportedFeatureError lists the known ones."""
    found = DTYPES.get(name)
    if found is None:
        raise UnsupportedFeatureError(f"unknown dtype {name!r}; known are {', '.join(DTYPES)}")
    return found


@lru_cache(maxsize=1024)
def from_numpy(dtype: np.dtype[Any]) -> DType:
    """The DType of arrays of ``dtype``, whatever its byte order; object dtypes are refused by name."""
    found = _BY_NUMPY.get(dtype) or _BY_NUMPY.get(dtype.newbyteorder("="))
    if found is not None:
        return found
    if dtype.hasobject:
        raise UnsupportedFeatureError(
            f"dtype {dtype} holds Python objects, which would need pickle; save plain arrays, or a dict or list of them"
        )
    return DType(str(dtype), dtype.itemsize * 8, 1, dtype, core=False)


def byte_size(dtype: DType, shape: tuple[int, ...]) -> int:
    """Bytes that ``shape`` elements take, exact (Python integers do not overflow)."""
    bits = prod(shape) * dtype.bits
    if bits % 8:
        raise UnsupportedFeatureError(f"{dtype} of shape {list(shape)} does not fill whole bytes")
    return bits // 8


def array_shape(dtype: DType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the array that holds it: ``shape``, or its packed form in bytes."""
    if not dtype.packed:
        return shape
    per_byte = 8 // dtype.bits
    if shape and shape[-1] % per_byte == 0:
        return (*shape[:-1], shape[-1] // per_byte)
    return (byte_size(dtype, shape),)
