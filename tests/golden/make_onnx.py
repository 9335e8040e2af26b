"""Makes tests/golden/onnx: a model as we write it.

Run it from the repository's root, after a deliberate change of what we write:

    python -m tests.golden.make_onnx
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "onnx"
TENSORS = {"w": np.arange(6, dtype="f4").reshape(2, 3), "flag": np.array([True, False]), "one": np.array(1.5)}


def write(folder: Path) -> None:
    """The file."""
    wl.save(TENSORS, folder / "x.onnx", metadata={"k": "é"})


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(FOLDER)
