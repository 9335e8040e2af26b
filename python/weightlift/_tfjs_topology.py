"""Whether TensorFlow.js makes a layers model of a topology and its weights: a simulation of ``loadLayersModel``.

Everything that it would stumble over is found at once. Nothing here reads a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weightlift._artifacts import WeightSpec
from weightlift._tfjs_layers import Variable, layer_variables, layers_of, parts_of
from weightlift._tfjs_options import BROKEN_LAYERS, RULES, UNKNOWN_LAYERS, activation_problem, snake
from weightlift._tfjs_registry import (
    CELLS,
    CONSTRAINTS,
    INITIALIZERS,
    LAYERS,
    LOSSES,
    METRICS,
    MODELS,
    NAME,
    OPTIMIZERS,
    REGULARIZERS,
)
from weightlift.types import TfjsProblem

__all__ = ["check_layers_model", "layer_classes", "snaked"]

KERAS3 = "save the Keras model with weightlift.save_model(model, ...), which rewrites it for TensorFlow.js"
CUSTOM = "register the class in JavaScript with tf.serialization.registerClass, or convert the model to a graph model"
_PARTS = {"initializer": INITIALIZERS, "regularizer": REGULARIZERS, "constraint": CONSTRAINTS}
_NUMBER = re.compile(r"\s*[+-]?\d")


def snaked(value: Any) -> Any:
    """A topology with its keys in snake case; the names of layers and models, which may be keys too, are values."""
    if isinstance(value, dict):
        return {snake(k): snaked(v) for k, v in value.items()}
    return [snaked(v) for v in value] if isinstance(value, list) else value


def check_layers_model(topology: Any, specs: Sequence[WeightSpec], training: Any = None) -> list[TfjsProblem]:
    """Every problem of a layers model.

    Args:
        topology: ``modelTopology``.
        specs: Of its weights; those of the optimizer are left out.
        training: ``trainingConfig``.
    """
    topology = snaked(topology)
    root = topology.get("model_config") if isinstance(topology.get("model_config"), Mapping) else topology
    walk = _Walk()
    walk.model(root, "the model")
    found = [*walk.keras3_problem(), *walk.problems]
    weights = [s for s in specs if s.group != "optimizer"]
    if weights:
        found += _check_weights(root, weights, walk.unknown)
    if isinstance(training, Mapping):
        found += _check_training(snaked(training))
    elif isinstance(topology.get("training_config"), Mapping):
        what = "modelTopology.training_config is ignored: the model is loaded without its optimizer and loss"
        found.append(TfjsProblem("note", "training-ignored", "the document", what, "write it as trainingConfig"))
    return found


def layer_classes(topology: Any) -> Counter[str]:
    """How many layers of each class a topology has, those inside models and wrappers too."""
    topology = snaked(topology)
    root = topology.get("model_config") if isinstance(topology.get("model_config"), Mapping) else topology
    walk = _Walk()
    walk.model(root, "the model")
    return walk.classes


# --- the configuration ----------------------------------------------------------------------------
class _Walk:
    """A look at every layer."""

    def __init__(self) -> None:
        self.problems: list[TfjsProblem] = []
        self.classes: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self._keras3: list[str] = []

    def _add(self, severity: str, code: str, where: str, what: str, fix: str = "") -> None:
        self.problems.append(TfjsProblem(severity, code, where, what, fix))

    def keras3_problem(self) -> Iterator[TfjsProblem]:
        """One problem for all signs that the configuration is Keras 3's own."""
        if self._keras3:
            signs = list(dict.fromkeys(self._keras3))
            more = f", and {len(signs) - 4} more" if len(signs) > 4 else ""
            form = "the configuration is in the form of Keras 3, which TensorFlow.js rejects"
            what = f"{form}: {', '.join(signs[:4])}{more}"
            yield TfjsProblem("error", "keras3", "modelTopology", what, KERAS3)

    def model(self, entry: Any, where: str) -> None:
        """A model's own entry and all that is in it."""
        class_name, config, _ = parts_of(entry)
        if not class_name or not isinstance(entry, Mapping) or "config" not in entry:
            what = "it has no 'class_name' and 'config': 'Improper config format'"
            return self._add(
                "error", "not-layers", where, what, "is it a graph model? Then load it with loadGraphModel"
            )
        if class_name not in MODELS:
            what = f"unknown layer {class_name!r} in place of Sequential, Functional or Model"
            return self._add("error", "unknown-layer", where, what, CUSTOM)
        layers = layers_of(config)
        if class_name == "Sequential":
            self._sequential(layers, where)
        else:
            self._functional(config, layers, where)
        for layer in layers:
            self.layer(layer, class_name == "Sequential")
        return None

    def _sequential(self, layers: list[Any], where: str) -> None:
        class_name, config, name = parts_of(layers[0]) if layers else ("", {}, None)
        given = {"batch_input_shape", "input_shape", "batch_shape"} & {k for k, v in config.items() if v is not None}
        if layers and class_name not in (*MODELS, "Embedding") and not given:
            what = f"the first layer {name!r} has no input shape: the model has no weights until it is built"
            self._add("error", "no-input-shape", where, what, "give it a batch_input_shape, or put an InputLayer first")

    def _functional(self, config: Mapping[str, Any], layers: list[Any], where: str) -> None:
        names = [str(layer.get("name")) if isinstance(layer, Mapping) else "" for layer in layers]
        for name, count in Counter(names).items():
            if count > 1:
                self._add("error", "layer-twice", where, f"{count} layers are called {name!r}", "rename them")
        for key in ("input_layers", "output_layers"):
            ends = config.get(key)
            if not isinstance(ends, list) or not all(isinstance(end, list) for end in ends):
                self._keras3.append(f"{key} is not a list of [name, node, tensor]")
                continue
            self._known(ends, set(names), key)
        for layer in layers:
            nodes = layer.get("inbound_nodes") if isinstance(layer, Mapping) else None
            self._nodes(nodes, set(names), layer)

    def _nodes(self, nodes: Any, names: set[str], layer: Any) -> None:
        name = layer.get("name") if isinstance(layer, Mapping) else None
        if not isinstance(nodes, list):
            return self._add("error", "no-nodes", f"layer {name!r}", "it has no inbound_nodes", "save the model again")
        if any(isinstance(node, Mapping) for node in nodes):
            return self._keras3.append("inbound_nodes are objects")
        if any(not isinstance(part, list) for node in nodes for part in (node if isinstance(node, list) else [node])):
            what = "inbound_nodes are not lists of lists: 'Cannot read properties of undefined'"
            fix = "write each node as [[name, node, tensor, {}], ...]"
            return self._add("error", "flat-nodes", f"layer {name!r}", what, fix)
        return self._known([part for node in nodes for part in node], names, f"layer {name!r}")

    def _known(self, ends: list[Any], names: set[str], where: str) -> None:
        for end in ends:
            if not end or end[0] not in names:
                what = f"it refers to the layer {str(end[0] if end else None)!r}, which is not there: it never loads"
                self._add("error", "no-such-layer", where, what, "save the model again")

    def layer(self, entry: Any, in_sequence: bool = False) -> None:
        """A layer's entry and the layers in it."""
        class_name, config, name = parts_of(entry)
        where = f"layer {name!r}" if name else f"a {class_name or 'layer'} without a name"
        self.classes[class_name] += 1
        if class_name in MODELS:
            return self.model(entry, where)
        if class_name in UNKNOWN_LAYERS or class_name not in LAYERS | CELLS:
            self.unknown.add(name or "")
            fix = UNKNOWN_LAYERS.get(class_name, CUSTOM)
            return self._add("error", "unknown-layer", where, f"unknown layer {class_name!r}", fix)
        if class_name in BROKEN_LAYERS:
            self._add("error", "broken-layer", where, BROKEN_LAYERS[class_name], "do it before the model")
        self._name(name, where, class_name, config)
        self._options(class_name, config, where)
        for key in ("layer", "cell"):
            if isinstance(config.get(key), Mapping):
                self.layer(config[key])
        for cell in config.get("cells") or () if class_name == "StackedRNNCells" else ():
            self.layer(cell)
        return None

    def _name(self, name: str | None, where: str, class_name: str, config: Mapping[str, Any]) -> None:
        if name is None and class_name not in CELLS:
            what = "TensorFlow.js gives it one, which no weight in a file has"
            named = layer_variables(class_name, config, "x")
            self._add("error" if named else "warning", "no-name", where, what, "give it a name")
        elif name is not None and not NAME.fullmatch(name):
            used = class_name == "InputLayer" or layer_variables(class_name, config, "x")
            what = f"the name {name!r} holds what names of tensors may not: letters, digits and -._/ are allowed"
            self._add("error" if used else "warning", "bad-name", where, what, "rename it")

    def _options(self, class_name: str, config: Mapping[str, Any], where: str) -> None:
        if class_name == "InputLayer" and not {"batch_input_shape", "input_shape"} & set(config):
            sign = "InputLayer has batch_shape" if "batch_shape" in config else "InputLayer has no batch_input_shape"
            self._keras3.append(sign)
        if isinstance(config.get("dtype"), Mapping) and (class_name == "InputLayer" or "batch_input_shape" in config):
            self._keras3.append("dtype is an object")
        for rule in RULES:
            if class_name in rule.layers and not rule.good(value := config.get(rule.option)):
                what = f"{rule.option}={value!r}: {rule.what}" if not isinstance(value, Mapping) else rule.what
                self._add(rule.severity, "option", where, f"{class_name}: {what}", rule.fix)
        if config.get("activity_regularizer") is not None:
            what = "it has an activity_regularizer, which is not implemented"
            self._add("error", "option", where, what, "set it to null: it only acts in training")
        for key in ("activation", "recurrent_activation"):
            if (wrong := activation_problem(config.get(key))) is not None:
                self._add("error", "unknown-activation", where, f"{key}: {wrong[0]}", wrong[1])
        for key, value in config.items():
            known = _PARTS.get(key.rpartition("_")[2])
            if known is not None and isinstance(value, Mapping) and value.get("class_name") not in known:
                what = f"{key}: unknown {key.rpartition('_')[2]} {value.get('class_name')!r}"
                fix = (
                    "use Zeros, as the values are loaded"
                    if known is INITIALIZERS
                    else f"use {', '.join(sorted(known))}"
                )
                self._add("error", "unknown-part", where, what, fix)


# --- weights --------------------------------------------------------------------------------------
def _check_weights(root: Any, specs: Sequence[WeightSpec], unknown: set[str]) -> Iterator[TfjsProblem]:
    """As ``Container.loadWeights``, which matches the names in a file with those of variables."""
    class_name, config, _ = parts_of(root)
    variables = layer_variables(class_name, config, "")
    numbered = _NUMBER.match(specs[0].name.rpartition("/")[2]) is not None  # as saved by Keras 3
    targets = _numbered(variables) if numbered else variables
    for name, count in Counter(v.name for v in targets).items():
        if count > 1:
            what = f"{count} variables of the model are called {name!r}: 'Duplicate weight name'"
            yield TfjsProblem(
                "error", "variable-twice", f"weight {name!r}", what, "give layers in nested models other names"
            )
    left, total = {v.name: v for v in targets}, len(targets)
    astray: list[str] = []
    for spec in specs:
        parts = spec.name.split("/")
        name = spec.name if spec.name in left else "/".join([*parts[:-2], parts[-1]])
        variable = left.pop(name, None)
        if variable is None:
            if not any(spec.name.startswith(f"{layer}/") for layer in unknown):
                astray.append(spec.name)
        elif variable.shape is not None and not _fits(variable.shape, spec.shape):
            sizes = str(list(variable.shape)).replace("None", "any")
            what = f"its shape is {list(spec.shape)}, but the layer makes {sizes}"
            yield TfjsProblem(
                "error", "wrong-shape", f"weight {spec.name!r}", what, "export weights and topology together"
            )
    for name in astray:
        what, fix = "the model has no variable of this name", _renaming(name, left)
        yield TfjsProblem("error", "no-variable", f"weight {name!r}", what, fix)
    for name in left:
        what = f"the file has no weight for it ({len(left)} of {total} are not set)"
        yield TfjsProblem("error", "no-weight", f"variable {name!r}", what, _missing(name))


def _fits(wanted: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(wanted) == len(shape) and all(a in (None, b) for a, b in zip(wanted, shape, strict=True))


def _numbered(variables: Sequence[Variable]) -> list[Variable]:
    """The names ``dense/0``, ``dense/1`` ... in the order of each layer's variables."""
    counts: Counter[str] = Counter()
    numbered = []
    for variable in variables:
        layer = variable.name.rpartition("/")[0]
        numbered.append(variable._replace(name=f"{layer}/{counts[layer]}"))
        counts[layer] += 1
    return numbered


def _renaming(name: str, left: Mapping[str, Variable]) -> str:
    if "/vars/" in f"/{name}":
        return f"the names are those of a Keras 3 file: {KERAS3}"
    if ":" in name:
        return f"leave out {name[name.index(':') :]!r}"
    for target in left:
        if name.endswith(f"/{target}"):
            return f"call it {target!r}"
    near = [t for t in left if t.rpartition("/")[2] == name.rpartition("/")[2]]
    return f"rename it, to {near[0]!r} perhaps" if near else "leave it out, or load with strict: false"


def _missing(name: str) -> str:
    if name.endswith(("/moving_mean", "/moving_variance")):
        return "it is not trainable: save without trainableOnly, or load with strict: false"
    return "save the model again, or load with strict: false, which leaves it random"


# --- training -------------------------------------------------------------------------------------
def _check_training(config: Mapping[str, Any]) -> Iterator[TfjsProblem]:
    where = "trainingConfig"
    for key in ("weighted_metrics", "loss_weights", "sample_weight_mode"):
        if config.get(key) is not None:
            yield TfjsProblem(
                "error", "training", where, f"{key} is not supported: the model does not load", f"remove {key}"
            )
    optimizer = config.get("optimizer_config")
    class_name, options, _ = parts_of(optimizer)
    if class_name not in OPTIMIZERS:
        near = next((n for n in OPTIMIZERS if n.lower() == class_name.lower()), None)
        fix = f"call it {near!r}" if near else f"use {', '.join(OPTIMIZERS)}, or remove trainingConfig"
        yield TfjsProblem("error", "training", where, f"unknown optimizer {class_name!r}", fix)
    else:
        given = {k.replace("_", "") for k, v in options.items() if v is not None}
        lacking = [k for k in OPTIMIZERS[class_name] if k.replace("_", "") not in given]
        if lacking:
            what = f"{class_name} has no {', '.join(lacking)}, for which there is no default"
            yield TfjsProblem("error", "training", where, what, "give every option")
    for key, known in (("loss", LOSSES), ("metrics", METRICS)):
        for name in _names(config.get(key)):
            if name not in known and snake(name) not in known:
                fix = f"use one of {', '.join(sorted(known))}, or remove trainingConfig"
                yield TfjsProblem("error", "training", where, f"unknown {key.removesuffix('s')} {name!r}", fix)


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [name for member in members for name in _names(member)]
