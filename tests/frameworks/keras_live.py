"""Run in a framework's environment: ``python keras_live.py FOLDER BACKEND PACKAGE...``, "tf_keras" and "keras".

Live models of each package are exported by weightlift to FOLDER/PACKAGE/NAME, as TensorFlow.js' test script takes them.
Compiled ones are trained for some steps before; then they are also saved by the package itself, to m.h5 and m.keras,
and trained for one step more. Prints {"PACKAGE/NAME": {"outputs": [[shape, values], ...], "after": ...}}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

X = np.random.default_rng(0).normal(size=(6, 4)).astype("f4")
Y = np.random.default_rng(1).normal(size=(6, 2)).astype("f4")


def sequential(K: Any) -> Any:
    L = K.layers
    return K.Sequential([K.Input((4,)), L.Dense(8, "relu"), L.Dropout(0.3), L.Dense(3, "softmax")])


def branches(K: Any) -> Any:
    L = K.layers
    a, b = K.Input((4,)), K.Input((3,))
    x = L.Concatenate()([L.Dense(3, "tanh")(a), L.Dense(3, L.LeakyReLU())(b)])
    return K.Model([a, b], [L.Dense(1, name="score")(x), L.Multiply()([x, L.Dense(6)(a)])])


def picture(K: Any) -> Any:
    L = K.layers
    i = K.Input((9, 8, 3))
    x = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(i))
    x = L.MaxPooling2D(2)(L.ReLU(6.0)(x))
    x = L.BatchNormalization(epsilon=0.01)(L.DepthwiseConv2D(3, depth_multiplier=2)(x))
    return K.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def recurrent(K: Any) -> Any:
    L = K.layers
    i = K.Input((6,), dtype="int32")
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Embedding(10, 4)(i))
    return K.Model(i, L.GRU(4, reset_after=False)(x))


def shared(K: Any) -> Any:
    L = K.layers
    a, b = K.Input((4,)), K.Input((4,))
    tower = K.Sequential([K.Input((4,)), L.Dense(3, "tanh", name="dense"), L.Dense(2)], name="tower")
    return K.Model([a, b], L.Subtract()([tower(a), tower(b)]))


def arithmetic(K: Any) -> Any:
    L = K.layers
    i = K.Input((5, 6))
    x = L.TimeDistributed(L.Dense(3))(L.LayerNormalization()(i))
    return K.Model(i, [L.Flatten()(L.Softmax()(x)), L.Rescaling(0.5, 1.0)(L.PReLU()(x))])


def pools(K: Any) -> Any:
    """Padding that is not the same on both sides; and padding of outputs to the size that they have anyway."""
    L = K.layers
    a, b, c = K.Input((7, 2)), K.Input((7, 6, 2)), K.Input((5, 6, 7, 1))
    sizes = [{"pool_size": p, "strides": s, "padding": "same"} for p, s in ((2, 2), (3, 2), (2, 1), (4, 3))]
    pooled = [
        *(L.AveragePooling1D(**o)(a) for o in sizes),
        *(L.AveragePooling2D(**o)(b) for o in sizes),
        *(L.AveragePooling3D(**o)(c) for o in sizes),
    ]
    same = L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1)(b)
    valid = L.Conv2DTranspose(3, (2, 1), strides=(3, 2), output_padding=1)(b)
    return K.Model([a, b, c], [*pooled, same, valid])


def trainee(K: Any) -> Any:
    L = K.layers
    i = K.Input((4,))
    x = L.Dense(5, "tanh", name="b")(i)
    x = L.Concatenate()([L.Dense(3, name="a")(x), x])
    return K.Model(i, L.Dense(2, name="c")(x))


PLAIN: list[Callable[[Any], Any]] = [sequential, branches, picture, recurrent, shared, arithmetic, pools]
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adam": lambda K: K.optimizers.Adam(0.01, beta_1=0.8),
    "momentum": lambda K: K.optimizers.SGD(0.05, momentum=0.9),
    "rmsprop": lambda K: K.optimizers.RMSprop(0.01, rho=0.8, momentum=0.5),
    "plain": lambda K: K.optimizers.RMSprop(0.01),
    "centered": lambda K: K.optimizers.RMSprop(0.01, centered=True, momentum=0.4),
    "sgd": lambda K: K.optimizers.SGD(0.05),
    "adagrad": lambda K: K.optimizers.Adagrad(0.05, initial_accumulator_value=0.2),
    # The optimizers that Keras had before 2.11, which tf_keras still has.
    "legacy_adam": lambda K: K.optimizers.legacy.Adam(learning_rate=0.01, beta_1=0.8),
    "legacy_momentum": lambda K: K.optimizers.legacy.SGD(learning_rate=0.05, momentum=0.9),
    "legacy_rmsprop": lambda K: K.optimizers.legacy.RMSprop(learning_rate=0.01, momentum=0.5),
    "legacy_plain": lambda K: K.optimizers.legacy.RMSprop(learning_rate=0.01),
    "legacy_centered": lambda K: K.optimizers.legacy.RMSprop(learning_rate=0.01, centered=True),
    "legacy_adagrad": lambda K: K.optimizers.legacy.Adagrad(learning_rate=0.05, initial_accumulator_value=0.2),
}


def listed(arrays: list[Any]) -> list[Any]:
    return [[list(a.shape), str(a.dtype), a.ravel().tolist()] for a in arrays]


def inputs_of(model: Any) -> list[Any]:
    random = np.random.default_rng(7)
    made = []
    for tensor in model.inputs:
        shape = [d or 3 for d in tensor.shape]
        whole = "int" in str(tensor.dtype)
        made.append(random.integers(0, 9, shape).astype("i4") if whole else random.normal(size=shape).astype("f4"))
    return made


def outputs_of(model: Any, inputs: list[Any]) -> list[Any]:
    given = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    arrays = [np.asarray(o, "f4") for o in (given if isinstance(given, (list, tuple)) else [given])]
    return [[list(a.shape), a.ravel().tolist()] for a in arrays]


def plain_model(K: Any, build: Callable[[Any], Any], folder: Path) -> dict[str, Any]:
    K.utils.set_random_seed(3)
    model = build(K)
    random = np.random.default_rng(5)
    model.set_weights([random.uniform(0.2, 1.2, w.shape).astype("f4") for w in model.get_weights()])
    wl.save_model(model, folder, durable=False)
    inputs = inputs_of(model)
    (folder / "inputs.json").write_text(json.dumps(listed(inputs)))
    return {"outputs": outputs_of(model, inputs)}


def trained_model(K: Any, optimizer: Any, folder: Path) -> dict[str, Any]:
    K.utils.set_random_seed(3)
    model = trainee(K)
    eager = sys.argv[2] == "tensorflow"  # a graph of it takes longer to make than four steps
    model.compile(optimizer, loss="mse", metrics=["mae"], run_eagerly=eager)
    for _ in range(3):
        model.train_on_batch(X, Y)
    wl.save_model(model, folder, include_optimizer=True, durable=False)
    (folder / "inputs.json").write_text(json.dumps(listed([X])))
    (folder / "train.json").write_text(json.dumps(listed([X, Y])))
    model.save(folder / "m.keras")
    model.save(folder / "m.h5")
    before = outputs_of(model, [X])
    model.train_on_batch(X, Y)
    return {"outputs": before, "after": outputs_of(model, [X])[0]}


def main() -> None:
    root = Path(sys.argv[1])
    os.environ["KERAS_BACKEND"] = sys.argv[2]
    answers = {}
    for package in sys.argv[3:]:
        K = importlib.import_module(package)
        jax = sys.argv[2] == "jax"  # there each operation on each shape is compiled: a few models say enough
        for build in PLAIN[:1] if jax else PLAIN:
            name = f"{package}/{build.__name__}"
            answers[name] = plain_model(K, build, root / name)
        for title, make in OPTIMIZERS.items():
            if package == "tf_keras" or title in (("adam",) if jax else ("adam", "momentum", "centered")):
                name = f"{package}/{title}"
                answers[name] = trained_model(K, make(K), root / name)
    print(json.dumps(answers))


main()
