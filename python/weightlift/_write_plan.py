"""Write plans: a packing's placements over arrays, runs of other files, and literals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from weightlift._layout import U32
from weightlift._ops import NONE, item_sizes
from weightlift._packing import PackedFile, Packing
from weightlift._ranges import read_ranges
from weightlift._steps import Step

__all__ = ["WriteOps", "segment_parts"]

Array = npt.NDArray[Any]


class WriteColumns(NamedTuple):
    """The columns of ``_core.execute_write``, by their names there."""

    file: Array
    source: Array
    offset: Array
    nbytes: Array
    start: Array
    pipeline: Array
    tensor: Array


class WriteOps:
    """The columns of a write plan: a packing's placements over sources, segments and literals.

    Attributes:
        sources: As ``_core.execute_write`` takes them.
        pipeline: Of each tensor.
        ratio: (bytes an element read, bytes written), for tensors in segments that are converted.
    """

    def __init__(self, packing: Packing, sources: Sequence[Any]) -> None:
        """Begin with one source a tensor."""
        self.sources = list(sources)
        self._placed = packing.placements
        self._tensors = len(sources)
        self.pipeline: U32 = np.full(len(sources), NONE, np.uint32)
        self.ratio: dict[int, tuple[int, int]] = {}
        self._segmented: set[int] = set()
        self._order: Array = np.zeros(0, np.intp)
        self._first: list[int] = []
        self._rows: list[tuple[int, int, int, int, int, int, int]] = []

    def add_segments(self, tensor: int, segments: Sequence[tuple[int, int, int, int]]) -> None:
        """Take a tensor from stored runs of other files instead."""
        self._segmented.add(tensor)
        read, written = self.ratio.get(tensor, (1, 1))
        placed = self._placed
        spans = [
            (int(placed.start[k]), int(placed.nbytes[k]), int(placed.file[k]), int(placed.offset[k]))
            for k in self._placements_of(tensor)
        ]
        at = 0
        for segment in segments:
            number, size = len(self.sources), segment[2] // read * written
            self.sources.append(segment)
            for start, nbytes, file, offset in spans:
                begin, end = max(start, at), min(start + nbytes, at + size)
                if begin < end:
                    where = offset + begin - start
                    self._rows.append(
                        (file, number, where, end - begin, begin - at, int(self.pipeline[tensor]), tensor)
                    )
            at += size

    def _placements_of(self, tensor: int) -> Array:
        """Rows of the placements that hold parts of a tensor, in order."""
        if not self._first:  # one sort instead of a search through all for each of a hundred thousand tensors
            self._order = np.argsort(self._placed.tensor, kind="stable")
            numbers = np.arange(self._tensors + 1)
            self._first = np.searchsorted(self._placed.tensor[self._order], numbers).tolist()
        return self._order[self._first[tensor] : self._first[tensor + 1]]

    def add_literals(self, files: Sequence[PackedFile]) -> None:
        """The bytes between tensors."""
        for number, file in enumerate(files):
            for offset, data in file.literals:
                if data:
                    self._rows.append((number, len(self.sources), offset, len(data), 0, NONE, NONE))
                    self.sources.append(data)

    def columns(self, only: int | None = None) -> WriteColumns:
        """The plan, sorted by file and offset; ``only``: what goes into the file of this number."""
        placed = self._placed
        whole: tuple[Array, ...] = (
            placed.file, placed.tensor, placed.offset, placed.nbytes, placed.start,
            self.pipeline[placed.tensor], placed.tensor,
        )  # fmt: skip
        if self._segmented:
            keep = ~np.isin(placed.tensor, list(self._segmented))
            whole = tuple(column[keep] for column in whole)
        extra = np.array(self._rows, np.uint64).reshape(-1, 7).T
        types = (np.uint32, np.uint32, np.uint64, np.uint64, np.uint64, np.uint32, np.uint32)
        columns = [np.concatenate([a, b.astype(t)], dtype=t) for a, b, t in zip(whole, extra, types, strict=True)]
        order = np.lexsort((columns[2], columns[0]))
        if only is not None:
            order = order[columns[0][order] == only]
        return WriteColumns(*(c[order] for c in columns))


def segment_parts(
    readers: Sequence[Any], segments: Sequence[tuple[int, int, int, int]], steps: tuple[Step, ...], part: int = 16 << 20
) -> Iterator[Array]:
    """Stored runs of files, (reader, offset, nbytes, check) each, converted, about ``part`` bytes at a time.

    No checksum is compared here; the memory is reused.
    """
    read, written = (item_sizes(steps[0])[0], item_sizes(steps[-1])[1]) if steps else (1, 1)
    per = max(1, part // read)
    for reader, offset, nbytes, _ in segments:
        count = nbytes // read
        memory = np.empty(min(per, count) * written, np.uint8)
        for begin in range(0, count, per):
            n = min(per, count - begin)
            made = memory[: n * written]
            read_ranges(readers[reader], [(offset + begin * read, n * read)], made, steps=steps)
            yield made
