"""An array that is spread over processes: this one's boxes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from weightlift.errors import UnsupportedFeatureError

__all__ = ["Shard", "Sharded"]


@dataclass(frozen=True)
class Shard:
    """A box of an array.

    Attributes:
        begin: Where it begins in the whole array, in elements; one number an axis.
        array: Its values: NumPy, or of a framework.
        replica: 0 for the one that is written, where several processes have this box.
        presumed: Whether it is only presumed that the others have the same values: they are compared, then, before a
            step is committed.
    """

    begin: tuple[int, ...]
    array: Any
    replica: int = 0
    presumed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the box."""
        return tuple(int(n) for n in self.array.shape)


class Sharded:
    """An array that is spread over processes, in a state for :class:`weightlift.checkpoint.Checkpointer`.

    Each process gives the boxes that it has; together they must fill the array. ``restore(into=)`` reads, for each
    process, what lies in its boxes, however the array was cut when it was saved.

    Args:
        shape: Of the whole array.
        shards: The boxes of this process: :class:`Shard`, or (begin, array), or (begin, array, replica).

    Raises:
        UnsupportedFeatureError: A box reaches out of the array, or the boxes differ in type.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> half = np.arange(6.0).reshape(2, 3)  # rows 2 and 3 of four, which this process has
        >>> wl.checkpoint.Sharded((4, 3), [((2, 0), half)])
        Sharded(shape=(4, 3), boxes=[2:4, 0:3])
    """

    def __init__(self, shape: Sequence[int], shards: Iterable[Shard | tuple[Any, ...]]) -> None:
        """See the class."""
        self.shape = tuple(int(n) for n in shape)
        self.shards = tuple(s if isinstance(s, Shard) else Shard(tuple(map(int, s[0])), *s[1:]) for s in shards)
        for shard in self.shards:
            size = shard.shape
            fits = len(shard.begin) == len(size) == len(self.shape)
            if not fits or any(b < 0 or b + n > m for b, n, m in zip(shard.begin, size, self.shape, strict=True)):
                raise UnsupportedFeatureError(
                    f"a box of shape {list(size)} at {list(shard.begin)} reaches out of an array of {list(self.shape)}"
                )

    def __repr__(self) -> str:
        boxes = ("[" + ", ".join(f"{b}:{b + n}" for b, n in zip(s.begin, s.shape, strict=True)) + "]"
                 for s in self.shards)  # fmt: skip
        return f"Sharded(shape={self.shape}, boxes={', '.join(boxes)})"
