"""A tensor's bytes one after another, in bounded memory, however they are stored.

This is for tensors that neither core lane can take in windows: deflated ones, and those that a shard boundary
cuts in mid-element. Memory is a few parts of at most 16 MiB, whatever the size of the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._checksum import crc32, crc32c
from weightlift._inflate import inflate_parts
from weightlift._layout import Checksum, Extent, TensorEntry
from weightlift._steps import VARIABLE_STEPS, Deflate, Step
from weightlift._write_plan import segment_parts
from weightlift.errors import ChecksumError

__all__ = ["TensorStream", "tensor_stream"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorStream:
    """What is left to do for a tensor once its variable-size steps are undone.

    Attributes:
        parts: Its bytes in order, in any sizes; each is valid until the next. What is wrong with them is raised while
            they are drawn, at the latest after the last.
        nbytes: How many they are.
        steps: Fixed-size steps from these bytes to elements.
    """

    parts: Iterator[Bytes]
    nbytes: int
    steps: tuple[Step, ...]


def tensor_stream(entry: TensorEntry, readers: Sequence[Any], name: str, *, verify: bool) -> TensorStream | None:
    """The stream of a tensor in its stored order; None for strings, views, and tensors of no piece or of several.

    Args:
        entry: The tensor.
        readers: One a source.
        name: Its name, for messages.
        verify: Compare its checksum.
    """
    if len(entry.pieces) != 1 or not entry.pieces[0].extents or entry.pieces[0].region is not None:
        return None
    (piece,) = entry.pieces
    first = piece.steps[0] if piece.steps else None
    if any(isinstance(step, VARIABLE_STEPS) for step in piece.steps[1:]):
        return None
    if isinstance(first, Deflate):
        (extent,) = piece.extents
        inflated = inflate_parts(readers[extent.source], extent, first, verify=verify, tensor=name)
        parts = (np.frombuffer(part, np.uint8) for part in inflated)
        return TensorStream(parts, first.nbytes - first.skip, piece.steps[1:])
    if isinstance(first, VARIABLE_STEPS):
        return None
    runs = _runs(piece.extents, readers, entry.checksum if verify else None, name)
    return TensorStream(runs, sum(e.nbytes for e in piece.extents), piece.steps)


def _runs(extents: Sequence[Extent], readers: Sequence[Any], checksum: Checksum | None, name: str) -> Iterator[Bytes]:
    """Stored bytes as they are; ChecksumError after the last of them."""
    update = {"crc32": crc32, "crc32c": crc32c}[checksum.kind] if checksum is not None else None
    crc = checksum.initial if checksum is not None else 0
    for part in segment_parts(readers, [(e.source, e.offset, e.nbytes, -1) for e in extents], ()):
        if update is not None:
            crc = update(part, crc)
        yield part
    if checksum is not None and crc != checksum.value:
        first = extents[0]
        raise ChecksumError(
            f"{checksum.kind} is {crc:08x}, expected {checksum.value:08x}",
            path=readers[first.source].name,
            tensor=name,
            offset=first.offset,
            end=first.offset + first.nbytes,
        )
