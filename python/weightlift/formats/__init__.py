"""The formats, in the order in which unknown content is tried.

A new format is one module here, one page in ``docs/formats``, one folder of golden files and one line below.
"""

from __future__ import annotations

from collections.abc import Sequence

from weightlift.errors import FormatError
from weightlift.formats._dcp import DCP
from weightlift.formats._flax import FLAX
from weightlift.formats._gguf import GGUF
from weightlift.formats._hdf5 import HDF5
from weightlift.formats._mxnet import MXNET, MXNET_V2
from weightlift.formats._mxnet_symbol import MXNET_SYMBOL
from weightlift.formats._npy import NPY
from weightlift.formats._npy_pickle import NPY_PICKLE
from weightlift.formats._npz import NPZ
from weightlift.formats._onnx import ONNX
from weightlift.formats._orbax import ORBAX
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.formats._tensorbundle import TENSORBUNDLE, TENSORBUNDLE_KEYS
from weightlift.formats._tfjs import TFJS
from weightlift.formats._torch import TORCH
from weightlift.protocols import Format

__all__ = ["FORMATS", "by_name", "by_suffix"]

FORMATS: Sequence[Format] = (
    NPY,
    NPY_PICKLE,
    NPZ,
    TORCH,
    DCP,
    ORBAX,
    MXNET,
    HDF5,
    MXNET_SYMBOL,
    TFJS,
    GGUF,
    SAFETENSORS,
    TENSORBUNDLE,
    FLAX,
    ONNX,
)

BY_NAME_ONLY: Sequence[Format] = (MXNET_V2, TENSORBUNDLE_KEYS)
"""Other ways to read and write files of the formats above, which content and suffix never choose."""


def by_name(name: str) -> Format:
    """The format called ``name``; FormatError lists the known ones."""
    for candidate in (*FORMATS, *BY_NAME_ONLY):
        if candidate.name == name:
            return candidate
    raise FormatError(f"unknown format {name!r}; known are {', '.join(f.name for f in (*FORMATS, *BY_NAME_ONLY))}")


def by_suffix(path: str) -> Format | None:
    """The format that the longest matching file name ending stands for, or None."""
    best: tuple[int, Format] | None = None
    for candidate in FORMATS:
        for suffix in candidate.suffixes:
            if path.lower().endswith(suffix) and (best is None or len(suffix) > best[0]):
                best = (len(suffix), candidate)
    return best[1] if best else None
