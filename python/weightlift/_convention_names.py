"""Names of tensors as frameworks spell them: the path of a layer, and what its parameter is called. Pure.

A recurrent layer of several layers, or of two directions, is as many layers here, whose paths say which they are by
marks; each framework spells these its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

__all__ = ["CELL", "Place", "has_marks", "inner_name", "join", "split_all"]

CELL = re.compile(r"((lstm|gru|simple_rnn)_)?cell(_\d+)?")
"""The part that Keras has between a recurrent layer and its parameters; TensorFlow.js only in what was converted."""

_SLASHES = ("keras", "tensorflow", "tfjs")
_COLLECTIONS = ("params", "batch_stats")
_STATE = "seed_generator"

_LEVEL = re.compile(r"l\d+")
_TORCH = re.compile(r"((?:weight|bias)_(?:ih|hh|hr)_l)(\d+)(_reverse)?")
_DIRECTIONS = {
    "keras": (r"forward_\w+", r"backward_\w+"),
    "tensorflow": (r"forward_\w+", r"backward_\w+"),
    "flax": ("forward_rnn", "backward_rnn"),
}
_SPELLED = {
    "keras": ("forward_layer", "backward_layer"),
    "tensorflow": ("forward_layer", "backward_layer"),
    "flax": ("forward_rnn", "backward_rnn"),
    "mxnet": ("l_cell", "r_cell"),
}
_INNER = {"query": "query_dense", "key": "key_dense", "value": "value_dense", "attention_output": "output_dense"}
"""What Keras calls the parts of its attention as variables, and as attributes."""


class Mark(str):
    """A part of a path: ``l0``, ``l1`` … of several layers, ``forward`` and ``backward`` of two directions."""

    __slots__ = ()


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
    places = [_split(framework, name, mark) for name in names]
    return _MARKED.get(framework, _unmarked)(framework, places)


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
    """A name of a framework, of a path that ends with what the parameter is called."""
    if framework == "flax":
        path = [collection, *path]
    return ("/" if framework in _SLASHES else ".").join(_spelled(framework, path))


def has_marks(path: Sequence[str]) -> bool:
    """Whether a layer is one of several that are one in some frameworks."""
    return any(isinstance(part, Mark) for part in path)


def inner_name(framework: str, part: str) -> str:
    """What the table calls a layer that another has in it."""
    part = part.removeprefix("_") if framework in _SLASHES else part
    return _INNER.get(part, part) if framework in _SLASHES else part


# --- several layers, two directions -------------------------------------------------------------------------------
def _marks(level: int, several: bool, backward: bool, both: bool) -> list[Mark]:
    return [*([Mark(f"l{level}")] if several else []), *([Mark("backward" if backward else "forward")] if both else [])]


def _spelled(framework: str, path: Sequence[str]) -> list[str]:
    """A path with its marks as a framework has them."""
    plain = [part for part in path if not isinstance(part, Mark)]
    marks = [part for part in path if isinstance(part, Mark)]
    level = next((int(part[1:]) for part in marks if _LEVEL.fullmatch(part)), 0)
    direction = next((part for part in marks if not _LEVEL.fullmatch(part)), "")
    if framework == "torch":
        if marks:
            plain[-1] = re.sub(r"_l0$", f"_l{level}" + ("_reverse" if direction == "backward" else ""), plain[-1])
        return plain
    which = [_SPELLED[framework][direction == "backward"]] if direction else []
    if framework == "mxnet":
        at = plain.index("_unfused") + 1 if "_unfused" in plain else 0
        return [*plain[:at], str(level), *which, *plain[at:]] if at else plain
    at = next((k for k, part in enumerate(path) if isinstance(part, Mark)), 0)
    return [*plain[:at], *(part for part in marks if _LEVEL.fullmatch(part)), *which, *plain[at:]]


def _unmarked(framework: str, places: list[Place]) -> list[Place]:
    return places


def _of_torch(framework: str, places: list[Place]) -> list[Place]:
    """``weight_ih_l1_reverse`` as ``weight_ih_l0`` of a layer of its own, where there are several."""
    found = [_TORCH.fullmatch(str(place.leaf)) for place in places]
    several = {p.path for p, match in zip(places, found, strict=True) if match and int(match[2])}
    both = {p.path for p, match in zip(places, found, strict=True) if match and match[3]}
    return [
        place
        if match is None
        else replace(
            place,
            path=(*place.path, *_marks(int(match[2]), place.path in several, bool(match[3]), place.path in both)),
            leaf=f"{match[1]}0",
        )
        for place, match in zip(places, found, strict=True)
    ]


def _of_mxnet(framework: str, places: list[Place]) -> list[Place]:
    """``_unfused.1.r_cell.i2h_weight`` likewise."""
    result = []
    starts = [place.path.index("_unfused") if "_unfused" in place.path else len(place.path) for place in places]
    several = {p.path[:at] for p, at in zip(places, starts, strict=True) if p.path[at + 1 : at + 2] == ("1",)}
    for place, at in zip(places, starts, strict=True):
        path = place.path
        which = path[at + 2 :]
        if len(path) > at + 1 and path[at + 1].isdecimal() and which in ((), ("l_cell",), ("r_cell",)):
            marks = _marks(int(path[at + 1]), path[:at] in several, which == ("r_cell",), bool(which))
            place = replace(place, path=(*path[:at], *marks, "_unfused"))
        result.append(place)
    return result


def _of_parts(framework: str, places: list[Place]) -> list[Place]:
    """Keras and Flax have a part of the path for each: ``l1/backward_layer/cell``, of which there is the other, too."""
    patterns = [re.compile(pattern) for pattern in _DIRECTIONS[framework]]
    there = {place.path[:k] for place in places for k in range(1, len(place.path) + 1)}
    beside: dict[tuple[str, ...], list[str]] = {}
    for path in there:
        beside.setdefault(path[:-1], []).append(path[-1])
    result = []
    for place in places:
        parts = list(place.path)
        for k in range(len(parts) - 1):
            siblings = beside[place.path[:k]]
            if not _recurs(framework, place.path[k + 1 :]):
                continue
            if all(any(p.fullmatch(s) for s in siblings) for p in patterns):
                words = zip(("forward", "backward"), patterns, strict=True)
                parts[k] = next((Mark(word) for word, p in words if p.fullmatch(parts[k])), parts[k])
            if _LEVEL.fullmatch(parts[k]) and {"l0", "l1"} <= set(siblings):
                parts[k] = Mark(parts[k])
        result.append(replace(place, path=tuple(parts)))
    return result


def _recurs(framework: str, rest: Sequence[str]) -> bool:
    """Whether what is below a part is a cell, or the two directions of one."""
    directions = "|".join(_DIRECTIONS[framework])
    if re.fullmatch(directions, rest[0]) and len(rest) > 1:
        return _recurs(framework, rest[1:])
    return CELL.fullmatch(rest[0]) is not None


_MARKED: dict[str, Callable[[str, list[Place]], list[Place]]] = {
    "torch": _of_torch,
    "mxnet": _of_mxnet,
    "keras": _of_parts,
    "tensorflow": _of_parts,
    "flax": _of_parts,
}
