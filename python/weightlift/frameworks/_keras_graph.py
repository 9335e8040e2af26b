"""Keras configurations, of Keras 2 and 3 alike, as one plain graph of layers and calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from weightlift.errors import FormatError

__all__ = ["MODELS", "Call", "Graph", "Layer", "Problem", "Ref", "is_own", "read_model"]

MODELS = ("Sequential", "Functional", "Model")
MAX_DEPTH = 100
"""Of nested models and wrappers."""


class Ref(NamedTuple):
    """One tensor: output ``tensor`` of call ``node`` of a layer."""

    layer: str
    node: int
    tensor: int


class Problem(NamedTuple):
    """Why TensorFlow.js cannot have a layer."""

    layer: str
    class_name: str
    why: str
    instead: str

    def __str__(self) -> str:
        """One line of a report."""
        return f"{self.layer} ({self.class_name}): {self.why}; instead: {self.instead}"


@dataclass
class Call:
    """One call of a layer: its tensors in order, and what else it was given."""

    inputs: list[Ref]
    shapes: list[list[int | None] | None] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    keywords: dict[str, Any] = field(default_factory=dict)
    masked: bool = False


@dataclass
class Layer:
    """A layer of a graph; ``model`` is its graph if it is a model itself.

    ``trail`` are the names that lead to it from the outermost model, as Keras has them; None for a layer that the
    rewriting added, which has no weights.
    """

    name: str
    class_name: str
    config: dict[str, Any]
    calls: list[Call] = field(default_factory=list)
    model: Graph | None = None
    trail: tuple[str, ...] | None = None
    own: bool = True
    operation: bool = False
    input_shape: list[int | None] | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """A Sequential or Functional model."""

    name: str
    sequential: bool
    layers: list[Layer]
    inputs: list[Ref] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    input_names: list[str] | None = None
    output_names: list[str] | None = None

    def walk(self) -> Iterator[Layer]:
        """Every layer, of inner models too."""
        for layer in self.layers:
            yield layer
            if layer.model is not None:
                yield from layer.model.walk()


def is_own(entry: Mapping[str, Any]) -> bool:
    """Whether a class is one of Keras itself: nobody's custom class of the same name."""
    module = entry.get("module")
    if module is None:
        return ">" not in str(entry.get("class_name"))
    return str(module).split(".")[0] in ("keras", "tf_keras")


def read_model(document: Mapping[str, Any], *, trail: tuple[str, ...] = (), keras2: bool | None = None) -> Graph:
    """A model's configuration as a graph.

    Args:
        document: ``json.loads(model.to_json())``, ``config.json`` of a ``.keras`` file, or ``model_config`` of ``.h5``.
        trail: The names that lead to it.
        keras2: Whether it is of Keras 2; None: it is looked for.

    Raises:
        FormatError: It is none, or damaged.
    """
    if len(trail) > MAX_DEPTH:
        raise FormatError(f"models are nested more than {MAX_DEPTH} deep")
    document = _model_config(document)
    config = document.get("config")
    if document.get("class_name") not in MODELS:
        raise FormatError(f"the model is a {document.get('class_name')!r}, neither Sequential nor Functional")
    if keras2 is None:
        keras2 = "__keras_tensor__" not in repr(document)
    if isinstance(config, list):  # Keras 1 and early TensorFlow.js: Sequential's configuration is the list of layers
        config = {"name": "sequential", "layers": config}
    entries = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(entries, list):
        raise FormatError("the model's configuration has no list of layers")
    sequential = document["class_name"] == "Sequential"
    layers = [_layer(e, i, trail, keras2) for i, e in enumerate(entries)]
    graph = Graph(str(config.get("name", document["class_name"].lower())), sequential, layers)
    if len({layer.name for layer in layers}) < len(layers):
        raise FormatError("two layers of a model have the same name")
    if sequential:
        _add_input(graph)
        _join(graph)
        return graph
    for layer, entry in zip(layers, entries, strict=True):
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise FormatError(f"layer {layer.name}: inbound_nodes is not a list")
        layer.calls = [_call(node, layer.name, keras2) for node in nodes]
    graph.inputs, graph.input_names = _tensors(config.get("input_layers"))
    graph.outputs, graph.output_names = _tensors(config.get("output_layers"))
    if keras2:
        _count_from_zero(graph)
    known = {layer.name: max(1, len(layer.calls)) for layer in layers}
    for ref in _all_refs(graph):
        if not 0 <= ref.node < known.get(ref.layer, 0) or ref.tensor < 0:
            raise FormatError(f"the model refers to call {ref.node} of layer {ref.layer!r}, which it has not")
    return graph


def _model_config(document: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = document.get("model_config", document)
    if not isinstance(inner, Mapping):
        raise FormatError("the model's configuration is not a JSON object")
    return inner


def _layer(entry: Any, index: int, trail: tuple[str, ...], keras2: bool) -> Layer:
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise FormatError(f"layer {index} of the model has no class_name")
    config = entry.get("config")
    class_name = entry["class_name"].removeprefix("Keras>")
    if class_name == "Sequential" and isinstance(config, list):
        config = {"name": f"sequential_{index}", "layers": config}
    if not isinstance(config, dict):
        raise FormatError(f"layer {index} of the model has no config")
    name = entry.get("name", config.get("name"))
    if not isinstance(name, str) or not name:
        name = f"{class_name.lower()}_{index}"
    build = entry.get("build_config")
    shape = build.get("input_shape") if isinstance(build, dict) else None
    layer = Layer(
        name,
        class_name,
        config,
        trail=(*trail, name),
        own=is_own(entry),
        operation=_is_operation(entry),
        input_shape=shape if _is_shape(shape) else None,
        entry=entry,
    )
    if class_name in MODELS and layer.own:
        layer.model = read_model(entry, trail=layer.trail or (), keras2=keras2)
    return layer


def _is_operation(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is an operation on tensors; ``.h5`` files leave the module out, and layers have more options."""
    if "module" not in entry:
        return set(entry["config"]) == {"name"} and entry["class_name"] != "InputLayer"
    return str(entry["module"]).startswith("keras.src.ops")


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(d is None or isinstance(d, int) for d in shape)


def _add_input(graph: Graph) -> None:
    """A Sequential whose first layer says its input's shape, as in Keras 2, gets an InputLayer."""
    first = graph.layers[0] if graph.layers else None
    if first is None or first.class_name == "InputLayer" or first.model is not None:
        return
    shape = first.config.get("batch_input_shape", first.config.get("batch_shape"))
    if _is_shape(shape):
        # The dtype of a first layer is that of its input; an Embedding's that of its output.
        dtype = first.config.get("dtype", "float32") if first.class_name != "Embedding" else "int32"
        config = {"name": f"{first.name}_input", "batch_input_shape": shape, "dtype": dtype}
        entry = {"class_name": "InputLayer", "config": config}
        graph.layers.insert(0, Layer(f"{first.name}_input", "InputLayer", config, entry=entry))


def _join(graph: Graph) -> None:
    """Each layer of a Sequential is called once, on the output of the one before."""
    last: Ref | None = None
    for layer in graph.layers:
        if last is not None:
            layer.calls = [Call([last], [layer.input_shape])]
        elif layer.class_name == "InputLayer":
            graph.inputs = [Ref(layer.name, 0, 0)]
        else:
            layer.calls = [Call([])]
        last = Ref(layer.name, 0, 0)
    if last is not None:
        graph.outputs = [last]


# --- calls ----------------------------------------------------------------------------------------
def _call(node: Any, name: str, keras2: bool) -> Call:
    if isinstance(node, dict) and isinstance(node.get("args"), list) and isinstance(node.get("kwargs"), dict):
        call = Call([], keywords=dict(node["kwargs"]))
        for value in node["args"]:
            _collect(value, call)
        state = call.keywords.pop("initial_state", None)
        if state is not None:
            _collect(state, call)
        for key in ("training", "mask"):  # TensorFlow.js knows both itself
            value = call.keywords.pop(key, None)
            call.masked |= key == "mask" and _has_tensor(value)
        return call
    if keras2 and isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        items = [node] if node and isinstance(node[0], str) else node
        call = Call([])
        for item in items:
            call.inputs.append(_ref(item, name))
            call.shapes.append(None)
            if len(item) > 3 and isinstance(item[3], dict):
                call.keywords |= {k: v for k, v in item[3].items() if k not in ("training", "mask")}
        state = call.keywords.pop("initial_state", None)
        for item in state if isinstance(state, list) else []:
            call.inputs.append(_ref(item, name))
            call.shapes.append(None)
        return call
    raise FormatError(f"layer {name}: a call of it is neither of Keras 2 nor of Keras 3")


def _ref(item: Any, name: str) -> Ref:
    if (
        isinstance(item, list)
        and len(item) >= 3
        and isinstance(item[0], str)
        and all(isinstance(v, int) and not isinstance(v, bool) for v in item[1:3])
    ):
        return Ref(item[0], item[1], item[2])
    raise FormatError(f"{name}: expected [layer, node, tensor], found {str(item)[:80]}")


def _has_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("class_name") == "__keras_tensor__" or any(_has_tensor(v) for v in value.values())
    return isinstance(value, list) and any(_has_tensor(v) for v in value)


def _collect(value: Any, call: Call) -> None:
    """The tensors of an argument, depth first; dicts by sorted keys, as Keras flattens them."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        config = value.get("config")
        if not isinstance(config, dict):
            raise FormatError("a tensor of a call has no config")
        call.inputs.append(_ref(config.get("keras_history"), "a call"))
        call.shapes.append(config["shape"] if _is_shape(config.get("shape")) else None)
    elif isinstance(value, dict) and "class_name" not in value:
        for key in sorted(value):
            _collect(value[key], call)
    elif isinstance(value, list):
        for item in value:
            _collect(item, call)
    elif value is not None:
        call.constants.append(value)


def _tensors(value: Any) -> tuple[list[Ref], list[str] | None]:
    """``input_layers`` or ``output_layers`` in any of Keras' forms, and the keys of a dict."""
    if isinstance(value, dict):
        keys = sorted(value)
        return [r for k in keys for r in _tensors(value[k])[0]], keys
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str):
        return [_ref(value, "the model")], None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [r for item in value for r in _tensors(item)[0]], None
    raise FormatError(f"the model's inputs or outputs are {str(value)[:80]}")


def _count_from_zero(graph: Graph) -> None:
    """Keras 2 and TensorFlow.js count an inner model's own construction as its call 0: here calls count from 0."""
    inner = {layer.name for layer in graph.layers if layer.model is not None}

    def shifted(refs: list[Ref]) -> list[Ref]:
        return [r._replace(node=r.node - 1) if r.layer in inner else r for r in refs]

    for layer in graph.layers:
        for call in layer.calls:
            call.inputs = shifted(call.inputs)
    graph.inputs, graph.outputs = shifted(graph.inputs), shifted(graph.outputs)


def _all_refs(graph: Graph) -> Iterator[Ref]:
    yield from graph.inputs
    yield from graph.outputs
    for layer in graph.layers:
        for call in layer.calls:
            yield from call.inputs
