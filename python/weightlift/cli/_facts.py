"""What is to be said about each tensor, looked up once: a hundred thousand of them are sorted, summed and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import weightlift as wl
from weightlift._dtypes import byte_size
from weightlift._globs import matches

__all__ = ["Facts", "tensor_facts"]


@dataclass(frozen=True, slots=True)
class Facts:
    """A row of ``inspect``; the fields are those of :class:`weightlift.TensorView`, types as their names."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int | None
    stored: str
    stored_nbytes: int
    checksum: str | None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def tensor_facts(weights: wl.Weights, globs: Sequence[str] = ()) -> list[Facts]:
    """The tensors whose names match one of ``globs`` (none: all), in file order."""
    result = []
    files: dict[int, str] = {}
    for name, view in weights.items():
        if globs and not matches(name, globs):
            continue
        extents = view.extents
        source = extents[0].source if extents else -1
        if source not in files:
            files[source] = view.file
        result.append(
            Facts(
                name,
                str(view.dtype),
                view.shape,
                byte_size(view.dtype, view.shape) if extents else view.nbytes,
                files[source],
                extents[0].offset if extents else None,
                view.stored,
                sum(extent.nbytes for extent in extents),
                view.checksum,
            )
        )
    return result
