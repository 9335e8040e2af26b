"""Which arrays of a step are compressed: those that become smaller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy.typing as npt

from weightlift._dtypes import from_numpy
from weightlift._zstd import compress, needed

__all__ = ["BATCH", "Compression", "compressed", "level_of"]

Array = npt.NDArray[Any]
Compression = str | tuple[str, int] | None

BATCH = 256 << 20
"""Bytes of values that are compressed, then written, at a time: what they become is held in memory."""

_SMALLEST = 1 << 10
"""Bytes: smaller arrays are left as they are."""
_WORTH = 0.97
"""Of its bytes: what does not get below is left as it is."""
_DEFAULT_LEVEL = 1  # higher ones make weights no smaller, and take longer: bench/compress.py
_MOST_THREADS = 8


def level_of(compression: Compression) -> int | None:
    """zstd's level; None: nothing is compressed.

    Raises:
        ValueError: Another codec, or no level of zstd's.
        UnsupportedFeatureError: zstandard is not installed.
    """
    if compression is None:
        return None
    codec, level = (compression, _DEFAULT_LEVEL) if isinstance(compression, str) else compression
    if codec != "zstd":
        raise ValueError(f"compress is {compression!r}; it may be 'zstd', ('zstd', level) or None")
    if not 1 <= level <= needed().MAX_COMPRESSION_LEVEL:
        raise ValueError(f"compress has the level {level}; zstd's are 1 to {needed().MAX_COMPRESSION_LEVEL}")
    return level


def _worthy(array: Array) -> bool:
    """Not small, and with its bytes as they are stored: the writer swaps those of the rare big-endian arrays."""
    return array.nbytes >= _SMALLEST and array.dtype.isnative and not from_numpy(array.dtype).packed


def compressed(arrays: Mapping[int, Array], level: int) -> dict[int, Array]:
    """Of arrays by number those that become smaller, as bytes of a zstd frame each; on threads."""

    def run(item: tuple[int, Array]) -> tuple[int, Array | None]:
        made = compress(item[1], level)
        return item[0], made if len(made) < _WORTH * item[1].nbytes else None

    worthy = [(i, a) for i, a in arrays.items() if _worthy(a)]
    if not worthy:
        return {}
    with ThreadPoolExecutor(min(len(worthy), os.cpu_count() or 1, _MOST_THREADS), "weightlift-compress") as pool:
        return {i: made for i, made in pool.map(run, worthy) if made is not None}
