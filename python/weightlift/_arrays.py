"""Anything array-like to NumPy, without a copy where there is a way.

Accepted: NumPy arrays, objects with ``__array__``, the buffer protocol or DLPack, and plain numbers. Types that
NumPy cannot take by itself (bfloat16 and float8 of other frameworks) are passed as raw integers and viewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import DTYPES
from weightlift.errors import UnsupportedFeatureError

__all__ = ["all_arrays", "as_array", "check_strings"]

Array = npt.NDArray[Any]


def all_arrays(leaves: Sequence[Any]) -> TypeGuard[list[Array]]:
    """Whether all are NumPy arrays, and of no subclass."""
    return set(map(type, leaves)) <= {np.ndarray}


def as_array(value: Any, name: str = "") -> Array:
    """``value`` as an array that shares its memory where possible; UnsupportedFeatureError names the tensor."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise UnsupportedFeatureError("a masked array cannot be saved: fill it first", tensor=name)
    if type(value).__module__.partition(".")[0] == "torch":
        return _from_torch(value, name)
    if type(value).__module__.partition(".")[0] == "mxnet" and hasattr(value, "asnumpy"):
        return _from_mxnet(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError):
        array = _from_dlpack(value, name)
    if array.dtype == object and hasattr(value, "__dlpack__"):
        array = _from_dlpack(value, name)
    if array.dtype == object:
        check_strings(array, name, f"{type(value).__name__!r}")
    return array


def check_strings(array: Array, name: str, kind: str = "an array") -> None:
    """Object arrays may hold strings and nothing else."""
    if not all(isinstance(x, (bytes, str)) for x in array.flat):
        raise UnsupportedFeatureError(
            f"Python objects in {kind} are neither numbers nor strings (saving them would need pickle); "
            "save arrays, numbers, or containers of them",
            tensor=name,
        )


def _from_dlpack(value: Any, name: str) -> Array:
    try:
        return np.from_dlpack(value)
    except Exception as error:
        hint = "; save jax.random.key_data(key)" if type(value).__name__ == "PRNGKeyArray" else ""
        raise UnsupportedFeatureError(
            f"a {type(value).__name__} is not an array, and does not become one: {error}{hint}", tensor=name
        ) from error


def _from_mxnet(value: Any) -> Array:
    """MXNet's arrays; sparse ones come whole."""
    array: Array = value.asnumpy()
    return array.view(DTYPES["bfloat16"].numpy) if array.dtype.names == ("bfloat16",) else array


def _from_torch(value: Any, name: str) -> Array:
    """A torch tensor; dtypes that NumPy lacks travel as integers of the same size."""
    if value.device.type == "meta":
        raise UnsupportedFeatureError("the tensor is on the meta device: it has no values to save", tensor=name)
    tensor = value.detach().cpu()
    if getattr(tensor, "is_conj", bool)() or getattr(tensor, "is_neg", bool)():
        tensor = tensor.resolve_conj().resolve_neg()
    known = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if known is not None and known.numpy.isbuiltin != 1:
        import torch

        raw = {1: torch.uint8, 2: torch.int16}[known.bits // 8]
        array: Array = tensor.view(raw).numpy().view(known.numpy)
        return array
    try:
        array = tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise UnsupportedFeatureError(f"torch tensor of {tensor.dtype}: {error}", tensor=name) from error
    return array
