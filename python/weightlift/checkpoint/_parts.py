"""A state, taken apart into the arrays that are stored, and who stores which.

An array is a whole tensor, or a piece of one: a box that this process has of a tensor that is spread over several, or
one of the pieces into which large tensors are cut, so that what has not changed of them need not be written again.
Of tensors that all processes have, each writes some: all come to the same division by themselves.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import prod
from typing import Any, TypeVar

import numpy.typing as npt

from weightlift._dtypes import from_numpy
from weightlift.formats._boxes import Box
from weightlift.formats._safetensors_pieces import Pieces, piece_name

__all__ = ["Keeper", "Part", "State", "cut", "division", "pieces_of"]

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """What a stored piece belongs to: the tensor, its shape, and where in it the piece begins."""

    tensor: str
    shape: tuple[int, ...]
    begin: tuple[int, ...]


class Keeper(Enum):
    """Which process stores an array."""

    THIS = "this"
    ANY = "any"  # all have it, and come to the same division by themselves
    ANOTHER = "another"  # here it is compared with what that one has stored


@dataclass
class State:
    """What of a state is stored, a row each.

    Attributes:
        structure: Of the whole (see ``_tree``), by the names of its tensors.
        tensors: Their names; those of which this process has nothing, too.
        names: Of what is stored: a tensor's, or a piece's.
        arrays: The values.
        parts: What each is a piece of; None: a whole tensor.
        keepers: Who stores it.
        lasting: Whether the values stay what they are, whatever the training does: they need not be copied.
        seen: Of rows whose arrays are the training's own, and may have other values by now: CRC-32C and CRC-32 of the
            values that are to be saved. See ``_unchanged``.
    """

    structure: Any
    tensors: Sequence[str]
    names: list[str] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    parts: list[Part | None] = field(default_factory=list)
    keepers: list[Keeper] = field(default_factory=list)
    lasting: list[bool] = field(default_factory=list)
    seen: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str, array: Array, part: Part | None, *, keeper: Keeper, lasting: bool = False) -> None:
        """One more row."""
        self.names.append(name)
        self.arrays.append(array)
        self.parts.append(part)
        self.keepers.append(keeper)
        self.lasting.append(lasting)

    def take(self, rows: Sequence[int]) -> State:
        """Only these rows; what has been seen of them is forgotten."""

        def of(column: list[T]) -> list[T]:
            return [column[row] for row in rows]

        columns = of(self.names), of(self.arrays), of(self.parts), of(self.keepers), of(self.lasting)
        return State(self.structure, self.tensors, *columns)

    def with_arrays(self, arrays: Sequence[Array]) -> State:
        """The same with other memory."""
        return replace(self, arrays=list(arrays))


def cut(state: State, most: int) -> State:
    """``state`` with arrays of more than ``most`` bytes in pieces of up to that."""
    if all(array.nbytes <= most for array in state.arrays):
        return state
    made = State(state.structure, state.tensors)
    columns = (state.names, state.arrays, state.parts, state.keepers, state.lasting)
    for name, array, part, keeper, lasting in zip(*columns, strict=True):
        if array.nbytes <= most or from_numpy(array.dtype).packed:
            made.add(name, array, part, keeper=keeper, lasting=lasting)
            continue
        whole = part or Part(name, array.shape, (0,) * array.ndim)
        for begin, size in _boxes(array.shape, array.itemsize, most):
            piece = array[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]
            at = tuple(a + b for a, b in zip(whole.begin, begin, strict=True))
            called = piece_name(whole.tensor, at, size)
            made.add(called, piece, Part(whole.tensor, whole.shape, at), keeper=keeper, lasting=lasting)
    return made


def _boxes(shape: tuple[int, ...], item: int, most: int) -> Iterator[Box]:
    """Boxes of up to ``most`` bytes that are runs of the array in C order."""
    axis = next((a for a in range(len(shape)) if prod(shape[a + 1 :]) * item <= most), len(shape) - 1)
    inner = shape[axis + 1 :]
    step = max(1, most // (prod(inner) * item))
    count = -(-shape[axis] // step)
    edges = [shape[axis] * i // count for i in range(count + 1)]  # of one size, not a small one at the end
    for outer in itertools.product(*map(range, shape[:axis])):
        for begin, end in itertools.pairwise(edges):
            yield (*outer, begin, *(0 for _ in inner)), (*(1 for _ in outer), end - begin, *inner)


def division(state: State, rank: int, world_size: int) -> list[int]:
    """The rows that a process stores: its own, and its part of what all have, by size."""
    if world_size == 1:
        return [row for row, keeper in enumerate(state.keepers) if keeper is not Keeper.ANOTHER]
    loads = [(0, r) for r in range(world_size)]
    mine = {row for row, keeper in enumerate(state.keepers) if keeper is Keeper.THIS}
    shared = [row for row, keeper in enumerate(state.keepers) if keeper is Keeper.ANY]
    for row in sorted(shared, key=lambda r: (-state.arrays[r].nbytes, state.names[r])):
        load, least = loads[0]
        heapq.heapreplace(loads, (load + max(1, state.arrays[row].nbytes), least))
        if least == rank:
            mine.add(row)
    return sorted(mine)


def pieces_of(parts: Iterable[tuple[str, Part]]) -> dict[str, Pieces]:
    """What pieces, by their names, make up."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in parts:
        shapes[part.tensor] = part.shape
        found.setdefault(part.tensor, {})[name] = part.begin
    return {
        tensor: Pieces(shapes[tensor], dict(sorted(begins.items(), key=lambda item: item[1])))
        for tensor, begins in found.items()
    }
