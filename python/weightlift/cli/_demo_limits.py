"""How fast this machine moves bytes without any library: what the demo's rates are measured against."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

__all__ = ["Limits", "measure_limits", "sync_directory", "timed", "warm"]

Bytes = npt.NDArray[np.uint8]

_BLOCK = 8 << 20


@dataclass(frozen=True)
class Limits:
    """Bytes a second, each the best of one thread and of one thread a core.

    Attributes:
        memcpy: Memory to memory.
        read: A plain ``preadv`` loop from the page cache into memory that exists already.
        write: A plain ``write`` loop to a new file, then ``fsync``.
        threads: Cores that this process may use.
    """

    memcpy: float
    read: float
    write: float
    threads: int


def measure_limits(place: Path, nbytes: int, rounds: int) -> Limits:
    """Measure in a scratch file of ``nbytes`` random bytes, which is removed again."""
    threads = len(os.sched_getaffinity(0))
    source = np.frombuffer(np.random.default_rng(0).bytes(nbytes), np.uint8)
    target = np.ones(nbytes, np.uint8)  # ones: every page exists before the clock starts
    path = place / "limits.bin"
    try:
        write = _rate(nbytes, timed(lambda: _write(path, source), rounds))
        warm([path])
        memcpy = read = 0.0
        for workers in {1, threads}:
            with ThreadPoolExecutor(workers) as pool:
                memcpy = max(memcpy, _rate(nbytes, timed(lambda: _copy(pool, source, target), rounds + 1)))
                read = max(read, _rate(nbytes, timed(lambda: _read(pool, path, target), rounds + 1)))
    finally:
        path.unlink(missing_ok=True)
    return Limits(memcpy, read, write, threads)


def timed(work: Callable[[], object], rounds: int, budget: float = 3.0) -> float:
    """Median seconds of ``rounds`` calls; fewer when they take more than ``budget`` seconds together."""
    times: list[float] = []
    while not times or (len(times) < rounds and sum(times) < budget):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return median(times)


def warm(files: list[Path]) -> None:
    """Read files once, so that they are in the page cache."""
    scratch = bytearray(_BLOCK)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(scratch):
                pass


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rate(nbytes: int, elapsed: float) -> float:
    return nbytes / elapsed


def _blocks(nbytes: int) -> Iterator[slice]:
    return (slice(begin, min(begin + _BLOCK, nbytes)) for begin in range(0, nbytes, _BLOCK))


def _copy(pool: ThreadPoolExecutor, source: Bytes, target: Bytes) -> None:
    list(pool.map(lambda block: np.copyto(target[block], source[block]), _blocks(len(source))))


def _read(pool: ThreadPoolExecutor, path: Path, target: Bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY)

    def block(part: slice) -> None:
        at, view = part.start, target[part].data
        while view:
            got = os.preadv(descriptor, [view], at)
            if got == 0:
                raise EOFError(f"{path} is shorter than it was")
            at, view = at + got, view[got:]

    try:
        list(pool.map(block, _blocks(len(target))))
    finally:
        os.close(descriptor)


def _write(path: Path, source: Bytes) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb", buffering=0) as file:
        for part in _blocks(len(source)):
            view = source[part].data
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    sync_directory(path.parent)
