"""TensorFlow.js layers models as Keras 3: the configuration, a live model, and a ``.keras`` file.

The configuration is made from the topology alone, by Keras' own names; weights are found by TensorFlow.js' names and
given to Keras by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightlift.errors import FormatError, MismatchError, UnsupportedFeatureError
from weightlift.frameworks._keras_compile import Compiled, compile_config, optimizer_variables
from weightlift.frameworks._keras_graph import Call, Graph, Layer, Problem, Ref, read_model
from weightlift.frameworks._keras_options import back_entry
from weightlift.frameworks._keras_order import by_layers
from weightlift.frameworks._keras_weights import weight_names

__all__ = ["Rebuilt", "build", "rebuild"]

_RECURRENT = ("Bidirectional", "ConvLSTM2D", "GRU", "LSTM", "RNN", "SimpleRNN")
_MERGES = ("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply")


@dataclass
class Rebuilt:
    """A Keras 3 configuration, and the weights of its layers.

    Attributes:
        document: As ``json.loads(model.to_json())``.
        weights: Each layer's arrays in Keras' order, by the names that lead to it.
        layers: The same layers' classes and options, as TensorFlow.js has them.
        trained: The layer and the shape of every weight that is trained, by TensorFlow.js' names.
        compiled: As ``model.get_compile_config()``; None without a training configuration.
        optimizer: The optimizer's variables, as Keras lists them.
    """

    document: dict[str, Any]
    weights: dict[tuple[str, ...], list[Any]] = field(default_factory=dict)
    layers: dict[tuple[str, ...], tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    trained: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    compiled: Compiled | None = None
    optimizer: list[Any] = field(default_factory=list)


def rebuild(artifacts: Any, custom: Sequence[str] = (), *, compiled: bool = True) -> Rebuilt:
    """The Keras 3 form of a layers model.

    Args:
        artifacts: Of a layers model.
        custom: Classes that the caller brings.
        compiled: With the training configuration and the optimizer's state, where there are some.

    Raises:
        UnsupportedFeatureError: It is no layers model, or has layers that Keras has not; lists all.
        MismatchError: Weights are missing, or are of no layer.
    """
    topology = artifacts.model_topology
    if not isinstance(topology, Mapping) or "node" in topology:
        raise UnsupportedFeatureError("only a layers model becomes a Keras model; this one has no layers")
    graph = read_model(topology)
    kept = artifacts.user_defined_metadata
    known = kept.get("keras") if isinstance(kept, Mapping) else None
    metadata = known if isinstance(known, Mapping) else {}
    problems: list[Problem] = []
    result = Rebuilt({})
    names = _keras_names(graph, metadata.get("layerNames") or {})
    states = {spec["name"] for spec in artifacts.weight_specs or () if spec.get("group") == "optimizer"}
    found = _WeightIndex({name: w for name, w in artifacts.weights.items() if name not in states})
    result.document = _model(graph, (), names, result, found, problems, custom)
    if problems:
        lines = "\n".join(f"- {p}" for p in problems)
        raise UnsupportedFeatureError(f"Keras cannot have this model; nothing was made:\n{lines}")
    found.finish()
    config = result.document["config"]
    for key, kept_names in (("input_layers", "inputNames"), ("output_layers", "outputNames")):
        keys = metadata.get(kept_names)
        if isinstance(keys, list) and key in config and len(keys) == len(_refs(config[key])):
            config[key] = dict(zip(map(str, keys), _refs(config[key]), strict=True))
    if compiled and artifacts.training_config is not None:
        last = config.get("output_layers")
        keys = list(last) if isinstance(last, dict) else None
        result.compiled = compile_config(artifacts.training_config, [r.layer for r in graph.outputs], keys)
        order = by_layers(topology, {name: layer for name, (layer, _) in result.trained.items()}, result.trained)
        shapes = {name: result.trained[name][1] for name in order}
        result.optimizer = optimizer_variables(artifacts, result.compiled, shapes, order)
    return result


def _refs(value: list[Any]) -> list[Any]:
    return [value] if value and isinstance(value[0], str) else value


# --- weights --------------------------------------------------------------------------------------
class _WeightIndex:
    """Weights by name, found as TensorFlow.js finds them."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.weights = weights
        self.left = dict.fromkeys(weights)
        self.missing: list[str] = []
        self.loose: dict[str, str] = {}
        for name in weights:
            plain = name.removesuffix(":0")
            head, _, last = plain.rpartition("/")
            for form in (plain, f"{head.rpartition('/')[0]}/{last}"):
                self.loose.setdefault(form, name)

    def take(self, name: str) -> Any:
        found = name if name in self.weights else self.loose.get(name)
        if found is None:
            self.missing.append(name)
            return None
        self.left.pop(found, None)
        return np.asarray(self.weights[found])

    def finish(self) -> None:
        unexpected = [name for name in self.left if not name.startswith("optimizer/")]
        if self.missing:
            raise MismatchError(
                f"weights of the model are missing: {', '.join(self.missing[:10])}"
                + (f"; there are {', '.join(unexpected[:10])}" if unexpected else ""),
                missing=self.missing,
                unexpected=unexpected,
            )


# --- names ----------------------------------------------------------------------------------------
def _keras_names(graph: Graph, kept: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Keras' name of every layer, by its trail: the one that it had, or one without the slashes that Keras refuses."""
    names: dict[tuple[str, ...], str] = {}

    def visit(level: Graph) -> None:
        taken: set[str] = set()
        for layer in level.layers:
            trail = layer.trail or (layer.name,)
            old = kept.get(layer.name)
            name = (old.rpartition("/")[2] if isinstance(old, str) else "") or layer.name.replace("/", "_")
            while name in taken:
                name += "_"
            taken.add(name)
            names[trail] = name
            if layer.model is not None:
                visit(layer.model)

    visit(graph)
    return names


# --- the configuration ----------------------------------------------------------------------------
def _model(
    graph: Graph,
    trail: tuple[str, ...],
    names: Mapping[tuple[str, ...], str],
    result: Rebuilt,
    weights: _WeightIndex,
    problems: list[Problem],
    custom: Sequence[str],
) -> dict[str, Any]:
    new = {layer.name: names[layer.trail or (layer.name,)] for layer in graph.layers}
    if graph.sequential:
        _say_input(graph, new)
    entries = []
    for layer in graph.layers:
        own = (*trail, new[layer.name])
        if layer.model is not None:
            entry = _model(layer.model, own, names, result, weights, problems, custom)
            entry["config"]["name"] = own[-1]
        else:
            _mend(layer)
            entry = back_entry(layer.class_name, layer.config, own, problems, custom)
            wanted = weight_names(layer.class_name, layer.config, layer.name)
            if wanted:
                result.weights[own] = [weights.take(name) for name in wanted]
                result.layers[own] = (layer.class_name, layer.config)
                first = result.weights[own][0]
                for name, array in zip(wanted, result.weights[own], strict=True):
                    if (
                        layer.config.get("trainable", True) is not False
                        and "/moving_" not in name
                        and array is not None
                    ):
                        result.trained[name] = (layer.name, array.shape)
                if layer.class_name in ("SeparableConv2D", "DepthwiseConv2D") and getattr(first, "ndim", 0) == 4:
                    entry["config"]["depth_multiplier"] = int(first.shape[3])  # TensorFlow.js does not always write it
        entry["config"]["name"] = own[-1]
        if not graph.sequential:
            entry |= {"name": own[-1], "inbound_nodes": [_node(layer, c, new) for c in layer.calls if c.inputs]}
        entries.append(entry)
    config: dict[str, Any] = {"name": graph.name.replace("/", "_"), "trainable": True, "layers": entries}
    if graph.sequential:
        return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
    for key, refs in (("input_layers", graph.inputs), ("output_layers", graph.outputs)):
        listed = [[new[r.layer], r.node, r.tensor] for r in refs]
        config[key] = listed[0] if len(listed) == 1 else listed
    module = "keras.src.models.functional"
    return {"module": module, "class_name": "Functional", "config": config, "registered_name": "Functional"}


def _mend(layer: Layer) -> None:
    """TensorFlow.js writes stacked cells under the class name RNN."""
    cell = layer.config.get("cell")
    if isinstance(cell, Mapping) and isinstance(cell.get("config"), Mapping) and "cells" in cell["config"]:
        layer.config["cell"] = {**cell, "class_name": "StackedRNNCells"}


def _say_input(graph: Graph, new: dict[str, str]) -> None:
    """A Sequential that begins with a model takes that model's input."""
    inner: Graph | None = graph
    while inner is not None and inner.layers:
        first = inner.layers[0]
        if first.class_name == "InputLayer":
            break
        inner = first.model
    if inner is None or not inner.layers:
        raise FormatError(f"the shape of the input of {graph.name} is not known")
    if inner is not graph:
        name = f"{graph.name.replace('/', '_')}_input"
        while name in new.values():
            name += "_"
        config = {**inner.layers[0].config, "name": name}
        graph.layers.insert(0, Layer(name, "InputLayer", config, trail=(name,)))
        new[name] = name


def _tensor(ref: Ref, new: Mapping[str, str]) -> dict[str, Any]:
    history = [new[ref.layer], ref.node, ref.tensor]
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [None], "dtype": "float32", "keras_history": history},
    }


def _node(layer: Layer, call: Call, new: Mapping[str, str]) -> dict[str, Any]:
    tensors = [_tensor(r, new) for r in call.inputs]
    if layer.class_name in _RECURRENT and len(tensors) > 1:
        return {"args": tensors[:1], "kwargs": {"initial_state": tensors[1:]}}
    if len(tensors) > 1 or layer.class_name in _MERGES:
        return {"args": [tensors], "kwargs": {}}
    return {"args": tensors, "kwargs": {}}


# --- a live model ---------------------------------------------------------------------------------
def build(artifacts: Any, custom_objects: Mapping[str, Any] | None = None, *, compiled: bool = True) -> Any:
    """A live Keras 3 model with the weights; where there is a training configuration, with its optimizer and state.

    Raises:
        UnsupportedFeatureError: Keras is not installed, or cannot have the model.
    """
    try:
        import keras
    except ImportError as error:
        raise UnsupportedFeatureError("a live model needs Keras 3: pip install keras, and a backend") from error
    if int(keras.__version__.split(".")[0]) < 3:
        raise UnsupportedFeatureError(f"a live model needs Keras 3, this is {keras.__version__}")
    rebuilt = rebuild(artifacts, tuple(custom_objects or ()), compiled=compiled)
    model = keras.models.model_from_json(json.dumps(rebuilt.document), custom_objects=dict(custom_objects or {}))
    for trail, arrays in rebuilt.weights.items():
        layer = model
        for name in trail:
            layer = layer.get_layer(name)
        try:
            layer.set_weights(arrays)
        except ValueError as error:
            raise MismatchError(f"layer {'/'.join(trail)}: {error}") from error
    if rebuilt.compiled is not None:
        _compile(model, rebuilt)
    return model


def _compile(model: Any, rebuilt: Rebuilt) -> None:
    model.compile_from_config(rebuilt.compiled)
    model.optimizer.build(model.trainable_variables)
    variables = model.optimizer.variables
    shapes = [tuple(v.shape) for v in variables]
    if shapes != [a.shape for a in rebuilt.optimizer]:
        raise MismatchError(
            f"Keras' optimizer has {len(shapes)} variables of other shapes than the {len(rebuilt.optimizer)} of this "
            "model: to_keras(compile=False) goes without it"
        )
    for variable, array in zip(variables, rebuilt.optimizer, strict=True):
        variable.assign(array)
