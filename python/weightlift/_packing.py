"""The nouns of writing: which tensor goes where, before a byte is written.

A format's ``pack`` is pure: it takes :class:`TensorSpecs` (what is to be stored) and returns a
:class:`Packing` (files, where each tensor's stored bytes lie in them, and the literal bytes between). Content
that depends on checksums is known only after the payload has been hashed; the format then gives it by
``seal`` (patches of a fixed size) or ``manifest`` (a whole file, published last).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, DType
from weightlift._layout import U32, U64
from weightlift._steps import AffineEncode, Step
from weightlift.errors import FormatError

__all__ = [
    "LATE",
    "Checksums",
    "Companion",
    "Encoding",
    "Manifest",
    "PackOptions",
    "PackedFile",
    "Packing",
    "Placements",
    "TensorSpecs",
    "affine_encoding",
    "tolerance_of",
]

_AUTO = "auto:"


def tolerance_of(quantization: str) -> float | None:
    """The tolerance of ``"auto:TOLERANCE"``; None for any other quantisation.

    Raises:
        FormatError: It is not a finite number of at least 0.
    """
    if not quantization.startswith(_AUTO):
        return None
    try:
        tolerance = float(quantization[len(_AUTO) :])
    except ValueError:
        tolerance = nan
    if not 0 <= tolerance < inf:
        raise FormatError(f"quantize={quantization!r}: the tolerance must be a number of at least 0, as in 'auto:1e-3'")
    return tolerance


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a tensor's values become stored bytes.

    Attributes:
        stored: Element type of the stored bytes.
        steps: From the array's elements to the stored ones; fixed-size steps only.
        quantization: ``uint8``, ``uint16`` or ``float16`` where the values were quantised.
        scale: Of an affine quantisation, else None; ``min`` likewise.
        min: See ``scale``.
    """

    stored: DType
    steps: tuple[Step, ...] = ()
    quantization: str | None = None
    scale: float | None = None
    min: float | None = None


LATE = (1.0, 0.0, 1.0)
"""Scale, smallest and largest value of an affine encoding until its tensor's range is known (``TensorSpecs.late``)."""


def affine_encoding(kind: str, scale: float, low: float, high: float) -> Encoding:
    """float32 as ``kind``, uint8 or uint16, with these parameters of TensorFlow.js."""
    return Encoding(DTYPES[kind], (AffineEncode(kind, scale, low, high),), kind, scale, low)


@dataclass
class TensorSpecs:
    """What is to be stored, in columns (one row a tensor, in the caller's order).

    Attributes:
        names: Unique, not empty.
        dtypes: Element type of the values as the reader of the file shall see them.
        shapes: In elements.
        nbytes: Stored bytes (after ``encodings``).
        encodings: Rows whose stored bytes are not simply the array's bytes.
        strings: Rows that hold strings (object arrays of bytes); their stored bytes are serialised.
        string_sums: Of rows of strings, the checksum that the format's ``encode_strings`` gave, if it has its own.
        same: Rows that are the very bytes of an earlier one (tied weights), with its number: a format that can let
            tensors share bytes writes them once, and says so by ``Packing.stored_once``.
        late: Rows whose affine encoding has the parameters ``LATE`` until the tensor is written; in memory, not empty.
    """

    names: list[str]
    dtypes: list[DType]
    shapes: list[tuple[int, ...]]
    nbytes: U64
    encodings: dict[int, Encoding] = field(default_factory=dict)
    strings: frozenset[int] = frozenset()
    string_sums: dict[int, int] = field(default_factory=dict)
    same: Mapping[int, int] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        """How many tensors."""
        return len(self.names)

    def stored(self, i: int) -> DType:
        """Element type of row ``i``'s stored bytes."""
        encoding = self.encodings.get(i)
        return self.dtypes[i] if encoding is None else encoding.stored


@dataclass(frozen=True)
class PackOptions:
    """What the caller asked for; a format refuses by name what it cannot do.

    Attributes:
        shard_size: Largest data file in bytes, or None for one file.
        compression: ``"deflate"`` (npz) or None.
        metadata: The user's own metadata.
        structure: What was saved, see ``_tree``; None: a flat dict of tensors.
        checksums: Store CRC-32C values.
        extra: What the model level adds (topology, signature ...).
        shards: The rows that begin a file, in place of ``shard_size`` (safetensors).
    """

    shard_size: int | None = None
    compression: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    structure: Any = None
    checksums: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    shards: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One data file: its name beside the target, final size, and the literal bytes in it by offset."""

    name: str
    nbytes: int
    literals: tuple[tuple[int, bytes], ...] = ()


@dataclass
class Placements:
    """Where stored bytes go, in columns, sorted by (file, offset), not overlapping.

    ``nbytes`` bytes of ``tensor`` from its stored byte ``start`` on go to ``offset`` of ``file``. A tensor has
    one row, or several where it straddles shards.
    """

    tensor: U32
    file: U32
    offset: U64
    nbytes: U64
    start: U64

    @classmethod
    def whole(cls, tensor: U32, file: U32, offset: U64, nbytes: U64) -> Placements:
        """Each tensor in one piece."""
        return cls(tensor, file, offset, nbytes, np.zeros(len(tensor), np.uint64))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The small file that names the data files and is published last; ``name`` is the target's own name."""

    name: str


@dataclass(frozen=True, slots=True)
class Companion:
    """A small file that is written when all else is published, unless one is there that does not begin so.

    It says something about the folder, and no reader needs it; stores that take files front to back do not get it.
    """

    name: str
    data: bytes
    replaces: bytes


@dataclass
class Packing:
    """A whole save.

    Attributes:
        files: Data files.
        placements: Where tensors lie in them.
        manifest: The file that ties several data files together, if the format has one.
        sidecar: Checksums and structure go to a sidecar file, because the format has no room for them.
        crc32: The format needs CRC-32 (zip) of each tensor too.
        crc32c: It needs CRC-32C even where the caller does not ask for checksums.
        compressed: The data file is written by the format's ``compress`` instead of by placements.
        state: The format's own, handed back to ``seal`` and ``manifest``.
        structure: The structure in the names the format gave the tensors, where it renamed rows of the specs.
        listed: The sidecar names the tensors, because the format keeps them in an order of its own.
        companion: A file beside them.
        stored_once: Rows in the specs' ``same`` have no placements, because the file names the earlier row's bytes.
    """

    files: Sequence[PackedFile]
    placements: Placements
    manifest: Manifest | None = None
    sidecar: bool = False
    crc32: bool = False
    crc32c: bool = False
    compressed: bool = False
    state: Any = None
    structure: Any = None
    listed: bool = False
    companion: Companion | None = None
    stored_once: bool = False


@dataclass(frozen=True)
class Checksums:
    """Of each tensor's stored bytes: ``crc32c[i]``, and ``crc32[i]`` where the packing asked for it."""

    crc32c: U32
    crc32: U32
