"""The order in which TensorFlow.js lists a model's weights: it gives optimizers their state by that order alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weightlift.frameworks._keras_graph import Graph, read_model
from weightlift.frameworks._keras_topology import Holder
from weightlift.frameworks._keras_weights import weight_names

__all__ = ["by_layers", "in_order"]


def in_order(topology: Mapping[str, Any], holders: Sequence[Holder], names: Sequence[str]) -> list[str]:
    """Names of weights, as TensorFlow.js lists them once it has loaded the topology."""
    of = {
        name: holder.name for holder in holders for name in weight_names(holder.class_name, holder.config, holder.name)
    }
    return by_layers(topology, of, names)


def by_layers(topology: Mapping[str, Any], layers: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Likewise; ``layers`` says of which layer each is. Keras sorts layers in the same way."""
    places = {layer: i for i, layer in enumerate(_layers(read_model(topology)))}
    return sorted(names, key=lambda name: places[layers[name]])  # stable: the order in a layer stays


def _layers(graph: Graph) -> list[str]:
    """The layers, those of inner models in the place of those."""
    own = [layer.name for layer in graph.layers] if graph.sequential else _sorted(graph)
    inner = {layer.name: _layers(layer.model) for layer in graph.layers if layer.model is not None}
    return [name for top in own for name in inner.get(top, [top])]


def _sorted(graph: Graph) -> list[str]:
    """By distance from the outputs, the farthest first; then in the order in which they are found from the outputs."""
    calls = {layer.name: layer.calls for layer in graph.layers}
    found: dict[str, int] = {}
    finished: dict[tuple[str, int], None] = {}
    stack = [(ref.layer, ref.node, False) for ref in reversed(graph.outputs)]
    while stack:
        name, node, done = stack.pop()
        if done:
            finished[name, node] = None
            continue
        if (name, node) in finished:
            continue
        found.setdefault(name, len(found))
        inputs = calls[name][node].inputs if node < len(calls[name]) else []
        stack.append((name, node, True))
        stack += [(ref.layer, ref.node, False) for ref in reversed(inputs) if (ref.layer, ref.node) not in finished]
    depths: dict[str, int] = {}
    nodes: dict[tuple[str, int], int] = {}
    for name, node in reversed(finished):
        depth = max(nodes.get((name, node), 0), depths.get(name, 0))
        depths[name] = nodes[name, node] = depth
        for ref in calls[name][node].inputs if node < len(calls[name]) else []:
            nodes[ref.layer, ref.node] = max(depth + 1, nodes.get((ref.layer, ref.node), 0))
    return sorted(depths, key=lambda name: (-depths[name], found[name]))
