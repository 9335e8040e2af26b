"""Names of tensors as frameworks spell them: the path of a layer, and what its parameter is called. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CELL", "Place", "join", "split_all"]

CELL = re.compile(r"((lstm|gru|simple_rnn)_)?cell(_\d+)?")
"""The part that Keras has between a recurrent layer and its parameters; TensorFlow.js only in what was converted."""

_SLASHES = ("keras", "tensorflow", "tfjs")
_COLLECTIONS = ("params", "batch_stats")
_STATE = "seed_generator"


@dataclass(frozen=True)
class Place:
    """Where a tensor is.

    Attributes:
        layer: Its layer's name, as the source spells it.
        path: The same in parts.
        leaf: What it is called in its layer: by number in ``.weights.h5`` files.
        ignored: It is the state of a generator of random numbers, which is of no other framework.
    """

    layer: str
    path: tuple[str, ...]
    leaf: str | int
    ignored: bool = False


def split_all(framework: str, names: Sequence[str]) -> list[Place]:
    """The place of each name of one file."""
    mark, other = ("/", ".") if framework in _SLASHES else (".", "/")
    if not any(mark in name for name in names) and any(other in name for name in names):
        mark = other
    return [_split(framework, name, mark) for name in names]


def _split(framework: str, name: str, mark: str) -> Place:
    *path, last = name.split(mark)
    leaf: str | int = last
    if framework == "flax" and path and path[0] in _COLLECTIONS:
        del path[0]
    if framework in _SLASHES:
        leaf = re.sub(r":\d+$", "", last)
        if path and path[-1] == "vars" and last.isdecimal():
            leaf = int(last)
            del path[-1]
    if framework == "tfjs" and len(path) > 1 and CELL.fullmatch(path[-1]):
        del path[-1]
    ignored = framework in _SLASHES and (_STATE in path or str(leaf).startswith(_STATE))
    return Place(mark.join(path), tuple(path), leaf, ignored)


def join(framework: str, path: Sequence[str], collection: str = "params") -> str:
    """A name of a framework."""
    if framework == "flax":
        path = [collection, *path]
    return ("/" if framework in _SLASHES else ".").join(path)
