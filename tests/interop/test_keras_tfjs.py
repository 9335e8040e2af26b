"""Keras 3 models of every kind, exported, and run by the real TensorFlow.js against Keras' own outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_graphs import MODELS, inputs_of, make
from tests.interop.keras_support import compare, keras_or_skip, predict, run_in_node, write_inputs
from tests.interop.tensorflow_js import tensorflow_js_or_skip

import weightlift as wl

tensorflow_js_or_skip()
keras = keras_or_skip()


class Exported:
    """All models, exported from live ones, and what TensorFlow.js computed."""

    def __init__(self, root: Path) -> None:
        self.outputs: dict[str, list[np.ndarray]] = {}
        self.errors: dict[str, Exception] = {}
        for name in MODELS:
            model = make(name)
            inputs = inputs_of(model)
            self.outputs[name] = predict(model, inputs)
            try:
                wl.save_model(model, root / name, durable=False)
            except wl.WeightliftError as error:
                self.errors[name] = error
                continue
            write_inputs(root / name, inputs)
        saved = [name for name in MODELS if name not in self.errors]
        self.root = root
        self.answers = dict(zip(saved, run_in_node([root / name for name in saved]), strict=True))

    def document(self, name: str) -> dict[str, Any]:
        return json.loads((self.root / name / "model.json").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("keras"))


@pytest.mark.parametrize("name", MODELS)
def test_tensorflow_js_computes_what_keras_computes(exported: Exported, name: str) -> None:
    if name in exported.errors:
        raise exported.errors[name]
    compare(exported.outputs[name], exported.answers[name])


def test_enough_kinds() -> None:
    assert len(MODELS) >= 40


def layer_names(document: dict[str, Any]) -> list[str]:
    return [entry["config"]["name"] for entry in document["modelTopology"]["config"]["layers"]]


def test_names_that_tensorflow_js_refuses_are_changed_and_kept_in_the_metadata(exported: Exported) -> None:
    document = exported.document("odd_names")
    names = document["userDefinedMetadata"]["keras"]["layerNames"]
    assert names["my_input"] == "my input"
    assert names["layer_hidden_layer__"] == "_hidden layer é"
    assert set(names) <= set(layer_names(document))
    weights = [w["name"] for w in document["weightsManifest"][0]["weights"]]
    assert "bi_di/forward_in_ner/kernel" in weights


def test_inner_layers_get_names_of_their_own(exported: Exported) -> None:
    document = exported.document("nested_three_deep")
    names = document["userDefinedMetadata"]["keras"]["layerNames"]
    assert names == {"middle/dense": "middle/dense", "middle/deepest/dense": "middle/deepest/dense"}


def test_a_plain_model_gets_no_metadata(exported: Exported) -> None:
    document = exported.document("mlp")
    assert "userDefinedMetadata" not in document
    assert document["format"] == "layers-model"
    assert document["generatedBy"] == f"keras {keras.__version__}"


def test_keys_of_dicts_are_kept(exported: Exported) -> None:
    kept = exported.document("dict_inputs_and_outputs")["userDefinedMetadata"]["keras"]
    assert kept == {"inputNames": ["a", "z"], "outputNames": ["first", "second"]}


def test_trained_weights_come_first(exported: Exported) -> None:
    names = [w["name"] for w in exported.document("frozen_layers")["weightsManifest"][0]["weights"]]
    assert names[:2] == ["dense_1/kernel", "dense_1/bias"] and len(names) == 8


def test_our_check_finds_nothing_in_what_runs(exported: Exported) -> None:
    """``check_tfjs`` raises no false alarm."""
    reports = {name: wl.check_tfjs(exported.root / name) for name in exported.answers}
    assert len(reports) > 40
    assert {n: [p for p in r.problems if p.severity != "note"] for n, r in reports.items()} == {n: [] for n in reports}


def test_trainable_only(tmp_path: Path) -> None:
    wl.save_model(make("frozen_layers"), tmp_path / "m", trainable_only=True, durable=False)
    assert list(wl.load_model(tmp_path / "m").weights) == ["dense_1/kernel", "dense_1/bias"]


def test_constraints_that_weights_do_not_meet_are_left_out(exported: Exported) -> None:
    """TensorFlow.js applies constraints to what it loads."""
    layers = exported.document("regularizers")["modelTopology"]["config"]["layers"]
    dense = [entry["config"] for entry in layers if entry["class_name"] == "Dense"]
    assert dense[0]["kernel_constraint"]["class_name"] == "MaxNorm"
    assert [d["kernel_constraint"] for d in dense[1:4]] == [None] * 3
    assert dense[0]["kernel_regularizer"] == {"class_name": "L1L2", "config": {"l1": float(np.float32(0.1)), "l2": 0.0}}
    assert dense[4]["kernel_regularizer"] is None


def test_constraints_that_weights_meet_stay(tmp_path: Path) -> None:
    dense = keras.layers.Dense(2, kernel_constraint=keras.constraints.MaxNorm(9), bias_constraint="non_neg")
    wl.save_model(keras.Sequential([keras.Input((3,)), dense]), tmp_path / "m", durable=False)
    config = wl.load_model(tmp_path / "m").model_topology["config"]["layers"][1]["config"]
    assert config["kernel_constraint"]["class_name"] == "MaxNorm"
    assert config["bias_constraint"]["class_name"] == "NonNeg"


def test_layers_that_are_left_out_do_nothing_at_inference() -> None:
    from weightlift.frameworks._keras_tables import DROPPED

    image = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")
    options = {
        "RandomContrast": [0.5],
        "RandomFlip": [],
        "RandomBrightness": [0.5],
        "RandomPosterization": [4],
        "RandomTranslation": [0.1, 0.1],
    }
    for name in sorted(DROPPED):
        kind = getattr(keras.layers, name)
        given = image[:, None] if name.endswith("3D") else image
        try:
            layer = kind(*options.get(name, []))
        except TypeError:
            layer = kind(0.3)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(given, training=False)), given, err_msg=name)
