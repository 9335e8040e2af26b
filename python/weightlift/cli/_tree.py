"""Tensors as a tree by the dots and slashes of their names, with subtotals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from weightlift.cli import _text
from weightlift.cli._facts import Facts
from weightlift.cli._table import Column, Table
from weightlift.cli._terminal import is_terminal

__all__ = ["tree_table"]

_PART = re.compile(r"[^./]*[./]|[^./]+")
"""A part of a name with the separator after it, so that parts join to the name again."""

_MAX_DEPTH = 40
"""Longer paths end in one label: no name makes the tree recurse without end."""


@dataclass(slots=True)
class _Node:
    """A tensor, or a branch with the sums of what is under it."""

    label: str
    tensor: Facts | None = None
    children: dict[tuple[str, bool], _Node] = field(default_factory=dict)
    tensors: int = 0
    nbytes: int = 0
    dtypes: set[str] = field(default_factory=set)

    def count(self, tensor: Facts) -> None:
        self.tensors += 1
        self.nbytes += tensor.nbytes
        self.dtypes.add(tensor.dtype)


def tree_table(tensors: Sequence[Facts], depth: int | None) -> Table:
    """One row a node, down to ``depth`` levels (None: all)."""
    table = Table(
        (
            Column("name", fold=True),
            Column("tensors", right=True),
            Column("dtype"),
            Column("shape"),
            Column("size", right=True),
        )
    )
    guides = ("├ ", "│ ", "└ ") if is_terminal() else ("", "  ", "")
    for indent, node in _walk(_grow(tensors), depth or _MAX_DEPTH, "", guides):
        label = indent + _text.printable(node.label)
        if node.tensor is not None:
            table.add(label, "", node.tensor.dtype, _text.shape(node.tensor.shape), _text.size(node.nbytes))
        else:
            dtype = next(iter(node.dtypes)) if len(node.dtypes) == 1 else "mixed"
            table.add(label, f"{node.tensors:,}", dtype, "", _text.size(node.nbytes), colour="cyan")
    return table


def _grow(tensors: Sequence[Facts]) -> _Node:
    root = _Node("")
    for tensor in tensors:
        parts = _PART.findall(tensor.name)
        if len(parts) > _MAX_DEPTH:
            parts[_MAX_DEPTH - 1 :] = ["".join(parts[_MAX_DEPTH - 1 :])]
        node = root
        for part in parts[:-1]:
            node.count(tensor)
            node = node.children.setdefault((part, False), _Node(part))
        node.count(tensor)
        leaf = node.children[parts[-1], True] = _Node(parts[-1], tensor)
        leaf.count(tensor)
    return root


def _walk(node: _Node, depth: int, indent: str, guides: tuple[str, str, str]) -> Iterator[tuple[str, _Node]]:
    """(indentation, node) of everything under ``node``, chains of only children as one node.

    ``guides`` lead to a child, past its children, and to the last child.
    """
    children = [_squeeze(child) for child in node.children.values()]
    for child in children:
        last = child is children[-1]
        yield indent + guides[2 if last else 0], child
        if child.children and depth > 1:
            yield from _walk(child, depth - 1, indent + ("  " if last else guides[1]), guides)


def _squeeze(node: _Node) -> _Node:
    """``node``, joined with its child, and that with its child, as long as it is an only child."""
    label = node.label
    while len(node.children) == 1:
        (node,) = node.children.values()
        label += node.label
    node.label = label
    return node
