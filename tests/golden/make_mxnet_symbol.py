"""Makes the files in ``mxnet_symbol/``, beside MXNet: ``python tests/golden/make_mxnet_symbol.py NAME``.

MXNet 1.9.1 made ``one``, 2.0.0b1 (on Python 3.8, which is why nothing newer is used here) made ``two``.
"""

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "mxnet_symbol"


def main(name: str) -> None:
    import mxnet as mx
    from mxnet.gluon import nn

    mx.npx.set_np()
    net = nn.HybridSequential()
    net.add(nn.Dense(4, activation="relu", in_units=5), nn.BatchNorm(in_channels=4), nn.Dense(3, in_units=4))
    net.initialize()
    net.hybridize()
    for number, parameter in enumerate(net.collect_params().values()):
        parameter.set_data(mx.np.array(np.arange(np.prod(parameter.shape)).reshape(parameter.shape) / 8 + number))
    net(mx.np.ones((2, 5)))
    net.export(str(FOLDER / name))


if __name__ == "__main__":
    main(sys.argv[1])
