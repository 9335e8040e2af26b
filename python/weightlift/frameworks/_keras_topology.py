"""Keras configurations rewritten to topologies that TensorFlow.js 4.22 loads and that compute the same.

Pure functions over JSON. The steps: read the configuration as a graph, write each layer as one or several that
TensorFlow.js has, look where masks go, make names legal and unique, and write the graph down. Whatever cannot be is
collected and raised at once, before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.frameworks._keras_graph import Call, Graph, Layer, Problem, Ref, read_model
from weightlift.frameworks._keras_layers import Piece, rewrite_layer
from weightlift.frameworks._keras_masks import check_masks
from weightlift.frameworks._keras_ranks import fill_ranks
from weightlift.frameworks._keras_tables import OPERATIONS
from weightlift.frameworks._keras_training import Outputs, training_config

__all__ = ["Holder", "Rewritten", "refuse", "rewrite"]

_PLAIN: dict[str, Any] = {"trainable": True, "dtype": "float32"}
_SEVERAL = ("Add", "Average", "Bidirectional", "Concatenate", "ConvLSTM2D", "Dot", "GRU", "LSTM", "Maximum", "Minimum",
            "Multiply", "RNN", "SimpleRNN", "Subtract")  # fmt: skip
"""Layers that are called on several tensors."""


@dataclass(frozen=True)
class Holder:
    """A layer that holds weights: where Keras has it, and what TensorFlow.js calls it."""

    trail: tuple[str, ...]
    name: str
    class_name: str
    config: Mapping[str, Any]


@dataclass
class Rewritten:
    """A topology for TensorFlow.js, and what its reader cannot see in it.

    Attributes:
        topology: ``{"class_name", "config"}``.
        holders: The layers with weights, in order.
        names: TensorFlow.js' names of layers that Keras calls otherwise; Keras' names, joined by ``/``.
        input_names: The keys of the inputs, where they are a dict.
        output_names: The keys of the outputs, likewise.
        training: ``trainingConfig``, where it was asked for.
    """

    topology: dict[str, Any]
    holders: list[Holder] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    input_names: list[str] | None = None
    output_names: list[str] | None = None
    training: dict[str, Any] | None = None


def rewrite(document: Mapping[str, Any], compiled: Mapping[str, Any] | None = None) -> Rewritten:
    """A topology that TensorFlow.js loads, of ``json.loads(model.to_json())`` or ``config.json``.

    Args:
        document: The configuration.
        compiled: As ``model.get_compile_config()``, of a model that is to be trained further; {} if it is not compiled.

    Raises:
        UnsupportedFeatureError: TensorFlow.js cannot have something of it; lists all reasons.
        FormatError: It is no configuration of a Keras model.
    """
    if document.get("class_name") not in ("Sequential", "Functional", "Model") and "model_config" not in document:
        kind = str(document.get("class_name"))
        why = "a subclassed model is code, and has no topology"
        refuse([Problem(kind, kind, why, "build it as a Functional model")])
    problems: list[Problem] = []
    if compiled is not None and not compiled:
        why = "the model is not compiled: it has no optimizer"
        problems.append(Problem("training", "optimizer", why, "leave include_optimizer out"))
    try:
        graph = read_model(document)
        outputs = graph.output_names or [r.layer for r in graph.outputs]
        fill_ranks(graph)
        changed = _rewrite_graph(graph, problems)
    except RecursionError as error:
        raise FormatError("the model's configuration is nested too deep") from error
    if not problems:
        check_masks(changed, problems)
    if compiled:
        training_config(compiled, Outputs(outputs, outputs), problems)
    refuse(problems)
    names = _rename(changed)
    result = Rewritten(_write(changed), names=names, input_names=graph.input_names, output_names=graph.output_names)
    if compiled:
        result.training = training_config(compiled, Outputs(outputs, [r.layer for r in changed.outputs]), problems)
        refuse(problems)
    result.holders = [
        Holder(layer.trail, layer.name, layer.class_name, layer.config)
        for layer in changed.walk()
        if layer.trail is not None and layer.model is None
    ]
    return result


def refuse(problems: list[Problem]) -> None:
    """One error for all problems, if there are any."""
    if problems:
        lines = list(dict.fromkeys(f"- {p}" for p in problems))
        raise UnsupportedFeatureError(
            f"TensorFlow.js cannot have this model as a layers model; {len(lines)} "
            f"reason{'s' if len(lines) > 1 else ''}; nothing was written:\n" + "\n".join(lines)
        )


# --- layers ---------------------------------------------------------------------------------------
def _rewrite_graph(graph: Graph, problems: list[Problem]) -> Graph:
    if graph.sequential and not graph.inputs and (not graph.layers or graph.layers[0].model is None):
        why = "the shape of its input is not known"
        problems.append(Problem(graph.name, "Sequential", why, "build it, or begin with keras.Input(shape=...)"))
        return graph
    _prune_operations(graph)
    outputs = {(r.layer, r.node) for r in graph.outputs}
    alias: dict[tuple[str, int], Ref] = {}
    written: list[Layer] = []
    taken = {layer.name for layer in graph.layers}
    for layer in graph.layers:
        is_output = any(layer.name == name for name, _ in outputs)
        written += _rewrite_one(layer, problems, alias, taken, is_output=is_output)

    def resolve(ref: Ref) -> Ref:
        if ref.layer.startswith("\0"):
            return ref._replace(layer=ref.layer[1:])
        seen = set()
        while (ref.layer, ref.node) in alias and (ref.layer, ref.node) not in seen:
            seen.add((ref.layer, ref.node))
            ref = alias[ref.layer, ref.node]
        return ref

    for layer in written:
        for call in layer.calls:
            call.inputs = [resolve(r) for r in call.inputs]
    return Graph(
        graph.name, graph.sequential, written, [resolve(r) for r in graph.inputs], [resolve(r) for r in graph.outputs]
    )


def _prune_operations(graph: Graph) -> None:
    """Leave out operations that nothing uses: those that only computed masks, which TensorFlow.js computes itself."""
    while True:
        used = {r.layer for layer in graph.layers for call in layer.calls for r in call.inputs}
        used |= {r.layer for r in graph.outputs}
        kept = [layer for layer in graph.layers if not layer.operation or layer.name in used]
        if len(kept) == len(graph.layers):
            return
        graph.layers = kept


def _rewrite_one(
    layer: Layer, problems: list[Problem], alias: dict[tuple[str, int], Ref], taken: set[str], *, is_output: bool
) -> list[Layer]:
    """The layers written for one, whose calls refer to old names; names with a NUL before them are new ones."""
    path = "/".join(layer.trail or (layer.name,))

    def report(why: str, instead: str) -> None:
        problems.append(Problem(path, layer.class_name, why, instead))

    if layer.model is not None:
        inner = _rewrite_graph(layer.model, problems)
        return [Layer(layer.name, layer.class_name, layer.config, layer.calls, inner, layer.trail)]
    before = len(problems)
    _check_calls(layer, report)
    if layer.class_name == "Subtract" and layer.own and (not layer.operation or _is_scalar(layer) is None):
        return _subtract(layer, taken)
    if layer.operation:
        pieces = _operation(layer, report)
    else:
        pieces = rewrite_layer(layer.entry, layer.name, _shape(layer), problems, path=path)
    if not pieces and len(problems) == before and (is_output or not layer.calls):
        pieces = [Piece("Activation", {**_PLAIN, "activation": "linear"}, holds=True)]
    if not pieces:
        for k, call in enumerate(layer.calls):
            if call.inputs:
                alias[layer.name, k] = call.inputs[0]
        return []
    return _chain(layer, pieces, alias, taken)


def _chain(layer: Layer, pieces: list[Piece], alias: dict[tuple[str, int], Ref], taken: set[str]) -> list[Layer]:
    written: list[Layer] = []
    for i, piece in enumerate(pieces):
        name = layer.name if piece.holds else _free(f"{layer.name}_{_snake(piece.class_name)}", taken)
        calls = layer.calls
        if written:
            calls = [Call([Ref("\0" + written[-1].name, k, 0)]) for k in range(len(layer.calls))]
        trail = layer.trail if piece.holds else None
        written.append(Layer(name, piece.class_name, {**piece.config, "name": name}, calls, trail=trail))
        if i == len(pieces) - 1 and name != layer.name:
            alias.update({(layer.name, k): Ref(name, k, 0) for k in range(max(1, len(layer.calls)))})
    return written


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _shape(layer: Layer) -> list[int | None] | None:
    if layer.input_shape is None and layer.calls and layer.calls[0].shapes:
        return layer.calls[0].shapes[0]
    return layer.input_shape


def _check_calls(layer: Layer, report: Any) -> None:
    """What a call holds beside tensors cannot be written, but for the numbers of simple operations."""
    for call in layer.calls:
        for key, value in call.keywords.items():
            if value is not None and value is not False:
                report(f"it is called with {key}=", "call it with tensors only")
        if call.constants and not layer.operation:
            report("it is called with a constant", "use a layer that holds the constant, as Rescaling")
        if len(call.inputs) > 1 and not layer.operation and layer.class_name not in _SEVERAL and layer.own:
            report("it is called with several tensors", "call it with one")
        if layer.class_name in ("Softmax", "GlobalAveragePooling1D") and call.masked:
            report("it is given a mask, which TensorFlow.js ignores", "leave the mask out")


# --- operations on tensors ------------------------------------------------------------------------
def _is_scalar(layer: Layer) -> float | None:
    """The number in an operation on a tensor and a number, if each call has the same."""
    values = {c.constants[0] if len(c.constants) == 1 and len(c.inputs) == 1 else None for c in layer.calls}
    value = next(iter(values)) if len(values) == 1 else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _number_first(layer: Layer) -> bool:
    args = layer.entry["inbound_nodes"][0]["args"]
    return bool(args) and isinstance(args[0], (int, float))


def _operation(layer: Layer, report: Any) -> list[Piece]:
    """``x + y``, ``x * 2`` and their like; others have no layer."""
    number = _is_scalar(layer)
    if number is not None:
        scale = _SCALAR.get((layer.class_name, _number_first(layer)))
        floats = all((t or {}).get("dtype") == "float32" for t in _tensor_configs(layer))
        if scale is not None and floats and (number or "Divide" not in layer.class_name):
            a, b = scale(number)
            return [Piece("Rescaling", {**_PLAIN, "scale": a, "offset": b}, holds=True)]
    name = OPERATIONS.get(layer.class_name)
    two = all(len(c.inputs) == 2 and not c.constants for c in layer.calls)
    ranks = [{None if s is None else len(s) for s in c.shapes} for c in layer.calls]
    if name is not None and two and all(len(r) == 1 for r in ranks):
        return [Piece(name, dict(_PLAIN), holds=True)]
    why = "an operation on tensors that no layer of TensorFlow.js computes"
    report(why, "use layers: Add, Multiply, Rescaling, Activation, Reshape ...")
    return []


_SCALAR: dict[tuple[str, bool], Callable[[float], tuple[float, float]]] = {
    ("Add", False): lambda c: (1.0, c), ("Add", True): lambda c: (1.0, c),
    ("Multiply", False): lambda c: (c, 0.0), ("Multiply", True): lambda c: (c, 0.0),
    ("Subtract", False): lambda c: (1.0, -c), ("Subtract", True): lambda c: (-1.0, c),
    ("TrueDivide", False): lambda c: (1.0 / c, 0.0), ("Divide", False): lambda c: (1.0 / c, 0.0),
}  # fmt: skip
"""(operation, whether the number comes first): the scale and offset that compute it."""


def _tensor_configs(layer: Layer) -> list[Any]:
    found = []
    for node in layer.entry.get("inbound_nodes", []):
        found += [a.get("config") for a in node.get("args", []) if isinstance(a, dict)]
    return found


def _subtract(layer: Layer, taken: set[str]) -> list[Layer]:
    """``a - b`` as ``a + (-1) * b``."""
    name = _free(f"{layer.name}_negated", taken)
    options = {"name": name, **_PLAIN, "scale": -1.0, "offset": 0.0}
    negated = Layer(name, "Rescaling", options, [Call(c.inputs[1:2]) for c in layer.calls])
    calls = [Call([c.inputs[0], Ref(f"\0{negated.name}", k, 0)]) for k, c in enumerate(layer.calls) if c.inputs]
    return [negated, Layer(layer.name, "Add", {"name": layer.name, **_PLAIN}, calls, trail=layer.trail)]


# --- names ----------------------------------------------------------------------------------------
def _legal(name: str) -> str:
    """A name of the letters that TensorFlow.js takes."""
    text = re.sub(r"[^-A-Za-z0-9._/]", "_", name)
    return text if re.match(r"[A-Za-z0-9]", text) else f"layer{text}"


def _rename(graph: Graph) -> dict[str, str]:
    """Make names legal, and unique over all levels, as TensorFlow.js asks; returns those that changed."""
    taken: set[str] = set()
    changed: dict[str, str] = {}

    def visit(level: Graph, prefix: str) -> None:
        new: dict[str, str] = {}
        for layer in level.layers:
            name = base = _legal(layer.name)
            if name in taken:
                name = base = f"{prefix}{base}"
            count = 0
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            new[layer.name] = name
            if name != layer.name and layer.trail is not None:
                changed[name] = "/".join(layer.trail)
        for layer in level.layers:
            for call in layer.calls:
                call.inputs = [r._replace(layer=new[r.layer]) for r in call.inputs]
            layer.name = new[layer.name]
            layer.config = {**layer.config, "name": layer.name}
            inner = layer.config.get("layer")
            if isinstance(inner, dict):
                options = {**inner["config"], "name": _legal(inner["config"]["name"])}
                layer.config["layer"] = {**inner, "config": options}
        level.inputs = [r._replace(layer=new[r.layer]) for r in level.inputs]
        level.outputs = [r._replace(layer=new[r.layer]) for r in level.outputs]
        for layer in level.layers:
            if layer.model is not None:
                visit(layer.model, f"{prefix}{layer.name}/")

    visit(graph, "")
    return changed


# --- writing --------------------------------------------------------------------------------------
def _write(graph: Graph, name: str | None = None) -> dict[str, Any]:
    name = name or _legal(graph.name)
    inner = {layer.name for layer in graph.layers if layer.model is not None}
    layers = []
    for layer in graph.layers:
        if layer.model is not None:
            entry = _write(layer.model, layer.name)
        else:
            entry = {"class_name": layer.class_name, "config": layer.config}
        if not graph.sequential:
            nodes = [[[*_counted(r, inner), {}] for r in call.inputs] for call in layer.calls if call.inputs]
            entry = {"name": layer.name, **entry, "inbound_nodes": nodes}
        layers.append(entry)
    config: dict[str, Any] = {"name": name, "layers": layers}
    if not graph.sequential:
        config["input_layers"] = [_counted(r, inner) for r in graph.inputs]
        config["output_layers"] = [_counted(r, inner) for r in graph.outputs]
    return {"class_name": "Sequential" if graph.sequential else "Functional", "config": config}


def _counted(ref: Ref, inner: set[str]) -> list[Any]:
    """TensorFlow.js counts an inner model's own construction as its call 0."""
    return [ref.layer, ref.node + (ref.layer in inner), ref.tensor]
