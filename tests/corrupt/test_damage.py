"""Small files of formats without checksums of their own, damaged at every byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

TREE = {"a": np.arange(5, dtype="f4"), "n": {"b": np.array([[1, 2]]), "epoch": 3, "note": "é"}}
TWO = {"a": np.arange(5, dtype="f4"), "b": np.array([[1, 2]])}
BLOCKS = {"w": np.ones((2, 32), "f4"), "v": np.ones(3, "f4")}
FORMATS: Mapping[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "flax": ("x.msgpack", TREE, {}, {}),
    "gguf": ("x.gguf", BLOCKS, {"quantize": "Q8_0", "metadata": {"k": ["a"]}}, {}),
    "gguf, computed": ("x.gguf", BLOCKS, {"quantize": "Q8_0", "metadata": {"k": ["a"]}}, {"dequantize": True}),
    "mxnet": ("x.params", TWO, {}, {}),
    "onnx": ("x.onnx", TWO, {}, {}),
}
"""What is saved, and how it is saved and loaded."""


@pytest.mark.parametrize("case", FORMATS)
def test_cut_off_anywhere(tmp_path: Path, case: str) -> None:
    """Without a sidecar, which would know the length."""
    name, tensors, saving, loading = FORMATS[case]
    path = tmp_path / name
    wl.save(tensors, path, durable=False, **saving)
    data = path.read_bytes()
    path.with_name(f"{name}.crc32c").unlink()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises((wl.FormatError, wl.TruncatedError)):
            wl.load(path, format=case.split(",")[0], **loading)


@pytest.mark.parametrize("case", FORMATS)
def test_a_flipped_bit_is_found(tmp_path: Path, case: str) -> None:
    name, tensors, saving, loading = FORMATS[case]
    path = tmp_path / name
    wl.save(tensors, path, durable=False, **saving)
    data = path.read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(wl.WeightliftError):
            wl.load(path, format=case.split(",")[0], **loading)
