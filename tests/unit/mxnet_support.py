"""Files of MXNet, put together number by number as its own writer does: nothing here knows our code."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

CODES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8")
GPU = struct.pack("<ii", 2, 3)
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
NONE = struct.pack("<Iii", V2, 0, 0)
"""An array that was never given values."""


def shape_of(dims: Sequence[int]) -> bytes:
    return struct.pack(f"<i{len(dims)}q", len(dims), *dims)


def code_of(dtype: npt.DTypeLike) -> int:
    name = np.dtype(dtype).name
    return 12 if name == "bfloat16" else [np.dtype(c).name for c in CODES].index(name)


def dense(array: npt.NDArray[np.generic], version: int = 3) -> bytes:
    """A record of one of the four versions, saved on a GPU."""
    rest = GPU + struct.pack("<i", code_of(array.dtype)) + array.tobytes()
    if version == 0:
        return struct.pack(f"<{1 + array.ndim}I", array.ndim, *array.shape) + rest
    start = struct.pack("<I", (V1, V2, V3)[version - 1]) + (struct.pack("<i", 0) if version > 1 else b"")
    return start + shape_of(array.shape) + rest


def sparse(
    kind: int,
    shape: Sequence[int],
    data: npt.NDArray[np.generic],
    *indices: Sequence[int],
    early: bool = False,
) -> bytes:
    """A record of version 2: 1 is row_sparse (indices), 2 is csr (indptr, indices).

    ``early``: as MXNet 1.9 writes one that is still being computed.
    """
    arrays = [np.array(i, np.int64) for i in indices]
    head = struct.pack("<Ii", V2, kind) + shape_of((0, *data.shape[1:]) if early else data.shape) + shape_of(shape)
    head += GPU + struct.pack("<i", code_of(data.dtype))
    for length in [len(a) for a in arrays]:
        head += struct.pack("<i", 6) + shape_of([length])
    return head + data.tobytes() + b"".join(a.tobytes() for a in arrays)


def listed(records: Sequence[bytes], names: Sequence[bytes] = (), *, count: int | None = None) -> bytes:
    """A file."""
    tail = struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(n)) + n for n in names)
    return struct.pack("<QQQ", 0x112, 0, len(records) if count is None else count) + b"".join(records) + tail


def named(records: Mapping[str, bytes]) -> bytes:
    """A file of a dict."""
    return listed(list(records.values()), [n.encode() for n in records])


# --- symbols --------------------------------------------------------------------------------------
def node(op: str, name: str, inputs: Sequence[Sequence[int]] = (), **rest: Any) -> dict[str, Any]:
    """A node; a keyword ``attrs`` holds its attributes."""
    return {"op": op, "name": name, **rest, "inputs": [list(entry) for entry in inputs]}


def graph(nodes: Sequence[Mapping[str, Any]], /, **changes: Any) -> dict[str, Any]:
    """A symbol of these nodes, the last of which is its output."""
    variables = [number for number, one in enumerate(nodes) if one["op"] == "null"]
    document = {"nodes": list(nodes), "arg_nodes": variables, "heads": [[len(nodes) - 1, 0, 0]]}
    return {**document, "attrs": {"mxnet_version": ["int", 10901]}, **changes}


def numpy_graph(names: Sequence[str], **attributes: str) -> dict[str, Any]:
    """A symbol with NumPy's shapes, whose variables are ``data`` and these, taken by one operation."""
    rest = {"attrs": attributes} if attributes else {}
    nodes = [node("null", "data"), *(node("null", name, **rest) for name in names)]
    nodes.append(node("Custom", "all", [(number, 0, 0) for number in range(len(nodes))]))
    return graph(nodes, attrs={"is_np_shape": ["int", 1], "mxnet_version": ["int", 10901]})


def dense_and_norm() -> dict[str, Any]:
    """A layer and a BatchNorm, with the variables that MXNet makes for them: two parameters, and four."""
    made = ("data", "fc_weight", "fc_bias", "bn_gamma", "bn_beta", "bn_moving_mean", "bn_moving_var")
    nodes = [node("null", name) for name in made]
    nodes.append(node("FullyConnected", "fc", [(0, 0, 0), (1, 0, 0), (2, 0, 0)], attrs={"num_hidden": "3"}))
    nodes.append(node("BatchNorm", "bn", [(7, 0, 0), (3, 0, 0), (4, 0, 0), (5, 0, 1), (6, 0, 1)]))
    return graph(nodes)


def dense_and_norm_values() -> dict[str, npt.NDArray[Any]]:
    """Values of them."""
    rest = {f"bn_{name}": np.full(3, i, "f4") for i, name in enumerate(("gamma", "beta", "moving_mean", "moving_var"))}
    return {"fc_weight": np.arange(6, dtype="f4").reshape(3, 2), "fc_bias": np.ones(3, "f4"), **rest}
