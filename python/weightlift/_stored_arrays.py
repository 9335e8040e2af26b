"""Arrays whose chunks a library of their own decodes: what a format says of them, and what a store makes of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from weightlift.protocols import LendsReader

__all__ = ["ArrayPlace", "ArraysReader", "DecodesInto", "OpensArrays", "StoredArrays"]


@dataclass(frozen=True)
class StoredArrays:
    """Arrays whose chunks a library of their own decodes.

    Attributes:
        described_by: The file that tells of them, by its relative name, in the directory that they are in.
        names: Theirs.
        driver: ``"zarr"`` or ``"zarr3"``.
        database: They are in an OCDBT database; else each is a directory.
        complete: All chunks must be there; else those that are not are zeros, as the format says.
    """

    described_by: str
    names: Sequence[str]
    driver: str
    database: bool
    complete: bool


@dataclass(frozen=True)
class ArrayPlace:
    """An array of an :class:`ArraysReader`: its NumPy dtype, shape, and where it begins, in bytes."""

    dtype: Any
    shape: tuple[int, ...]
    offset: int


class ArraysReader(LendsReader, Protocol):
    """Decoded arrays as one file: elements in C order and native byte order, read when they are asked for."""

    @property
    def arrays(self) -> Mapping[str, ArrayPlace]:
        """Where each is, by name."""

    @property
    def stored(self) -> int:
        """Bytes of the files that they are decoded from."""


@runtime_checkable
class DecodesInto(Protocol):
    """What an :class:`ArraysReader` lends: it decodes whole arrays where they will live, without a copy between."""

    def decode_into(self, targets: Sequence[tuple[int, npt.NDArray[np.uint8]]], done: Callable[[int], None]) -> None:
        """Fill memory from each offset on; ``done`` is told the bytes of each when it is. Joins before it returns."""


@runtime_checkable
class OpensArrays(Protocol):
    """A store that opens such arrays; and the files that a parser is given, which refuse where their store does not."""

    def open_arrays(self, stored: StoredArrays) -> ArraysReader:
        """A reader of all, which takes the place of the one of ``stored.described_by``."""
