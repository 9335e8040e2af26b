"""MXNet's symbols: the graph of a network as JSON, as ``export`` and Module's checkpoints write it.

A list of nodes, each behind those that it takes its inputs from. Nodes of the operation ``null`` are variables: what
goes in (``data``), parameters, and auxiliary states, which operations change (the running mean of a BatchNorm).
The text does not say which is which: a file of parameters has names with ``arg:`` or ``aux:`` in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from weightlift._json import loads
from weightlift.errors import FormatError, MismatchError, UnsupportedFeatureError

__all__ = ["FORMAT", "Graph", "check_symbol", "parse_symbol", "symbol_text"]

FORMAT = "mxnet-symbol"
"""The format of such models, as ``ModelArtifacts.format`` and our formats call it."""

MAX_BYTES = 64 << 20
MAX_NODES = 1 << 20

_NODE_KEYS = {
    "op", "name", "inputs", "attrs", "attr", "param", "control_deps", "subgraphs", "backward_source_id",
}  # fmt: skip
_GRAPH_KEYS = {"nodes", "arg_nodes", "node_row_ptr", "heads", "attrs"}
_ATTRIBUTES = ("attrs", "attr", "param")
"""Where a node's attributes are: since 1.0, before, and before 0.9."""

_AUXILIARY = {
    "BatchNorm": (3, 4),
    "BatchNorm_v1": (3, 4),
    "CuDNNBatchNorm": (3, 4),
    "_contrib_BatchNormWithReLU": (3, 4),
    "_contrib_SyncBatchNorm": (3, 4),
    "IdentityAttachKLSparseReg": (1,),
}
"""Operations, and which of their inputs they change."""

_CREATED = {
    "BatchNorm": ("gamma", "beta", "moving_mean", "moving_var"),
    "Convolution": ("weight", "bias"),
    "Deconvolution": ("weight", "bias"),
    "Embedding": ("weight",),
    "FullyConnected": ("weight", "bias"),
    "InstanceNorm": ("gamma", "beta"),
    "LayerNorm": ("gamma", "beta"),
    "RNN": ("parameters",),
}
"""Inputs, from the second on, for which MXNet makes a variable, called NODE_INPUT, where it is given none."""

_OF_GLUON = ("__lr_mult__", "__wd_mult__")
"""What the variables of Gluon's parameters have, and those of inputs have not."""

_SHAPE = re.compile(r"[(\[]\s*((?:-?\d{1,19}L?\s*,\s*)*(?:-?\d{1,19}L?)?)\s*[)\]]")
_LONGEST_SHAPE = 1024
"""Letters: some 32 axes of any length, which are more than MXNet has."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass
class Graph:
    """What a symbol says of its variables.

    Attributes:
        variables: The shape that is known of each, by name, in order; None: nothing is.
        auxiliary: Those that are auxiliary states, as far as the operations are known here.
        parameters: Those that certainly have values in a file of parameters, the former among them.
        np_shape: Shapes mean what they mean in NumPy, where 0 is no unknown length.
        version: Of the MXNet that wrote it, as text; None where it does not say.
    """

    variables: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    auxiliary: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    np_shape: bool = False
    version: str | None = None

    @property
    def generated_by(self) -> str | None:
        """Who made it, as ``ModelArtifacts.generated_by``."""
        return None if self.version is None else f"MXNet {self.version}"

    def inputs(self, weights: Iterable[str]) -> list[str]:
        """The variables that are not among these weights: what the network is called with."""
        known = set(weights)
        return [name for name in self.variables if name not in known]

    def compare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """MismatchError where names or shapes of weights are not those of the graph; lists all of them."""
        missing = [name for name in self.variables if name in self.parameters and name not in shapes]
        unexpected = [name for name in shapes if name not in self.variables]
        wrong = [
            (name, known, shapes[name])
            for name, known in self.variables.items()
            if known is not None and name in shapes and not _fits(known, shapes[name])
        ]
        found = [
            *(f"{name} has no values" for name in missing[:5]),
            *(f"{name} is no variable of the symbol" for name in unexpected[:5]),
            *(f"{name} is {list(want)}, its values {list(have)}" for name, want, have in wrong[:5]),
        ]
        if found:
            count = len(missing) + len(unexpected) + len(wrong)
            raise MismatchError(
                f"the symbol and the parameters are not of one network, {count} names or shapes differ: "
                + ", ".join(found),
                missing=missing,
                unexpected=unexpected,
                wrong_shape=wrong,
            )


def _fits(known: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether the lengths that are known are those of a shape."""
    return not known or (len(known) == len(shape) and all(n <= 0 or n == m for n, m in zip(known, shape, strict=True)))


# --- reading --------------------------------------------------------------------------------------
def parse_symbol(data: bytes) -> tuple[dict[str, Any], Graph]:
    """The document and what it says.

    Raises:
        FormatError: The text is no symbol; says which node, and what is wrong with it.
    """
    document = loads(data, what="the symbol", max_bytes=MAX_BYTES)
    return document, check_symbol(document)


def check_symbol(document: Any) -> Graph:
    """What a symbol says, once all of it has been checked; the errors are those of :func:`parse_symbol`."""
    graph = Graph()
    nodes = _check_graph(document, "the symbol")
    attributes = _graph_attributes(document)
    graph.np_shape = attributes.get("is_np_shape", 0) not in (0, False)
    version = attributes.get("mxnet_version")
    if isinstance(version, int) and _is_index(version):
        graph.version = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    for number, node in enumerate(nodes):
        if node["op"] == "null":
            _add_variable(graph, number, node)
    for node in nodes:
        _add_uses(graph, nodes, node)
    return graph


def _check_graph(document: Any, where: str) -> list[dict[str, Any]]:
    """The nodes of a graph, or of a graph in a node, checked."""
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), list):
        raise FormatError(f"{where} is no graph of MXNet's: it has no list of nodes")
    _refuse_unknown(document, _GRAPH_KEYS, where)
    nodes: list[dict[str, Any]] = document["nodes"]
    if not 0 < len(nodes) <= MAX_NODES:
        raise FormatError(f"{where} has {len(nodes)} nodes; 1 to {MAX_NODES} are read")
    for number, node in enumerate(nodes):
        _check_node(node, number, where)
    variables = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    if document.get("arg_nodes") != variables or not all(map(_is_index, document["arg_nodes"])):
        raise FormatError(f"{where}: arg_nodes are not the numbers of its variables")
    heads = document.get("heads")
    if not isinstance(heads, list) or not heads:
        raise FormatError(f"{where} has no heads, which are its outputs")
    for head in heads:
        _check_entry(head, len(nodes), f"{where}: its heads")
    rows = document.get("node_row_ptr", [0])
    if not isinstance(rows, list) or not all(map(_is_index, rows)):
        raise FormatError(f"{where}: node_row_ptr is no list of numbers")
    return nodes


def _check_node(node: Any, number: int, graph: str) -> None:
    where = f"{graph}, node {number}"
    if not isinstance(node, Mapping):
        raise FormatError(f"{where} is no object")
    op, name, inputs = node.get("op"), node.get("name"), node.get("inputs")
    if not isinstance(op, str) or not op or not isinstance(name, str):
        raise FormatError(f"{where} has no operation, or no name")
    where = f"{where} ({name[:80]!r})"
    _refuse_unknown(node, _NODE_KEYS, where)
    if not isinstance(inputs, list):
        raise FormatError(f"{where} has no list of inputs")
    if op == "null" and (inputs or not name):
        raise FormatError(f"{where}: a variable has a name, and no inputs")
    for entry in inputs:
        _check_entry(entry, number, f"{where}: its inputs")
    for key in _ATTRIBUTES:
        attributes = node.get(key, {})
        if not isinstance(attributes, Mapping) or not all(isinstance(v, str) for v in attributes.values()):
            raise FormatError(f"{where}: {key} is no object of texts")
    before = node.get("control_deps", [])
    if not isinstance(before, list) or not all(_is_index(n) and n < number for n in before):
        raise FormatError(f"{where}: control_deps are not numbers of nodes before it")
    source = node.get("backward_source_id", -1)
    if source != -1 and not _is_index(source):
        raise FormatError(f"{where}: backward_source_id is no number of a node")
    graphs = node.get("subgraphs", [])
    if not isinstance(graphs, list):
        raise FormatError(f"{where}: subgraphs is no list")
    for i, inner in enumerate(graphs):
        _check_graph(inner, f"{where}, graph {i}")  # as deep as JSON may be nested, at most


def _check_entry(entry: Any, nodes: int, where: str) -> None:
    """``[node, output]`` or ``[node, output, version]``, of one of the first ``nodes``."""
    if not isinstance(entry, list) or len(entry) not in (2, 3) or not all(map(_is_index, entry)):
        raise FormatError(f"{where} are not triples of numbers: {str(entry)[:80]}")
    if entry[0] >= nodes:
        raise FormatError(f"{where}: node {entry[0]} is not among the {nodes} that it may be one of: those before it")


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 32


def _refuse_unknown(found: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [str(key)[:80] for key in found if key not in known]
    if unknown:
        raise UnsupportedFeatureError(f"{where} has {', '.join(unknown[:5])}, which no known MXNet writes")


def _graph_attributes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``{"mxnet_version": ["int", 10901]}``."""
    attributes = document.get("attrs", {})
    if not isinstance(attributes, Mapping):
        raise FormatError("the symbol: attrs is no object")
    for key, value in attributes.items():
        if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_plain(value[1])):
            raise FormatError(f"the symbol: its attribute {str(key)[:80]!r} is no pair of a type and a value")
    return {key: value for key, (_, value) in attributes.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(v, (str, int)) or _is_plain(v) for v in value)
    return isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value))


def _add_variable(graph: Graph, number: int, node: Mapping[str, Any]) -> None:
    name, attributes = node["name"], dict(_attributes(node))
    where = f"the symbol, node {number} ({name[:80]!r})"
    if name in graph.variables:
        raise FormatError(f"{where}: two variables have this name")
    text = attributes.get("__shape__", "None")
    shape = _SHAPE.fullmatch(text) if len(text) <= _LONGEST_SHAPE else None
    if shape is None and text != "None":
        raise FormatError(f"{where}: the shape {text[:80]!r} is none")
    lengths = re.findall(r"-?\d+", shape[1]) if shape is not None else []
    graph.variables[name] = tuple(map(int, lengths)) if shape is not None else None
    if any(key in attributes for key in _OF_GLUON):
        graph.parameters.add(name)


def _attributes(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in _ATTRIBUTES:
        yield from node.get(key, {}).items()


def _add_uses(graph: Graph, nodes: list[dict[str, Any]], node: Mapping[str, Any]) -> None:
    """What becomes known of variables by the node that takes them."""
    changed, created = _AUXILIARY.get(node["op"], ()), _CREATED.get(node["op"], ())
    for place, entry in enumerate(node["inputs"] if changed or created else ()):
        source = nodes[entry[0]]
        if source["op"] != "null":
            continue
        name = source["name"]
        if place in changed:
            graph.auxiliary.add(name)
            graph.parameters.add(name)
        elif 0 < place <= len(created) and name == f"{node['name']}_{created[place - 1]}":
            graph.parameters.add(name)


# --- writing --------------------------------------------------------------------------------------
def symbol_text(document: Mapping[str, Any]) -> bytes:
    """The text of a checked symbol, spaced as MXNet spaces it: what it wrote comes out the same.

    Raises:
        UnsupportedFeatureError: A text holds a control character, which MXNet's reader of JSON does not take.
    """
    return _written(document, 1).encode("utf-8")


def _written(value: Any, depth: int) -> str:
    if isinstance(value, Mapping):
        items = [f"{_scalar(key)}: {_written(item, depth + 1)}" for key, item in value.items()]
        return _bracketed("{", items, "}", depth, apart=len(items) > 1)
    if isinstance(value, (list, tuple)):
        apart = len(value) > 10 or any(isinstance(item, Mapping) for item in value)
        return _bracketed("[", [_written(item, depth + 1) for item in value], "]", depth, apart=apart)
    return _scalar(value)


def _bracketed(begin: str, items: list[str], end: str, depth: int, *, apart: bool) -> str:
    """Items in brackets, each on a line of its own or all on one."""
    if not apart:
        return begin + ", ".join(items) + end
    line = "\n" + "  " * depth
    return f"{begin}{line}{(', ' + line).join(items)}{line[:-2]}{end}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and (found := _CONTROL.search(value)) is not None:
        raise UnsupportedFeatureError(f"{value[:80]!r} holds {found[0]!r}, which MXNet's reader of JSON does not take")
    return json.dumps(value, ensure_ascii=False)
