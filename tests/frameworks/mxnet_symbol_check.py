"""Run beside MXNet 1.9.1, with an empty folder: networks with their graphs, exported by MXNet and by us, both ways."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

import weightlift as wl

warnings.simplefilter("ignore")
logging.disable()
FOLDER = Path(sys.argv[1])


def equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a.asnumpy(), b.asnumpy()))


def message(call: Callable[[], Any]) -> str:
    try:
        call()
    except wl.WeightliftError as error:
        return f"{type(error).__name__}: {error.message}"
    return "no error"


def convolutions() -> Any:
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten(), nn.Dense(8), nn.Dropout(0.3))
    net.add(nn.Dense(3))
    net.initialize(mx.init.Normal(1.0))
    net.hybridize()
    return net


def run(net: Any, x: Any) -> Any:
    """Train a step, so that no running mean is 0, and give the output."""
    with mx.autograd.record():
        net(x)
    return net(x)


def same_files(a: str, b: str) -> bool:
    ends = ("-symbol.json", "-0000.params")
    return all((FOLDER / f"{a}{end}").read_bytes() == (FOLDER / f"{b}{end}").read_bytes() for end in ends)


def imported(name: str, *inputs: str) -> Any:
    return mx.gluon.SymbolBlock.imports(
        str(FOLDER / f"{name}-symbol.json"), list(inputs or ("data",)), str(FOLDER / f"{name}-0000.params")
    )


def gluon(kind: str, x: Any) -> dict[str, Any]:
    """Exported by MXNet, through our hands, and by us."""
    net = convolutions()
    early = message(lambda: wl.save_model(net, FOLDER / f"{kind}-early-symbol.json"))
    y = run(net, x)
    net.export(str(FOLDER / f"{kind}-theirs"))
    model = wl.load_model(FOLDER / f"{kind}-theirs-symbol.json")
    wl.save_model(model, FOLDER / f"{kind}-ours-symbol.json")
    wl.save_model(net, FOLDER / f"{kind}-live-0000.params")
    return {
        "early": early,
        "weights": len(model.weights),
        "auxiliary": len(model.extra["auxiliaryStates"]),
        "names": set(model.weights) == set(net.collect_params()),
        "values": all(np.array_equal(model.weights[n], p.data().asnumpy()) for n, p in net.collect_params().items()),
        "same bytes": same_files(f"{kind}-theirs", f"{kind}-ours") and same_files(f"{kind}-theirs", f"{kind}-live"),
        "imported": equal(imported(f"{kind}-ours")(x), y),
        "to_gluon": equal(model.to_gluon()(x), y),
    }


class Sums(nn.HybridBlock):
    """Two inputs, of which one is summed up in a loop: a graph in a node."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.dense = nn.Dense(3)

    def hybrid_forward(self, F: Any, rows: Any, bias: Any) -> Any:
        outputs, _ = F.contrib.foreach(lambda row, state: (row + state, row + state), self.dense(rows), bias)
        return outputs


def loop() -> dict[str, Any]:
    net = Sums()
    net.initialize(mx.init.Normal(1.0))
    net.hybridize()
    rows, bias = mx.nd.ones((4, 5)), mx.nd.ones((3,))
    y = net(rows, bias)
    wl.save_model(net, FOLDER / "loop-symbol.json")
    model = wl.load_model(FOLDER / "loop-symbol.json")
    return {
        "graphs": sum(len(node.get("subgraphs", ())) for node in model.model_topology["nodes"]),
        "imported": equal(imported("loop", "data0", "data1")(rows, bias), y),
        "to_gluon": equal(model.to_gluon(["data1", "data0"])(bias, rows), y),
        "inputs": message(lambda: model.to_gluon(["data0"])),
    }


def module() -> dict[str, Any]:
    """A checkpoint of Module's, whose variables MXNet itself named."""
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=8, name="fc1")
    net = mx.sym.BatchNorm(net, name="bn", fix_gamma=False)
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=3, name="fc2"), name="softmax")
    theirs = mx.mod.Module(net, context=mx.cpu())
    data = mx.io.NDArrayIter(np.ones((2, 5), "f4"), np.zeros(2), batch_size=2)
    theirs.bind(data.provide_data, data.provide_label)
    theirs.init_params(mx.init.Normal(1.0))
    theirs.save_checkpoint(str(FOLDER / "mod"), 7)
    model = wl.load_model(FOLDER / "mod-0007.params")
    wl.save_model(model, FOLDER / "again-0012.params")
    symbol, arg, aux = mx.model.load_checkpoint(str(FOLDER / "again"), 12)
    ours = mx.mod.Module.load(str(FOLDER / "again"), 12)
    ours.bind(data.provide_data, data.provide_label, for_training=False)
    ours.init_params()
    wanted_arg, wanted_aux = theirs.get_params()
    return {
        "symbol": symbol.tojson() == net.tojson(),
        "arg": sorted(arg) == sorted(wanted_arg) and all(equal(arg[name], wanted_arg[name]) for name in arg),
        "aux": sorted(aux) == sorted(wanted_aux) == ["bn_moving_mean", "bn_moving_var"],
        "outputs": equal(ours.predict(data), theirs.predict(data)),
        "to_gluon": equal(model.to_gluon()(mx.nd.ones((2, 5)), mx.nd.zeros((2,))), theirs.predict(data)),
    }


def refused() -> list[str]:
    plain = nn.Sequential()
    plain.add(nn.Dense(2, in_units=2))
    plain.initialize()
    keras = wl.ModelArtifacts({"class_name": "Sequential"}, {"w": np.zeros(2, "f4")}, format="layers-model")
    return [
        message(lambda: wl.save_model(plain, FOLDER / "plain-symbol.json")),
        message(lambda: wl.save_model(convolutions(), FOLDER / "plain-symbol.json", trainable_only=True)),
        message(keras.to_gluon),
    ]


if __name__ == "__main__":
    answer: dict[str, Any] = {"nd": gluon("nd", mx.nd.random.uniform(shape=(2, 3, 6, 6))), "loop": loop()}
    answer |= {"module": module(), "refused": refused()}
    mx.npx.set_np()
    answer["np"] = gluon("np", mx.np.random.uniform(size=(2, 3, 6, 6)))
    mx.npx.reset_np()
    answer["mode"] = message(wl.load_model(FOLDER / "np-ours-symbol.json").to_gluon)
    print(json.dumps(answer))
