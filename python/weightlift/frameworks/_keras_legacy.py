"""What legacy ``.h5`` files of whole models call the variables of a Keras 3 model, and of its optimizer.

They have lists: the weights of each layer, and those of the optimizer. Keras fills a model from them by their order;
here the names in the lists must be the variables', too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["OPTIMIZER", "optimizer_names", "variable_names"]

_MODEL, OPTIMIZER = "model_weights/", "optimizer_weights/"


def variable_names(model: Any, own: Mapping[int, str], names: Sequence[str]) -> dict[str, str]:
    """The names of a model's variables, by those that a file has; empty if they are not certainly of the same layers.

    Args:
        model: A model, or a layer.
        own: The names, by the identity of a variable.
        names: Of all tensors in the file, in its order.
    """
    lists: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(_MODEL):
            lists.setdefault(name.split("/")[1], []).append(name)
    layers = {layer.name: layer for layer in getattr(model, "layers", ()) if layer.weights}
    if len(lists) != len(layers):
        return {}
    found: dict[str, str] = {}
    by_name = set(lists) == set(layers)  # not where Keras made names up: they go on from model to model
    for listed, layer in zip(lists, layers.values(), strict=True):
        stored, variables = lists[listed], _in_order(layers[listed] if by_name else layer)
        if [_last(name) for name in stored] != [variable.name for variable in variables]:
            return {}
        found |= {name: own[id(variable)] for name, variable in zip(stored, variables, strict=True)}
    return found


def optimizer_names(optimizer: Any, own: Mapping[int, str], names: Sequence[str]) -> dict[str, str]:
    """The same for the variables of an optimizer that is built."""
    stored = [name for name in names if name.startswith(OPTIMIZER)]
    variables = list(optimizer.variables)
    if [_role(name) for name in stored] != [_role(variable.path) for variable in variables]:
        return {}
    return {name: own[id(variable)] for name, variable in zip(stored, variables, strict=True)}


def _in_order(layer: Any) -> list[Any]:
    """A layer's variables as these files list them."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _last(name: str) -> str:
    return re.sub(r":\d+$", "", name.rpartition("/")[2])


def _role(name: str) -> str:
    """What an optimizer keeps of a parameter: ``adam/sequential_dense_kernel_momentum`` is a momentum of a kernel."""
    return "_".join(_last(name).split("_")[-2:])
