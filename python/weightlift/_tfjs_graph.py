"""Whether TensorFlow.js makes a graph model of a GraphDef and its weights: what ``loadGraphModel`` looks for.

Everything that it would stumble over, when the model is loaded or when it runs, is found at once. No file is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weightlift._artifacts import WeightSpec
from weightlift._tfjs_registry import GRAPH_OPS, UNMAPPED_OPS
from weightlift.types import TfjsProblem

__all__ = ["check_graph_model", "graph_ops"]

Node = Mapping[str, Any]
_LISTED = 5


def check_graph_model(
    topology: Mapping[str, Any],
    specs: Sequence[WeightSpec],
    signature: Any = None,
    initializer: Any = None,
) -> list[TfjsProblem]:
    """Every problem of a graph model.

    Args:
        topology: ``modelTopology``.
        specs: Of its weights.
        signature: ``signature``.
        initializer: ``modelInitializer``.
    """
    found: list[TfjsProblem] = []
    if not isinstance(topology.get("versions"), Mapping):
        what = "it has no 'versions': 'Cannot read properties of undefined (reading 'producer')'"
        fix = 'add "versions": {}, or load it with loadLayersModel if it is a layers model'
        found.append(TfjsProblem("error", "no-versions", "modelTopology", what, fix))
    graph = _nodes(topology)
    nodes = [*graph, *(n for f in _functions(topology) for n in f), *_nodes(initializer)]
    if not graph:
        what = "it has no nodes"
        found.append(TfjsProblem("error", "no-nodes", "modelTopology", what, "convert the model again"))
    found += _check_ops(nodes)
    found += _check_inputs(graph)
    found += _check_constants(nodes, specs)
    found += _check_signature(signature, {str(n.get("name")) for n in graph})
    return found


def graph_ops(topology: Any, initializer: Any = None) -> Counter[str]:
    """How many nodes of each operation a model has, in functions and in the initializer too."""
    nodes = [*_nodes(topology), *(n for f in _functions(topology) for n in f), *_nodes(initializer)]
    return Counter(str(n.get("op")) for n in nodes)


def _nodes(graph: Any) -> list[Node]:
    nodes = graph.get("node") if isinstance(graph, Mapping) else None
    return [n for n in nodes if isinstance(n, Mapping)] if isinstance(nodes, list) else []


def _functions(topology: Any) -> Iterator[list[Node]]:
    """The nodes of each library function; constants are called ``<function>/<node>`` already."""
    library = topology.get("library") if isinstance(topology, Mapping) else None
    functions = library.get("function") if isinstance(library, Mapping) else None
    for function in functions if isinstance(functions, list) else ():
        nodes = function.get("nodeDef") if isinstance(function, Mapping) else None
        yield [n for n in nodes if isinstance(n, Mapping)] if isinstance(nodes, list) else []


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more


def _check_ops(nodes: Sequence[Node]) -> Iterator[TfjsProblem]:
    used: dict[str, list[str]] = {}
    for node in nodes:
        used.setdefault(str(node.get("op")), []).append(str(node.get("name")))
    for op in sorted(set(used) - GRAPH_OPS):
        what = f"unknown op {op!r}: the model loads, but fails when it runs (node {_listed(used[op])})"
        fix = UNMAPPED_OPS.get(op, "build the model without it, or register it with tf.registerOp")
        yield TfjsProblem("error", "unknown-op", f"op {op!r}", what, fix)


def _check_inputs(graph: Sequence[Node]) -> Iterator[TfjsProblem]:
    names = Counter(str(n.get("name")) for n in graph)
    for name, count in names.items():
        if count > 1:
            yield TfjsProblem("error", "node-twice", f"node {name!r}", f"{count} nodes have this name", "convert again")
    for node in graph:
        inputs = node.get("input")
        for given in inputs if isinstance(inputs, list) else ():
            source = str(given).removeprefix("^").partition(":")[0]
            if source not in names:
                what = f"its input {given!r} is no node of the graph: the model does not load"
                yield TfjsProblem(
                    "error", "no-such-node", f"node {node.get('name')!r}", what, "convert the model again"
                )


def _check_constants(nodes: Sequence[Node], specs: Sequence[WeightSpec]) -> Iterator[TfjsProblem]:
    """Constants get their values from weights of the same name."""
    weights = {spec.name: spec for spec in specs}
    constants = {str(n.get("name")): n for n in nodes if n.get("op") == "Const"}
    for name, node in constants.items():
        spec = weights.get(name)
        if spec is None:
            what = "there is no weight for this constant: 'Missing the following inputs', when the model runs"
            yield TfjsProblem("error", "no-weight", f"node {name!r}", what, "convert the model again, with its weights")
            continue
        shape = _shape(node)
        if shape is not None and shape != tuple(spec.shape):
            what = f"its weight has shape {list(spec.shape)}, the graph says {list(shape)}"
            yield TfjsProblem("warning", "wrong-shape", f"node {name!r}", what, "export weights and graph together")
    spare = [name for name in weights if name not in constants]
    if spare:
        what = f"no constant takes the values of {len(spare)} weights: {_listed(spare)}"
        yield TfjsProblem("note", "no-constant", "weightsManifest", what, "leave them out")


def _shape(node: Node) -> tuple[int, ...] | None:
    """The shape of a constant's value; None where it is not told, as in files of old converters."""
    at: Any = node
    for key in ("attr", "value", "tensor", "tensorShape"):
        at = at.get(key) if isinstance(at, Mapping) else None
    dims = at.get("dim") if isinstance(at, Mapping) else None
    if not isinstance(dims, list):
        return None
    try:
        return tuple(int(d["size"]) for d in dims)
    except (KeyError, TypeError, ValueError):
        return None


def _check_signature(signature: Any, names: set[str]) -> Iterator[TfjsProblem]:
    for key in ("inputs", "outputs"):
        entries = signature.get(key) if isinstance(signature, Mapping) else None
        for label, entry in entries.items() if isinstance(entries, Mapping) else ():
            name = str(entry.get("name", "")) if isinstance(entry, Mapping) else ""
            if name and "resourceId" not in entry and name.partition(":")[0] not in names:
                what = f"the {key.removesuffix('s')} {label!r} is {name!r}, which is no node: it is left out silently"
                yield TfjsProblem("error", "no-such-node", "signature", what, "convert the model again")
