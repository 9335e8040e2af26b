"""CRC-32 (zip) of the core, for the formats: they compute checksums of small parts and put them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from weightlift._core import crc32, crc32_combine, crc32c, crc32c_combine

__all__ = ["NamedSums", "crc32", "crc32_combine", "crc32c", "crc32c_combine"]


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
