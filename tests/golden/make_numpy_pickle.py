"""Makes tests/golden/numpy_pickle: a dict as NumPy 2 and as we save it.

Run it with NumPy 2 from the repository's root, after a deliberate change of what we write:

    python -m tests.golden.make_numpy_pickle
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "numpy_pickle"
OBJECT: dict[str, Any] = {
    "w": np.arange(6, dtype="f4").reshape(2, 3),
    "n": {"b": np.array([True, False]), "l": [np.array(1.5), 3, "é", None]},
}


def write(folder: Path) -> None:
    """The files."""
    box = np.empty((), object)
    box[()] = OBJECT
    np.save(folder / "numpy.npy", box)
    wl.save(OBJECT, folder / "weightlift.npy", format="npy-pickle")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(FOLDER)
