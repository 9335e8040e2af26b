"""Which kinds of layers a group of tensors can be, and what each would make of it in another framework. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

from weightlift._convention_names import CELL, join
from weightlift._layer_kinds import Kind, Leaf

__all__ = ["Group", "Made", "outcomes", "turned"]

Key = str | int


@dataclass(frozen=True)
class Group:
    """The tensors of one layer.

    Attributes:
        layer: Its name in the source.
        path: The same in parts.
        shapes: Of its tensors, by what they are called in it.
    """

    layer: str
    path: tuple[str, ...]
    shapes: Mapping[Key, tuple[int, ...]]


@dataclass(frozen=True)
class Made:
    """A tensor of the target.

    Attributes:
        name: What it will be called.
        how: ``"turn"``, ``"sum"`` (of two), ``"zeros"`` (of the first's shape), ``"stack"`` (of two) or ``"row"``.
        sources: What it is made of.
        before: The axes of the first of these.
        after: Its own axes.
        sizes: Of axes that are parts of one, by letter.
        gates: Where each gate of the source goes; empty where all stay.
        row: Which, for ``"row"``.
    """

    name: str
    how: str
    sources: tuple[Key, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    gates: tuple[int, ...] = ()
    row: int = 0


def outcomes(
    kind: Kind, group: Group, frameworks: tuple[str, str], multiplier: int = 1
) -> list[tuple[Made, ...] | None]:
    """What a kind makes of a group, one for each way it fits; None where the target has no such layer.

    Args:
        kind: To be tried.
        group: The tensors.
        frameworks: Source and target.
        multiplier: Of the channels, for depthwise convolutions whose kernel does not say.
    """
    source, target = frameworks
    column = kind.columns.get(source)
    if column is None:
        return []
    found: list[tuple[Made, ...] | None] = []
    for taken in _assignments(column, group):
        sizes = _sizes(kind, column, taken, group, multiplier)
        if sizes is None or not _paired(kind, column, taken):
            continue
        below = next(leaf.below for leaf in column if isinstance(leaf, Leaf))
        path = group.path[: len(group.path) - len(below)]
        wanted = kind.columns.get(target)
        made = None if wanted is None else _made(kind, frameworks, taken, sizes, path)
        if made not in found:
            found.append(made)
    return found


def _assignments(column: Sequence[Leaf | str], group: Group) -> Iterator[dict[int, Key]]:
    """Ways in which a group's tensors are a layer's parameters: keys by place in the column."""
    leaves = {k: leaf for k, leaf in enumerate(column) if isinstance(leaf, Leaf)}
    below = next(iter(leaves.values())).below
    if not _ends_with(group.path, below):
        return
    if all(isinstance(key, int) for key in group.shapes):
        keys = sorted(group.shapes, key=int)
        if keys == list(range(len(keys))):
            for places in combinations(leaves, len(keys)):
                if all(leaf.optional or k in places for k, leaf in leaves.items()):
                    yield dict(zip(places, keys, strict=True))
        return
    by_name = {leaf.name: k for k, leaf in leaves.items()}
    if set(group.shapes) <= set(by_name):
        taken: dict[int, Key] = {by_name[str(key)]: key for key in group.shapes}
        if all(leaf.optional or k in taken for k, leaf in leaves.items()):
            yield taken


def _ends_with(path: tuple[str, ...], below: tuple[str, ...]) -> bool:
    """Whether a path ends with what lies between a layer and its parameters; Keras numbers its cells."""
    if below == ("cell",):
        return bool(path) and CELL.fullmatch(path[-1]) is not None
    return not below or path[-len(below) :] == below


def _paired(kind: Kind, column: Sequence[Leaf | str], taken: Mapping[int, Key]) -> bool:
    """Whether of two parameters that are one elsewhere both are there, or neither."""
    joined = {k for other in kind.columns.values() for k, role in enumerate(other) if role in ("+", "^")}
    return all((k in taken) == (k - 1 in taken) for k in joined if isinstance(column[k], Leaf))


def _sizes(
    kind: Kind, column: Sequence[Leaf | str], taken: Mapping[int, Key], group: Group, multiplier: int
) -> dict[str, int] | None:
    """The sizes of all axes; None where the shapes are not those of this kind."""
    sizes = dict(kind.sizes)
    axes = {k: leaf.axes for k, leaf in enumerate(column) if isinstance(leaf, Leaf) and k in taken}
    if any("cm" in tokens for tokens in axes.values()) and not any("m" in tokens for tokens in axes.values()):
        sizes["m"] = multiplier
    for k, tokens in axes.items():
        shape = group.shapes[taken[k]]
        if len(shape) != len(tokens):
            return None
        if not all(_fits(token, n, sizes) for token, n in zip(tokens, shape, strict=True)):
            return None
    return sizes


def _fits(token: str, n: int, sizes: dict[str, int]) -> bool:
    """Whether an axis has the size that is known of it; what is new of it is noted."""
    if token.isdecimal():
        return n == int(token)
    unknown = [letter for letter in token if letter not in sizes]
    known = prod(sizes[letter] for letter in token if letter in sizes)
    if not unknown:
        return n == known
    if len(unknown) > 1 or not known or n % known:
        return False
    sizes[unknown[0]] = n // known
    return True


def _made(
    kind: Kind, frameworks: tuple[str, str], taken: Mapping[int, Key], sizes: Mapping[str, int], path: tuple[str, ...]
) -> tuple[Made, ...]:
    source, target = frameworks
    have, want = kind.columns[source], kind.columns[target]
    parts = tuple(sorted((letter, n) for letter, n in sizes.items() if len(letter) == 1))
    made: list[Made] = []
    for k, leaf in enumerate(want):
        if not isinstance(leaf, Leaf):
            continue
        name = join(target, [*path, *leaf.below, leaf.name], leaf.collection)
        old, joined = have[k], want[k + 1] if k + 1 < len(want) else ""
        gates = _gates(kind, frameworks, leaf)
        if old == "+" and k - 1 in taken:
            made.append(Made(name, "zeros", (taken[k - 1],)))
        elif old == "^" and k - 1 in taken:
            made.append(Made(name, "row", (taken[k - 1],), gates=gates, row=1))
        elif k not in taken or not isinstance(old, Leaf):
            continue
        elif joined in ("+", "^") and have[k + 1] != joined:
            if k + 1 in taken:
                made.append(Made(name, "sum" if joined == "+" else "stack", (taken[k], taken[k + 1]), gates=gates))
        elif k + 1 < len(have) and have[k + 1] == "^" and joined != "^":
            made.append(Made(name, "row", (taken[k],), gates=gates))
        else:
            made.append(Made(name, "turn", (taken[k],), old.axes, leaf.axes, parts, gates))
    return tuple(made)


def _gates(kind: Kind, frameworks: tuple[str, str], leaf: Leaf) -> tuple[int, ...]:
    have, want = (kind.gates.get(framework, "") for framework in frameworks)
    if have == want or not any("g" in token for token in leaf.axes):
        return ()
    return tuple(want.index(gate) for gate in have)


def turned(made: Made, shape: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shape and the strides of a tensor whose axes are put in another order; None where they cannot be joined.

    Args:
        made: What is made of it.
        shape: That it has.
        strides: Bytes a step along each axis that it has.
    """
    sizes = dict(made.sizes)
    axes: dict[str, tuple[int, int]] = {}
    for token, n, stride in zip(made.before, shape, strides, strict=True):
        if token == "1":
            continue
        for part in [token] if token in made.after or len(token) == 1 else reversed(token):
            size = n if part == token else sizes[part]
            axes[part] = (size, stride)
            stride *= size
    found: list[tuple[int, int]] = []
    for token in made.after:
        if token == "1":
            found.append((1, 0))
            continue
        size, stride = axes[token] if token in axes else axes[token[-1]]
        for part in [] if token in axes else reversed(token[:-1]):
            n, step = axes[part]
            if n > 1 and size > 1 and step != stride * size:
                return None
            stride = step if size == 1 else stride
            size *= n
        found.append((size, stride))
    return tuple(n for n, _ in found), tuple(s for _, s in found)
