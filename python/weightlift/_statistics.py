"""Statistics and a histogram of a tensor, from numbers that arrive in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._chunks import iter_chunks
from weightlift._ops import Progress
from weightlift._source import Row

__all__ = ["PIECE", "Histogram", "Statistics", "as_numbers", "is_number", "pieces", "summarize"]

PIECE = 1 << 20
"""Elements a piece."""

Array = npt.NDArray[Any]

_PACKED: dict[str, Array] = {
    "float4_e2m1fn": np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32),
    "int4": np.array([*range(8), *range(-8, 0)], np.int8),
    "uint4": np.arange(16, dtype=np.uint8),
}
"""Values of the types that are packed two elements a byte, by their four bits."""


def as_numbers(array: Array, dtype: str) -> Array:
    """The elements of a flat array: those of packed types, which come as bytes, unpacked; all else as it is.

    ``dtype`` is the tensor's type by name. The low four bits of a byte are the first element.
    """
    table = _PACKED.get(dtype)
    if table is None:
        return array
    packed = array.view(np.uint8)
    return table[np.stack((packed & 15, packed >> 4), axis=-1)].reshape(-1)


def is_number(dtype: np.dtype[Any]) -> bool:
    """Whether there is arithmetic for a dtype: NumPy's own numbers and the small floats of ml_dtypes."""
    return dtype.kind in "biufc" or (dtype.kind == "V" and not issubclass(dtype.type, np.void))


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
        if numbers.dtype.kind == "V":
            numbers = numbers.astype(np.float32)
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
        wide = numbers.astype(np.float64)
        self.counts += np.histogram(wide[np.isfinite(wide)], self.edges)[0]


def pieces(row: Row, *, stored_order: bool = False) -> Iterator[Array]:
    """Flat arrays of at most ``PIECE`` elements of a tensor; each is valid until the next.

    Elements are as NumPy computes with them, packed types unpacked; in C order, or in that of the file where that is
    ``stored_order`` and cheaper.
    """
    dtype = str(row.dtype)
    for chunk in iter_chunks(row.source, row.number, stored_order=stored_order):
        for begin in range(0, chunk.size, PIECE):
            yield as_numbers(chunk[begin : begin + PIECE], dtype)


def summarize(
    row: Row, *, bins: int = 16, progress: Progress | None = None
) -> tuple[Statistics | None, Histogram | None]:
    """Statistics in one pass, a histogram of their range in a second; None for what are no numbers."""
    done, total = 0, 2 * row.nbytes

    def feed(add: Callable[[Array], None]) -> None:
        nonlocal done
        for piece in pieces(row, stored_order=True):
            add(piece)
            done += piece.nbytes
            if progress is not None:
                progress(done, total)

    if not is_number(next(pieces(row), np.empty(0)).dtype):
        return None, None
    statistics = Statistics()
    feed(statistics.add)
    low, high = statistics.minimum, statistics.maximum
    if statistics.finite < 2 or low == high:
        return statistics, None
    histogram = Histogram(low, high, bins)
    feed(histogram.add)
    return statistics, histogram
