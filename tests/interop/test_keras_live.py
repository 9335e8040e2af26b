"""Live Keras 3 models: saved, and loaded into, whatever the backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="keras is not installed")
pytest.importorskip("torch", reason="torch is not installed")
layers = keras.layers

X = np.random.default_rng(0).normal(size=(2, 20)).astype("f4")


class MLP(keras.Model):  # type: ignore[misc,name-defined]
    """The chapter's model, with some more layers that attributes lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = layers.Dense(16, activation="relu")
        self.norms = [layers.BatchNormalization(), layers.BatchNormalization()]
        self.out = layers.Dense(10)

    def call(self, x: Any) -> Any:
        x = self.hidden(x)
        for norm in self.norms:
            x = norm(x)
        return self.out(x)


def functional() -> Any:
    inputs = keras.Input((20,))
    x = layers.Dense(5)(layers.Dense(6, name="first")(inputs))
    return keras.Model(inputs, layers.Dense(2)(x))


def recurrent() -> Any:
    return keras.Sequential([keras.Input((4, 5)), layers.LSTM(3), layers.Dense(2)])


def outputs(model: Any, x: Any = X) -> Any:
    return keras.ops.convert_to_numpy(model(x))


@pytest.mark.parametrize("make", [MLP, functional])
@pytest.mark.parametrize("target", ["x.safetensors", "x.npz", "x.index"])
def test_a_clone_gives_the_same_outputs(tmp_path: Path, make: Any, target: str) -> None:
    net, clone = make(), make()
    expected, before = outputs(net), outputs(clone)
    wl.save(net, tmp_path / target)
    assert wl.load(tmp_path / target, into=clone) is clone
    assert not np.array_equal(before, expected)
    assert np.array_equal(outputs(clone), expected)


def test_names(tmp_path: Path) -> None:
    net = MLP()
    outputs(net)
    wl.save(net, tmp_path / "x.npz")
    assert {"hidden/kernel", "hidden/bias", "out/kernel", "out/bias", "norms/1/moving_mean"} <= set(
        wl.open(tmp_path / "x.npz")
    )
    wl.save(functional(), tmp_path / "y.npz")
    assert [n for n in wl.open(tmp_path / "y.npz") if n.endswith("kernel")] == [
        "first/kernel",
        "dense/kernel",
        "dense_1/kernel",
    ]


def test_layers_in_layers(tmp_path: Path) -> None:
    net, clone = recurrent(), recurrent()
    x = np.ones((1, 4, 5), "f4")
    wl.save(net, tmp_path / "x.npz")
    assert "lstm/cell/recurrent_kernel" in wl.open(tmp_path / "x.npz")
    wl.load(tmp_path / "x.npz", into=clone)
    assert np.array_equal(outputs(clone, x), outputs(net, x))


def test_the_first_layer_in_another_model(tmp_path: Path) -> None:
    net, other = MLP(), functional()
    outputs(net)
    wl.save({"hidden": {"kernel": np.full((20, 6), 2, "f4"), "bias": np.zeros(6, "f4")}}, tmp_path / "x.index")
    wl.load(tmp_path / "x", into=other, names="hidden/*", rename={"hidden/": "first/"})
    assert float(keras.ops.max(other.get_layer("first").kernel)) == 2
    with pytest.raises(wl.MismatchError) as raised:
        wl.load(tmp_path / "x", into=net)
    assert raised.value.wrong_shape[0][0] == "hidden/kernel"


def test_a_model_without_variables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="call it once"):
        wl.save(MLP(), tmp_path / "x.npz")
    wl.save(functional(), tmp_path / "y.npz")
    with pytest.raises(wl.UnsupportedFeatureError, match="assign=True"):
        wl.load(tmp_path / "y.npz", into=functional(), assign=True)
