"""What was saved is what comes back: nested dicts, lists and tuples to named tensors, and again.

The structure is JSON, so that any format can keep it: a string is a tensor's name, ``{"list": [...]}``,
``{"tuple": [...]}``, ``{"set": [...]}`` and ``{"dict": [[key, node], ...]}`` are containers. A flat dict of tensors
needs no structure (None). Formats that hold plain values beside tensors (an epoch, a learning rate) keep them in the
structure, as ``{"value": 3}``; what JSON has no word for is ``{"float": "nan"}``, ``{"complex": ["1.0", "0.0"]}`` or
``{"bytes": "00ff"}`` (hexadecimal).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["SINGLE", "encode_value", "flatten", "is_leaf", "replaced", "unflatten"]

SINGLE = "tensor"
"""The name of a tensor that was saved alone."""

_MAX_DEPTH = 100
_KEYS = (str, int, float, bool, type(None))


def is_leaf(value: object) -> bool:
    """Whether a value is an array (or becomes one), not a container."""
    return not isinstance(value, (Mapping, list, tuple))


def encode_value(value: object) -> dict[str, Any] | None:
    """The node of a plain value; None for what is none."""
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return {"value": value}
    if type(value) is float:
        return {"float": repr(value)}
    if type(value) is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if type(value) is set:  # of which no order is lasting
        members = [_encode_member(item) for item in sorted(value, key=repr)]
        return None if None in members else {"set": members}
    return None


def _encode_member(value: object) -> dict[str, Any] | None:
    """The node of a member of a set: a value, or a tuple of values."""
    if type(value) is not tuple:
        return None if type(value) is set else encode_value(value)
    parts = [_encode_member(part) for part in value]
    return None if None in parts else {"tuple": parts}


def flatten(obj: Any, *, values: bool = False) -> tuple[list[str], list[Any], Any]:
    """(names, leaves, structure) of an array, list, tuple or (nested) dict.

    Names are the path joined by dots: ``{"a": {"w": x}}`` gives ``a.w``, ``[x, y]`` gives ``0`` and ``1``.
    UnsupportedFeatureError for two paths that give one name, keys that JSON cannot hold, cycles.

    Args:
        obj: What is to be saved.
        values: Python's own scalars stay what they are, in the structure; else each is a leaf: an array without axes.
    """
    if values and (node := encode_value(obj)) is not None:
        return [], [], node
    if is_leaf(obj):
        return [SINGLE], [obj], SINGLE
    if isinstance(obj, Mapping) and set(map(type, obj)) <= {str} and "" not in obj:
        items = list(obj.values())
        plain = set(map(type, items)) <= {np.ndarray}
        if plain or (all(map(is_leaf, items)) and not (values and any(map(encode_value, items)))):
            return list(obj), items, None
    leaves: dict[str, Any] = {}
    structure = _flatten(obj, (), leaves, values=values)
    return list(leaves), list(leaves.values()), structure


def _flatten(obj: Any, path: tuple[str, ...], leaves: dict[str, Any], *, values: bool) -> Any:
    if len(path) > _MAX_DEPTH:
        raise UnsupportedFeatureError(f"containers nested deeper than {_MAX_DEPTH}, or a container that holds itself")
    if type(obj) is np.ndarray:  # first: of these there may be a hundred thousand
        return _leaf(obj, path, leaves)
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, _KEYS):
                raise UnsupportedFeatureError(
                    f"dict key {key!r} at {'.'.join(path) or 'the top'} is a {type(key).__name__}; use str or int"
                )
        return {"dict": [[k, _flatten(value, (*path, str(k)), leaves, values=values)] for k, value in obj.items()]}
    if isinstance(obj, (list, tuple)):
        kind = "tuple" if isinstance(obj, tuple) else "list"
        return {kind: [_flatten(value, (*path, str(i)), leaves, values=values) for i, value in enumerate(obj)]}
    node = encode_value(obj) if values else None
    return _leaf(obj, path, leaves) if node is None else node


def _leaf(obj: Any, path: tuple[str, ...], leaves: dict[str, Any]) -> str:
    name = ".".join(path)
    if not name or name in leaves:
        raise UnsupportedFeatureError(f"two paths give the tensor name {name!r}; rename one of the keys")
    leaves[name] = obj
    return name


def replaced(structure: Any, nodes: Mapping[str, Any]) -> Any:
    """A structure with other nodes in the place of some tensors."""
    if isinstance(structure, str):
        return nodes.get(structure, structure)
    ((kind, items),) = structure.items()
    if kind == "dict":
        return {kind: [[key, replaced(item, nodes)] for key, item in items]}
    return {kind: [replaced(item, nodes) for item in items]} if kind in ("list", "tuple") else structure


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
        if kind in _VALUES:
            return _value(kind, items)
        if kind == "set" and isinstance(items, list):
            return {_unflatten(item, {}, depth + 1) for item in items if _is_member(item)}
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


_VALUES = ("value", "float", "complex", "bytes")


def _is_member(node: object, depth: int = 0) -> bool:
    """Whether a node can be a set's member; FormatError if not."""
    if isinstance(node, dict) and len(node) == 1 and depth < _MAX_DEPTH:
        ((kind, items),) = node.items()
        if kind in _VALUES:
            return True
        if kind == "tuple" and isinstance(items, list):
            return all(_is_member(item, depth + 1) for item in items)
    raise FormatError(f"malformed structure: a set has the member {str(node)[:80]!r}")


def _value(kind: str, text: Any) -> Any:
    """What ``encode_value`` was given."""
    try:
        if kind == "value" and isinstance(text, _KEYS):
            return text
        if kind == "float":
            return float(text)
        if kind == "complex":
            real, imag = text
            return complex(float(real), float(imag))
        if kind == "bytes":
            return bytes.fromhex(text)
    except (TypeError, ValueError):
        pass
    raise FormatError(f"malformed structure: {str(text)[:80]!r} for a {kind}")
