"""The tree of an Orbax checkpoint, as its ``_METADATA`` tells it: which leaf is where, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weightlift._json import loads
from weightlift._tree import encode_value
from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["ADVICE", "MAX_JSON", "SavedTree", "parse_strings", "parse_tree"]

ADVICE = (
    "restore it by orbax.checkpoint and save the tree that this gives by weightlift.save(tree, 'model.safetensors')"
)
"""The way out that is always there."""

MAX_JSON = 64 << 20
"""Bytes; a leaf takes some 200, and the largest trees have a hundred thousand."""

_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
_STRING = "string"
_EMPTY: Mapping[str, dict[str, Any]] = {
    "None": {"value": None},
    "Dict": {"dict": []},
    "List": {"list": []},
    "Tuple": {"tuple": []},
    "NamedTuple": {"value": None},
}
"""Nodes of what has no elements, as Orbax restores it."""

_SEQUENCE, _DICT = 1, 2


@dataclass(frozen=True)
class SavedTree:
    """What was saved.

    Attributes:
        paths: Keys (text) and indices (numbers) that lead to each leaf, by its name: these joined by dots.
        arrays: Names of the leaves that are arrays.
        strings: Names of those that are text, which is elsewhere.
        empty: Nodes of the others (see ``_tree``).
        database: The arrays are in an OCDBT database; None: the file is too old to say.
        driver: ``"zarr"`` or ``"zarr3"``.
        complete: All chunks were stored, those of zeros too.
        metadata: The user's own.
    """

    paths: Mapping[str, tuple[str | int, ...]]
    arrays: tuple[str, ...]
    strings: tuple[str, ...]
    empty: Mapping[str, dict[str, Any]]
    database: bool | None
    driver: str
    complete: bool
    metadata: Mapping[str, Any]


def parse_tree(data: bytes) -> SavedTree:
    """The content of ``_METADATA``; FormatError for what is not one, UnsupportedFeatureError for unknown leaves."""
    value = loads(data, what="_METADATA", max_bytes=MAX_JSON)
    leaves = value.get("tree_metadata") if isinstance(value, dict) else None
    if not isinstance(leaves, dict):
        raise FormatError("_METADATA has no tree_metadata that is an object")
    paths: dict[str, tuple[str | int, ...]] = {}
    kinds: dict[str, str] = {}
    for label, leaf in leaves.items():
        path, kind = _leaf(label, leaf)
        name = ".".join(map(str, path))
        if name in paths:
            raise FormatError("two leaves of the tree have this name", tensor=name)
        paths[name], kinds[name] = path, kind
    unknown = {name: kind for name, kind in kinds.items() if kind not in (*_ARRAYS, _STRING, *_EMPTY)}
    for name, kind in unknown.items():
        raise UnsupportedFeatureError(f"a leaf of an Orbax checkpoint is a {kind[:80]!r}; {ADVICE}", tensor=name)
    custom = value.get("custom_metadata")
    return SavedTree(
        paths,
        tuple(name for name, kind in kinds.items() if kind in _ARRAYS),
        tuple(name for name, kind in kinds.items() if kind == _STRING),
        {name: _EMPTY[kind] for name, kind in kinds.items() if kind in _EMPTY},
        _flag(value, "use_ocdbt"),
        "zarr3" if _flag(value, "use_zarr3") else "zarr",
        bool(_flag(value, "store_array_data_equal_to_fill_value")),
        custom if isinstance(custom, dict) else {},
    )


def _flag(value: Mapping[str, Any], key: str) -> bool | None:
    """A setting, of which older files say nothing."""
    found = value.get(key)
    if found is not None and not isinstance(found, bool):
        raise FormatError(f"{key} in _METADATA is {str(found)[:80]!r}, not true or false")
    return found


def _leaf(label: str, leaf: Any) -> tuple[tuple[str | int, ...], str]:
    """The path of a leaf, and what it is."""
    try:
        keys = [(key["key"], key["key_type"]) for key in leaf["key_metadata"]]
        kind = leaf["value_metadata"]["value_type"]
    except (KeyError, TypeError):
        raise FormatError(f"the entry {label[:80]!r} of tree_metadata is not one of a leaf") from None
    if not keys:
        raise UnsupportedFeatureError(f"an Orbax checkpoint of a leaf that is in no container; {ADVICE}")
    path: list[str | int] = []
    for key, of in keys:
        number = of == _SEQUENCE and isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 10
        if not isinstance(key, str) or not (number or of == _DICT):
            raise FormatError(f"the entry {label[:80]!r} of tree_metadata has the key {str(key)[:80]!r} of type {of!r}")
        path.append(int(key) if number else key)
    if not isinstance(kind, str):
        raise FormatError(f"the entry {label[:80]!r} of tree_metadata has the type {str(kind)[:80]!r}")
    return tuple(path), kind


def parse_strings(data: bytes, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Nodes of the leaves that are text, from ``_strings.json``."""
    value = loads(data, what="_strings.json", max_bytes=MAX_JSON)
    nodes: dict[str, dict[str, Any]] = {}
    for name in names:
        text = value.get(name) if isinstance(value, dict) else None
        node = encode_value(text) if isinstance(text, str) else None
        if node is None:
            raise FormatError("_strings.json does not have the text of this leaf", tensor=name)
        nodes[name] = node
    return nodes
