"""What every plan is made of: steps in the core's spelling, and read ops in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import DTYPES
from weightlift._layout import U8, U32, U64, TensorTable
from weightlift._steps import AffineDecode, AffineEncode, Byteswap, Cast, Step, UpperHalf
from weightlift.errors import UnsupportedFeatureError

__all__ = [
    "NONE",
    "BufferPool",
    "Checks",
    "Counter",
    "Pipelines",
    "Progress",
    "ReadColumns",
    "ReadOps",
    "block",
    "check_columns",
    "core_steps",
    "item_sizes",
]

NONE = 0xFFFFFFFF
"""In a column: no buffer, no pipeline, no tensor."""

BufferPool = _core.BufferPool
Array = npt.NDArray[Any]
Progress = Callable[[int, int], object]


def block(nbytes: int, pool: BufferPool | None = None) -> npt.NDArray[np.uint8]:
    """Memory on huge pages that begins on a page; of a pool, to which it goes back once nobody has an array over it."""
    return np.frombuffer(memoryview(_core.Buffer(nbytes, pool)), np.uint8) if nbytes else np.empty(0, np.uint8)


def core_steps(steps: Iterable[Step]) -> list[_core.Step]:
    """Fixed-size steps in the core's spelling."""
    return [core for step in steps for core in _core_steps(step)]


def _core_steps(step: Step) -> list[_core.Step]:
    if isinstance(step, Byteswap):
        return [("byteswap", step.word, step.item)]
    if isinstance(step, Cast):
        if not _core.can_cast(step.source, step.target):
            raise UnsupportedFeatureError(f"there is no conversion from {step.source} to {step.target}")
        return [("cast", step.source, step.target, step.saturate)]
    if isinstance(step, UpperHalf):  # by integers, which have no payloads that a conversion could lose
        return [("byteswap", 4, 4), ("cast", "uint32", "uint16", False), ("byteswap", 2, 2)]
    if isinstance(step, AffineDecode):
        return [("affine_decode", step.stored, step.target, step.scale, step.min)]
    if isinstance(step, AffineEncode):
        return [("affine_encode", step.stored, step.scale, step.min, step.max)]
    raise TypeError(f"{type(step).__name__} is not a fixed-size step")


def item_sizes(step: Step) -> tuple[int, int]:
    """Bytes an element takes before and after a fixed-size step."""
    if isinstance(step, Byteswap):
        return step.item, step.item
    if isinstance(step, (Cast, UpperHalf)):
        return DTYPES[step.source].bits // 8, DTYPES[step.target].bits // 8
    if isinstance(step, AffineDecode):
        return DTYPES[step.stored].bits // 8, DTYPES[step.target].bits // 8
    if isinstance(step, AffineEncode):
        return 4, DTYPES[step.stored].bits // 8
    raise TypeError(f"{type(step).__name__} is not a fixed-size step")


class Pipelines:
    """Distinct chains of steps, numbered in order of first use."""

    def __init__(self) -> None:
        """Empty."""
        self.columns: list[list[_core.Step]] = []
        self._index: dict[tuple[Step, ...], int] = {}

    def add(self, steps: tuple[Step, ...]) -> int:
        """The number of a chain; NONE for the empty one."""
        if not steps:
            return NONE
        found = self._index.get(steps)
        if found is None:
            found = self._index[steps] = len(self.columns)
            self.columns.append(core_steps(steps))
        return found

    def add_own(self, steps: tuple[Step, ...]) -> int:
        """The number of a chain that nothing else shares."""
        self.columns.append(core_steps(steps))
        return len(self.columns) - 1


class ReadOps(NamedTuple):
    """The columns of ``_core.execute_read``, in its order."""

    source: U32
    tensor: U32
    offset: U64
    nbytes: U64
    buffer: U32
    dest: U64
    pipeline: U32


@dataclass
class ReadColumns:
    """Read ops, gathered as arrays for many rows at once or one by one."""

    pipelines: Pipelines = field(default_factory=Pipelines)
    blocks: list[tuple[Any, ...]] = field(default_factory=list)
    ops: list[tuple[int, int, int, int, int, int, int]] = field(default_factory=list)

    def many(self, tensor: U32, source: U32, offset: U64, nbytes: U64, buffer: U32, dest: U64) -> None:
        self.blocks.append((source, tensor, offset, nbytes, buffer, dest, np.full(len(tensor), NONE, np.uint32)))

    def one(
        self, tensor: int, source: int, offset: int, nbytes: int, buffer: int, dest: int, steps: tuple[Step, ...] = ()
    ) -> None:
        self.ops.append((source, tensor, offset, nbytes, buffer, dest, self.pipelines.add(steps)))

    def finish(self) -> ReadOps:
        """The columns of all."""
        if self.ops:
            self.blocks.append(tuple(np.array(column, np.uint64) for column in zip(*self.ops, strict=True)))
        if not self.blocks:
            self.blocks.append(tuple(np.zeros(0, t) for t in COLUMN_TYPES))
        columns = zip(*self.blocks, strict=True)
        typed: list[Array] = [
            np.concatenate(c).astype(t, copy=False) for c, t in zip(columns, COLUMN_TYPES, strict=True)
        ]
        return ReadOps(*typed)


COLUMN_TYPES = (np.uint32, np.uint32, np.uint64, np.uint64, np.uint32, np.uint64, np.uint32)


class Checks(NamedTuple):
    """The checksum columns of ``_core.execute_read``, in its order."""

    kind: U8 | None = None
    initial: U32 | None = None
    expected: U32 | None = None
    verify: U8 | None = None


def check_columns(table: TensorTable, rows: U32) -> Checks:
    """The core's checksum columns, for these rows alone: kind, initial, expected, verify."""
    chosen = np.zeros(len(table), np.uint8)
    chosen[rows] = 1
    return Checks(table.check_kind * chosen, table.check_initial, table.check_value, chosen)


class Counter:
    """Progress over the core's bytes and then the decoded lane's."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def core(self, done: int, _total: int) -> None:
        self.done = done
        if self.progress is not None:
            self.progress(done, self.total)

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)
