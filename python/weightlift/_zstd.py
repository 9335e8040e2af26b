"""zstd frames of shuffled bytes: arrays of a checkpoint, compressed and back.

Shuffled means: the first bytes of all elements, then all second ones, and so on. Exponents are alike, mantissas are
not, and so lie apart.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._checksum import crc32c
from weightlift._dtypes import from_name
from weightlift._steps import Frame, Zstd
from weightlift.errors import ChecksumError, FormatError, UnsupportedFeatureError

__all__ = ["MOST_RATIO", "compress", "needed", "place_frames"]

Bytes = npt.NDArray[np.uint8]
MOST_RATIO = 1 << 15
"""What zstd can make of a byte, at most: a block of 4 bytes stands for up to 128 KiB."""

_WINDOW = 1 << 27
"""Bytes: what the highest level looks back."""
_ELEMENTS = 1 << 14
"""That are put together at a time, so that they stay in the cache."""
_MOST_THREADS = 8


def needed() -> Any:
    """The library; UnsupportedFeatureError says how it is installed."""
    try:
        import zstandard  # for those who compress
    except ImportError:
        raise UnsupportedFeatureError(
            "tensors compressed with zstd need zstandard: pip install 'weightlift[zstd]'"
        ) from None
    return zstandard


def compress(array: npt.NDArray[Any], level: int) -> Bytes:
    """The elements in C order, shuffled, as one frame that tells its size. The GIL is free meanwhile."""
    item = array.itemsize
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    planes = np.ascontiguousarray(data.reshape(-1, item).T)
    return np.frombuffer(needed().ZstdCompressor(level=level).compress(planes), np.uint8)


def place_frames(step: Zstd, stored: Bytes, out: Bytes | None = None, *, verify: bool = True) -> Bytes:
    """The bytes that the frames in ``stored`` make up, in parallel.

    Args:
        step: What they are.
        stored: One after another.
        out: Where to put the bytes; None: into memory of its own.
        verify: Compare the checksums of what they make.

    Raises:
        FormatError: A frame is malformed, or holds another number of bytes than it should.
        ChecksumError: What it holds is not what was compressed.
    """
    made = [frame.nbytes if frame.view is None else _view_nbytes(frame) for frame in step.frames]
    flat: Bytes = np.empty(sum(made), np.uint8) if out is None else out
    jobs, begin, at = [], 0, 0
    for frame, nbytes in zip(step.frames, made, strict=True):
        jobs.append((frame, stored[begin : begin + frame.stored], flat[at : at + nbytes], verify))
        begin, at = begin + frame.stored, at + nbytes
    if len(jobs) == 1:
        _place(*jobs[0])
        return flat
    from concurrent.futures import ThreadPoolExecutor  # milliseconds that only this lane pays

    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1, _MOST_THREADS), "weightlift-zstd") as pool:
        for _ in pool.map(lambda job: _place(*job), jobs):
            pass
    return flat


def _view_nbytes(frame: Frame) -> int:
    assert frame.view is not None
    return int(np.prod(frame.view.shape, dtype=np.int64)) * from_name(frame.view.dtype).numpy.itemsize


def _place(frame: Frame, stored: Bytes, out: Bytes, verify: bool) -> None:
    """Decode one frame, all of it or the box that is wanted."""
    if not frame.shuffle:
        out[:] = stored
        return
    whole = out if frame.view is None else np.empty(frame.nbytes, np.uint8)
    _unshuffle(_decompressed(frame, stored), frame.shuffle, whole)
    if verify and crc32c(whole) != frame.crc32c:
        raise ChecksumError(f"what is compressed has the CRC-32C {crc32c(whole):08x}, expected {frame.crc32c:08x}")
    if frame.view is not None:
        view = frame.view
        box: npt.NDArray[Any] = np.ndarray(
            view.shape, from_name(view.dtype).numpy, whole.data, view.offset, view.strides
        )
        out[:] = np.ascontiguousarray(box).reshape(-1).view(np.uint8)


def _decompressed(frame: Frame, stored: Bytes) -> Bytes:
    """What a frame holds; its size is known to be right before memory is taken for it."""
    zstandard = needed()
    try:
        said = zstandard.get_frame_parameters(stored)
        if said.content_size != frame.nbytes:
            raise FormatError(f"a zstd frame does not say that it holds {frame.nbytes} bytes")
        if said.window_size > max(frame.nbytes, _WINDOW):
            raise FormatError(f"a zstd frame has a window of {said.window_size} bytes")
        data = zstandard.ZstdDecompressor().decompress(
            stored, max_output_size=frame.nbytes, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"malformed zstd frame: {error}") from None
    return np.frombuffer(data, np.uint8)


def _unshuffle(data: Bytes, item: int, out: Bytes) -> None:
    planes, elements = data.reshape(item, -1), out.reshape(-1, item)
    for begin in range(0, len(elements), _ELEMENTS):
        part = slice(begin, begin + _ELEMENTS)
        for number in range(item):
            elements[part, number] = planes[number, part]
