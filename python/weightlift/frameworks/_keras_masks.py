"""Where masks go in a rewritten graph: TensorFlow.js throws at layers that take none, and ignores others."""

from __future__ import annotations

from weightlift.frameworks._keras_graph import Graph, Layer, Problem
from weightlift.frameworks._keras_tables import MASK_USERS, PASSES_MASKS

__all__ = ["check_masks"]

RECURRENT = ("Bidirectional", "GRU", "LSTM", "RNN", "SimpleRNN")
_MERGES = ("Add", "Average", "Maximum", "Minimum", "Multiply")
_INSTEAD = "use mask_zero=False, or let the mask end in a recurrent layer before it"


def check_masks(graph: Graph, problems: list[Problem]) -> None:
    """Report layers that masks must not reach; masks that nothing uses are not made.

    A mask that no layer of the model uses changes nothing: ``mask_zero`` is then written as false.
    """
    if not any(layer.class_name in MASK_USERS for layer in graph.walk()):
        for layer in graph.walk():
            if layer.class_name == "Embedding":
                layer.config["mask_zero"] = False
    _flow(graph, [False] * len(graph.inputs), problems)


def _flow(graph: Graph, inputs: list[bool], problems: list[Problem]) -> list[bool]:
    """Which outputs of a graph have masks."""
    masked = {(r.layer, r.node): m for r, m in zip(graph.inputs, inputs, strict=False)}
    first = graph.layers[0] if graph.layers else None
    if graph.sequential and first is not None and not graph.inputs:
        masked[first.name, -1] = any(inputs)
    changed = True
    while changed:
        changed = False
        for layer in graph.layers:
            for k, call in enumerate(layer.calls):
                given = [masked.get((r.layer, r.node), False) and r.tensor == 0 for r in call.inputs]
                if not masked.get((layer.name, k), False) and _makes(layer, given):
                    masked[layer.name, k] = changed = True
    for layer in graph.layers:
        for call in layer.calls:
            given = [masked.get((r.layer, r.node), False) and r.tensor == 0 for r in call.inputs]
            _check(layer, given, problems)
            if call.masked and not any(given):
                why = "it is given a mask that is no layer's own, and TensorFlow.js makes masks only in layers"
                problems.append(Problem(_name(layer), layer.class_name, why, "use a Masking layer"))
    return [masked.get((r.layer, r.node), False) and r.tensor == 0 for r in graph.outputs]


def _makes(layer: Layer, given: list[bool]) -> bool:
    """Whether a layer's output has a mask."""
    name, config = layer.class_name, layer.config
    if name == "Masking":
        return True
    if name == "Embedding":
        return bool(config.get("mask_zero"))
    if layer.model is not None:
        return any(_flow(layer.model, _padded(layer.model, given), []))
    if name in RECURRENT:
        inner = config["layer"]["config"] if name == "Bidirectional" else config
        return given[:1] == [True] and bool(inner.get("return_sequences"))
    return name in PASSES_MASKS and any(given)


def _zeroes(layer: Layer) -> bool:
    """Whether Keras writes zeros where the mask is false, and somebody sees them."""
    config = layer.config["layer"]["config"] if layer.class_name == "Bidirectional" else layer.config
    return bool(config.get("zero_output_for_mask") and config.get("return_sequences"))


def _padded(model: Graph, given: list[bool]) -> list[bool]:
    return (given + [False] * len(model.inputs))[: max(len(model.inputs), len(given))]


def _name(layer: Layer) -> str:
    return "/".join(layer.trail or (layer.name,))


def _check(layer: Layer, given: list[bool], problems: list[Problem]) -> None:
    if not any(given):
        return
    name = _name(layer)
    if layer.model is not None:
        _flow(layer.model, _padded(layer.model, given), problems)
    elif layer.class_name in ("Softmax", "GlobalAveragePooling1D"):
        why = "it uses a mask in Keras, and ignores it in TensorFlow.js"
        problems.append(Problem(name, layer.class_name, why, _INSTEAD))
    elif layer.class_name in RECURRENT and given[0] and _zeroes(layer):
        why = "zero_output_for_mask: TensorFlow.js repeats the last output where the mask is false"
        problems.append(Problem(name, layer.class_name, why, "use return_sequences=False, or mask_zero=False"))
    elif layer.class_name not in PASSES_MASKS:
        problems.append(Problem(name, layer.class_name, "a mask reaches it, and TensorFlow.js throws there", _INSTEAD))
    elif layer.class_name in _MERGES and not all(given):
        why = "only some of its inputs have masks, and TensorFlow.js fails there"
        problems.append(Problem(name, layer.class_name, why, _INSTEAD))
