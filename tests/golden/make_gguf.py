"""Makes tests/golden/gguf: a file of every kind that we write, with a digest of what it holds.

Run it from the repository's root, after a deliberate change of what we write:

    python -m tests.golden.make_gguf
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "gguf"
TENSORS = {
    "w": np.arange(-32, 32, dtype="f4").reshape(2, 32) / 8,
    "f16": np.arange(3, dtype="f2"),
    "bf16": np.arange(3).astype(ml_dtypes.bfloat16),
    "i32": np.arange(3, dtype="i4"),
}


def write(folder: Path) -> None:
    """The file."""
    metadata = {"general.architecture": "none", "list": [1, 2], "words": ["a", "é"], "rate": 0.1}
    wl.save(TENSORS, folder / "x.gguf", quantize="Q8_0", metadata=metadata)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(FOLDER)
