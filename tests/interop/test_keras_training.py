"""Optimizers of Keras go on in TensorFlow.js where Keras left them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_support import keras_or_skip, predict, run_in_node, write_inputs
from tests.interop.tensorflow_js import tensorflow_js_or_skip

import weightlift as wl

tensorflow_js_or_skip()
keras = keras_or_skip()
L, Optimizers = keras.layers, keras.optimizers

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: Optimizers.SGD(0.05),
    "momentum": lambda: Optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: Optimizers.Adam(0.01, beta_1=0.8),
    "rmsprop": lambda: Optimizers.RMSprop(0.01, rho=0.8, momentum=0.5),
    "adagrad": lambda: Optimizers.Adagrad(0.05, initial_accumulator_value=0.2),
    "nesterov": lambda: Optimizers.SGD(0.05, momentum=0.8, nesterov=True),
    "plain": lambda: Optimizers.RMSprop(0.01),
    "centered": lambda: Optimizers.RMSprop(0.01, centered=True, momentum=0.4),
    "other order": lambda: Optimizers.Adam(0.02),
}
X = np.random.default_rng(0).normal(size=(6, 4)).astype("f4")
Y = np.random.default_rng(1).normal(size=(6, 2)).astype("f4")


def trained(optimizer: Any, loss: Any = "mean_squared_error", metrics: Any = None, *, order: bool = False) -> Any:
    keras.utils.set_random_seed(3)
    i = keras.Input((4,))
    if order:
        # Four layers behind y in TensorFlow.js: it lists y's weights before x's, and those have the same shapes.
        x, y = L.Dense(4, "tanh", name="x")(i), L.Dense(4, "hard_sigmoid", name="y")(i)
        model = keras.Model(i, L.Dense(2, name="c")(L.Add()([x, y])))
    else:
        x = L.Dense(5, "tanh", name="b")(i)
        x = L.Concatenate()([L.Dense(3, name="a")(x), x])
        model = keras.Model(i, L.Dense(2, name="c")(x))
    model.compile(optimizer, loss=loss, metrics=metrics)
    for _ in range(3):
        model.train_on_batch(X, Y)
    return model


class Trained:
    """A step of training in TensorFlow.js, and the same in Keras."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.after: dict[str, np.ndarray] = {}
        for name, optimizer in OPTIMIZERS.items():
            model = trained(optimizer(), order=name == "other order")
            wl.save_model(model, root / name, include_optimizer=True, durable=False)
            write_inputs(root / name, [X])
            listed = [[list(a.shape), "float32", a.ravel().tolist()] for a in (X, Y)]
            (root / name / "train.json").write_text(json.dumps(listed))
            model.train_on_batch(X, Y)
            self.after[name] = predict(model, [X])[0]
        self.answers = dict(zip(OPTIMIZERS, run_in_node([root / n for n in OPTIMIZERS]), strict=True))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_is_the_same(steps: Trained, name: str) -> None:
    answer = steps.answers[name]
    assert "error" not in answer, answer["error"]
    shape, values = answer["after"]
    np.testing.assert_allclose(np.reshape(values, shape), steps.after[name], rtol=1e-4, atol=2e-5)


def test_the_state_is_named_as_tensorflow_js_names_it(steps: Trained) -> None:
    mine = json.loads((steps.root / "adam" / "model.json").read_text())
    theirs = json.loads((steps.root / "adam" / "resaved" / "model.json").read_text())
    groups = [{w["name"]: w.get("group") for w in d["weightsManifest"][0]["weights"]} for d in (mine, theirs)]
    assert groups[0]["iter"] == groups[0]["b/kernel/m"] == "optimizer"
    assert set(groups[0]) == set(groups[1])
    config = mine["trainingConfig"]
    assert config["loss"] == "mean_squared_error"
    assert config["optimizer_config"]["class_name"] == "Adam"


def test_without_the_option_there_is_no_state(tmp_path: Path) -> None:
    wl.save_model(trained(Optimizers.Adam()), tmp_path / "m", durable=False)
    artifacts = wl.load_model(tmp_path / "m")
    assert artifacts.training_config is None and len(artifacts.weights) == 6


REFUSED: dict[str, Callable[[], Any]] = {
    "Adadelta: TensorFlow.js has": lambda: trained(Optimizers.Adadelta()),
    "Lion: TensorFlow.js has": lambda: trained(Optimizers.Lion()),
    "AdamW: TensorFlow.js has": lambda: trained(Optimizers.AdamW()),
    "amsgrad=True": lambda: trained(Optimizers.Adam(amsgrad=True)),
    "epsilon=0.1: TensorFlow.js has 1e-07": lambda: trained(Optimizers.Adagrad(epsilon=0.1)),
    "with reduction=sum": lambda: trained("sgd", loss=keras.losses.MeanSquaredError(reduction="sum")),
    "clipnorm=1": lambda: trained(Optimizers.Adam(clipnorm=1.0)),
    "no schedule": lambda: trained(Optimizers.Adam(Optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))),
    "cosine_similarity: TensorFlow.js has": lambda: trained("sgd", loss="cosine_similarity"),
    "with from_logits=True": lambda: trained("sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True)),
    "r2_score: TensorFlow.js has": lambda: trained("sgd", metrics=["r2_score"]),
    "is not compiled": lambda: keras.Sequential([keras.Input((4,)), L.Dense(2)]),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_go_on_is_refused(text: str, tmp_path: Path) -> None:
    model = REFUSED[text]()
    with pytest.raises(wl.UnsupportedFeatureError) as caught:
        wl.save_model(model, tmp_path / "m", include_optimizer=True)
    assert text in str(caught.value) and "leave include_optimizer out" in str(caught.value)
    assert not (tmp_path / "m").exists()
    wl.save_model(model, tmp_path / "m", durable=False)


def test_the_order_of_tensorflow_js_is_another_where_layers_were_added(steps: Trained) -> None:
    """Else the test of the next step says nothing of it."""
    names = [
        w["name"]
        for w in json.loads((steps.root / "other order" / "model.json").read_text())["weightsManifest"][0]["weights"]
    ]
    assert names[:4] == ["x/kernel", "x/bias", "y/kernel", "y/bias"]
    assert names[names.index("iter") + 1 :][:2] == ["y/kernel/m", "y/bias/m"]


def two_outputs(loss: Any, metrics: Any) -> Any:
    i = keras.Input((4,))
    model = keras.Model(i, [L.Dense(2, "hard_sigmoid", name="p")(i), L.Dense(1, name="q")(i)])
    model.compile("sgd", loss=loss, metrics=metrics)
    return model


def test_losses_and_metrics_of_several_outputs() -> None:
    kept: list[wl.ModelArtifacts] = []
    handler = wl.with_save_handler(kept.append)
    wl.save_model(two_outputs({"q": "mae", "p": "mse"}, {"q": ["mae"]}), handler, include_optimizer=True)
    config = kept[0].training_config
    assert config is not None
    assert config["loss"] == ["mean_squared_error", "mean_absolute_error"]
    assert config["metrics"] == {"q": "mae"}
    wl.save_model(two_outputs("mse", [["mae"], ["mae"]]), handler, include_optimizer=True)
    config = kept[1].training_config
    assert config is not None and config["loss"] == "mean_squared_error" and config["metrics"] == ["mae"]
    for loss, metrics, text in (
        ({"q": "mae"}, None, "p: TensorFlow.js wants a loss of each output"),
        ("mse", {"q": ["mae", "mse"]}, "one metric for each output"),
        ("mse", {"p": ["mae"]}, "names of outputs that have a _"),
    ):
        with pytest.raises(wl.UnsupportedFeatureError, match=text):
            wl.save_model(two_outputs(loss, metrics), handler, include_optimizer=True)


def test_files_hold_what_the_live_model_held(tmp_path: Path) -> None:
    """Keras 3's own files: the training configuration, and the state in TensorFlow.js' order."""
    for name, make in OPTIMIZERS.items():
        model = trained(make(), order=name == "other order")
        wl.save_model(model, tmp_path / "m", include_optimizer=True, durable=False)
        model.save(tmp_path / "m.keras")
        model.save(tmp_path / "m.h5")
        live = wl.load_model(tmp_path / "m")
        for file in ("m.keras", "m.h5"):
            read = wl.load_model(tmp_path / file, include_optimizer=True)
            assert read.training_config == live.training_config, name
            assert list(read.weights) == list(live.weights), name
            for key, value in live.weights.items():
                np.testing.assert_array_equal(read.weights[key], value, err_msg=f"{name} {key}")
            assert "iter" not in wl.load_model(tmp_path / file).weights
    result = wl.convert(tmp_path / "m.keras", tmp_path / "out", include_optimizer=True, durable=False)
    assert result.tensors == len(live.weights)
    assert json.loads((tmp_path / "out" / "model.json").read_text())["trainingConfig"] == live.training_config


def test_files_whose_optimizer_cannot_go_on(tmp_path: Path) -> None:
    trained(Optimizers.Lion()).save(tmp_path / "m.keras")
    keras.Sequential([keras.Input((4,)), L.Dense(2)]).save(tmp_path / "m.h5")
    for file, text in (("m.keras", "Lion: TensorFlow.js has"), ("m.h5", "is not compiled")):
        with pytest.raises(wl.UnsupportedFeatureError, match=text):
            wl.load_model(tmp_path / file, include_optimizer=True)
        assert wl.load_model(tmp_path / file).training_config is None


def test_a_state_of_other_variables_is_refused(tmp_path: Path) -> None:
    """Frozen after it was compiled: the optimizer keeps arrays of what is not trained any more."""
    model = trained(Optimizers.Adam())
    model.get_layer("a").trainable = False
    model.save(tmp_path / "m.keras")
    with pytest.raises(wl.MismatchError, match="keeps 12 arrays, expected 8"):
        wl.load_model(tmp_path / "m.keras", include_optimizer=True)


def states(model: Any) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_tensorflow_js_trained_is_trained_further_in_keras(steps: Trained, name: str, tmp_path: Path) -> None:
    """From what TensorFlow.js saved after its step: one step of Keras more is two of Keras."""
    wanted = trained(OPTIMIZERS[name](), order=name == "other order")
    wanted.train_on_batch(X, Y)
    artifacts = wl.load_model(steps.root / name / "resaved")
    back = artifacts.to_keras()
    assert len(states(back)) == len(states(wanted))
    if name != "other order":  # there the layers that were added stay, and Keras lists the weights otherwise, too
        for got, want in zip(states(back), states(wanted), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5)
    wl.save_model(artifacts, tmp_path / "m.keras", durable=False)
    filed = keras.models.load_model(tmp_path / "m.keras")
    for got, want in zip(states(filed), states(back), strict=True):
        np.testing.assert_array_equal(got, want)
    for model in (wanted, back, filed):
        assert model.train_on_batch(X, Y, return_dict=True)["loss"] > 0
    for model in (back, filed):
        np.testing.assert_allclose(predict(model, [X])[0], predict(wanted, [X])[0], rtol=1e-3, atol=1e-4)


def test_compile_false_gives_the_bare_model(steps: Trained) -> None:
    assert not wl.load_model(steps.root / "adam").to_keras(compile=False).compiled


def changed(root: Path, **training: Any) -> wl.ModelArtifacts:
    artifacts = wl.load_model(root)
    return replace(artifacts, training_config={**(artifacts.training_config or {}), **training})


def test_a_training_configuration_that_keras_has_not_is_refused_whole(steps: Trained) -> None:
    other = {"class_name": "Adadelta", "config": {"learning_rate": 1.0}}
    artifacts = changed(steps.root / "adam", optimizer_config=other, loss="cosine_proximity")
    with pytest.raises(wl.UnsupportedFeatureError) as caught:
        artifacts.to_keras()
    assert "Adadelta" in str(caught.value) and "cosine_proximity" in str(caught.value)
    assert "compile=False" in str(caught.value)
    assert not artifacts.to_keras(compile=False).compiled


def test_half_of_a_state_is_refused_and_none_begins_anew(steps: Trained) -> None:
    artifacts = wl.load_model(steps.root / "adam")
    without = {n: w for n, w in artifacts.weights.items() if not n.endswith("/v")}
    with pytest.raises(wl.MismatchError, match="has 7 weights, expected 13"):
        replace(artifacts, weights=without).to_keras()
    bare = {n: w for n, w in without.items() if n != "iter" and not n.endswith("/m")}
    new = states(replace(artifacts, weights=bare).to_keras())
    assert int(new[0]) == 0 and len(new) == 14 and not any(a.any() for a in new[2:])
