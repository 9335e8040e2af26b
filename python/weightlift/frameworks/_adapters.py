"""Which adapter knows a live object: told by the packages of its classes, so that no framework is imported.

An adapter is a function that gives :class:`~weightlift.protocols.LiveTensors` or
:class:`~weightlift.protocols.LiveTree` for an object that it knows, and None for any other. It is called only for
objects of which a class comes from its package, so it may import that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._holder import StateHolder, is_state_holder
from weightlift.frameworks._tree_live import Tree
from weightlift.protocols import LiveTensors, LiveTree

__all__ = ["Adapter", "expand", "for_training", "live_object", "register_adapter"]

Adapter = Callable[[Any], LiveTensors | LiveTree | None]

_FLAX = "weightlift.frameworks._flax_live:adapt"
_ADAPTERS: dict[str, str | Adapter] = {
    "flax": _FLAX,
    "keras": "weightlift.frameworks._keras_live:adapt",
    "tensorflow": "weightlift.frameworks._tensorflow_live:adapt",
    "tf_keras": "weightlift.frameworks._tensorflow_live:adapt",
    "mxnet": "weightlift.frameworks._mxnet_live:adapt",
    "torch": "weightlift.frameworks._torch_live:adapt",
    "weightlift": "weightlift.frameworks._keras_resume:adapt",
}
"""By package; ``"module:function"`` is imported when the first object of that package is seen."""


def register_adapter(package: str, adapter: str | Adapter) -> None:
    """Teach :func:`save` and ``load(into=)`` the live objects of another framework.

    Args:
        package: First part of the module names of the framework's classes (``"torch"``); asked for objects of classes
            that derive from one of these. A later registration takes the place of an earlier one.
        adapter: Gives :class:`weightlift.protocols.LiveTensors` or ``LiveTree`` for an object, or None; or the
            place of such a function, ``"module:function"``, which is imported when it is needed.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> class Scale:
        ...     __module__ = "scales.layers"
        ...     def __init__(self):
        ...         self.factor = np.ones(2)
        >>> class Tensors:
        ...     def __init__(self, scale):
        ...         self.scale = scale
        ...     def tree(self):
        ...         return {"factor": self.scale.factor}
        ...     def slots(self):
        ...         return {"factor": wl.Slot((2,), "float64", self.scale.factor)}
        ...     def take(self, arrays, *, assign):
        ...         return self.scale
        >>> wl.register_adapter("scales", lambda obj: Tensors(obj) if isinstance(obj, Scale) else None)
        >>> _ = wl.save({"factor": np.array([2.0, 3.0])}, "scale.safetensors")
        >>> wl.load("scale.safetensors", into=Scale()).factor.tolist()
        [2.0, 3.0]
    """
    _ADAPTERS[package.partition(".")[0]] = adapter


def live_object(obj: Any) -> LiveTensors | LiveTree | None:
    """What the adapter of its framework makes of an object; None for one that no adapter knows."""
    for kind in type(obj).__mro__:
        package = kind.__module__.partition(".")[0]
        adapter = _ADAPTERS.get(package)
        if isinstance(adapter, str):
            adapter = _ADAPTERS[package] = _imported(adapter)
        found = None if adapter is None else adapter(obj)
        if found is not None:
            return found
    if getattr(type(obj), "_flax_dataclass", False):  # made by a decorator: its classes are not of Flax
        return _imported(_FLAX)(obj)
    if is_state_holder(obj):
        return StateHolder(obj)
    return Tree(obj, live_object) if isinstance(obj, (Mapping, list, tuple)) else None


def for_training(obj: Any) -> Any:
    """What stands for an object in the state of a training job: itself, or what holds more of it than its weights."""
    packages = {kind.__module__.partition(".")[0] for kind in type(obj).__mro__}
    if "keras" not in packages:
        return obj
    from weightlift.frameworks._keras_resume import wrapped

    return wrapped(obj)


def _imported(place: str) -> Adapter:
    module, _, name = place.partition(":")
    found: Adapter = getattr(import_module(module), name)
    return found


def expand(obj: Any, depth: int = 0) -> tuple[Any, bool]:
    """``obj`` with the trees of the live objects in it in their places, and whether there was one."""
    if isinstance(obj, Mapping):
        items: list[Any] = list(obj.values())
    elif isinstance(obj, (list, tuple)):
        items = list(obj)
    else:
        live = live_object(obj)
        return (obj, False) if live is None else (live.tree(), True)
    kinds = {type(item): item for item in items}  # one of each class is enough to ask, of a hundred thousand
    if not any(isinstance(item, (Mapping, list, tuple)) or live_object(item) is not None for item in kinds.values()):
        return obj, False
    if depth > _MAX_DEPTH:
        raise UnsupportedFeatureError(f"containers nested deeper than {_MAX_DEPTH}, or a container that holds itself")
    made = [expand(item, depth + 1) for item in items]
    if not any(live for _, live in made):
        return obj, False
    trees = [tree for tree, _ in made]
    if isinstance(obj, Mapping):
        return dict(zip(obj, trees, strict=True)), True
    return (tuple(trees) if isinstance(obj, tuple) else trees), True


_MAX_DEPTH = 100
