"""Makes the files in ``mxnet/``: ``python -m tests.golden.make_mxnet`` (MXNet 1.9.1 made those that are here)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "mxnet"
SCALE = np.arange(24, dtype="f4").reshape(2, 3, 4) / 8


def tensors() -> dict[str, Any]:
    return {
        "arg:fc1_weight": SCALE,
        "aux:bn_mean": np.arange(3, dtype="f8"),
        "half": np.arange(5, dtype=ml_dtypes.bfloat16),
        "n": np.array([[1, 2]], "i8"),
        "näme": np.array([True, False]),
    }


def ours(version: str) -> bytes:
    """What we write; it has no clock in it."""
    with TemporaryDirectory() as folder:
        wl.save(tensors(), Path(folder) / "x.params", format=version, durable=False)
        return (Path(folder) / "x.params").read_bytes()


def main() -> None:
    import mxnet as mx

    dense = np.zeros((4, 3), "f4")
    dense[[0, 3]] = [[1, 0, 2], [0, 3, 0]]
    sparse = {"rows": mx.nd.array(dense).tostype("row_sparse"), "matrix": mx.nd.array(dense).tostype("csr")}
    mx.nd.waitall()  # of a conversion that has not ended MXNet 1.9 writes the shape as it is by then: 0
    mx.nd.save(str(FOLDER / "sparse.nd"), sparse)
    mx.nd.save(str(FOLDER / "list.nd"), [mx.nd.array(SCALE), mx.nd.array([1, 2], dtype="int64")])
    mx.npx.set_np()
    mx.npx.save(str(FOLDER / "x-file"), mx.np.arange(4))
    mx.npx.save(str(FOLDER / "mydict"), {"scalar": mx.np.array(1.5), "empty": mx.np.zeros((0, 3))})
    for version in ("mxnet", "mxnet-v2"):
        (FOLDER / f"ours-{version}.params").write_bytes(ours(version))


if __name__ == "__main__":
    main()
