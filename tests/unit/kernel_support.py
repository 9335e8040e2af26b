"""What the tests of the kernels share."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from weightlift import _core

Array = npt.NDArray[Any]

FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
SMALL_FLOATS = ("float16", "bfloat16", *FLOAT8)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NATIVE = ("bool", *INTEGERS, "float32", "float64")
CASTABLE = (*NATIVE, *SMALL_FLOATS)
NO_INFINITY = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def words(array: Array) -> Array:
    """The bits of each element."""
    return array.view(f"u{array.dtype.itemsize}")


def run(steps: list[tuple[Any, ...]], source: Array, dtype: Any, threads: int = 1) -> Array:
    out = np.empty(source.shape, dtype)
    _core.run_pipeline(steps, source, out, threads)
    return out


def cast(source: Array, target: str, saturate: bool = False) -> Array:
    return run([("cast", source.dtype.name, target, saturate)], source, dtype_of(target))


def all_codes(name: str) -> Array:
    """Every value of a type of 8 or 16 bits."""
    dtype = dtype_of(name)
    return np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)


def assert_same_bits(got: Array, expected: Array, source: Array) -> None:
    differs = np.flatnonzero(words(got) != words(expected))
    if differs.size:
        shown = [(source[i], hex(words(got)[i]), hex(words(expected)[i])) for i in differs[:5]]
        raise AssertionError(f"{differs.size} of {got.size} differ: (source, got, expected) {shown}")
