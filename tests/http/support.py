"""What the tests of the client share: models as bytes, options that fail fast, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import weightlift as wl

__all__ = ["FAST", "IMPATIENT", "assert_same", "model", "model_bytes"]

FAST: dict[str, Any] = {
    "attempts": 4, "backoff": 0.001, "timeout": 60, "connect_timeout": 60, "connections": 2, "part_bytes": 64 << 10,
}  # fmt: skip
"""Options with which every fault that can be seen comes to its end at once, also on a busy machine."""

IMPATIENT: dict[str, Any] = {**FAST, "timeout": 1.0}
"""For servers that fall silent, which only time tells."""


def model(nbytes: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A few tensors of random bits, together about ``nbytes``."""
    rng = np.random.default_rng(seed)
    sizes = rng.multinomial(nbytes // 4, [0.4, 0.3, 0.2, 0.1])
    tensors = {f"w{i}": rng.integers(0, 1 << 31, int(n), np.int32) for i, n in enumerate(sizes)}
    return {**tensors, "scalar": np.array(seed, np.int64), "none": np.zeros((0, 3), np.float32)}


def model_bytes(tensors: dict[str, npt.NDArray[Any]], folder: Path, name: str = "m.safetensors") -> bytes:
    """A saved model, as a file's bytes."""
    wl.save(tensors, folder / name, durable=False)
    return (folder / name).read_bytes()


def assert_same(found: Any, expected: Any) -> None:
    """Equal structure, types, shapes and bits."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif not isinstance(expected, np.ndarray):
        assert repr(found) == repr(expected)  # a plain value, which may be NaN
    else:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        same = (
            found.tolist() == expected.tolist() if expected.dtype.hasobject else found.tobytes() == expected.tobytes()
        )
        assert same
