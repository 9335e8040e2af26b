"""Run in MXNet's environment: ``python conventions_mxnet.py FOLDER``; as conventions_flax.py, for Gluon's layers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import nn, rnn

import weightlift as wl

FOLDER = Path(sys.argv[1])


class Net(nn.Block):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.deep = rnn.LSTM(4, 2, layout="NTC", bidirectional=True)
        self.long = rnn.GRU(3, 3, layout="NTC")
        self.sep = nn.Sequential()
        self.sep.add(nn.Conv1D(6, 2, groups=3, use_bias=False), nn.Conv1D(5, 1))

    def forward(self, x: Any) -> Any:
        return self.sep(self.long(self.deep(x)).transpose((0, 2, 1)))


def main() -> None:
    x = mx.nd.array(np.load(FOLDER / "x.npy"))
    net = Net()
    net.initialize(mx.init.Uniform(0.5))
    net(x)
    wl.save(net, FOLDER / "back.safetensors")
    outputs = [net(x)]
    wl.load(FOLDER / "torch.safetensors", conventions="torch->mxnet", into=net)
    outputs.append(net(x))
    print(json.dumps([[list(o.shape), o.asnumpy().ravel().tolist()] for o in outputs]))


if __name__ == "__main__":
    main()
