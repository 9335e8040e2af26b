"""Names of the tensors in a checkpoint of objects, from its keys, and keys from names.

A key is the path of attributes that leads to a variable, then ``/.ATTRIBUTES/VARIABLE_VALUE``; in each part ``.`` is
stored as ``..`` and ``/`` as ``.S``. An optimizer's slot is stored below the variable that it belongs to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["GRAPH", "VALUE", "escaped", "key_of", "readable_names"]

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The key of the object graph, which only checkpoints of objects have."""

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = re.compile(r"(?P<variable>.+)/\.OPTIMIZER_SLOT/(?P<optimizer>.+)/(?P<slot>[^/]+)", re.DOTALL)
_ESCAPE = re.compile(r"\.S|\.\.")


def readable_names(keys: Sequence[str]) -> list[str]:
    """What the variables are called here, one name a key.

    ``hidden/kernel/.ATTRIBUTES/VARIABLE_VALUE`` is ``hidden/kernel``; the slot ``m`` that ``optimizer`` keeps for it is
    ``optimizer/m/hidden/kernel``. Keys that would get one and the same name stay as they are.
    """
    names = [_readable(key) for key in keys]
    counts = Counter(names)
    if len(counts) < len(names):
        names = [name if counts[name] == 1 else key for name, key in zip(names, keys, strict=True)]
        if len(set(names)) < len(names):
            return list(keys)
    return names


def _readable(key: str) -> str:
    path = key.removesuffix(VALUE)
    if path == key:
        return key
    slot = _SLOT.fullmatch(path)
    if slot is not None:
        path = f"{slot['optimizer']}/{slot['slot']}/{slot['variable']}"
    return _ESCAPE.sub(lambda found: "/" if found[0] == ".S" else ".", path) if "." in path else path


def escaped(part: str) -> str:
    """One part of a path as keys have it."""
    return part.replace(".", "..").replace("/", ".S")


def key_of(name: str) -> str:
    """The key of the variable at the path ``name``."""
    return "/".join(map(escaped, name.split("/"))) + VALUE
