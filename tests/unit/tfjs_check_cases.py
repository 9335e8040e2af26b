"""Models for TensorFlow.js with something wrong, each in one way; and what is to be said of them.

``tests/unit/test_check_tfjs.py`` checks what we say, ``tests/interop/test_tfjs_check.py`` what the real one does.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

Document = dict[str, Any]
Files = dict[str, bytes]
Change = Callable[[Document, Files], None]

INPUT = [[1, 5, 3], [((i * 7) % 11) / 11 for i in range(15)]]
GRAPH_INPUT = [[1, 2], [0.5, -1.0]]


def topology() -> Document:
    def layer(class_name: str, name: str, previous: str | None, **config: Any) -> Document:
        nodes = [] if previous is None else [[[previous, 0, 0, {}]]]
        return {"name": name, "class_name": class_name, "config": {"name": name, **config}, "inbound_nodes": nodes}

    layers = [
        layer("InputLayer", "in", None, batch_input_shape=[None, 5, 3], dtype="float32", sparse=False),
        layer("Conv1D", "conv", "in", filters=4, kernel_size=[3], padding="same", activation="relu", use_bias=True),
        layer("BatchNormalization", "bn", "conv", axis=-1, epsilon=0.001),
        layer("LSTM", "lstm", "bn", units=4, activation="tanh", recurrent_activation="sigmoid"),
        layer("Dense", "out", "lstm", units=2, activation="softmax"),
    ]
    ends = {"input_layers": [["in", 0, 0]], "output_layers": [["out", 0, 0]]}
    return {"class_name": "Model", "config": {"name": "m", "layers": layers, **ends}, "keras_version": "2.15.0"}


SHAPES = {
    "conv/kernel": (3, 3, 4), "conv/bias": (4,), "bn/gamma": (4,), "bn/beta": (4,), "lstm/kernel": (4, 16),
    "lstm/recurrent_kernel": (4, 16), "lstm/bias": (16,), "out/kernel": (4, 2), "out/bias": (2,),
    "bn/moving_mean": (4,), "bn/moving_variance": (4,),
}  # fmt: skip


def layers_model(folder: Path, **options: Any) -> None:
    """A model whose every weight matters."""
    rng = np.random.default_rng(4)
    weights = {n: (np.abs(rng.normal(size=s)) + 0.1).astype("f4") for n, s in SHAPES.items()}
    model = wl.ModelArtifacts(topology(), weights, format="layers-model", generated_by="keras v2.15.0")
    wl.save_model(model, folder, checksums=False, durable=False, **options)


def graph_model(folder: Path) -> None:
    """The smallest graph model."""

    def const(name: str, *shape: int) -> Document:
        dims = {"dim": [{"size": str(n)} for n in shape]}
        value = {"tensor": {"dtype": "DT_FLOAT", "tensorShape": dims}}
        return {"name": name, "op": "Const", "attr": {"dtype": {"type": "DT_FLOAT"}, "value": value}}

    shape = {"shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}
    fused = {
        "transpose_a": {"b": False}, "transpose_b": {"b": False}, "T": {"type": "DT_FLOAT"}, "num_args": {"i": "1"},
        "epsilon": {"f": 0}, "fused_ops": {"list": {"s": ["Qmlhc0FkZA==", "UmVsdQ=="]}},
    }  # fmt: skip
    nodes = [
        {"name": "x", "op": "Placeholder", "attr": {"dtype": {"type": "DT_FLOAT"}, "shape": shape}},
        const("w", 2, 2),
        const("b", 2),
        {"name": "y", "op": "_FusedMatMul", "input": ["x", "w", "b"], "attr": fused},
    ]
    rng = np.random.default_rng(4)
    weights = {"w": rng.random((2, 2), "f4") + 1, "b": rng.random(2, "f4") + 2}
    graph = {"node": nodes, "versions": {"producer": 1087, "minConsumer": 12}}
    signature = {
        "inputs": {"x": {"name": "x:0", "dtype": "DT_FLOAT"}}, "outputs": {"y": {"name": "y:0", "dtype": "DT_FLOAT"}},
    }  # fmt: skip
    model = wl.ModelArtifacts(graph, weights, format="graph-model", generated_by="2.15.0", signature=signature)
    wl.save_model(model, folder, checksums=False, durable=False)


def apply(folder: Path, change: Change | None) -> None:
    """Change a model's document and files in place."""
    path = folder / "model.json"
    document = json.loads(path.read_text())
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p != path}
    if change is not None:
        change(document, files)
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    if "model.json" not in files:
        path.write_text(json.dumps(document))


# ---- changes -----------------------------------------------------------------------------------------------
def _layer(document: Document, name: str) -> Document:
    return next(e for e in document["modelTopology"]["config"]["layers"] if e["name"] == name)


def _entry(document: Document, name: str) -> Document:
    return next(w for g in document["weightsManifest"] for w in g["weights"] if w["name"] == name)


def option(layer: str, /, **config: Any) -> Change:
    return lambda document, files: _layer(document, layer)["config"].update(config)


def weight(name: str, /, **entry: Any) -> Change:
    return lambda document, files: _entry(document, name).update(entry)


def training(**config: Any) -> Change:
    sgd = {"class_name": "SGD", "config": {"learning_rate": 0.1}}
    whole = {"loss": "mean_squared_error", "metrics": [], "optimizer_config": sgd} | config
    return lambda document, files: document.update(trainingConfig=whole)


def replaced(make: Callable[[bytes], bytes], name: str = "weights.bin") -> Change:
    return lambda document, files: files.update({name: make(files[name])})


def class_of(layer: str, class_name: str, /, **config: Any) -> Change:
    def change(document: Document, files: Files) -> None:
        entry = _layer(document, layer)
        entry["class_name"] = class_name
        entry["config"] = {"name": layer, **config}

    return change


def node(index: int, **keys: Any) -> Change:
    return lambda document, files: document["modelTopology"]["node"][index].update(keys)


def no_file(document: Document, files: Files) -> None:
    del files["weights.bin"]


def shuffled(document: Document, files: Files) -> None:
    paths = document["weightsManifest"][0]["paths"]
    paths.sort()


def not_listed(document: Document, files: Files) -> None:
    del document["weightsManifest"][0]["paths"][4]


def two_groups(document: Document, files: Files) -> None:
    """A small group, then a larger one."""
    (group,) = document["weightsManifest"]
    data, first = files.pop("weights.bin"), 144
    files |= {"a.bin": data[:first], "b.bin": data[first:]}
    document["weightsManifest"] = [
        {"paths": ["a.bin"], "weights": group["weights"][:1]},
        {"paths": ["b.bin"], "weights": group["weights"][1:]},
    ]


def keras3_input(document: Document, files: Files) -> None:
    config = _layer(document, "in")["config"]
    config["batch_shape"] = config.pop("batch_input_shape")


def keras3_nodes(document: Document, files: Files) -> None:
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None, 5, 3], "keras_history": ["in", 0, 0]}}
    _layer(document, "conv")["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}]


def keras3_ends(document: Document, files: Files) -> None:
    document["modelTopology"]["config"]["input_layers"] = ["in", 0, 0]


def flat_nodes(document: Document, files: Files) -> None:
    _layer(document, "conv")["inbound_nodes"] = [["in", 0, 0, {}]]


def without(*names: str) -> Change:
    def change(document: Document, files: Files) -> None:
        (group,) = document["weightsManifest"]
        data, kept, at, rest = files["weights.bin"], b"", 0, []
        for entry in group["weights"]:
            size = 4 * int(np.prod(entry["shape"]))
            if entry["name"] not in names:
                kept += data[at : at + size]
                rest.append(entry)
            at += size
        files["weights.bin"] = kept
        group["weights"] = rest

    return change


def numbered_names(document: Document, files: Files) -> None:
    """``layers/conv/vars/0``, as the converter makes of a Keras 3 file."""
    counts: dict[str, int] = {}
    for entry in document["weightsManifest"][0]["weights"]:
        layer = entry["name"].partition("/")[0]
        entry["name"] = f"layers/{layer}/vars/{counts.setdefault(layer, 0)}"
        counts[layer] += 1


def sequential(*, shape: bool) -> Change:
    """A Sequential model without an InputLayer."""

    def change(document: Document, files: Files) -> None:
        layers = copy.deepcopy(document["modelTopology"]["config"]["layers"][1:])
        for entry in layers:
            del entry["inbound_nodes"]
        if shape:
            layers[0]["config"]["batch_input_shape"] = [None, 5, 3]
        document["modelTopology"] = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}

    return change


def not_a_number(document: Document, files: Files) -> None:
    _layer(document, "bn")["config"]["note"] = 123454321
    files["model.json"] = json.dumps(document).replace("123454321", "NaN").encode()


def byte_order_mark(document: Document, files: Files) -> None:
    files["model.json"] = b"\xef\xbb\xbf" + json.dumps(document).encode()


def wrapped(document: Document, files: Files) -> None:
    document["modelTopology"] = {"keras_version": "2.15.0", "backend": "tensorflow", "model_config": topology()}


def camel(document: Document, files: Files) -> None:
    """Keys as TensorFlow.js has them in memory."""
    text = json.dumps(document["modelTopology"])
    for old, new in [("class_name", "className"), ("batch_input_shape", "batchInputShape"), ("use_bias", "useBias")]:
        text = text.replace(f'"{old}"', f'"{new}"')
    document["modelTopology"] = json.loads(text)


def mangle(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
HTML = b"<!doctype html><html><body>" + b"404 Not Found " * 100

SAME = "same"
"""TensorFlow.js loads the model, and computes what it computed before."""

LAYERS: dict[str, tuple[str | None, Change | None]] = {
    "nothing": (None, None),
    "wrapped as by the converter": (None, wrapped),
    "camel case": (None, camel),
    "sequential": (None, sequential(shape=True)),
    "other layer names": (None, training()),
    "no such file": ("shard-missing", no_file),
    "cut short": ("shard-length", replaced(lambda d: d[:-10])),
    "an error page": ("shard-content", replaced(lambda d: HTML)),
    "git-lfs": ("shard-content", replaced(lambda d: LFS)),
    "gzip": ("shard-content", replaced(gzip.compress)),
    "read as text": ("shard-content", replaced(mangle)),
    "two groups": ("shard-misread", two_groups),
    "null quantization": ("quantization-null", weight("out/bias", quantization=None)),
    "float64": ("dtype", weight("out/bias", dtype="float64", shape=[1])),
    "plain float16": ("dtype", weight("out/bias", dtype="float16", shape=[4])),
    "plain uint8": ("dtype", weight("out/bias", dtype="uint8", shape=[8])),
    "int8 quantization": ("quantization", weight("out/bias", shape=[8], quantization={"dtype": "int8"})),
    "no scale": ("quantization", weight("out/bias", shape=[8], quantization={"dtype": "uint8", "min": 0})),
    "float16 of int32": ("quantization", weight("out/bias", dtype="int32", quantization={"dtype": "float16"})),
    "one name twice": ("weight-twice", weight("conv/bias", name="bn/gamma")),
    "a colon": ("no-variable", weight("out/bias", name="out/bias:0")),
    "a model's name": ("no-variable", weight("out/bias", name="m/inner/out/bias")),
    "another name": ("no-weight", weight("out/bias", name="out/offset")),
    "transposed": ("wrong-shape", weight("out/kernel", shape=[2, 4])),
    "one is missing": ("no-weight", without("out/bias")),
    "only trainable ones": ("no-weight", without("bn/moving_mean", "bn/moving_variance")),
    "names of Keras 3": ("no-variable", numbered_names),
    "input of Keras 3": ("keras3", keras3_input),
    "nodes of Keras 3": ("keras3", keras3_nodes),
    "ends of Keras 3": ("keras3", keras3_ends),
    "flat nodes": ("flat-nodes", flat_nodes),
    "dtype of Keras 3": ("keras3", option("in", dtype={"class_name": "DTypePolicy", "config": {"name": "float32"}})),
    "unknown layer": ("unknown-layer", class_of("bn", "Swirl")),
    "Identity": ("unknown-layer", class_of("bn", "Identity")),
    "unknown activation": ("unknown-activation", option("conv", activation="silu")),
    "activation object": (
        "unknown-activation",
        option("conv", activation={"class_name": "function", "config": "relu"}),
    ),
    "gelu_new": ("unknown-activation", option("conv", activation="gelu_new")),
    "initializer": ("unknown-part", option("conv", kernel_initializer={"class_name": "LecunNormal", "config": {}})),
    "regularizer": ("unknown-part", option("conv", kernel_regularizer={"class_name": "L2", "config": {"l2": 0.1}})),
    "constraint": ("unknown-part", option("conv", kernel_constraint={"class_name": "Mine", "config": {}})),
    "activity": ("option", option("conv", activity_regularizer={"class_name": "L1L2", "config": {"l1": 0.1}})),
    "causal": ("option", option("conv", padding="causal")),
    "elu": ("option", class_of("bn", "ELU", alpha=0.5)),
    "gru": ("option", class_of("lstm", "GRU", units=4, reset_after=True)),
    "bad name": ("bad-name", option("conv", name="my conv")),
    "no name": ("no-name", lambda d, f: _layer(d, "conv")["config"].pop("name")),
    "no input shape": ("no-input-shape", sequential(shape=False)),
    "two layers of one name": ("layer-twice", lambda d, f: (_layer(d, "bn").update(name="conv"), None)[1]),
    "loss": ("training", training(loss="mse")),
    "metric": ("training", training(metrics=["recall"])),
    "optimizer": ("training", training(optimizer_config={"class_name": "RMSprop", "config": {}})),
    "loss weights": ("training", training(loss_weights=[1.0])),
    "NaN": ("not-a-number", not_a_number),
    "surplus at the end": (SAME, replaced(lambda d: d + b"1234")),
    "byte order mark": (SAME, byte_order_mark),
    "calls itself a graph": (SAME, lambda d, f: d.update(format="graph-model")),
}
"""Of each change: the problem that is to be found, None for none, ``SAME`` for a warning; and the change."""

SHARDED: dict[str, tuple[str | None, Change | None]] = {
    "nothing": (None, None),
    "sorted as text": ("shard-order", shuffled),
    "one not listed": ("shard-not-listed", not_listed),
    "one cut short": ("shard-length", replaced(lambda d: d[:-4], "group1-shard3of14.bin")),
}

GRAPH: dict[str, tuple[str | None, Change | None]] = {
    "nothing": (None, None),
    "no signature": (None, lambda d, f: d.pop("signature")),
    "no versions": ("no-versions", lambda d, f: d["modelTopology"].pop("versions")),
    "unknown op": ("unknown-op", node(3, op="FooBar")),
    "ragged op": ("unknown-op", node(3, op="RaggedRange")),
    "no such input": ("no-such-node", node(3, input=["x", "w", "c"])),
    "no weight": ("no-weight", weight("b", name="c")),
    "output": ("no-such-node", lambda d, f: d["signature"]["outputs"]["y"].update(name="z:0")),
    "read as a layers model": (SAME, lambda d, f: d.update(format="layers-model")),
}
