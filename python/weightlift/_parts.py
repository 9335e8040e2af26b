"""Parts of what was saved: one container of the structure, and the plain values that stand around the tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._globs import matches
from weightlift._load import DTypes, Memory, Rename, convert_all, new_name, read_arrays, refuse_objects, target_dtypes
from weightlift._ops import Progress
from weightlift._source import Names, Source
from weightlift._tree import unflatten
from weightlift.errors import FormatError, MismatchError

__all__ = ["find_part", "load_part", "tensors_in", "values_in"]

Array = npt.NDArray[Any]
_CONTAINERS = frozenset(("dict", "list", "tuple"))
_GLOB = frozenset("*?[")


def find_part(structure: Any, place: str, names: Names, rename: Rename) -> Any:
    """The container in a structure whose tensors are those at ``place``, once they are renamed; None: there is none.

    Args:
        structure: See ``_tree``.
        place: A path joined by dots; empty: the object that is loaded into takes all of the part.
        names: ``"PATH.*"`` says which part that is where nothing is renamed.
        rename: As of :func:`weightlift.load`.
    """
    wanted = f"{place}." if place else ""
    if not wanted and rename is None:
        if not isinstance(names, str) or not names.endswith(".*") or _GLOB & set(names[:-1]):
            return None
        wanted = names[:-1]
    for prefix, node in _containers(structure, ""):
        if prefix and new_name(prefix, rename) == wanted:
            return node
    return None


def load_part(
    source: Source,
    node: Any,
    *,
    dtype: DTypes = None,
    memory: Memory = "arena",
    verify: bool = True,
    progress: Progress | None = None,
    convert: Callable[[Array], Any] | None = None,
) -> Any:
    """What a container of the structure was; arguments as of ``load_source``."""
    table, names = source.table, tensors_in(node)
    refuse_objects(source, names)
    absent = [name for name in names if name not in table]
    if absent:
        raise MismatchError(f"the file was opened without {', '.join(absent[:5])}; load it whole", missing=absent)
    rows = np.array(sorted(table.index(name) for name in names), np.uint32)
    dtypes = target_dtypes(source, rows, dtype)
    arrays: Any = read_arrays(source, rows, dtypes, memory=memory, verify=verify, progress=progress)
    found = [table.names[row] for row in rows.tolist()]
    if convert is not None:
        arrays = convert_all(convert, found, arrays)
    return unflatten(node, dict(zip(found, arrays, strict=True)))


def tensors_in(node: Any) -> list[str]:
    """The tensors that a node of a structure names."""
    if isinstance(node, str):
        return [node]
    return [name for _, item in _below(node) for name in tensors_in(item)]


def values_in(structure: Any, names: Names, rename: Rename) -> dict[str, Any]:
    """The plain values that were saved, by their paths joined by dots; chosen and renamed as tensors are."""
    return {
        new_name(path, rename): value for path, value in _values(structure, "") if names is None or matches(path, names)
    }


def _values(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if _is_container(node):
        for key, item in _below(node):
            yield from _values(item, f"{path}.{key}" if path else key)
    elif isinstance(node, dict):
        yield path, unflatten(node, {})


def _containers(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(what the names of its tensors begin with, container), outer ones first."""
    if _is_container(node):
        yield prefix, node
        for key, item in _below(node):
            yield from _containers(item, f"{prefix}{key}.")


def _is_container(node: Any) -> bool:
    return isinstance(node, dict) and len(node) == 1 and not _CONTAINERS.isdisjoint(node)


def _below(node: Any) -> list[tuple[str, Any]]:
    """What a container holds, each with its key as text; nothing of a plain value."""
    if not _is_container(node):
        return []
    ((kind, items),) = node.items()
    if not isinstance(items, list):
        raise FormatError(f"malformed structure: {str(node)[:80]!r}")
    if kind != "dict":
        return [(str(number), item) for number, item in enumerate(items)]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in items):
        raise FormatError("malformed structure: a dict item is not [key, node]")
    return [(str(key), item) for key, item in items]
