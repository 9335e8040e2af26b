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


FRAMEWORKS: dict[str, Callable[[Array], Any]] = {"torch": to_torch}
"""Frameworks whose tensors are made, by the name of the module that is imported."""
