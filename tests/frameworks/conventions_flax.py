"""Run in JAX's environment: ``python conventions_flax.py FOLDER``.

FOLDER holds torch.safetensors, x.npy and picture.npy, as a network of PyTorch has them. The same network of Flax is
filled from it and run; then another, of random values, is run and saved to back.safetensors. Prints both outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

import weightlift as wl

FOLDER = Path(sys.argv[1])


class Net(nn.Module):  # type: ignore[misc]
    def setup(self) -> None:
        self.lstm = nn.RNN(nn.OptimizedLSTMCell(4))
        self.gru = nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3)))
        self.rnn = nn.RNN(nn.SimpleCell(12))
        self.att = nn.MultiHeadDotProductAttention(num_heads=3)
        self.up = nn.ConvTranspose(5, (3,), strides=(2,), padding="VALID")
        self.wide = nn.ConvTranspose(2, (3, 2), padding="VALID")
        self.step = nn.GRUCell(3)

    def __call__(self, x: Any, picture: Any) -> Any:
        text = self.rnn(self.gru(self.lstm(x)))
        carry = np.ones((len(x), 3), "f4")
        return self.up(self.att(text, text)), self.wide(picture), self.step(carry, x[:, 0])[1]


def main() -> None:
    x, picture = np.load(FOLDER / "x.npy"), np.load(FOLDER / "picture.npy")
    net = Net()
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, picture)
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    kinds = {"wide": "ConvTranspose2d"}  # as many channels out as in: its shape is that of a convolution, too
    params = wl.load(FOLDER / "torch.safetensors", conventions="torch->flax", kinds=kinds, into=empty)
    outputs = [*net.apply(params, x, picture)]
    random = np.random.default_rng(5)
    other = jax.tree.map(lambda leaf: random.uniform(-0.5, 0.5, leaf.shape).astype("f4"), empty)
    wl.save(other, FOLDER / "back.safetensors")
    outputs += [*net.apply(other, x, picture)]
    print(json.dumps([[list(o.shape), np.asarray(o).ravel().tolist()] for o in outputs]))


if __name__ == "__main__":
    main()
