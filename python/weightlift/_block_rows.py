"""Tensors that are to be stored as blocks of quantised values, made so before a save lays anything out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import from_numpy
from weightlift._ggml import quantize_q8_0
from weightlift._job import SaveOptions
from weightlift._load import read_arrays
from weightlift._source import Row
from weightlift.formats._gguf import TYPES
from weightlift.protocols import StoresBlocks

__all__ = ["as_blocks"]

Array = npt.NDArray[Any]


def as_blocks(
    fmt: StoresBlocks, names: Sequence[str], arrays: Sequence[Array | Row], options: SaveOptions, *, verify: bool
) -> tuple[list[Array | Row], SaveOptions]:
    """The arrays, those that ``options.quantize`` chooses as bytes of blocks, and options whose metadata say so.

    The blocks of all of them are held in memory: about a quarter of their float32 values.
    """
    dtypes = [a.dtype if isinstance(a, Row) else from_numpy(a.dtype) for a in arrays]
    chosen = fmt.blocks(options.quantize, names, dtypes, [a.shape for a in arrays])
    found: list[Array | Row] = list(arrays)
    for i in chosen:
        array = arrays[i]
        if isinstance(array, Row):
            array = read_arrays(array.source, np.array([array.number], np.uint32), {}, verify=verify)[0]
        found[i] = quantize_q8_0(array)
    types = {**options.metadata.get(TYPES, {}), **{names[i]: kind for i, kind in chosen.items()}}
    metadata = {**options.metadata, TYPES: types} if types else options.metadata
    return found, replace(options, metadata=metadata, quantize=None)
