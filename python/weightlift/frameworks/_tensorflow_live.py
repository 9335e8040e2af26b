"""Live objects of TensorFlow and Keras 2: modules, models, layers, and ``tf.train.Checkpoint``.

Variables are called as TensorFlow's checkpoints call them, by the shortest path of attributes that leads to each, so
that a file of ``save_weights`` loads into a model, and ``load_weights`` restores what was saved of one. Of a model or a
layer of Keras these are its weights; a ``tf.train.Checkpoint`` is all that it tracks. Values are read aside and then
assigned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from weightlift._dtypes import DTYPES
from weightlift.errors import UnsupportedFeatureError
from weightlift.protocols import LiveTensors, Slot

__all__ = ["Variables", "adapt"]

Array = npt.NDArray[Any]


def adapt(obj: Any) -> LiveTensors | None:
    """The adapter of what holds variables; None for tensors, and for a variable itself."""
    import tensorflow as tf

    if not isinstance(obj, (tf.Module, tf.train.Checkpoint)):
        return None
    found = _tracked(obj)
    weights = getattr(obj, "weights", None)
    if isinstance(weights, list):  # of Keras
        if not getattr(obj, "built", True):
            raise UnsupportedFeatureError(f"the {type(obj).__name__} has no variables yet: call it once, or build() it")
        mine = {id(variable) for variable in weights}
        found = {name: variable for name, variable in found.items() if id(variable) in mine}
    return Variables(type(obj).__name__, found, obj)


def _tracked(root: Any) -> dict[str, Any]:
    """The variables below an object, each by the first path that reaches it, nearest first."""
    import tensorflow as tf

    children = tf.train.TrackableView(root).children
    found: dict[str, Any] = {}
    waiting, seen = deque([("", root)]), {id(root)}
    while waiting:
        path, node = waiting.popleft()
        if isinstance(node, tf.Variable):
            found[path] = node
        for name, child in children(node).items():
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{path}/{name}" if path else name, child))
    return found


class Variables:
    """:class:`~weightlift.protocols.LiveTensors` of variables by name, of TensorFlow or Keras."""

    def __init__(self, kind: str, variables: Mapping[str, Any], obj: Any) -> None:
        """``kind``: what ``obj``, whose variables these are, is called in messages."""
        self._kind, self._variables, self._obj = kind, variables, obj

    @property
    def variables(self) -> Mapping[str, Any]:
        """By name."""
        return self._variables

    def tree(self) -> Any:
        return {name: variable.numpy() for name, variable in self._variables.items()}

    def slots(self) -> Mapping[str, Slot]:
        return {name: _slot(name, variable) for name, variable in self._variables.items()}

    def take(self, arrays: Mapping[str, Array], *, assign: bool) -> Any:
        if assign:
            raise UnsupportedFeatureError(f"assign=True: the variables of a {self._kind} keep their own memory")
        for name, array in arrays.items():
            self._variables[name].assign(array)
        return self._obj


def _slot(name: str, variable: Any) -> Slot:
    dtype = variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name
    if dtype not in DTYPES and dtype != "string":
        raise UnsupportedFeatureError(f"a variable of {dtype} cannot be filled", tensor=name)
    whole = variable.shape is not None and all(n is not None for n in variable.shape)
    return Slot(tuple(variable.shape) if whole else None, None if dtype == "string" else dtype)
