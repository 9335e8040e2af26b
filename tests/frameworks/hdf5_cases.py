"""Run where TensorFlow, Keras 3 and tf_keras are: what we write they load, what they write we load. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 4)).astype("f4")


def model(k: Any) -> Any:
    """A functional model with an inner one."""
    within = [k.Input((5,)), k.layers.BatchNormalization(name="bn"), k.layers.Dense(3, name="out")]
    inner = k.Sequential(within, name="inner")
    inputs = k.Input((4,), name="x")
    net = k.Model(inputs, inner(k.layers.Dense(5, name="block_fc")(inputs)), name="net")
    net.set_weights([RNG.uniform(0.5, 1.5, w.shape).astype("f4") for w in net.get_weights()])
    return net


def outputs(net: Any) -> np.ndarray:
    return np.asarray(net(X, training=False))


def same(a: Any, b: Any) -> bool:
    """Equal weights and outputs, bit for bit."""
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs) and outputs(a).tobytes() == outputs(b).tobytes()


def state(net: Any) -> list[bytes]:
    """The optimizer's variables."""
    found = net.optimizer.variables
    return [np.asarray(v).tobytes() for v in (found() if callable(found) else found)]


def cases(k: Any, folder: Path) -> dict[str, bool]:
    """What holds for Keras 3 and for tf_keras alike."""
    found: dict[str, bool] = {}
    net = model(k)
    net.compile("adam", k.losses.MeanSquaredError())
    net.fit(X, np.zeros((3, 3), "f4"), verbose=0)
    older = ("legacy.h5",) if k.__name__ == "tf_keras" else ()  # which Keras 3 loads, and does not save
    for name in (*older, "x.weights.h5", "whole.h5", "whole.keras"):
        theirs, ours = folder / f"theirs_{name}", folder / f"ours_{name}"
        (net.save if name.startswith("whole") else net.save_weights)(theirs)
        tensors = wl.load(theirs)
        stored = {array.tobytes() for array in tensors.values()}
        found[f"{name} read"] = all(w.tobytes() in stored for w in net.get_weights())
        if name == "whole.keras":
            continue
        wl.convert(theirs, ours)
        if name == "whole.h5":
            copy = k.models.load_model(ours)
            found["optimizer"] = state(copy) == state(k.models.load_model(theirs)) != []
        else:
            copy = model(k)
            copy.load_weights(ours)
        found[f"{name} written"] = same(net, copy)
    return found


def named(k: Any, folder: Path) -> bool:
    """A file made of nothing but names and arrays, for the older loader."""
    net = model(k)
    listed = {
        f"{layer}/{w.name}": w
        for layer, of in (("block_fc", net.layers[1]), ("inner", net.layers[2]))
        for w in (*of.trainable_weights, *of.non_trainable_weights)  # the older loader's order
    }
    tensors = {name: RNG.uniform(0.5, 1, w.shape).astype("f4") for name, w in listed.items()}
    wl.save(tensors, folder / "named.h5")
    net.load_weights(folder / "named.h5")
    return all(np.asarray(w).tobytes() == tensors[name].tobytes() for name, w in listed.items())


def main(folder: Path) -> None:
    """All cases, by framework."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tf_keras

    answer = {}
    for name, k in (("keras", keras), ("tf_keras", tf_keras)):
        (folder / name).mkdir()
        found = {**cases(k, folder / name), "named": named(k, folder / name)}
        answer |= {f"{name}: {case}": ok for case, ok in found.items()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
