"""Run beside MXNet 1.9.1, with an empty folder: the book's chapter on file I/O, by save and load(into=)."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

import weightlift as wl

warnings.simplefilter("ignore")
mx.npx.set_np()
FOLDER = Path(sys.argv[1])


def mlp(*hidden: int) -> Any:
    """Layers that are named by their place; their inputs are not known before the first pass."""
    net = nn.HybridSequential()
    for units in hidden:
        net.add(nn.Dense(units, activation="relu"))
    net.add(nn.Dense(10))
    net.initialize(mx.init.Normal(1.0))
    return net


def equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a.asnumpy(), b.asnumpy()))


def containers() -> dict[str, bool]:
    """One array, a list, a dict."""
    x, y = mx.np.arange(4), mx.np.zeros((2, 3))
    wl.save(x, FOLDER / "x-file", format="mxnet")
    wl.save([x, y], FOLDER / "x-files", format="mxnet")
    wl.save({"x": x, "y": y}, FOLDER / "mydict", format="mxnet")
    one, two = mx.npx.load(str(FOLDER / "x-file")), mx.npx.load(str(FOLDER / "x-files"))
    named = mx.npx.load(str(FOLDER / "mydict"))
    return {
        "one": equal(one[0], x) and np.array_equal(wl.load(FOLDER / "x-file"), x.asnumpy()),
        "list": equal(two[0], x) and equal(two[1], y),
        "dict": sorted(named) == ["x", "y"] and equal(named["y"], y),
    }


def networks() -> dict[str, Any]:
    """An MLP's parameters, a clone, and two layers of it in another network."""
    x = mx.np.random.uniform(size=(2, 20))
    net = mlp(256, 64)
    before: Any = None
    try:
        wl.save(net, FOLDER / "early.params")
    except wl.UnsupportedFeatureError as error:
        before = error.message
    y = net(x)
    wl.save(net, FOLDER / "mlp.params")
    theirs, clone = mlp(256, 64), mlp(256, 64)
    theirs.load_parameters(str(FOLDER / "mlp.params"))
    same = wl.load(FOLDER / "mlp.params", into=clone) is clone
    other = mlp(256, 64, 32)
    other(x)
    wl.load(FOLDER / "mlp.params", into=other, names=["0.*", "1.*"])
    expected = net[1](net[0](x))
    report = wl.load(FOLDER / "mlp.params", into=other, strict=False)
    early: list[Any] = []
    try:
        wl.load(FOLDER / "mlp.params", into=mlp(256, 64, 32), strict=False)
    except wl.MismatchError as error:
        early = [list(found) for found in error.wrong_shape]
    wrong: list[Any] = []
    try:
        small = mlp(256, 8)
        small(x)
        wl.load(FOLDER / "mlp.params", into=small)
    except wl.MismatchError as error:
        wrong = [list(found) for found in error.wrong_shape]
    renamed = mlp(64)
    wl.load(FOLDER / "mlp.params", into=renamed, names=["1.*", "2.*"], rename={"1.": "0.", "2.": "1."})
    return {
        "early": before,
        "names": list(wl.open(FOLDER / "mlp.params")),
        "theirs": equal(theirs(x), y),
        "clone": same and equal(clone(x), y),
        "two layers": equal(other[1](other[0](x)), expected),
        "renamed": equal(renamed(net[0](x)), y),
        "report": [list(report.loaded), len(report.missing)],
        "wrong": wrong,
        "wrong before the first pass": early,
    }


def tied() -> bool:
    """Two layers with one parameter stay so."""
    net, clone = nn.HybridSequential(), nn.HybridSequential()
    for one in (net, clone):
        first = nn.Dense(4, in_units=4)
        one.add(first, nn.Dense(4, in_units=4, params=first.params))
        one.initialize(mx.init.Normal(1.0))
    wl.save(net, FOLDER / "tied.safetensors")
    wl.load(FOLDER / "tied.safetensors", into=clone)
    x = mx.np.ones((1, 4))
    return equal(net(x), clone(x)) and clone[0].weight is clone[1].weight


def exports() -> dict[str, Any]:
    """What ``export`` and ``collect_params().save`` write goes into another block of the same layers."""
    mx.npx.reset_np()  # collect_params().save is not for NumPy's mode
    x, answers = mx.nd.ones((2, 3)), {}
    for scoped in (True, False):
        nets = []
        for _ in range(4):
            net = nn.HybridSequential()
            with net.name_scope() if scoped else nullcontext():
                net.add(nn.Dense(3), nn.BatchNorm(), nn.Dense(3))
            net.initialize(mx.init.Normal(1.0))
            nets.append(net)
        net, *others = nets
        net.hybridize()
        y = net(x)
        net.export(str(FOLDER / "exported"))
        net.collect_params().save(str(FOLDER / "all.params"))
        net.collect_params().save(str(FOLDER / "bare.params"), strip_prefix=net.prefix if scoped else "")
        for file, other in zip(("exported-0000.params", "all.params", "bare.params"), others, strict=True):
            wl.load(FOLDER / file, into=other)
            answers[f"{file} {scoped}"] = equal(other(x), y)
        block = mx.gluon.SymbolBlock.imports(str(FOLDER / "exported-symbol.json"), ["data"])
        block.initialize()
        wl.load(FOLDER / "exported-0000.params", into=block)
        answers[f"symbol {scoped}"] = equal(block(x), y)
    try:
        wl.load(FOLDER / "exported-0000.params", into=mlp(3))
    except wl.MismatchError as error:
        answers["another network"] = bool(error.unexpected and error.missing)
    return answers


if __name__ == "__main__":
    print(json.dumps({**containers(), **networks(), "tied": tied(), "exports": exports()}))
