"""Checksums for the formats: the core's of small parts, which they put together, and checksums as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._core import crc32, crc32_combine, crc32c, crc32c_combine

__all__ = ["NamedSums", "crc32", "crc32_combine", "crc32c", "crc32c_combine", "from_hex", "to_hex"]


def to_hex(sums: npt.NDArray[np.integer[Any]]) -> str:
    """Eight lower-case hexadecimal digits for each of 32 bits."""
    return sums.astype(">u4").tobytes().hex()


def from_hex(text: object, count: int) -> npt.NDArray[np.uint32] | None:
    """So many checksums, of exactly what ``to_hex`` writes; None of anything else.

    No other letter means the same: a bit that turned a small letter into a capital one would be damage to whoever
    compares the bytes, and none to whoever compares the numbers.
    """
    if not isinstance(text, str) or len(text) != 8 * count:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return np.frombuffer(raw, ">u4").astype(np.uint32) if raw.hex() == text else None


class NamedSums(Mapping[str, int]):
    """Checksums by tensor name; the table is made when it is first looked into, as most never are."""

    def __init__(self, names: Sequence[str], sums: npt.NDArray[np.uint32]) -> None:
        """One value a name; neither may change."""
        self._names, self._sums = names, sums

    @cached_property
    def _table(self) -> dict[str, int]:
        return dict(zip(self._names, self._sums.tolist(), strict=True))

    def __getitem__(self, name: str) -> int:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(self._table)
