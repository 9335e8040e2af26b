"""Which steps are kept: a pure function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Best", "Retention", "best_steps"]


@dataclass(frozen=True)
class Best:
    """The ``count`` steps whose ``metric`` is best: smallest (``"min"``) or largest (``"max"``)."""

    metric: str
    count: int
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f'keep_best: the mode is "min" or "max", not {self.mode!r}')
        if self.count < 1:
            raise ValueError(f"keep_best: the count is {self.count}; it must be positive")


@dataclass(frozen=True)
class Retention:
    """What a checkpointer was told to keep.

    Attributes:
        last: So many of the newest; None: all.
        every: Steps that are multiples of this, too.
        best: The best of a metric, too.
    """

    last: int | None = 3
    every: int | None = None
    best: Best | None = None

    def __post_init__(self) -> None:
        for name, value in (("keep_last", self.last), ("keep_every", self.every)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be positive")

    def superseded(self, metrics: Mapping[int, Mapping[str, float]]) -> list[int]:
        """The steps to delete, oldest first, of those that are committed (with their metrics); never the newest."""
        if self.last is None:
            return []
        steps = sorted(metrics)
        kept = set(steps[-self.last :])
        if self.every is not None:
            kept |= {step for step in steps if step % self.every == 0}
        if self.best is not None:
            kept |= set(best_steps(metrics, self.best.metric, self.best.mode)[: self.best.count])
        return [step for step in steps if step not in kept]


def best_steps(metrics: Mapping[int, Mapping[str, float]], metric: str, mode: str = "min") -> list[int]:
    """The steps that have the metric (and not NaN), best first, of equal ones the newest."""
    found = {s: m[metric] for s, m in metrics.items() if metric in m and not math.isnan(m[metric])}
    return sorted(found, key=lambda step: (found[step] if mode == "min" else -found[step], -step))
