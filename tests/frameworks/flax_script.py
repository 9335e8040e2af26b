"""Run where Flax is installed: reads what Weightlift wrote, and writes files for it. Prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # type: ignore[import-not-found]
import numpy as np
from flax import serialization  # type: ignore[import-not-found]


def described(value: Any) -> Any:
    """Nested arrays as JSON."""
    if isinstance(value, dict):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), value.tobytes().hex()]
    return repr(value)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    ours = serialization.msgpack_restore((folder / "ours.msgpack").read_bytes())
    pieces = serialization.msgpack_restore((folder / "pieces.msgpack").read_bytes())
    target = {"list": [np.zeros(2), np.zeros(1)], "w": np.zeros((2, 3), "f4")}
    into = serialization.from_bytes(target, (folder / "lists.msgpack").read_bytes())
    theirs = {
        "params": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.arange(3, dtype=jnp.bfloat16), "s": np.float32(1.5)},
        "list": [np.arange(3), np.zeros((0, 2), "i1")],
        "step": 7,
        "z": 1 + 2j,
        "f8": jnp.arange(4).astype(jnp.float8_e4m3fn),
    }
    (folder / "theirs.msgpack").write_bytes(serialization.to_bytes(theirs))
    serialization.MAX_CHUNK_SIZE = 64
    (folder / "chunked.msgpack").write_bytes(serialization.to_bytes({"w": np.arange(100, dtype="f4").reshape(4, 25)}))
    print(
        json.dumps({"ours": described(ours), "pieces": described(pieces), "list": [v.tolist() for v in into["list"]]})
    )
