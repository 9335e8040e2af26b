"""The rewriting of Keras configurations, on JSON alone: Keras is not needed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift.frameworks._keras_graph import read_model
from weightlift.frameworks._keras_topology import rewrite
from weightlift.frameworks._keras_weights import gather, weight_names


def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": class_name, "config": {"name": name, **config}, "name": name}


def tensor(name: str, node: int = 0, index: int = 0) -> dict[str, Any]:
    config = {"shape": [None, 4], "dtype": "float32", "keras_history": [name, node, index]}
    return {"class_name": "__keras_tensor__", "config": config}


def called(entry: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {**entry, "inbound_nodes": [{"args": list(args), "kwargs": kwargs}]}


INPUT = layer("InputLayer", "in", batch_shape=[None, 4], dtype="float32", sparse=False)


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [INPUT, *layers]}}


def functional(*layers: dict[str, Any], outputs: Any) -> dict[str, Any]:
    config = {"name": "f", "layers": [{**INPUT, "inbound_nodes": []}, *layers]}
    config |= {"input_layers": ["in", 0, 0], "output_layers": outputs}
    return {"module": "keras", "class_name": "Functional", "config": config}


def test_the_documented_example() -> None:
    dense = layer("Dense", "d", units=2, activation="silu", use_bias=True, quantization_config=None)
    topology = rewrite(functional(called(dense, tensor("in")), outputs=["d", 0, 0])).topology
    entry, d = topology["config"]["layers"]
    assert entry["config"] == {"name": "in", "batch_input_shape": [None, 4], "dtype": "float32", "sparse": False}
    assert d["inbound_nodes"] == [[["in", 0, 0, {}]]]
    assert d["config"] == {
        "name": "d", "trainable": True, "units": 2, "activation": "swish", "use_bias": True, "dtype": "float32",
    }  # fmt: skip
    assert topology["config"]["output_layers"] == [["d", 0, 0]]


def test_a_sparse_input_is_refused() -> None:
    document = sequential(layer("Dense", "d", units=1))
    document["config"]["layers"][0] = layer("InputLayer", "in", batch_shape=[None, 4], sparse=True)
    with pytest.raises(wl.UnsupportedFeatureError, match="a sparse or ragged input"):
        rewrite(document)


def test_code_in_a_configuration_is_never_run() -> None:
    code = {"class_name": "__lambda__", "config": {"code": "raise SystemExit", "defaults": None, "closure": None}}
    with pytest.raises(wl.UnsupportedFeatureError, match=r"code \(Lambda\): TensorFlow.js has no such layer"):
        rewrite(sequential(layer("Lambda", "code", function=code)))
    with pytest.raises(wl.UnsupportedFeatureError, match="activation __lambda__"):
        rewrite(sequential(layer("Dense", "d", units=1, activation=code)))


def test_an_unknown_option_that_is_set_is_refused() -> None:
    assert rewrite(sequential(layer("Dense", "d", units=1, new_option=None)))
    with pytest.raises(wl.UnsupportedFeatureError, match=r"new_option=3: TensorFlow\.js has no such option"):
        rewrite(sequential(layer("Dense", "d", units=1, new_option=3)))


def test_names_of_added_layers_are_free() -> None:
    dense = layer("Dense", "d", units=4, activation="leaky_relu")
    taken = layer("Activation", "d_leaky_re_lu", activation="tanh")
    names = [e["config"]["name"] for e in rewrite(sequential(dense, taken)).topology["config"]["layers"]]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config",), 3),
        (("config", "layers"), None),
        (("config", "layers", 1), "Dense"),
        (("config", "layers", 1, "class_name"), 5),
        (("config", "layers", 1, "config"), []),
        (("config", "layers", 1, "inbound_nodes"), {"a": 1}),
        (("config", "layers", 1, "inbound_nodes", 0), 7),
        (("config", "layers", 1, "inbound_nodes", 0, "args", 0, "config"), None),
        (("config", "layers", 1, "inbound_nodes", 0, "args", 0, "config", "keras_history"), ["in", "0", 0]),
        (("config", "layers", 1, "inbound_nodes", 0, "args", 0, "config", "keras_history"), ["gone", 0, 0]),
        (("config", "layers", 1, "inbound_nodes", 0, "args", 0, "config", "keras_history"), ["in", 10**9, 0]),
        (("config", "layers", 1, "inbound_nodes", 0, "args", 0, "config", "keras_history"), ["in", -1, 0]),
        (("config", "layers", 0, "name"), "d"),
        (("config", "output_layers"), 3),
        (("config", "output_layers"), ["d"]),
        (("config", "output_layers"), [["d", 0]]),
        (("config", "output_layers"), ["d", 1, 0]),
    ],
)
def test_damage_is_a_format_error(path: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(functional(called(layer("Dense", "d", units=2), tensor("in")), outputs=["d", 0, 0]))
    part: Any = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(wl.FormatError):
        rewrite(document)


def test_nesting_has_an_end() -> None:
    document = sequential()
    for _ in range(150):
        document = {**sequential(document), "name": "inner"}
    with pytest.raises(wl.FormatError, match="nested more than 100 deep"):
        read_model(document)


def test_deep_wrappers_and_arguments_are_format_errors() -> None:
    wrapped = layer("Dense", "d", units=2)
    args: Any = tensor("in")
    for _ in range(3000):
        wrapped = layer("TimeDistributed", "t", layer=wrapped)
        args = [args]
    for document in (sequential(wrapped), functional(called(layer("Dense", "d", units=2), args), outputs=["d", 0, 0])):
        with pytest.raises(wl.FormatError, match="nested too deep"):
            rewrite(document)


def test_ranks_follow_from_the_inputs() -> None:
    """Keras 2 says no shapes, and a normalisation of axis 3 is on the last axis only of four."""
    image = layer("InputLayer", "in", batch_shape=[None, 8, 8, 2], dtype="float32")
    norm = {"axis": [3], "scale": True, "center": True}
    document = sequential(layer("Conv2D", "c", filters=2, kernel_size=[3, 3]), layer("BatchNormalization", "b", **norm))
    document["config"]["layers"][0] = image
    kinds = [e["class_name"] for e in rewrite(document).topology["config"]["layers"]]
    assert kinds == ["InputLayer", "Conv2D", "BatchNormalization"]
    document["config"]["layers"][2]["config"]["axis"] = [1]
    kinds = [e["class_name"] for e in rewrite(document).topology["config"]["layers"]]
    assert kinds == ["InputLayer", "Conv2D", "Permute", "BatchNormalization", "Permute"]


def test_names_of_weights() -> None:
    lstm = {"class_name": "LSTM", "config": {"name": "l", "use_bias": True}}
    assert weight_names("BatchNormalization", {"scale": False}, "b") == ["b/beta", "b/moving_mean", "b/moving_variance"]
    assert weight_names("Bidirectional", {"layer": lstm}, "bi")[3] == "bi/backward_l/kernel"
    assert weight_names("TimeDistributed", {"layer": lstm}, "td") == ["td/kernel", "td/recurrent_kernel", "td/bias"]
    assert weight_names("Flatten", {}, "f") == []


def test_a_layer_with_other_weights_than_its_class_has() -> None:
    rewritten = rewrite(sequential(layer("Dense", "d", units=1)))
    with pytest.raises(wl.MismatchError, match=r"layer d \(Dense\) has 1 weights, expected 2: kernel, bias"):
        gather(rewritten.holders, lambda holder: [np.zeros((4, 1))])


def test_weights_of_other_types_become_float32() -> None:
    rewritten = rewrite(sequential(layer("Dense", "d", units=1)))
    weights, _ = gather(rewritten.holders, lambda holder: [np.zeros((4, 1), "f2"), np.zeros(1, "f8")])
    assert {w.dtype for w in weights.values()} == {np.dtype("float32")}
    with pytest.raises(wl.MismatchError, match="expected numbers"):
        gather(rewritten.holders, lambda holder: [np.zeros((4, 1), "S3"), np.zeros(1)])


def test_keras_2_counts_the_calls_of_inner_models_from_one() -> None:
    inner = {"class_name": "Functional", "name": "m", "config": {
        "name": "m", "input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]], "layers": [
            {"class_name": "InputLayer", "name": "i", "inbound_nodes": [],
             "config": {"name": "i", "batch_input_shape": [None, 4], "dtype": "float32"}}]}}  # fmt: skip
    entry = {"class_name": "InputLayer", "name": "in", "inbound_nodes": [],
             "config": {"name": "in", "batch_input_shape": [None, 4], "dtype": "float32"}}  # fmt: skip
    config = {"name": "f", "layers": [entry, {**inner, "inbound_nodes": [[["in", 0, 0, {}]]]}]}
    config |= {"input_layers": [["in", 0, 0]], "output_layers": [["m", 1, 0]]}
    document = {"class_name": "Functional", "config": config, "keras_version": "2.15.0"}
    assert read_model(document).outputs[0].node == 0
    assert rewrite(document).topology["config"]["output_layers"] == [["m", 1, 0]]
