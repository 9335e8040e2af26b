"""Live models and layers of Keras 3, on any backend.

A variable is called by the path to it: attributes of subclassed models, layers of functional and sequential ones (by
their names; where Keras made the name up, counted from the model's first, as a second model would otherwise have
others), then its own name: ``hidden/kernel``. What no attribute leads to is called as Keras calls it. The state of a
compiled model's optimizer is filled where a file has it, by Keras' names for it, and not saved.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from weightlift.errors import MismatchError, UnsupportedFeatureError
from weightlift.frameworks._keras_legacy import OPTIMIZER, optimizer_names, variable_names
from weightlift.frameworks._keras_paths import stored_names
from weightlift.frameworks._tensorflow_live import Variables
from weightlift.protocols import LiveTensors, Slot

__all__ = ["adapt"]


_STATE = "optimizer/vars/"


def adapt(obj: Any) -> LiveTensors | None:
    """The adapter of a model or layer; None for anything else."""
    import keras

    if not isinstance(obj, keras.layers.Layer):
        return None
    if not obj.built:
        raise UnsupportedFeatureError(f"the {type(obj).__name__} has no variables yet: call it once, or build() it")
    mine = {id(variable): variable for variable in obj.weights}
    found: dict[str, Any] = {}
    _walk(obj, "", mine, found, set())
    for variable in mine.values():  # those that only the framework knows how to reach
        found[_free(variable.path, found)] = variable
    return _Keras(type(obj).__name__, found, obj)


class _Keras(Variables):
    """Variables whose values any backend gives; the state of the optimizer is one that a file may lack as a whole."""

    def __init__(self, kind: str, variables: Mapping[str, Any], obj: Any) -> None:
        self._state = _trained(obj)
        super().__init__(kind, {**variables, **self._state}, obj)

    def tree(self) -> Any:
        import keras

        own = {name: variable for name, variable in self._variables.items() if name not in self._state}
        return {name: keras.ops.convert_to_numpy(variable) for name, variable in own.items()}

    def slots(self) -> Mapping[str, Slot]:
        slots = super().slots()
        return {name: replace(slot, optional=True) if name in self._state else slot for name, slot in slots.items()}

    def take(self, arrays: Mapping[str, npt.NDArray[Any]], *, assign: bool) -> Any:
        missing = [name for name in self._state if name not in arrays]
        if missing and len(missing) < len(self._state):
            raise MismatchError(
                f"the file has another optimizer's state than this model's: {', '.join(missing[:5])} are missing; "
                "leave it out with names=",
                missing=missing,
            )
        return super().take(arrays, assign=assign)

    def names_in(self, format: str) -> Mapping[str, str]:
        """In HDF5 those of ``.weights.h5`` files, so that Keras and we load the same ones."""
        if format != "hdf5":
            return {}
        stored = stored_names(self._obj)
        return {name: stored[id(v)] for name, v in self._variables.items() if id(v) in stored}

    def own_names(self, names: Sequence[str], chosen: Collection[str]) -> Mapping[str, str]:
        """Those of legacy ``.h5`` files, too. An optimizer whose state is chosen is built, if it is not yet."""
        optimizer = getattr(self._obj, "optimizer", None)
        if optimizer is not None and any(name.startswith((OPTIMIZER, _STATE)) for name in chosen):
            if not getattr(optimizer, "built", True):
                optimizer.build(self._obj.trainable_variables)
            self._state = _trained(self._obj)
            self._variables = {**self._variables, **self._state}
        own = {id(variable): name for name, variable in self._variables.items()}
        found = variable_names(self._obj, own, names)
        return {**found, **optimizer_names(optimizer, own, names)} if self._state else found


def _trained(model: Any) -> dict[str, Any]:
    """The optimizer's variables, as Keras calls them in its files; none of one that is not built."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not getattr(optimizer, "built", False):
        return {}
    return {f"{_STATE}{number}": variable for number, variable in enumerate(optimizer.variables)}


def _walk(layer: Any, path: str, left: dict[int, Any], found: dict[str, Any], seen: set[int]) -> None:
    """Name what a layer holds itself, then what those below it hold."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    below = list(_below(layer))
    inner = {id(variable) for _, child in below for variable in child.weights}
    for variable in layer.weights:
        if id(variable) in left and id(variable) not in inner:
            found[_free(f"{path}{variable.name}", found)] = left.pop(id(variable))
    for name, child in below:
        _walk(child, f"{path}{name}/", left, found, seen)


def _below(layer: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the layers that a layer holds."""
    import keras

    if isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and hasattr(layer, "operations")):
        layers = [child for child in layer.layers if isinstance(child, keras.layers.Layer)]
        yield from zip(_names(layers), layers, strict=True)
        return
    for name, value in {**vars(layer), **vars(layer).get("_modules", {})}.items():  # where torch keeps attributes
        if not name.startswith("_"):
            yield from _in(name, value)
        elif isinstance(value, keras.layers.Layer) and isinstance(getattr(type(layer), name[1:], None), property):
            yield name[1:], value  # the parts of MultiHeadAttention


def _in(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The layers in an attribute: itself, or those in a list or dict."""
    import keras

    if isinstance(value, keras.layers.Layer):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _in(f"{name}/{i}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _in(f"{name}/{key}", item)


def _names(layers: list[Any]) -> list[str]:
    """Their names; those that Keras made up are counted anew."""
    counts: Counter[str] = Counter()
    names = []
    for layer in layers:
        made = _snake(type(layer).__name__)
        if re.fullmatch(rf"{re.escape(made)}(_\d+)?", layer.name):
            names.append(f"{made}_{counts[made]}" if counts[made] else made)
            counts[made] += 1
        else:
            names.append(layer.name)
    return names if len(set(names)) == len(names) else [layer.name for layer in layers]


def _snake(name: str) -> str:
    """``Conv2DTranspose`` as ``conv2d_transpose``, in which way Keras makes names up."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _free(name: str, taken: dict[str, Any]) -> str:
    """The name, or with a number if it is taken."""
    number, free = 1, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
