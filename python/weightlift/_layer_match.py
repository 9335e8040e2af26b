"""Which kinds of layers a group of tensors can be, and what each would make of it in another framework. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

from weightlift._convention_names import CELL, has_marks, join
from weightlift._layer_kinds import Kind, Leaf

__all__ = ["Cells", "Group", "Made", "in_cell", "outcomes", "turned"]

Key = str | int
Cells = tuple[tuple[tuple[int, int], ...], ...]
"""What a vector is made of, part by part: each is the sum of biases, by (which of the two, gate)."""

_MOST_COUNTED = 256
"""Heads of attention, as far as they are tried."""


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
        how: ``"turn"``, ``"part"`` (one gate of the source), ``"join"`` (a source for each gate), or ``"biases"``.
        sources: What it is made of.
        shape: Its own.
        before: The axes of the first source.
        after: Its own axes.
        sizes: Of axes that are parts of one, by letter.
        gates: Where each gate of the source goes; empty where all stay.
        gate: Which, for ``"part"``.
        flipped: Axes that are turned over.
        given: For ``"biases"``, what each source is.
        cells: For ``"biases"``, what is made.
    """

    name: str
    how: str
    sources: tuple[Key, ...]
    shape: tuple[int, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    gates: tuple[int, ...] = ()
    gate: int = 0
    flipped: frozenset[str] = frozenset()
    given: tuple[Cells, ...] = ()
    cells: Cells = ()


def outcomes(kind: Kind, group: Group, frameworks: tuple[str, str], count: int = 0) -> list[tuple[Made, ...] | None]:
    """What a kind makes of a group, one for each way it fits; None where the target has no such layer.

    Args:
        kind: To be tried.
        group: The tensors.
        frameworks: Source and target.
        count: The size of ``kind.counted``, where the tensors do not say: outputs of a channel (0: one), or heads
            (0: any number).
    """
    source, target = frameworks
    column = kind.columns.get(source)
    if column is None:
        return []
    found: list[tuple[Made, ...] | None] = []
    counts = [count or 1] if kind.counted != "n" or count else range(1, _MOST_COUNTED + 1)
    for taken in _assignments(kind, group, source):
        if not _paired(kind, column, taken):
            continue
        for tried in counts:
            sizes = _sizes(kind, source, taken, group, tried)
            if sizes is None:
                continue
            path = group.path[:-1] if in_cell(kind, source, group.path) else group.path
            made = _made(kind, frameworks, taken, sizes, path) if _has(kind, target, sizes, path) else None
            if made not in found:
                found.append(made)
    return found


def _has(kind: Kind, target: str, sizes: Mapping[str, int], path: tuple[str, ...]) -> bool:
    """Whether a framework has such a layer, of these sizes."""
    return target in kind.columns and _is_square(kind, target, sizes) and not (target == "tfjs" and has_marks(path))


def _is_square(kind: Kind, framework: str, sizes: Mapping[str, int]) -> bool:
    axis, others = kind.square.get(framework, ("", ""))
    return not axis or sizes[axis] == prod(sizes[letter] for letter in others)


def in_cell(kind: Kind, framework: str, path: Sequence[str]) -> bool:
    """Whether the tensors at ``path`` lie deeper than the layer, which tells it from kinds of the same parameters."""
    below = next((leaf.below for leaf in kind.columns.get(framework, ()) if isinstance(leaf, Leaf)), ())
    if below == ("cell",):  # Keras numbers its cells
        return bool(path) and CELL.fullmatch(path[-1]) is not None
    return bool(below) and tuple(path[-1:]) == below


def _assignments(kind: Kind, group: Group, framework: str) -> Iterator[dict[int, tuple[Key, ...]]]:
    """Ways in which a group's tensors are a layer's parameters: keys by place in the column, one for each gate."""
    leaves = {k: leaf for k, leaf in enumerate(kind.columns[framework]) if isinstance(leaf, Leaf)}
    if next(iter(leaves.values())).below and not in_cell(kind, framework, group.path) and framework != "flax":
        return  # in Flax a cell is where it was made, which may be anywhere
    if all(isinstance(key, int) for key in group.shapes):
        keys = sorted(group.shapes, key=int)
        if keys == list(range(len(keys))) and all(len(leaf.names) == 1 for leaf in leaves.values()):
            for places in combinations(leaves, len(keys)):
                if all(leaf.optional or k in places for k, leaf in leaves.items()):
                    yield {k: (key,) for k, key in zip(places, keys, strict=True)}
        return
    taken = {k: tuple(n for n in leaf.names if n) for k, leaf in leaves.items() if set(leaf.names) & set(group.shapes)}
    whole = all(leaf.optional or k in taken for k, leaf in leaves.items())
    if whole and {name for names in taken.values() for name in names} == set(group.shapes):
        yield {k: tuple(names) for k, names in taken.items()}


def _pairs(kind: Kind) -> set[int]:
    """Places in the columns of those biases that some framework adds to, or stacks with, the next."""

    def joined(role: Leaf | str) -> bool:
        return "" in role.names if isinstance(role, Leaf) else role in ("+", "^")

    return {k - 1 for column in kind.columns.values() for k, role in enumerate(column) if joined(role)}


def _paired(kind: Kind, column: Sequence[Leaf | str], taken: Mapping[int, object]) -> bool:
    """Whether of two parameters that are one elsewhere both are there, or neither."""
    return all((k in taken) == (k + 1 in taken) for k in _pairs(kind) if isinstance(column[k + 1], Leaf))


def _sizes(
    kind: Kind, framework: str, taken: Mapping[int, tuple[Key, ...]], group: Group, count: int
) -> dict[str, int] | None:
    """The sizes of all axes; None where the shapes are not those of this kind."""
    sizes = dict(kind.sizes)
    column = kind.columns[framework]
    axes = {k: leaf.axes for k, leaf in enumerate(column) if isinstance(leaf, Leaf) and k in taken}
    tokens = {token for several in axes.values() for token in several}
    counted = kind.counted
    if counted and counted not in tokens and any(counted in token for token in tokens):
        sizes[counted] = count
    for k, several in axes.items():
        for key in taken[k]:
            shape = group.shapes[key]
            if len(shape) != len(several):
                return None
            if not all(_fits(token, n, sizes) for token, n in zip(several, shape, strict=True)):
                return None
    return sizes if _is_square(kind, framework, sizes) else None


def _fits(token: str, n: int, sizes: dict[str, int]) -> bool:
    """Whether an axis has the size that is known of it; what is new of it is noted."""
    if token.isdecimal():
        return n == int(token)
    letters = token.lower()
    unknown = [letter for letter in letters if letter not in sizes]
    known = prod(sizes[letter] for letter in letters if letter in sizes)
    if not unknown:
        return n == known
    if len(unknown) > 1 or not known or n % known:
        return False
    sizes[unknown[0]] = n // known
    return True


# --- what is made -------------------------------------------------------------------------------------------------
def _made(
    kind: Kind,
    frameworks: tuple[str, str],
    taken: Mapping[int, tuple[Key, ...]],
    sizes: Mapping[str, int],
    path: tuple[str, ...],
) -> tuple[Made, ...]:
    have, want = (kind.columns[framework] for framework in frameworks)
    made: list[Made] = []
    apart = {k for k in _pairs(kind) if _cells(kind, frameworks[0], k) != _cells(kind, frameworks[1], k)}
    for k, leaf in enumerate(want):
        if k in apart and k in taken:
            made += _biases(kind, frameworks, k, taken, sizes, path)
        elif isinstance(leaf, Leaf) and k in taken and k - 1 not in apart:
            old = have[k]
            assert isinstance(old, Leaf)
            made += _moved(kind, frameworks, (old, leaf), taken[k], sizes, path)
    return tuple(made)


def _moved(
    kind: Kind,
    frameworks: tuple[str, str],
    leaves: tuple[Leaf, Leaf],
    keys: tuple[Key, ...],
    sizes: Mapping[str, int],
    path: tuple[str, ...],
) -> Iterator[Made]:
    """One parameter, whose values stay as they are."""
    old, leaf = leaves
    names = _names(leaf, frameworks[1], path)
    shape = _shape(leaf.axes, sizes)
    gates = _gates(kind, frameworks)
    parts = tuple(sorted(sizes.items()))
    flipped = old.flipped ^ leaf.flipped
    if len(names) == len(keys) == 1:
        moved = gates if any("g" in token for token in leaf.axes) else ()
        yield Made(names[0], "turn", keys, shape, old.axes, leaf.axes, parts, moved, flipped=flipped)
    elif len(names) == len(keys):
        for k, key in enumerate(keys):
            name = names[gates[k] if gates else k]
            yield Made(name, "turn", (key,), shape, old.axes, leaf.axes, parts)
    elif len(keys) == 1:
        for k in range(sizes["g"]):
            name = names[gates[k] if gates else k]
            yield Made(name, "part", keys, shape, old.axes, leaf.axes, parts, gate=k)
    else:
        yield Made(names[0], "join", keys, shape, old.axes, leaf.axes, parts, gates)


def _names(leaf: Leaf, target: str, path: Sequence[str]) -> list[str]:
    return [join(target, [*path, *leaf.below, *name.split(".")], leaf.collection) for name in leaf.names if name]


def _shape(axes: Sequence[str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(int(token) if token.isdecimal() else prod(sizes[a] for a in token.lower()) for token in axes)


def _gates(kind: Kind, frameworks: tuple[str, str]) -> tuple[int, ...]:
    have, want = (kind.gates.get(framework, "") for framework in frameworks)
    return () if have == want else tuple(want.index(gate) for gate in have)


def _cells(kind: Kind, framework: str, k: int) -> list[Cells]:
    """What the tensors of the biases at ``k`` and behind are made of, tensor by tensor."""
    first, second = kind.columns[framework][k : k + 2]
    assert isinstance(first, Leaf)
    order = kind.gates.get(framework)
    gates = [sorted(order).index(gate) for gate in order] if order else list(range(kind.sizes["g"]))
    if second == "^":
        return [tuple(((b, g),) for b in (0, 1) for g in gates)]
    added = [second == "+" or (isinstance(second, Leaf) and "" in second.names and not second.names[at]) for at in
             range(len(gates))]  # fmt: skip
    whole: Cells = tuple(((0, g), (1, g)) if add else ((0, g),) for g, add in zip(gates, added, strict=True))
    rest: Cells = tuple(((1, g),) for g, add in zip(gates, added, strict=True) if not add)
    if len(first.names) > 1:
        return [(cell,) for cell in (*whole, *rest)]
    return [whole, rest] if rest else [whole]


def _biases(
    kind: Kind,
    frameworks: tuple[str, str],
    k: int,
    taken: Mapping[int, tuple[Key, ...]],
    sizes: Mapping[str, int],
    path: tuple[str, ...],
) -> Iterator[Made]:
    """The two biases of a recurrent layer, where frameworks keep them otherwise."""
    given = tuple(_cells(kind, frameworks[0], k))
    keys = (*taken[k], *taken.get(k + 1, ()))
    leaves = [leaf for leaf in kind.columns[frameworks[1]][k : k + 2] if isinstance(leaf, Leaf)]
    named = [(name, _shape(leaf.axes, sizes)) for leaf in leaves for name in _names(leaf, frameworks[1], path)]
    for (name, shape), cells in zip(named, _cells(kind, frameworks[1], k), strict=True):
        yield Made(name, "biases", keys, shape, given=given, cells=cells)


def turned(
    made: Made, shape: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """The shape and strides of a tensor whose axes are put in another order, and the byte that it begins at.

    None where axes cannot be joined.

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
    begin = made.gate * axes["g"][1] if made.how == "part" else 0
    for axis in made.flipped:
        size, stride = axes[axis]
        axes[axis] = (size, -stride)
        begin += max(0, size - 1) * stride
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
    return tuple(n for n, _ in found), tuple(s for _, s in found), begin
