"""Steps: how stored bytes become the elements of a tensor, as data.

A step says what is done and holds no code. The core runs those of fixed size (``_ops``), the decoded lane the others
(``_decode``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "CHECKED_STEPS",
    "VARIABLE_STEPS",
    "AffineDecode",
    "AffineEncode",
    "Blocks",
    "Byteswap",
    "Cast",
    "Chunks",
    "Deflate",
    "Frame",
    "Sparse",
    "Step",
    "Strided",
    "Strings",
    "Tiles",
    "UpperHalf",
    "VarintStrings",
    "Zstd",
]


@dataclass(frozen=True, slots=True)
class Byteswap:
    """Reverse the bytes of each ``word`` of elements of ``item`` bytes."""

    word: int
    item: int


@dataclass(frozen=True, slots=True)
class Cast:
    """Convert values between two core dtypes, by name (round to nearest, ties to even)."""

    source: str
    target: str
    saturate: bool = False


@dataclass(frozen=True, slots=True)
class UpperHalf:
    """float32 to the bfloat16 that it was widened from, bit for bit: a cast would make every NaN the same."""

    source: str = "float32"
    target: str = "bfloat16"


@dataclass(frozen=True, slots=True)
class AffineDecode:
    """Stored ``uint8``/``uint16`` to ``float32`` or ``int32``: value * scale + min, in float64."""

    stored: str
    target: str
    scale: float
    min: float


@dataclass(frozen=True, slots=True)
class AffineEncode:
    """``float32`` to ``uint8``/``uint16``: round((clip(x, min, max) - min) / scale), in float64."""

    stored: str
    scale: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Deflate:
    """Inflate (raw deflate, RFC 1951) to exactly ``nbytes`` bytes, of which the first ``skip`` are dropped.

    ``crc32`` is the CRC-32 of everything inflated, the dropped bytes included.
    """

    nbytes: int
    skip: int = 0
    crc32: int | None = None


@dataclass(frozen=True, slots=True)
class Strings:
    """``count`` strings, each a little-endian uint32 byte length and its bytes (TensorFlow.js)."""

    count: int


@dataclass(frozen=True, slots=True)
class Strided:
    """A view of the stored elements to the array that it shows, in C order (torch).

    Attributes:
        dtype: Element type, by its core name.
        shape: Of the view, in elements.
        strides: Bytes a step along each axis; 0 where an axis repeats.
        conj: Then conjugate each element.
        neg: Then negate each element.
        offset: Of its first element, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Chunks:
    """Tiles of an array, stored one after another in any order, each perhaps filtered (HDF5).

    Attributes:
        item: Bytes of an element.
        shape: Of the array, in elements.
        chunk: Of a tile; those at the edges reach beyond the array.
        origins: The first element of each stored tile; what no tile covers is ``fill``.
        sizes: Stored bytes of each.
        masks: Of each, a bit for every filter that was left out.
        filters: In the order in which they were applied: ``shuffle``, ``deflate``, ``lzf``, ``fletcher32``.
        fill: The element that stands where nothing is stored; empty: zeros.
    """

    item: int
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    origins: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    masks: tuple[int, ...]
    filters: tuple[str, ...] = ()
    fill: bytes = b""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of quantised values (ggml) to float32; ``kind`` as in ``_ggml``, ``big``: scales are big-endian."""

    kind: str
    big: bool = False


@dataclass(frozen=True, slots=True)
class Tiles:
    """Boxes of elements, one after another, each in C order, to the array that they make up (TensorFlow).

    Attributes:
        dtype: Element type, by its core name.
        shape: Of the array, in elements.
        boxes: Where each begins in it, and its shape; they fill it without overlap.
    """

    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class VarintStrings:
    """``count`` strings: their lengths as varints, a masked CRC-32C of those, then their bytes (TensorFlow).

    ``crc32c`` is over the lengths as uint32 (uint64 if longer), the four bytes of the first checksum, and the strings.
    """

    count: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Sparse:
    """The whole array of one whose zeros are not stored (MXNet).

    Attributes:
        kind: ``"row_sparse"`` (some rows along the first axis) or ``"csr"`` (compressed rows of a matrix).
        shape: Of the whole array.
        parts: What is stored, one after another: (``"data"``, ``"indices"`` or ``"indptr"``, core dtype, elements).
    """

    kind: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of what ``Zstd`` undoes.

    Attributes:
        stored: Bytes that it takes.
        nbytes: Bytes that it holds.
        shuffle: Bytes of an element, by which these were shuffled before compression; 0: they are as they were.
        crc32c: Of what it holds; not compared where ``shuffle`` is 0.
        view: The box of it that is wanted; None: all.
    """

    stored: int
    nbytes: int
    shuffle: int = 0
    crc32c: int = 0
    view: Strided | None = None


@dataclass(frozen=True, slots=True)
class Zstd:
    """Parts of an array, one after another, compressed each by itself (our checkpoints)."""

    frames: tuple[Frame, ...]


Step: TypeAlias = (
    Byteswap
    | Cast
    | UpperHalf
    | AffineDecode
    | AffineEncode
    | Blocks
    | Deflate
    | Sparse
    | Strided
    | Tiles
    | Chunks
    | Strings
    | VarintStrings
    | Zstd
)

VARIABLE_STEPS = (Blocks, Deflate, Sparse, Strided, Tiles, Chunks, Strings, VarintStrings, Zstd)
"""Steps whose sizes in and out differ from element to element: the decoded lane."""

CHECKED_STEPS = (Deflate, VarintStrings)
"""Steps that hold a checksum of what they make, which is compared while they make it."""
