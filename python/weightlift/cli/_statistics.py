"""Statistics and a histogram of numbers that arrive in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Histogram", "Statistics", "as_numbers"]

Array = npt.NDArray[Any]

_NUMBERS = {
    "float4_e2m1fn": np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32),
    "int4": np.array([*range(8), *range(-8, 0)], np.int8),
    "uint4": np.arange(16, dtype=np.uint8),
}
"""Values of the types that are packed two elements a byte, by their four bits."""


def as_numbers(array: Array, dtype: str) -> Array | None:
    """One flat array of bools, integers, floats or complex numbers that NumPy computes with; None: no numbers.

    ``dtype`` is the tensor's type by name: packed types come as bytes, low four bits first.
    """
    table = _NUMBERS.get(dtype)
    if table is not None:
        packed = array.reshape(-1).view(np.uint8)
        return table[np.stack((packed & 15, packed >> 4), axis=-1)].reshape(-1)
    if array.dtype.kind in "biufc":
        return array.reshape(-1)
    if array.dtype.kind == "V" and array.dtype.names is None and np.can_cast(array.dtype, np.float32, "unsafe"):
        try:
            return array.reshape(-1).astype(np.float32)  # ml_dtypes: bfloat16, float8
        except (TypeError, ValueError):
            return None
    return None


@dataclass
class Statistics:
    """Of all numbers seen: how many, of which zeros, NaNs and infinities; range and moments of the finite ones.

    Complex numbers: ``minimum`` and ``maximum`` are of the absolute values.
    """

    elements: int = 0
    zeros: int = 0
    nans: int = 0
    positive_infinities: int = 0
    negative_infinities: int = 0
    finite: int = 0
    minimum: Any = None
    maximum: Any = None
    mean: Any = None
    _squares: float = field(default=0.0, repr=False)

    @property
    def std(self) -> float | None:
        """Standard deviation of the population."""
        return sqrt(self._squares / self.finite) if self.finite else None

    def add(self, numbers: Array) -> None:
        """Take in a flat array."""
        self.elements += numbers.size
        self.zeros += int(numbers.size - np.count_nonzero(numbers))
        if numbers.dtype.kind in "fc":
            numbers = self._finite(numbers)
        if not numbers.size:
            return
        if numbers.dtype.kind == "b":
            numbers = numbers.view(np.uint8)
        sizes = np.abs(numbers) if numbers.dtype.kind == "c" else numbers
        low, high = sizes.min().item(), sizes.max().item()
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)
        self._add_moments(numbers)

    def _finite(self, numbers: Array) -> Array:
        finite = np.isfinite(numbers)
        if finite.all():
            return numbers
        nans = np.isnan(numbers)
        self.nans += int(nans.sum())
        rest = numbers[~finite & ~nans].real
        self.positive_infinities += int((rest > 0).sum())
        self.negative_infinities += int((rest <= 0).sum())
        return numbers[finite]

    def _add_moments(self, numbers: Array) -> None:
        """Merge mean and squared deviations pairwise (Chan, Golub, LeVeque): stable however many pieces."""
        wide = numbers.astype(np.complex128 if numbers.dtype.kind == "c" else np.float64)
        mean = wide.mean().item()
        wide -= mean
        squares = float(np.vdot(wide, wide).real)
        before, count = self.finite, numbers.size
        self.finite += count
        if before:
            delta = mean - self.mean
            self.mean += delta * count / self.finite
            self._squares += squares + abs(delta) ** 2 * before * count / self.finite
        else:
            self.mean, self._squares = mean, squares


class Histogram:
    """Counts of the finite numbers in equal bins from ``low`` to ``high``; complex ones by absolute value."""

    def __init__(self, low: float, high: float, bins: int = 16) -> None:
        """``low < high``; both belong to the outermost bins."""
        self.edges = np.linspace(low, high, bins + 1)
        self.counts = np.zeros(bins, np.int64)

    def add(self, numbers: Array) -> None:
        """Take in a flat array."""
        if numbers.dtype.kind == "c":
            numbers = np.abs(numbers)
        self.counts += np.histogram(numbers[np.isfinite(numbers)].astype(np.float64), self.edges)[0]
