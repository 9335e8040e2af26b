"""Run beside MXNet 1.9.1, with a folder of our files: what it makes of them, and files of its own in that folder.

What an array is, is said in hexadecimal; tests compare it with what was saved.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon

import weightlift as wl

warnings.simplefilter("ignore")
npx = mx.npx


def described(value: Any) -> Any:
    """Containers, and type, shape and bytes of arrays; MXNet gives NumPy no bfloat16, so its values as float32."""
    if isinstance(value, dict):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if "bfloat16" in str(value.dtype):
        return ["bfloat16", list(value.shape), value.astype("float32").asnumpy().tobytes().hex()]
    array = value.asnumpy()
    return [str(array.dtype), list(array.shape), array.tobytes().hex()]


def mlp() -> Any:
    """The chapter's network."""

    class MLP(gluon.HybridBlock):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = gluon.nn.Dense(256, activation="relu")
            self.output = gluon.nn.Dense(10)

        def hybrid_forward(self, F: Any, x: Any) -> Any:
            return self.output(self.hidden(x))

    net = MLP()
    net.initialize(mx.init.Normal(1.0))
    return net


def read_ours(folder: Path) -> Any:
    """What MXNet's own functions make of our files, without and with NumPy's semantics."""
    npx.reset_np()
    found = {path.name: described(mx.nd.load(str(path))) for path in sorted(folder.glob("v2-*"))}
    npx.set_np()
    return {**found, **{path.name: described(npx.load(str(path))) for path in sorted(folder.glob("v3-*"))}}


def write_theirs(folder: Path) -> Any:
    """Files of MXNet's own, and what they hold."""
    npx.reset_np()
    nd = mx.nd
    types = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]
    dense = np.zeros((4, 3), "f4")
    dense[[0, 3]] = [[1, 0, 2], [0, 3, 0]]
    sparse = {kind: nd.array(dense).tostype(kind) for kind in ("row_sparse", "csr")}
    values: dict[str, Any] = {
        "nd-one": nd.array([1, 2]),
        "nd-list": [nd.array([1, 2]), nd.array([[3]], dtype="int32")],
        "nd-dict": {f"arg:{kind}": nd.array([[1, 2, 3]], dtype=kind) for kind in types},
        "nd-sparse": {**sparse, "none": nd.sparse.zeros("row_sparse", (5, 3))},
    }
    for name, value in values.items():
        nd.save(str(folder / name), value)
    npx.set_np()
    more: dict[str, Any] = {
        "np-one": mx.np.arange(4),
        "np-dict": {"scalar": mx.np.array(1.5), "empty": mx.np.zeros((0, 3)), "b": mx.np.array([True, False])},
        "np-list": [mx.np.ones((2, 3), dtype="float16"), mx.np.array([-1], dtype="int8")],
    }
    for name, value in more.items():
        npx.save(str(folder / name), value)
    return {name: described(value) for name, value in {**values, **more}.items()}


def parameters(folder: Path) -> Any:
    """An MLP's parameters, from MXNet to us and back: are the outputs of a clone the same bits?"""
    x = mx.np.random.uniform(size=(2, 20))
    net = mlp()
    expected = net(x).asnumpy()
    net.save_parameters(str(folder / "mlp.params"))
    loaded = wl.load(folder / "mlp.params")
    answer: dict[str, Any] = {"names": {name: list(array.shape) for name, array in loaded.items()}}
    for format in ("mxnet", "mxnet-v2"):
        wl.save(loaded, folder / f"{format}.params", format=format)
        clone = mlp()
        clone.load_parameters(str(folder / f"{format}.params"))
        answer[format] = bool(np.array_equal(clone(x).asnumpy(), expected))
    answer["same bytes"] = (folder / "mxnet.params").read_bytes() == (folder / "mlp.params").read_bytes()
    return answer


def main() -> None:
    folder = Path(sys.argv[1])
    answer = {"ours": read_ours(folder), "theirs": write_theirs(folder), "parameters": parameters(folder)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
