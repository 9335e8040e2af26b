"""Our tables of what TensorFlow.js knows, against the real one: classes, operations, variables of layers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.interop.tensorflow_js import NODE_ENVIRONMENT, tensorflow_js_or_skip

from weightlift import _tfjs_registry as registry
from weightlift._tfjs_layers import layer_variables, parts_of

SCRIPT = Path(__file__).parent / "tfjs_registry.js"

tensorflow_js_or_skip()


def layer(class_name: str, shape: list[int | None], **config: Any) -> tuple[list[int | None], dict[str, Any]]:
    return shape, {"class_name": class_name, "config": {"name": "l", **config}}


def inner(class_name: str, name: str = "in", **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": name, **config}}


IMAGE: list[int | None] = [None, 8, 8, 3]
SERIES: list[int | None] = [None, 5, 3]
LSTM_CELL = inner("LSTMCell", units=4)

CASES: dict[str, tuple[list[int | None], dict[str, Any]]] = {
    "dense": layer("Dense", [None, 3], units=2),
    "dense without bias": layer("Dense", [None, 3], units=2, use_bias=False),
    "frozen dense": layer("Dense", [None, 3], units=2, trainable=False),
    "conv1d": layer("Conv1D", SERIES, filters=2, kernel_size=3),
    "conv2d": layer("Conv2D", IMAGE, filters=2, kernel_size=[3, 2]),
    "conv3d": layer("Conv3D", [None, 4, 4, 4, 2], filters=2, kernel_size=2, use_bias=False),
    "conv2d transpose": layer("Conv2DTranspose", IMAGE, filters=2, kernel_size=[3, 2]),
    "conv3d transpose": layer("Conv3DTranspose", [None, 4, 4, 4, 2], filters=3, kernel_size=2),
    "depthwise": layer("DepthwiseConv2D", IMAGE, kernel_size=3, depth_multiplier=2),
    "separable": layer("SeparableConv2D", IMAGE, filters=5, kernel_size=3),
    "simple rnn": layer("SimpleRNN", SERIES, units=4),
    "gru": layer("GRU", SERIES, units=4, reset_after=False),
    "lstm": layer("LSTM", SERIES, units=4, use_bias=False),
    "conv lstm": layer("ConvLSTM2D", [None, 2, 6, 6, 3], filters=4, kernel_size=3),
    "rnn of a cell": layer("RNN", SERIES, cell=LSTM_CELL),
    "rnn of cells": layer(
        "RNN", SERIES, cell=inner("StackedRNNCells", cells=[LSTM_CELL, inner("GRUCell", units=2, reset_after=False)])
    ),
    "bidirectional": layer("Bidirectional", SERIES, layer=inner("LSTM", units=4), merge_mode="concat"),
    "bidirectional gru": layer(
        "Bidirectional", SERIES, layer=inner("GRU", units=4, use_bias=False, reset_after=False), merge_mode="sum"
    ),
    "time distributed": layer("TimeDistributed", SERIES, layer=inner("Dense", units=2)),
    "batch normalization": layer("BatchNormalization", [None, 3]),
    "batch normalization, bare": layer("BatchNormalization", [None, 3], center=False, scale=False),
    "layer normalization": layer("LayerNormalization", SERIES, axis=[1, 2]),
    "layer normalization, one axis": layer("LayerNormalization", SERIES, center=False),
    "embedding": layer("Embedding", [None, 5], input_dim=10, output_dim=4),
    "prelu": layer("PReLU", IMAGE, shared_axes=[1, 2]),
    "nested": layer(
        "Sequential",
        [None, 3],
        layers=[
            {"class_name": "BatchNormalization", "config": {"name": "b", "batch_input_shape": [None, 3]}},
            {"class_name": "Dense", "config": {"name": "d", "units": 2}},
        ],
    ),
}
"""A layer of each kind that makes variables, with the shape of its input."""

WITHOUT = {
    "Activation": {"activation": "relu"}, "AveragePooling2D": {"pool_size": [2, 2]}, "Dropout": {"rate": 0.5},
    "Flatten": {}, "ReLU": {}, "Softmax": {}, "UpSampling2D": {}, "ZeroPadding2D": {"padding": [[1, 1], [1, 1]]},
}  # fmt: skip
CASES |= {name: layer(name, IMAGE, **config) for name, config in WITHOUT.items()}
CASES |= {f"activation {a}": layer("Activation", [None, 3], activation=a) for a in sorted(registry.ACTIVATIONS)}

UNKNOWN_ACTIVATIONS = ("silu", "leaky_relu", "exponential", "gelu_new", "hard_silu", "celu")
UNKNOWN_LOSSES = ("mse", "MeanSquaredError", "huber", "log_cosh", "cosine_similarity")
UNKNOWN_METRICS = ("recall", "auc", "sparse_categorical_accuracy", "mean_squared_error", "cosine_proximity")

OPTIONS = {
    "learning_rate": 0.1, "momentum": 0.9, "use_nesterov": False, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7,
    "decay": 0.0, "centered": False, "initial_accumulator_value": 0.1, "rho": 0.9,
}  # fmt: skip


def topology(shape: list[int | None], entry: dict[str, Any]) -> dict[str, Any]:
    first = {"class_name": "InputLayer", "config": {"name": "i", "batch_input_shape": shape}}
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [first, entry]}}


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """What the real one says, in one go."""
    cases = {name: topology(*case) for name, case in CASES.items()}
    cases |= {a: topology(*layer("Activation", [None, 3], activation=a)) for a in UNKNOWN_ACTIVATIONS}
    losses = [(name, None) for name in (*sorted(registry.LOSSES), *UNKNOWN_LOSSES)]
    metrics = [(None, name) for name in (*sorted(registry.METRICS), *UNKNOWN_METRICS)]
    optimizers = {c: {k: OPTIONS[k] for k in keys} for c, keys in registry.OPTIMIZERS.items()} | {"RMSprop": {}}
    asked = {"topologies": cases, "training": [*losses, *metrics], "optimizers": optimizers}
    done = subprocess.run(
        ["node", str(SCRIPT)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        env=NODE_ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    answer["training"] = dict(zip([*losses, *metrics], answer["training"], strict=True))
    return answer


def test_the_tables_are_of_this_version(known: dict[str, Any]) -> None:
    assert known["version"] == registry.VERSION


def test_every_registered_class_is_in_one_table(known: dict[str, Any]) -> None:
    tables = [
        registry.LAYERS, registry.MODELS, registry.CELLS, registry.INITIALIZERS, registry.REGULARIZERS,
        registry.CONSTRAINTS, frozenset(registry.OPTIMIZERS),
    ]  # fmt: skip
    ours = [name for table in tables for name in table]
    theirs = {name for name in known["classes"] if name[0].isupper()}  # activations are registered in lower case
    assert sorted(ours) == sorted(theirs)


def test_operations(known: dict[str, Any]) -> None:
    assert set(known["ops"]["mapped"]) == registry.GRAPH_OPS
    assert set(known["ops"]["listed"]) == registry.GRAPH_OPS | set(registry.UNMAPPED_OPS)


@pytest.mark.parametrize("name", CASES)
def test_variables_of_a_layer(known: dict[str, Any], name: str) -> None:
    theirs = known["variables"][name]
    assert isinstance(theirs, list), theirs
    class_name, config, own = parts_of(CASES[name][1])
    ours = layer_variables(class_name, config, own or "")
    assert [(v.name, v.trainable) for v in ours] == [(n, t) for n, _, t in theirs]
    for variable, (_, shape, _) in zip(ours, theirs, strict=True):
        if variable.shape is not None:
            assert len(variable.shape) == len(shape)
            assert all(a in (None, b) for a, b in zip(variable.shape, shape, strict=True)), (variable, shape)


def test_activations_that_do_not_load(known: dict[str, Any]) -> None:
    for name in UNKNOWN_ACTIVATIONS:
        assert name not in registry.ACTIVATIONS and str(known["variables"][name]).startswith(
            "error: Unknown activation"
        )


def test_losses_and_metrics(known: dict[str, Any]) -> None:
    for (loss, metric), answer in known["training"].items():
        expected = loss in registry.LOSSES if loss else metric in registry.METRICS
        assert (answer == "ok") == expected, (loss, metric, answer)


def test_optimizers(known: dict[str, Any]) -> None:
    assert {name: answer == "ok" for name, answer in known["optimizers"].items()} == {
        **dict.fromkeys(registry.OPTIMIZERS, True),
        "RMSprop": False,
    }
