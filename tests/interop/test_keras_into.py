"""Live Keras 3 models: saved, and loaded into, as Keras itself saves and loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_support import keras_or_skip

import weightlift as wl

pytest.importorskip("h5py", reason="h5py is not installed")
keras = keras_or_skip()
layers = keras.layers
RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 20)).astype("f4")


class MLP(keras.Model):  # type: ignore[misc]
    """The chapter's model."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.hidden = layers.Dense(width, activation="relu")
        self.out = layers.Dense(10)
        self.flatten = layers.Flatten()

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(self.flatten(x)))


def built(width: int = 256) -> Any:
    model = MLP(width)
    model(X)
    return model


def outputs(model: Any) -> Any:
    return keras.ops.convert_to_numpy(model(X, training=False))


def shuffled(model: Any) -> Any:
    """The model with other values in all variables."""
    for variable in model.weights:
        variable.assign(RNG.normal(size=variable.shape))
    return model


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chain(*sizes: int) -> Any:
    return shuffled(keras.Sequential([keras.Input((20,)), *(layers.Dense(n, activation="relu") for n in sizes)]))


@pytest.mark.parametrize("name", ["mlp.weights.h5", "mlp.safetensors", "mlp.npz"])
def test_clone_gives_the_same_outputs(name: str) -> None:
    net, clone = shuffled(built()), built()
    wl.save(net, name)
    assert wl.load(name, into=clone) is clone
    assert outputs(clone).tobytes() == outputs(net).tobytes()


def test_keras_loads_what_we_save_and_we_what_keras_saves() -> None:
    net = shuffled(built())
    wl.save(net, "ours.weights.h5")
    clone = built()
    clone.load_weights("ours.weights.h5")
    assert outputs(clone).tobytes() == outputs(net).tobytes()
    net.save_weights("keras.weights.h5")
    assert outputs(wl.load("keras.weights.h5", into=built())).tobytes() == outputs(net).tobytes()
    ours, theirs = wl.load("ours.weights.h5"), wl.load("keras.weights.h5")
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}


def test_the_first_two_layers_in_another_network() -> None:
    net, other = chain(16, 8, 4), chain(16, 8, 3, 2)
    before = [keras.ops.convert_to_numpy(w).copy() for w in other.weights[4:]]
    wl.save(net, "net.weights.h5")
    wl.load("net.weights.h5", into=other, names=["layers/dense/*", "layers/dense_1/*"])
    for a, b in zip(net.weights[:4], other.weights[:4], strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))
    for old, now in zip(before, other.weights[4:], strict=True):
        assert np.array_equal(old, keras.ops.convert_to_numpy(now))
    third = shuffled(keras.Sequential([keras.Input((16,)), layers.Dense(8)]))
    wl.load("net.weights.h5", into=third, names="layers/dense_1/*", rename={"layers/dense_1/": "layers/dense/"})
    assert np.array_equal(keras.ops.convert_to_numpy(third.weights[0]), keras.ops.convert_to_numpy(net.weights[2]))


def test_a_mismatch_lists_all_and_changes_nothing() -> None:
    wl.save(shuffled(built(128)), "small.weights.h5")
    net = shuffled(built())
    before = outputs(net)
    with pytest.raises(wl.MismatchError) as caught:
        wl.load("small.weights.h5", into=net)
    assert {name for name, _, _ in caught.value.wrong_shape} == {
        "hidden/kernel", "hidden/bias", "out/kernel",
    }  # fmt: skip
    assert outputs(net).tobytes() == before.tobytes()
    report = wl.load("small.weights.h5", into=net, strict=False)
    assert report.loaded == ("out/bias",)


def nested() -> Any:
    inner = keras.Sequential([keras.Input((8,)), layers.BatchNormalization(), layers.Dense(4)])
    inputs = keras.Input((5, 20))
    x = layers.Bidirectional(layers.LSTM(4))(inputs)
    return keras.Model(inputs, layers.Dropout(0.5)(inner(x)))


def half() -> Any:
    return keras.Sequential([keras.Input((20,)), layers.Dense(3, dtype="bfloat16"), layers.Dense(2, dtype="float16")])


class Listed(keras.Model):  # type: ignore[misc]
    """Layers in a list, in a dict, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [layers.Dense(4), layers.Dense(20)]
        self.named = {"a": layers.LayerNormalization()}
        self.again = self.blocks[0]

    def call(self, x: Any) -> Any:
        return self.named["a"](self.blocks[1](self.blocks[0](x)))


def listed() -> Any:
    model = Listed()
    model(X)
    return model


def int8() -> Any:
    model = chain(8, 4)
    model.quantize("int8")
    return model


@pytest.mark.parametrize("make", [nested, half, listed, int8])
def test_names_are_those_of_keras(make: Any) -> None:
    net, clone = make(), make()
    if make is not int8:
        shuffled(net)
    net.save_weights("keras.weights.h5")
    wl.save(net, "ours.weights.h5")
    ours, theirs = wl.load("ours.weights.h5"), wl.load("keras.weights.h5")
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    wl.load("keras.weights.h5", into=clone)
    for a, b in zip(net.weights, clone.weights, strict=True):
        assert keras.ops.convert_to_numpy(a).tobytes() == keras.ops.convert_to_numpy(b).tobytes()


def test_the_optimizers_state_is_left_out_by_name() -> None:
    net, bare = chain(4), chain(4)
    net.compile("adam", "mse")
    net.fit(X, np.zeros((2, 4), "f4"), verbose=0)
    net.save_weights("trained.weights.h5")
    with pytest.raises(wl.MismatchError, match="unexpected: optimizer/vars/0"):
        wl.load("trained.weights.h5", into=bare)
    wl.load("trained.weights.h5", into=bare, names="layers/*")
    assert outputs(bare).tobytes() == outputs(net).tobytes()


def compiled(kind: str = "adam", steps: int = 0) -> Any:
    """A model with an optimizer that is built, after so many steps."""
    keras.utils.set_random_seed(3)
    net = chain(4)
    net.compile(kind, "mse")
    net.optimizer.build(net.trainable_variables)
    for _ in range(steps):
        net.fit(X, np.zeros((2, 4), "f4"), verbose=0)
    return net


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5"])
@pytest.mark.parametrize("built", [True, False])
def test_the_optimizers_state_goes_into_a_compiled_model(name: str, built: bool) -> None:
    net, clone = compiled(steps=2), compiled()
    if not built:
        clone = chain(4)
        clone.compile("adam", "mse")
    net.save_weights(name) if name.endswith(".weights.h5") else net.save(name)
    assert wl.load(name, into=clone) is clone
    assert int(clone.optimizer.iterations) == 2
    for model in (net, clone):
        model.fit(X, np.ones((2, 4), "f4"), verbose=0)
    assert outputs(clone).tobytes() == outputs(net).tobytes()
    assert "optimizer/vars/0" not in wl.save(net, "again.npz").crc32c


def test_another_optimizers_state_is_refused() -> None:
    compiled("sgd", 1).save_weights("sgd.weights.h5")
    net = compiled("adam", 1)
    before = outputs(net)
    with pytest.raises(wl.MismatchError, match="another optimizer's state") as caught:
        wl.load("sgd.weights.h5", into=net)
    assert "optimizer/vars/2" in caught.value.missing and outputs(net).tobytes() == before.tobytes()
    wl.load("sgd.weights.h5", into=net, names="layers/*")
    chain(4).save_weights("bare.weights.h5")
    assert wl.load("bare.weights.h5", into=net, strict=False).fits
    assert int(net.optimizer.iterations) == 1


def test_a_legacy_file() -> None:
    """A model's, of other names that Keras made up; without an optimizer; of other layers."""
    net, bare, fresh = compiled(steps=1), chain(4), chain(4)
    net.save("m.h5")
    with pytest.raises(wl.MismatchError, match="unexpected: optimizer_weights/adam"):
        wl.load("m.h5", into=bare)
    wl.load("m.h5", into=bare, names="model_weights/*")
    assert outputs(bare).tobytes() == outputs(net).tobytes()
    fresh.compile("adam", "mse")
    wl.load("m.h5", into=fresh, names="model_weights/*")
    assert not fresh.optimizer.built, "its state was not asked for"
    fresh.compile("sgd", "mse")
    with pytest.raises(wl.MismatchError, match="unexpected: optimizer_weights"):
        wl.load("m.h5", into=fresh)
    other = keras.Sequential([keras.Input((20,)), layers.Dense(4), layers.LayerNormalization()])
    with pytest.raises(wl.MismatchError, match="unexpected: model_weights"):
        wl.load("m.h5", into=other, names="model_weights/*")


def test_a_legacy_file_of_layers_in_layers() -> None:
    net, clone = shuffled(nested()), nested()
    net.save("nested.h5")
    wl.load("nested.h5", into=clone)
    for a, b in zip(net.weights, clone.weights, strict=True):
        assert keras.ops.convert_to_numpy(a).tobytes() == keras.ops.convert_to_numpy(b).tobytes()
