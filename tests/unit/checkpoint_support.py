"""What the tests of checkpoints share."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weightlift.checkpoint import Checkpointer, Sharded


def save_all(folder: Path, states: dict[int, Any], **options: Any) -> None:
    with Checkpointer(folder, keep_last=None, **options) as checkpointer:
        for step, state in states.items():
            checkpointer.save(step, state, blocking=True)


def restored(folder: Path, step: Any = "latest", **options: Any) -> Any:
    return Checkpointer(folder).restore(step, **options)


def equal(a: Any, b: Any) -> bool:
    """Values and types, with NaN equal to itself."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def together(count: int, job: Callable[[int], Any]) -> list[Any]:
    """What ``job`` gives, or raises, on each rank; threads stand for processes."""
    results: list[Any] = [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = job(rank)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def rows(whole: np.ndarray, rank: int, count: int) -> Sharded:
    """A rank's rows of an array."""
    begin, end = len(whole) * rank // count, len(whole) * (rank + 1) // count
    return Sharded(whole.shape, [((begin, *(0 for _ in whole.shape[1:])), whole[begin:end].copy())])
