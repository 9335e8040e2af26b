"""What the tests of the TensorFlow.js format share: tensors of every kind, written and read by the reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from weightlift._packing import PackOptions
from weightlift.formats._tfjs import TFJS
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

Array = npt.NDArray[Any]
Files = dict[str, bytes]


def objects(*strings: bytes) -> Array:
    array = np.empty(len(strings), object)
    array[:] = strings
    return array


TENSORS: dict[str, Array] = {
    "dense/kernel": np.arange(12, dtype="f4").reshape(3, 4) - 5.5,
    "flags": np.array([True, False, True]),
    "half": np.array([1.5, -0.0, np.inf, 6e-8], np.float16),
    "brain": np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
    "e4": np.array([0.5, -448], ml_dtypes.float8_e4m3fn),
    "ids": np.array([-(2**31), 2**31 - 1], "i4"),
    "tiny": np.array([-128, 127], "i1"),
    "byte": np.array([0, 255], "u1"),
    "short": np.array([-32768], "i2"),
    "word": np.array([65535], "u2"),
    "wave": np.array([1 + 2j, -3.5j], "c8"),
    "text": objects(b"ab", b"", "é".encode(), b"\0\xff"),
    "scalar": np.float32(3.25).reshape(()),
    "empty": np.zeros((0, 3), "f4"),
    "no text": np.empty((2, 0), object),
    "last": np.array([7.0], "f4"),
}


def write(tensors: Mapping[str, Array] = TENSORS, name: str = "model.json", **options: Any) -> Files:
    return dict(write_tensors(TFJS, tensors, name, PackOptions(**options)).files)


def read(files: Files, name: str = "model.json") -> dict[str, Array]:
    memory = MemoryFiles(files)
    return read_tensors(TFJS.read(memory, name), memory)


def document(files: Files, name: str = "model.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(files[name])
    return value


def equal(a: Array, b: Array) -> bool:
    if a.dtype.hasobject:
        return a.shape == b.shape and a.ravel().tolist() == b.ravel().tolist()
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def layout_of(weights: list[dict[str, Any]], data: bytes = b"", *, shards: tuple[int, ...] = ()) -> Any:
    """The layout of one group of ``weights`` over ``data`` cut at ``shards``."""
    cuts = [0, *shards, len(data)]
    files = {f"s{i}": data[a:b] for i, (a, b) in enumerate(pairwise(cuts))}
    files["m.json"] = json.dumps([{"paths": list(files), "weights": weights}]).encode()
    return TFJS.read(MemoryFiles(files), "m.json")


def weight(dtype: str, shape: list[int], **rest: Any) -> dict[str, Any]:
    return {"name": "w", "shape": shape, "dtype": dtype, **rest}
