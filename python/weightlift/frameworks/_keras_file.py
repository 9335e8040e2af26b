"""``.keras`` files, read without Keras: a zip of ``config.json``, ``metadata.json`` and ``model.weights.h5``.

Nothing in the configuration is run: it is data that is rewritten. The weights lie in groups that are named after the
classes of the layers, counted in their order; newer files say the layer's own name, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from weightlift.errors import FormatError
from weightlift.frameworks._hdf5 import StoredWeights
from weightlift.frameworks._keras import artifacts_of, with_training
from weightlift.frameworks._keras_graph import Graph, read_model
from weightlift.frameworks._keras_state import Stored
from weightlift.frameworks._keras_topology import Holder, rewrite
from weightlift.frameworks._keras_weights import gather, weight_names
from weightlift.types import ModelArtifacts

__all__ = ["CONFIG", "METADATA", "WEIGHTS", "group_paths", "read_keras", "variable_counts"]

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_LISTS = ("layers", "_layer_checkpoint_dependencies")
"""The group of a model's layers; the second in files of Keras 2."""


def read_keras(stored: StoredWeights, *, include_optimizer: bool = False) -> ModelArtifacts:
    """A ``.keras`` file as artifacts that TensorFlow.js loads, with the optimizer and its state if they are asked for.

    Weights that it has as float32 stay the views they are.

    Raises:
        FormatError: Its configuration is damaged, or a variable is missing.
        UnsafeContentError: A weight reaches out of the file.
        UnsupportedFeatureError: TensorFlow.js cannot have the model; lists all reasons.
    """
    document = _json(stored.metadata["config"])
    compiled = (document.get("compile_config") or {}) if include_optimizer else None
    rewritten = rewrite(document, compiled)
    groups = group_paths(read_model(document))
    weights, names = gather(rewritten.holders, lambda holder: _find(stored, groups, holder))
    artifacts = artifacts_of(rewritten, weights, generated_by=f"keras {stored.metadata.get('keras_version', 3)}")
    if not compiled:
        return artifacts
    return with_training(artifacts, rewritten, names, compiled, Stored(stored.variables("optimizer/vars")))


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{CONFIG} is not a JSON object")
    return value


# --- where the weights of a layer are -------------------------------------------------------------
def group_paths(graph: Graph, prefix: str = "") -> dict[tuple[str, ...], str]:
    """The HDF5 group of every layer, by its trail: classes in snake case, counted in the layers' order."""
    found: dict[tuple[str, ...], str] = {}
    counts: dict[str, int] = {}
    for layer in graph.layers:
        if layer.operation or layer.trail is None:
            continue
        name = _snake(layer.class_name)
        count = counts.get(name, 0)
        counts[name] = count + 1
        path = f"{prefix}layers/{name}" + (f"_{count}" if count else "")
        found[layer.trail] = path
        if layer.model is not None:
            found |= group_paths(layer.model, f"{path}/")
    return found


def _snake(name: str) -> str:
    """A class's name as Keras writes it in paths: ``Conv2D`` is ``conv2d``, ``LeakyReLU`` is ``leaky_re_lu``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def variable_counts(class_name: str, config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The groups below a layer's own that hold its variables, in their order, and how many; "" is its own."""
    if class_name == "Bidirectional":
        inner = variable_counts(config["layer"]["class_name"], config["layer"]["config"])
        return [(f"{way}_layer/{path}", n) for way in ("forward", "backward") for path, n in inner]
    if class_name == "TimeDistributed":
        return [(f"layer/{p}", n) for p, n in variable_counts(config["layer"]["class_name"], config["layer"]["config"])]
    if class_name == "RNN":
        return [(f"cell/{p}", n) for p, n in variable_counts(config["cell"]["class_name"], config["cell"]["config"])]
    if class_name == "StackedRNNCells":
        counts: dict[str, int] = {}
        paths = []
        for cell in config["cells"]:
            name = _snake(cell["class_name"])
            count = counts.get(name, 0)
            counts[name] = count + 1
            own = f"cells/{name}" + (f"_{count}" if count else "")
            paths += [(f"{own}/{p}", n) for p, n in variable_counts(cell["class_name"], cell["config"])]
        return paths
    below = "cell/" if class_name in ("LSTM", "GRU", "SimpleRNN", "ConvLSTM2D") else ""
    return [(below, len(weight_names(class_name, config, "")))]


def _find(stored: StoredWeights, groups: Mapping[tuple[str, ...], str], holder: Holder) -> list[Any]:
    path = groups.get(holder.trail)
    group = None if path is None else _layer_group(stored, holder.trail, groups)
    if group is None:
        return []
    arrays: list[Any] = []
    for below, _ in variable_counts(holder.class_name, holder.config):
        arrays += stored.variables(f"{group}/{below}vars")
    return arrays


def _layer_group(stored: StoredWeights, trail: tuple[str, ...], groups: Mapping[tuple[str, ...], str]) -> str | None:
    """The group of a layer: the one that says its name, else the one where the count puts it."""
    group = ""
    for depth in range(1, len(trail) + 1):
        layers = next((p for p in (f"{group}/{name}".lstrip("/") for name in _LISTS) if stored.has(p)), None)
        if layers is None:
            return None
        name = trail[depth - 1]
        counted: str | None = f"{layers}/{groups[trail[:depth]].rpartition('/')[2]}"
        if counted is None or not stored.has(counted) or stored.layer_names.get(counted) not in (None, name):
            others = (f"{layers}/{key}" for key in stored.children(layers))
            counted = next((path for path in others if stored.layer_names.get(path) == name), None)
        if counted is None:
            return None
        group = counted
    return group
