"""How many dimensions each layer's input has, where the configuration does not say: Keras 2 and TensorFlow.js."""

from __future__ import annotations

from weightlift.frameworks._keras_graph import Graph, Layer

__all__ = ["fill_ranks"]


def fill_ranks(graph: Graph) -> None:
    """Give layers without an input shape one of the right length, as far as it follows from the inputs."""
    ranks: dict[str, int | None] = {}
    for _ in graph.layers:  # in the layers' order one pass does; in any order each pass finds one more
        before = dict(ranks)
        for layer in graph.layers:
            inputs = layer.calls[0].inputs if layer.calls else []
            known = ranks.get(inputs[0].layer) if inputs else None
            said = any(layer.calls[0].shapes[:1]) if layer.calls else False
            if layer.input_shape is None and known is not None and not said:
                layer.input_shape = [None] * known
            ranks[layer.name] = _rank(layer, known)
        if ranks == before:
            return


def _rank(layer: Layer, given: int | None) -> int | None:
    """Of a layer's first output."""
    name, config = layer.class_name, layer.config
    if name == "InputLayer":
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        return len(shape) if isinstance(shape, list) else None
    if layer.model is not None:
        fill_ranks(layer.model)
        last = layer.model.outputs[0].layer if layer.model.outputs else None
        inner = next((found for found in layer.model.layers if found.name == last), None)
        return None if inner is None else _rank(inner, len(inner.input_shape) if inner.input_shape else None)
    if name == "Flatten" or (name.startswith("Global") and not config.get("keepdims")):
        return 2
    if name == "Reshape" and isinstance(config.get("target_shape"), list):
        return len(config["target_shape"]) + 1
    if name == "Embedding":
        return None if given is None else given + 1
    if name in ("Dot", "RepeatVector"):
        return 3 if name == "RepeatVector" else None
    if name in ("LSTM", "GRU", "SimpleRNN", "RNN"):
        return 3 if config.get("return_sequences") else 2
    if name == "ConvLSTM2D":
        return 5 if config.get("return_sequences") else 4
    return None if name == "Bidirectional" else given
