"""The object that was saved, out of the paths that a planner noted: nested dicts and lists of what has a name."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from weightlift._tree import encode_value
from weightlift.errors import FormatError

__all__ = ["structure_of"]


_HOLES = 1000
"""Elements of lists that may be missing, beside one for each path: more are an attack."""


class _Branch(dict[Any, Any]):
    """A container in the making: what is at each of its keys, or indices."""


def structure_of(leaves: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> Any:
    """The structure (see ``_tree``) with these nodes at these paths; None for a flat dict of tensors.

    Numbers in a path are indices of lists, as torch's planner has them. Elements of a list whose path leads to nothing,
    as they were left out, are None; those that have no path are empty dicts, of which the planner keeps nothing.

    Args:
        leaves: Nodes by name.
        paths: By name; a name without one is a key of the outermost dict.

    Raises:
        FormatError: Two paths are the same, one leads through what is at another, or a list has keys.
    """
    if all(name == node and paths.get(name, (name,)) == (name,) for name, node in leaves.items()):
        return None
    root = _Branch()
    for name, node in leaves.items():
        *above, last = paths.get(name, (name,))
        at: Any = root
        for key in above:
            at = at.setdefault(key, _Branch())
            if type(at) is not _Branch:
                raise FormatError("its path leads through what is no container", tensor=name)
        if last in at:
            raise FormatError("its path is that of something else", tensor=name)
        at[last] = node
    left_out = {path[:n] for name, path in paths.items() if name not in leaves for n in range(1, len(path) + 1)}
    return _Builder(left_out, holes=len(paths) + _HOLES).node(root, ())


class _Builder:
    """Makes nodes of branches.

    Args:
        left_out: Paths of what has no node, and all that lead to them.
        holes: How many elements of lists may be missing, in all.
    """

    def __init__(self, left_out: Set[tuple[str | int, ...]], *, holes: int) -> None:
        """See the class."""
        self._left_out = left_out
        self._holes = holes

    def node(self, branch: Any, path: tuple[str | int, ...]) -> Any:
        """Of what is at a path."""
        if type(branch) is not _Branch:
            return branch
        kinds = set(map(type, branch))
        if kinds == {int}:
            return {"list": self._elements(branch, path)}
        if int in kinds:
            raise FormatError("the planner's paths lead to both keys and indices of one container")
        return {"dict": [[key, self.node(value, (*path, key))] for key, value in branch.items()]}

    def _elements(self, branch: _Branch, path: tuple[str | int, ...]) -> list[Any]:
        count = max(branch) + 1
        self._holes -= count - len(branch)
        if min(branch) < 0 or self._holes < 0:
            raise FormatError(
                f"the planner's paths have the indices {sorted(branch)[-3:]} of a list, and not all others"
            )
        return [self.node(branch[i], (*path, i)) if i in branch else self._missing((*path, i)) for i in range(count)]

    def _missing(self, path: tuple[str | int, ...]) -> Any:
        return encode_value(None) if path in self._left_out else {"dict": []}
