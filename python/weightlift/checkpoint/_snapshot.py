"""A copy of a state's tensors, made while the training loop waits, so that it may go on.

All tensors go into one block of memory on huge pages, which is used again for the next save (``BufferPool``): without
page faults a copy runs at the speed of the memory. Several threads copy; NumPy lets go of the GIL meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._ops import BufferPool, block
from weightlift.frameworks._torch_device import on_host

__all__ = ["Staging"]

Array = npt.NDArray[Any]
_ALIGNMENT = 4096
"""Of large tensors, so that they can be written past the page cache from where they are."""

_SMALL_ALIGNMENT = 64
_LARGE = 1 << 20
_POOL_BYTES = 1 << 46
"""Most that is kept between saves: no limit but what a state takes, times the saves in flight."""

_PIECE = 8 << 20
"""Bytes that a thread copies at a time."""


class Staging:
    """The memory that snapshots are made in, and the threads that make them."""

    def __init__(self) -> None:
        """Empty: memory is taken by the first snapshot."""
        self._pool = BufferPool(_POOL_BYTES)
        self._threads = ThreadPoolExecutor(_core.pool_threads(), "weightlift-snapshot")

    def snapshot(self, arrays: Sequence[Array], lasting: Sequence[bool] | None = None) -> list[Array]:
        """Copies of ``arrays`` in C order, but of those that last; those that are one memory stay one.

        The memory is used again once nobody has any of the copies any more.
        """
        result = list(arrays)
        rows = [i for i in range(len(arrays)) if lasting is None or not lasting[i]]
        for row, copy in zip(rows, _snapshot([arrays[i] for i in rows], self._pool, self._threads), strict=True):
            result[row] = copy
        return result

    def fetched(self, leaves: Sequence[Any]) -> list[Any]:
        """``leaves`` with copies, made in the same memory, in the place of tensors of a GPU."""
        return on_host(leaves, lambda nbytes: block(nbytes, self._pool))

    def close(self) -> None:
        """Give the memory back."""
        self._threads.shutdown()
        self._pool.clear()


def _snapshot(arrays: Sequence[Array], pool: BufferPool, threads: Executor) -> list[Array]:
    first = {i: group[0] for group in _core.shared_memory(list(arrays)) for i in group[1:]}
    places, end = [0] * len(arrays), 0
    for i, array in enumerate(arrays):
        if i not in first and array.nbytes:
            step = _ALIGNMENT if array.nbytes >= _LARGE else _SMALL_ALIGNMENT
            places[i] = -(-end // step) * step
            end = places[i] + array.nbytes
    memory = block(end, pool)
    copies: list[Array] = []
    for i, array in enumerate(arrays):
        if i in first:
            copies.append(copies[first[i]])
        else:
            copies.append(np.ndarray(array.shape, array.dtype, memory, places[i]))
    _copy([(copies[i], array) for i, array in enumerate(arrays) if i not in first], threads)
    return copies


def _copy(pairs: Sequence[tuple[Array, Array]], threads: Executor) -> None:
    """Copy each second into its first."""
    small: list[tuple[Array, Array]] = []
    large: list[tuple[Array, Array]] = []
    for target, source in pairs:
        if source.nbytes < _LARGE:
            small.append((target, source))
        elif source.flags.c_contiguous:
            a, b = target.reshape(-1).view(np.uint8), source.reshape(-1).view(np.uint8)
            large += [(a[at : at + _PIECE], b[at : at + _PIECE]) for at in range(0, len(a), _PIECE)]
        else:
            large.append((target, source))
    jobs = [threads.submit(np.copyto, target, source) for target, source in large]
    for target, source in small:
        target[...] = source
    for job in jobs:
        job.result()
