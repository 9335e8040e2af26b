"""What was saved is what comes back: nested dicts, lists and tuples to named tensors, and again.

The structure is JSON, so that any format can keep it: a string is a tensor's name, ``{"list": [...]}``,
``{"tuple": [...]}`` and ``{"dict": [[key, node], ...]}`` are containers. A flat dict of tensors
needs no structure (None).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["SINGLE", "flatten", "is_leaf", "unflatten"]

SINGLE = "tensor"
"""The name of a tensor that was saved alone."""

_MAX_DEPTH = 100
_KEYS = (str, int, float, bool, type(None))


def is_leaf(value: object) -> bool:
    """Whether a value is an array (or becomes one), not a container."""
    return not isinstance(value, (Mapping, list, tuple))


def flatten(obj: Any) -> tuple[list[str], list[Any], Any]:
    """(names, leaves, structure) of an array, list, tuple or (nested) dict.

    Names are the path joined by dots: ``{"a": {"w": x}}`` gives ``a.w``, ``[x, y]`` gives ``0`` and ``1``.
    UnsupportedFeatureError for two paths that give one name, keys that JSON cannot hold, cycles.
    """
    if is_leaf(obj):
        return [SINGLE], [obj], SINGLE
    if isinstance(obj, Mapping) and set(map(type, obj)) <= {str} and "" not in obj:
        values = list(obj.values())
        if set(map(type, values)) <= {np.ndarray} or all(map(is_leaf, values)):
            return list(obj), values, None
    leaves: dict[str, Any] = {}
    structure = _flatten(obj, (), leaves)
    return list(leaves), list(leaves.values()), structure


def _flatten(obj: Any, path: tuple[str, ...], leaves: dict[str, Any]) -> Any:
    if len(path) > _MAX_DEPTH:
        raise UnsupportedFeatureError(f"containers nested deeper than {_MAX_DEPTH}, or a container that holds itself")
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, _KEYS):
                raise UnsupportedFeatureError(
                    f"dict key {key!r} at {'.'.join(path) or 'the top'} is a {type(key).__name__}; use str or int"
                )
        return {"dict": [[key, _flatten(value, (*path, str(key)), leaves)] for key, value in obj.items()]}
    if isinstance(obj, (list, tuple)):
        kind = "tuple" if isinstance(obj, tuple) else "list"
        return {kind: [_flatten(value, (*path, str(i)), leaves) for i, value in enumerate(obj)]}
    name = ".".join(path)
    if not name or name in leaves:
        raise UnsupportedFeatureError(f"two paths give the tensor name {name!r}; rename one of the keys")
    leaves[name] = obj
    return name


def unflatten(structure: Any, tensors: Mapping[str, Any]) -> Any:
    """The object again; FormatError when the structure is malformed or does not name every tensor once."""
    left = dict(tensors)
    if structure is None:
        return left
    result = _unflatten(structure, left, 0)
    if left:
        raise FormatError("the structure leaves out a tensor; name the tensors to load", tensor=next(iter(left)))
    return result


def _unflatten(node: Any, left: dict[str, Any], depth: int) -> Any:
    if depth > _MAX_DEPTH + 1:
        raise FormatError("structure nested too deep")
    if isinstance(node, str):
        if node not in left:
            raise FormatError("the structure names a tensor that is not in the file, or names it twice", tensor=node)
        return left.pop(node)
    if isinstance(node, dict) and len(node) == 1:
        ((kind, items),) = node.items()
        if kind in ("list", "tuple") and isinstance(items, list):
            values = [_unflatten(item, left, depth + 1) for item in items]
            return values if kind == "list" else tuple(values)
        if kind == "dict" and isinstance(items, list):
            result = {}
            for item in items:
                if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], _KEYS)):
                    raise FormatError("malformed structure: a dict item is not [key, node]")
                if item[0] in result:
                    raise FormatError(f"malformed structure: a dict has the key {item[0]!r} twice")
                result[item[0]] = _unflatten(item[1], left, depth + 1)
            return result
    raise FormatError(f"malformed structure: {str(node)[:80]!r}")
