"""Tensors that are stored in slices: partitioned variables, and large ones that were spread over several files.

The entry of the whole tensor lists its slices; each slice has an entry of its own, under a key that orders as numbers
and text do (TensorFlow's OrderedCode). The keys are computed here, and looked up; they are not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod

import numpy as np

from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._boxes import Box
from weightlift.formats._tensorbundle_proto import Axis

__all__ = ["slice_boxes", "slice_key"]

_ESCAPED = {0x00: b"\0\xff", 0xFF: b"\xff\0"}
_MOST_IRREGULAR = 4096
"""Slices that are compared each with each, where they do not lie in a row."""


# --- keys -------------------------------------------------------------------------------------------
def slice_key(name: bytes, axes: Sequence[Axis]) -> bytes:
    """The key of one slice of the tensor ``name``."""
    escaped = b"".join(_ESCAPED.get(byte, bytes([byte])) for byte in name)
    signed = b"".join(_signed(begin) + _signed(length) for begin, length in axes)
    return _unsigned(0) + escaped + b"\0\1" + _unsigned(len(axes)) + signed


def _unsigned(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """As many bytes as the number needs, the number of them in leading ones, the sign's bit turned over."""
    size = 1
    while not -(1 << 7 * size - 1) <= value < 1 << 7 * size - 1:
        size += 1
    if size > 8:
        raise FormatError(f"a slice of the tensor begins at {value}, or is that long")
    header = (0xFF00 >> size & 0xFF) << 8 * (size - 1)
    return ((value & (1 << 8 * size) - 1) ^ header).to_bytes(size, "big")


# --- boxes ------------------------------------------------------------------------------------------
def slice_boxes(shape: tuple[int, ...], slices: Sequence[Sequence[Axis]]) -> list[Box]:
    """Where the slices lie, which must fill the tensor and not overlap; FormatError where they do not."""
    boxes = [_box(shape, axes) for axes in slices]
    if sum(prod(size) for _, size in boxes) != prod(shape):
        raise FormatError(f"the {len(boxes)} slices do not make up the tensor of shape {list(shape)}")
    if not _in_a_row(boxes) and any(_overlaps(boxes)):
        raise FormatError(f"the slices of the tensor of shape {list(shape)} overlap")
    return boxes


def _box(shape: tuple[int, ...], axes: Sequence[Axis]) -> Box:
    if len(axes) != len(shape):
        raise FormatError(f"a slice has {len(axes)} axes, the tensor {len(shape)}")
    begin = tuple(b for b, _ in axes)
    size = tuple(whole - b if n < 0 else n for (b, n), whole in zip(axes, shape, strict=True))
    if any(n < 0 or b + n > whole for b, n, whole in zip(begin, size, shape, strict=True)):
        raise FormatError(f"a slice reaches out of the tensor of shape {list(shape)}")
    return begin, size


def _in_a_row(boxes: Sequence[Box]) -> bool:
    """Whether the slices differ along one axis only, and follow each other there."""
    (begin, size), *_ = boxes
    differing = {i for b, s in boxes for i in range(len(size)) if (b[i], s[i]) != (begin[i], size[i])}
    if len(differing) != 1:
        return len(boxes) == 1
    (axis,) = differing
    spans = sorted((b[axis], b[axis] + s[axis]) for b, s in boxes)
    return all(end <= start for (_, end), (start, _) in pairwise(spans))


def _overlaps(boxes: Sequence[Box]) -> Iterator[bool]:
    """For each slice, whether it overlaps one of those before it."""
    if len(boxes) > _MOST_IRREGULAR:
        raise UnsupportedFeatureError(f"{len(boxes)} slices along several axes; at most {_MOST_IRREGULAR} are read")
    begin = np.array([b for b, _ in boxes], np.int64)
    end = begin + np.array([s for _, s in boxes], np.int64)
    for i in range(1, len(boxes)):
        yield bool(np.all((begin[i] < end[:i]) & (begin[:i] < end[i]), axis=1).any())
