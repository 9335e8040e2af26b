"""Runs in TensorFlow's environment: checkpoints both ways between TensorFlow, tf_keras and Weightlift, case by case.

Prints what came of each case as JSON: "" or what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import ml_dtypes
import numpy as np
import tensorflow as tf
import tf_keras

import weightlift as wl
from weightlift.stores._local import LocalStore

CASES: dict[str, Callable[[Path], None]] = {}
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
TYPES = [
    *("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
]


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CASES[function.__name__] = function
    return function


def same(found: Any, expected: Any, what: str = "") -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype, f"{what}: {found.dtype}, expected {expected.dtype}"
    assert found.shape == expected.shape, f"{what}: {found.shape}, expected {expected.shape}"
    if expected.dtype == object:
        assert found.tolist() == expected.tolist(), what
    else:
        assert found.tobytes() == expected.tobytes(), what


def as_tensorflow(prefix: Path, keys: str = "tensorbundle-keys") -> None:
    """Every key that TensorFlow reads, read by us."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = set(reader.get_variable_to_shape_map())
    found = wl.load(prefix, format=keys)
    assert set(found) == names, set(found) ^ names
    assert wl.verify(prefix, format=keys).ok
    for name in names:
        expected = reader.get_tensor(name)
        if isinstance(expected, bytes):
            expected = np.array(expected, object)
        same(found[name], expected, name)


def arrays(types: list[str] = TYPES, shape: tuple[int, ...] = (3, 5)) -> dict[str, Any]:
    values = np.random.default_rng(0).normal(size=shape) * 5
    made = {name: np.abs(values).astype(getattr(ml_dtypes, name, name)) for name in types if name != "bool"}
    return {**made, "bool": values > 0}


class Holder(tf.Module):
    """Takes attributes."""


class MLP(tf_keras.Model):
    """The book's."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = tf_keras.layers.Dense(16, activation="relu")
        self.out = tf_keras.layers.Dense(10)

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


X = np.random.default_rng(1).normal(size=(2, 20)).astype("f4")


def small(optimizer: Any) -> Any:
    inputs = tf_keras.Input((4,))
    x = tf_keras.layers.BatchNormalization(name="bn")(tf_keras.layers.Dense(3, name="fc")(inputs))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2, name="head")(x))
    model.compile(optimizer, "mse")
    model.train_on_batch(np.ones((4, 4), "f4"), np.zeros((4, 2), "f4"))
    return model


# --- TensorFlow writes ----------------------------------------------------------------------------
@case
def every_type_of_tensorflow(folder: Path) -> None:
    holder = Holder()
    for name, array in arrays().items():
        setattr(holder, f"v_{name}", tf.Variable(array))
    holder.strings = tf.Variable([["ab", ""], ["c" * 300, "\u2603"]])
    holder.empty, holder.scalar = tf.Variable(tf.zeros((0, 3))), tf.Variable(3.5)
    holder.nested = {"a": tf.Variable([1.0]), "b/c.d": [tf.Variable([2]), tf.Variable([3])]}
    tf.train.Checkpoint(m=holder).write(str(folder / "x"))
    as_tensorflow(folder / "x")
    found = wl.load(folder / "x")
    same(found["m/nested/b/c.d/1"], np.array([3], "i4"))
    assert "_CHECKPOINTABLE_OBJECT_GRAPH" not in found


@case
def many_shards_and_slices(folder: Path) -> None:
    holder = Holder()
    holder.a, holder.b = tf.Variable(np.arange(2000.0).reshape(40, 50)), tf.Variable(np.arange(30000, dtype="u1"))
    holder.c, holder.s = tf.Variable(np.arange(12.0).reshape(1, 3, 4)), tf.Variable(["q", "rr"])
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=4000)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    tf.train.Checkpoint(m=holder).write(str(folder / "x"), options=options)
    assert len(list(folder.glob("x.data-*"))) > 3
    as_tensorflow(folder / "x")


@case
def partitioned_along_each_axis(folder: Path) -> None:
    graph = tf.Graph()
    v1 = tf.compat.v1
    with graph.as_default():
        for axis in (0, 1, 2):
            split = v1.fixed_size_partitioner(3, axis=axis)
            v1.get_variable(f"p/{axis}", shape=(6, 7, 5), initializer=v1.random_normal_initializer(), partitioner=split)
        v1.get_variable("b", initializer=tf.constant([1.0, 2.0]))
        saver = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            saver.save(session, str(folder / "x"), write_meta_graph=False)
    as_tensorflow(folder / "x")
    as_tensorflow(folder / "x", "tensorbundle")  # it has no objects: names are keys
    assert set(wl.load(folder)) == {"b", "p/0", "p/1", "p/2"}


@case
def saved_model(folder: Path) -> None:
    holder = Holder()
    holder.w = tf.Variable([[1.0, 2.0]])
    tf.saved_model.save(holder, str(folder / "m"))
    same(wl.load(folder / "m")["w"], np.array([[1, 2]], "f4"))


@case
def optimizers(folder: Path) -> None:
    for name, optimizer in (("new", tf_keras.optimizers.Adam()), ("old", tf_keras.optimizers.legacy.Adam())):
        model = small(optimizer)
        model.save_weights(str(folder / name))
        as_tensorflow(folder / name)
        found = wl.load(folder / name)
        same(found["layer_with_weights-0/kernel"], model.layers[1].kernel.numpy())
        if name == "old":
            same(found["optimizer/m/layer_with_weights-0/kernel"], model.optimizer.get_weights()[1])


@case
def the_newest_of_a_folder(folder: Path) -> None:
    checkpoint = tf.train.Checkpoint(v=tf.Variable([1.0]))
    checkpoint.save(str(folder / "ckpt"))
    checkpoint.v.assign([2.0])
    checkpoint.save(str(folder / "ckpt"))
    same(wl.load(folder)["v"], np.array([2], "f4"))
    same(wl.load(folder / "ckpt-1")["v"], np.array([1], "f4"))


# --- we write -------------------------------------------------------------------------------------
@case
def every_type_of_ours(folder: Path) -> None:
    tensors = {**arrays(), "s": np.array([[b"a", b""], [b"\0\xff", b"x" * 300]], object), "e": np.zeros((0, 3), "f4")}
    tensors["scalar"] = np.array(2.5)
    for name, options in (("one", {}), ("shards", {"shard_size": 64})):
        wl.save(tensors, folder / name, format="tensorbundle-keys", **options)
        reader = tf.train.load_checkpoint(str(folder / name))
        assert set(reader.get_variable_to_shape_map()) == set(tensors)
        for key, array in tensors.items():
            same(reader.get_tensor(key), array, f"{name} {key}")


@case
def thousands_of_keys(folder: Path) -> None:
    tensors = {f"layer{i:05}/{'kernel' * 9}/{i % 7}": np.array([i], "i4") for i in range(6000)}
    wl.save(tensors, folder / "x", format="tensorbundle-keys")
    reader = tf.train.load_checkpoint(str(folder / "x"))
    assert len(reader.get_variable_to_shape_map()) == 6000
    for key in list(tensors)[::500]:
        same(reader.get_tensor(key), tensors[key], key)


@case
def objects_restore(folder: Path) -> None:
    values = {"w": np.array([[1, 2]], "f4"), "more/b/c.d/0": np.array([3], "i4"), "s": np.array([b"text"], object)}
    wl.save(values, folder / "x", format="tensorbundle")
    restored = Holder()
    restored.w, restored.s = tf.Variable([[0.0, 0.0]]), tf.Variable([""])
    below = Holder()
    setattr(below, "c.d", [tf.Variable([0])])
    restored.more = Holder()
    restored.more.b = below
    status = tf.train.Checkpoint(root=restored).read(str(folder / "x"))
    status.assert_existing_objects_matched()
    status.assert_consumed()
    same(restored.w.numpy(), values["w"])
    same(restored.s.numpy(), values["s"])
    same(getattr(below, "c.d")[0].numpy(), values["more/b/c.d/0"])


def mlp_weights() -> tuple[Any, dict[str, Any]]:
    net = MLP()
    outputs = net(X).numpy()
    weights = {f"{n}/{v}": getattr(getattr(net, n), v).numpy() for n in ("hidden", "out") for v in ("kernel", "bias")}
    return outputs, weights


@case
def keras_load_weights(folder: Path) -> None:
    outputs, weights = mlp_weights()
    wl.save(weights, folder / "mlp.params", format="tensorbundle")
    clone = MLP()
    clone(X)
    status = clone.load_weights(str(folder / "mlp.params"))
    status.assert_existing_objects_matched()
    status.assert_consumed()
    same(clone(X).numpy(), outputs)
    late = MLP()
    late.load_weights(str(folder / "mlp.params"))  # before it has any variables
    same(late(X).numpy(), outputs)
    assert tf.train.latest_checkpoint(str(folder)) == str(folder / "mlp.params")


@case
def keras_there_and_back(folder: Path) -> None:
    net = MLP()
    outputs = net(X).numpy()
    net.save_weights(str(folder / "theirs"))
    nested: dict[str, Any] = {}
    for name, array in wl.load(folder / "theirs").items():
        layer, variable = name.split("/")
        nested.setdefault(layer, {})[variable] = array
    wl.save(nested, folder / "ours", format="tensorbundle")
    clone = MLP()
    clone(X)
    clone.load_weights(str(folder / "ours")).assert_consumed()
    same(clone(X).numpy(), outputs)


@case
def slots_travel_by_keys(folder: Path) -> None:
    model = small(tf_keras.optimizers.legacy.Adam())
    model.save_weights(str(folder / "theirs"))
    wl.convert(folder / "theirs", folder / "ours", source_format="tensorbundle-keys", format="tensorbundle-keys")
    other = small(tf_keras.optimizers.legacy.Adam())
    other.train_on_batch(np.ones((4, 4), "f4"), np.ones((4, 2), "f4"))
    other.load_weights(str(folder / "ours"))
    for found, expected in zip(other.optimizer.get_weights(), model.optimizer.get_weights(), strict=True):
        same(found, expected)


@case
def a_save_that_was_cut_short(folder: Path) -> None:
    """Where old data files cannot be replaced at once, the new ones stay counted as if there were more of them."""
    old = {"w": np.zeros(100, "f4")}
    new = {"w": np.arange(100, dtype="f4"), "b": np.arange(3)}
    wl.save(old, folder / "x", format="tensorbundle")
    with mock.patch.object(LocalStore, "alias", lambda *_: False):
        wl.save(new, folder / "x", format="tensorbundle")
    assert not (folder / "x.data-00000-of-00001").exists()
    reader = tf.train.load_checkpoint(str(folder / "x"))
    same(reader.get_tensor("w" + VALUE), new["w"])
    same(wl.load(folder / "x")["b"], new["b"])
    wl.save(old, folder / "x", format="tensorbundle")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "x.data-00000-of-00001", "x.index"]
    same(tf.train.load_checkpoint(str(folder / "x")).get_tensor("w" + VALUE), old["w"])


# --- live models ----------------------------------------------------------------------------------
@case
def the_story_of_the_chapter(folder: Path) -> None:
    x, y = tf.range(4), tf.zeros(4)
    for name, options in (("plain", {}), ("bundle", {"format": "tensorbundle"})):
        wl.save(x, folder / f"x-{name}", **options)
        same(wl.load(folder / f"x-{name}"), x.numpy())
        wl.save([x, y], folder / f"xy-{name}", **options)
        for found, expected in zip(wl.load(folder / f"xy-{name}"), (x, y), strict=True):
            same(found, expected.numpy())
        wl.save({"x": x, "y": y}, folder / f"mydict-{name}", **options)
        assert list(wl.load(folder / f"mydict-{name}")) == ["x", "y"]
    net = MLP()
    outputs = net(X).numpy()
    net.save_weights(str(folder / "theirs"))
    wl.save(net, folder / "mlp.params", format="tensorbundle")
    wl.save(net, folder / "mlp.safetensors")
    for file in ("theirs", "mlp.params", "mlp.safetensors"):
        clone = MLP()
        clone(X)
        assert wl.load(folder / file, into=clone) is clone
        same(clone(X).numpy(), outputs)
    clone = MLP()
    clone(X)
    clone.load_weights(str(folder / "mlp.params")).assert_consumed()
    same(clone(X).numpy(), outputs)


@case
def the_first_layers_in_another_model(folder: Path) -> None:
    net = MLP()
    net(X)
    net.save_weights(str(folder / "mlp.params"))
    other = Holder()
    other.encoder = tf_keras.layers.Dense(16)
    other.encoder.build((None, 20))
    other.head = tf.Variable([1.0])
    wl.load(folder / "mlp.params", into=other, names="hidden/*", rename={"hidden/": "encoder/"})
    same(other.encoder.kernel.numpy(), net.hidden.kernel.numpy())
    same(other.head.numpy(), np.ones(1, "f4"))
    try:
        wl.load(folder / "mlp.params", into=other)
    except wl.MismatchError as error:
        assert error.missing == ["head", "encoder/kernel", "encoder/bias"], error.missing
        assert set(error.unexpected) == {f"{n}/{v}" for n in ("hidden", "out") for v in ("kernel", "bias")}
    else:
        raise AssertionError("it does not fit")


@case
def compiled_models_and_checkpoints(folder: Path) -> None:
    model = small(tf_keras.optimizers.Adam())
    wl.save(model, folder / "x", format="tensorbundle")
    assert not any("optimizer" in name for name in wl.load(folder / "x"))
    other = small(tf_keras.optimizers.Adam())
    wl.load(folder / "x", into=other)
    for found, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        same(found, expected)
    step = tf.Variable(7, dtype=tf.int64)
    wl.save(tf.train.Checkpoint(model=model, optimizer=model.optimizer, step=step), folder / "all.npz")
    restored = tf.train.Checkpoint(model=other, optimizer=other.optimizer, step=tf.Variable(0, dtype=tf.int64))
    wl.load(folder / "all.npz", into=restored)
    assert int(restored.step) == 7
    for found, expected in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
        same(found.numpy(), expected.numpy())
    try:
        wl.save(MLP(), folder / "y")
    except wl.UnsupportedFeatureError as error:
        assert "call it once" in str(error)
    else:
        raise AssertionError("it has no variables yet")


@case
def every_type_of_live_variables(folder: Path) -> None:
    holder, other = Holder(), Holder()
    values = {**arrays(), "s": np.array([b"a", b"\xff"], object)}
    for name, array in values.items():
        setattr(holder, f"v_{name}", tf.Variable(array))
        setattr(other, f"v_{name}", tf.Variable(np.array([b"", b""], object) if name == "s" else np.zeros_like(array)))
    wl.save(holder, folder / "x", format="tensorbundle")
    wl.load(folder / "x", into=other)
    for name, array in values.items():
        same(getattr(other, f"v_{name}").numpy(), array, name)


def main() -> None:
    results = {}
    for name, function in CASES.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        try:
            function(folder)
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc(limit=-4)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
