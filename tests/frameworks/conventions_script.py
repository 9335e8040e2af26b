"""Run in a framework's environment: ``python conventions_script.py FRAMEWORK FOLDER``.

FOLDER holds torch.safetensors, x.npy and words.npy, as a network of PyTorch has them. The same network of FRAMEWORK is
filled from it, run, and saved to back.safetensors; prints what it computed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

FOLDER = Path(sys.argv[2])
KINDS = {"*": ["DepthwiseConv2d", "Embedding"]}


def load(target: str, into: Any, **options: Any) -> Any:
    return wl.load(FOLDER / "torch.safetensors", conventions=f"torch->{target}", kinds=KINDS, into=into, **options)


def tensorflow(x: Any, words: Any) -> list[Any]:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras as K

    L = K.layers

    class Net(K.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide = L.Conv2D(6, 3), L.DepthwiseConv2D(2)
            self.norm, self.head = L.BatchNormalization(epsilon=1e-5), L.Dense(4)
            self.words = L.Embedding(20, 5)
            self.first = L.LSTM(3, return_sequences=True)
            self.second = L.GRU(2, return_sequences=True)

        def call(self, given: Any) -> Any:
            picture, text = given
            picture = self.wide(self.norm(self.stem(picture), training=False))
            return self.head(K.backend.mean(picture, (1, 2))), self.second(self.first(self.words(text)))

    net = Net()
    net((x, words))
    load("tensorflow", net)
    wl.save(net, FOLDER / "back.safetensors")
    net.save_weights(str(FOLDER / "checkpoint"))  # the same file as Keras 2 writes it
    return [o.numpy() for o in net((x, words))]


def mxnet(x: Any, words: Any) -> list[Any]:
    import mxnet as mx
    from mxnet.gluon import nn, rnn

    class Net(nn.Block):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide = nn.Conv2D(6, 3), nn.Conv2D(6, 2, groups=6)
            self.norm, self.head = nn.BatchNorm(epsilon=1e-5), nn.Dense(4)
            self.words = nn.Embedding(20, 5)
            self.first, self.second = rnn.LSTM(3, layout="NTC"), rnn.GRU(2, layout="NTC")

        def forward(self, picture: Any, text: Any) -> Any:
            picture = self.wide(self.norm(self.stem(picture)))
            return self.head(picture.mean((2, 3))), self.second(self.first(self.words(text)))

    net = Net()
    net.initialize()
    given = mx.nd.array(x.transpose(0, 3, 1, 2)), mx.nd.array(words)
    net(*given)
    load("mxnet", net)
    wl.save(net, FOLDER / "back.safetensors")
    return [o.asnumpy() for o in net(*given)]


def flax(x: Any, words: Any) -> list[Any]:
    import jax
    from flax import linen as nn

    class Net(nn.Module):  # type: ignore[misc]
        @nn.compact  # type: ignore[misc]
        def __call__(self, picture: Any, text: Any) -> Any:
            picture = nn.Conv(6, (3, 3), padding="VALID", name="stem")(picture)
            picture = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="norm")(picture)
            picture = nn.Conv(6, (2, 2), padding="VALID", feature_group_count=6, name="wide")(picture)
            return nn.Dense(4, name="head")(picture.mean((1, 2))), nn.Embed(20, 5, name="words")(text)

    net = Net()
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, words)
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params = load("flax", empty, names=["stem.*", "norm.*", "wide.*", "head.*", "words.*"])
    wl.save(params, FOLDER / "back.safetensors")
    return [np.asarray(o) for o in jax.jit(net.apply)(params, x, words)]


if __name__ == "__main__":
    run = {"tensorflow": tensorflow, "mxnet": mxnet, "flax": flax}[sys.argv[1]]
    outputs = run(np.load(FOLDER / "x.npy"), np.load(FOLDER / "words.npy"))
    print(json.dumps([[list(o.shape), o.ravel().tolist()] for o in outputs]))
