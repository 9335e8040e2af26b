"""Makes tests/golden/flax: a file as we write it.

Run it from the repository's root, after a deliberate change of what we write:

    python -m tests.golden.make_flax
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "flax"
OBJECT: dict[str, Any] = {
    "params": {"w": np.arange(6, dtype="f4").reshape(2, 3), "flag": np.array([True, False])},
    "step": 7,
    "list": [np.array(1.5), "é", None],
}


def write(folder: Path) -> None:
    """The file."""
    wl.save(OBJECT, folder / "x.msgpack")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(FOLDER)
