"""What an HDF5 file holds: datasets by their paths, attributes as plain values, and Keras' order of names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightlift._layout import TensorEntry
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._hdf5_file import DAMAGE, Hdf5File
from weightlift.formats._hdf5_rows import entry_of

__all__ = ["Found", "attributes", "keras_order", "layer_names", "walk"]

_MOST_LINKS = 1 << 22
_DEEPEST = 200
_LISTS = ("layer_names", "weight_names")
"""Attributes of Keras' older files, which say what lies where; several, numbered, where one would be too large."""


@dataclass
class Found:
    """What a walk found, by path.

    Attributes:
        tensors: Rows; those of one group one after another.
        objects: What is no array, and why.
        groups: Every group, once, at the first path that reaches it; "" is the root.
        links: Soft links.
        shared: Several paths lead to one dataset.
    """

    tensors: dict[str, TensorEntry] = field(default_factory=dict)
    objects: dict[str, FormatError] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    shared: bool = False


@dataclass
class _Node:
    """A group in the making: its children in order; an entry, an error, another group, or None for what is left out."""

    path: str
    children: dict[str, Any] = field(default_factory=dict)


def walk(file: Hdf5File) -> Found:
    """Every dataset that hard links, and soft links inside the file, lead to; level by level, each group once."""
    found = Found()
    root = _Node("")
    found.groups[""] = file.root
    visited: dict[int, Any] = {}
    soft: list[tuple[_Node, str, str]] = []
    level, links, depth = [root], 0, 0
    while level:
        hard = [child for node in level for child in _links(file, found, node, soft)]
        links += len(hard)
        depth += 1
        if links > _MOST_LINKS or depth > _DEEPEST:
            raise FormatError(f"more than {_MOST_LINKS} links, or groups nested deeper than {_DEEPEST}")
        level = []
        for node, name in hard:
            inner = _visit(file, found, node, name, visited)
            if inner is not None:
                level.append(inner)
    _emit(found, root, soft)
    return found


def _links(
    file: Hdf5File, found: Found, node: _Node, soft: list[tuple[_Node, str, str]]
) -> Iterator[tuple[_Node, str]]:
    """The hard links of a group; others are noted."""
    h5l, group = file.h5py.h5l, found.groups[node.path]
    try:
        names = list(group.id)
    except DAMAGE:
        if file.guessing:
            return
        raise
    if len(names) > _MOST_LINKS:
        raise FormatError(f"more than {_MOST_LINKS} links")
    if all(name.isdigit() for name in names):
        names.sort(key=int)  # variables, which HDF5 sorts as text
    for raw in names:
        name = raw.decode("utf-8", "surrogateescape")
        if not name.isprintable() and any(0xDC80 <= ord(c) <= 0xDCFF for c in name):
            raise FormatError(f"the name {raw[:80]!r} is not UTF-8")
        try:
            link = group.id.links.get_info(raw)
        except DAMAGE:
            if file.guessing:
                continue
            raise
        node.children[name] = None
        if link.type == h5l.TYPE_HARD:
            yield node, name
        elif link.type == h5l.TYPE_SOFT:
            found.links.append(f"{node.path}/{name}".lstrip("/"))
            soft.append((node, name, group.id.links.get_val(raw).decode("utf-8", "replace")))
        else:
            kind = "an ExternalLink" if link.type == h5l.TYPE_EXTERNAL else "a link of an unknown kind"
            node.children[name] = UnsafeContentError(f"it is {kind}: links that lead out of the file are not followed")


def _visit(file: Hdf5File, found: Found, node: _Node, name: str, visited: dict[int, Any]) -> _Node | None:
    """Note what a hard link leads to; the node of a group that was not seen before."""
    h5py = file.h5py
    path = f"{node.path}/{name}" if node.path else name
    try:
        opened = h5py.h5o.open(found.groups[node.path].id, name.encode("utf-8", "surrogateescape"))
        address = int(h5py.h5o.get_info(opened).addr)
        if isinstance(opened, h5py.h5g.GroupID):
            if address in visited or address == int(h5py.h5o.get_info(file.root.id).addr):
                return None
            inner = node.children[name] = visited[address] = _Node(path)
            found.groups[path] = h5py.Group(opened)
            return inner
        if not isinstance(opened, h5py.h5d.DatasetID):
            return None  # a named type, which is no data
        known = visited.get(address)
        found.shared |= known is not None
        node.children[name] = visited[address] = known or _entry(file, h5py.Dataset(opened))
    except WeightliftError as error:
        if file.guessing:
            return None
        raise error.locate(tensor=path) from None
    except DAMAGE as error:
        file.check()
        if file.guessing:
            return None
        raise FormatError(f"it cannot be opened: {str(error)[:200]}", tensor=path) from None
    return None


def _entry(file: Hdf5File, dataset: Any) -> TensorEntry | FormatError:
    """The row of a dataset, or why it is none, which is told to those who ask for it."""
    try:
        return entry_of(file, dataset)
    except (UnsafeContentError, UnsupportedFeatureError) as error:
        return error.with_traceback(None)


def _emit(found: Found, root: _Node, soft: list[tuple[_Node, str, str]]) -> None:
    """Rows by path, groups' own order kept; soft links name rows again."""
    for node, name, target in soft:
        node.children[name] = _resolve(root, node, target)
        found.shared |= isinstance(node.children[name], TensorEntry)
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, TensorEntry):
            found.tensors[path] = value
        elif isinstance(value, FormatError):
            found.objects[path] = value if value.tensor in (None, path) else _again(value)
            found.objects[path].locate(tensor=path)
        elif isinstance(value, _Node) and value.path == path:
            prefix = f"{path}/" if path else ""
            waiting += reversed([(f"{prefix}{name}", child) for name, child in value.children.items()])


def _again(error: FormatError) -> FormatError:
    return type(error)(error.message)


def _resolve(root: _Node, node: _Node, target: str) -> Any:
    """What a soft link leads to inside of the file, by hard links alone; an error where it leads elsewhere."""
    at: Any = root if target.startswith("/") or not node.path else _at(root, node.path)
    for name in target.split("/"):
        if name in ("", "."):
            continue
        at = at.children.get(name) if isinstance(at, _Node) else None
    if at is None:
        return UnsupportedFeatureError(f"it is a soft link to {target[:200]!r}, where no dataset or group is")
    return at


def _at(root: _Node, path: str) -> Any:
    at: Any = root
    for name in path.split("/"):
        at = at.children[name]
    return at


# --- attributes -------------------------------------------------------------------------------------
def attributes(file: Hdf5File, group: Any) -> dict[str, Any]:
    """The attributes of a group as plain values, those that list names left out."""
    names = sorted(name for name in group.attrs if not name.startswith(_LISTS))
    values = {name: _plain(file.attribute(group, name)) for name in sorted(names, key=lambda n: n.endswith("_config"))}
    return {name: values[name] for name in names}


def _plain(value: Any) -> Any:
    """A value that JSON could hold."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _listed(file: Hdf5File, group: Any, name: str) -> list[str] | None:
    """A list of names, put together of its parts; None if there is none."""
    whole = file.attribute(group, name)
    if whole is not None:
        return _texts(name, whole)
    parts: list[str] = []
    number = 0
    while (part := file.attribute(group, f"{name}{number}")) is not None:
        parts += _texts(f"{name}{number}", part)
        number += 1
    return parts if number else None


def _texts(name: str, value: Any) -> list[str]:
    array = np.asarray(value)
    if array.dtype.kind not in "SUO" and array.size:
        raise FormatError(f"attribute {name!r} holds {array.dtype}, expected names")
    return [_plain(item) for item in array.reshape(-1).tolist()]


def keras_order(file: Hdf5File, found: Found) -> tuple[list[str], dict[str, list[str]]]:
    """Paths in the order in which Keras' older files list them, the others last; and the lists, by group.

    Raises:
        FormatError: A list names what is not there.
    """
    lists: dict[str, list[str]] = {}
    for base in ("", "model_weights"):
        if base not in found.groups:
            continue
        prefix = f"{base}/" if base else ""
        layers = _listed(file, found.groups[base], "layer_names")
        absent = next((layer for layer in layers or () if f"{prefix}{layer}" not in found.groups), None)
        if absent is not None:
            raise FormatError(f"layer_names lists {prefix + absent!r}, and there is no such group")
        first = [g for g in found.groups if g and g.rpartition("/")[0] == base]
        for group in dict.fromkeys([*(f"{prefix}{layer}" for layer in layers or ()), *first]):
            names = _listed(file, found.groups[group], "weight_names")
            if names is not None:
                lists[group] = [f"{group}/{name}" for name in names]
    order = [path for group in sorted(lists, key="optimizer_weights".__eq__) for path in lists[group]]
    absent = next((path for path in order if path not in found.tensors and path not in found.objects), None)
    if absent is not None and absent not in found.links:
        raise FormatError("weight_names lists it, and it is not in the file", tensor=absent)
    listed = dict.fromkeys(path for path in order if path in found.tensors)
    return [*listed, *(path for path in found.tensors if path not in listed)], lists


def layer_names(file: Hdf5File, found: Found) -> dict[str, str]:
    """Names of layers by their groups, where newer files of Keras say them."""
    said = {}
    for path, group in found.groups.items():
        name = file.attribute(group, "name") if path.rpartition("/")[2] == "vars" else None
        if isinstance(name, str):
            said[path.rpartition("/")[0]] = name
    return said
