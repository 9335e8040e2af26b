"""Arrays to the tensors of frameworks, sharing their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import from_numpy
from weightlift.errors import UnsupportedFeatureError

__all__ = ["FRAMEWORKS", "converter", "to_torch"]

Array = npt.NDArray[Any]


def converter(framework: str) -> Callable[[Array], Any] | None:
    """What makes tensors of arrays; None for NumPy, where they are what they are.

    Raises:
        ValueError: The framework is not known.
        UnsupportedFeatureError: It is not installed.
    """
    if framework == "numpy":
        return None
    made = FRAMEWORKS.get(framework)
    if made is None:
        raise ValueError(f"framework must be numpy, {', '.join(FRAMEWORKS)}, not {framework!r}")
    try:
        __import__(framework)
    except ImportError as error:
        raise UnsupportedFeatureError(f"framework={framework!r} needs {framework}, which is not installed") from error
    return made


def to_torch(array: Array) -> Any:
    """A torch tensor over the array's memory.

    Raises:
        UnsupportedFeatureError: torch has no such type; or the array is read-only, which no torch tensor is: a write
            to it would end the process.
    """
    import torch

    if not array.flags.writeable:
        raise UnsupportedFeatureError(
            'torch has no read-only tensors, and a write to a mapped file would end the process: use memory="arena"'
        )
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch steps forwards only
    dtype = array.dtype
    if dtype.isbuiltin == 1 and dtype.kind in "biufc":
        try:
            return torch.from_numpy(array)
        except TypeError as error:
            raise UnsupportedFeatureError(f"torch has no type for {dtype}: {error}") from error
    name = "string" if dtype.hasobject else from_numpy(dtype).name
    wanted = getattr(torch, name, None)
    if not isinstance(wanted, torch.dtype):
        raise UnsupportedFeatureError(f"torch has no type for {name}")
    raw = {1: np.uint8, 2: np.int16}[dtype.itemsize]
    return torch.from_numpy(array.view(raw)).view(wanted)


def to_jax(array: Array) -> Any:
    """A JAX array over the array's memory, where that is aligned and JAX computes on the CPU; else a copy.

    Read-only memory is fine: JAX arrays do not change.

    Raises:
        UnsupportedFeatureError: JAX has no such type, or has it only with ``jax_enable_x64``.
    """
    import jax

    kind = array.dtype
    if kind.hasobject or kind.kind not in "biufcV":
        raise UnsupportedFeatureError(f"JAX has no type for {kind}")
    if kind.itemsize >= 8 and kind not in (np.dtype("c8"),) and not jax.config.jax_enable_x64:
        raise UnsupportedFeatureError(
            f"JAX would make {kind} 32 bits wide: set jax_enable_x64, or convert with dtype= "
            '({"*": "float32"} also converts integers)'
        )
    try:
        return jax.device_put(array, may_alias=True)
    except TypeError as error:
        raise UnsupportedFeatureError(f"JAX has no type for {kind}: {error}") from error


def to_tensorflow(array: Array) -> Any:
    """A TensorFlow tensor over the array's memory, by DLPack; of strings, float8 and read-only memory, a copy.

    Raises:
        UnsupportedFeatureError: TensorFlow has no such type.
    """
    import tensorflow as tf

    try:
        wanted = tf.dtypes.as_dtype(tf.string if array.dtype.hasobject else array.dtype)
        plain = array.dtype.isbuiltin == 1 and array.dtype.kind in "biufc"
        if not (plain or wanted == tf.bfloat16) or not array.flags.writeable or not array.size:
            return tf.constant(array, wanted)
        # NumPy's DLPack has no word for bfloat16: it goes as integers, and becomes what it is there
        tensor = tf.experimental.dlpack.from_dlpack((array if plain else array.view(np.int16)).__dlpack__())
        return tensor if plain else tf.bitcast(tensor, wanted)
    except (TypeError, KeyError, BufferError, tf.errors.OpError) as error:
        raise UnsupportedFeatureError(f"TensorFlow has no type for {array.dtype}: {error}") from error


FRAMEWORKS: dict[str, Callable[[Array], Any]] = {"jax": to_jax, "tensorflow": to_tensorflow, "torch": to_torch}
"""Frameworks whose tensors are made, by the name of the module that is imported."""
