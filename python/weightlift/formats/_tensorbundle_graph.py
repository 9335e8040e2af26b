"""The object graph of a checkpoint: which attributes lead to which variable, so that Keras can restore them.

Messages: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/trackable_object_graph.proto.
What is written is the least that restores: a root, an object for each part of a path, and a variable at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weightlift.formats._tensorbundle_proto import field as message_field

__all__ = ["object_graph"]


@dataclass
class _Node:
    """An object: its children's numbers by attribute, and the key of its value, if it is a variable."""

    children: dict[str, int] = field(default_factory=dict)
    key: str | None = None


def object_graph(keys: Mapping[str, str]) -> bytes:
    """``TrackableObjectGraph`` of variables: their keys by path, the parts of which are joined by slashes."""
    nodes = [_Node()]
    for path, key in keys.items():
        at = 0
        for part in path.split("/"):
            below = nodes[at].children.get(part)
            if below is None:
                below = nodes[at].children[part] = len(nodes)
                nodes.append(_Node())
            at = below
        nodes[at].key = key
    return b"".join(message_field(1, _node(node)) for node in nodes)


def _node(node: _Node) -> bytes:
    parts = []
    for name, number in node.children.items():
        parts.append(message_field(1, message_field(1, number) + message_field(2, name.encode())))
    if node.key is not None:
        attribute = message_field(1, b"VARIABLE_VALUE") + message_field(3, node.key.encode())
        parts.append(message_field(2, attribute))
    return b"".join(parts)
