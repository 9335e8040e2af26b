"""Tensors of a sharded model that are stored compressed, each as a tensor of bytes under its own name.

The index's ``metadata["weightlift.encoded"]`` says what they are (docs/formats/safetensors.md):
``{NAME: {"codec": "zstd", "dtype": "F32", "shape": [...], "shuffle": 4, "crc32c": 123, "crc32": 456}, ...}``. Tools
that do not know it read the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weightlift._dtypes import byte_size, from_name
from weightlift._layout import Extent, Piece, TensorTable
from weightlift._steps import Frame, Zstd
from weightlift._zstd import MOST_RATIO, needed
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._safetensors_file import SPELLING

__all__ = ["ENCODED_KEY", "Encoded", "check_encoded", "decode_rows", "encoded_json", "parse_encoded"]

ENCODED_KEY = "weightlift.encoded"
_CODEC = "zstd"
_LIMIT = 1 << 62
_MAX_AXES = 64
_NAMES = {spelling: name for name, spelling in SPELLING.items()}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a tensor of compressed bytes holds: type, shape, bytes of an element, and the checksums of its values."""

    dtype: str
    shape: tuple[int, ...]
    shuffle: int
    crc32c: int
    crc32: int | None = None

    @property
    def nbytes(self) -> int:
        """Of the values."""
        return byte_size(from_name(self.dtype), self.shape)


def encoded_json(encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    """As the index and a checkpoint's manifest hold it."""
    return {
        name: {"codec": _CODEC, "dtype": SPELLING[of.dtype], "shape": list(of.shape), "shuffle": of.shuffle,
               "crc32c": of.crc32c} | ({} if of.crc32 is None else {"crc32": of.crc32})
        for name, of in encoded.items()
    }  # fmt: skip


def parse_encoded(raw: Any) -> dict[str, Encoded]:
    """What ``encoded_json`` gave; FormatError for anything else, UnsupportedFeatureError for another codec."""
    if not isinstance(raw, dict):
        raise FormatError(f"{ENCODED_KEY!r} is not an object")
    return {name: _parsed(name, of) for name, of in raw.items()}


def _parsed(name: str, raw: Any) -> Encoded:
    if not isinstance(raw, dict):
        raise FormatError(f"malformed {ENCODED_KEY!r}: not an object", tensor=name)
    if raw.get("codec") != _CODEC:
        raise UnsupportedFeatureError(f"it is compressed by {str(raw.get('codec'))[:40]!r}; known is zstd", tensor=name)
    spelled, shape, shuffle = raw.get("dtype"), raw.get("shape"), raw.get("shuffle")
    dtype = _NAMES.get(spelled) if isinstance(spelled, str) else None
    if dtype is None or from_name(dtype).packed:
        raise FormatError(f"malformed {ENCODED_KEY!r}: the type {str(spelled)[:40]!r}", tensor=name)
    if not isinstance(shape, list) or len(shape) > _MAX_AXES or not all(_is_number(n, _LIMIT) for n in shape):
        raise FormatError(f"malformed {ENCODED_KEY!r}: {str(shape)[:80]} is no shape", tensor=name)
    if type(shuffle) is not int or shuffle != from_name(dtype).bits // 8:
        raise FormatError(f"malformed {ENCODED_KEY!r}: a shuffle of {str(shuffle)[:20]} for {spelled}", tensor=name)
    crc32c, crc32 = raw.get("crc32c"), raw.get("crc32")
    if not isinstance(crc32c, int) or not all(_is_number(n, 1 << 32) for n in (crc32c, 0 if crc32 is None else crc32)):
        raise FormatError(f"malformed {ENCODED_KEY!r}: no checksum", tensor=name)
    return Encoded(dtype, tuple(shape), shuffle, crc32c, crc32)


def _is_number(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


def check_encoded(encoded: Encoded, dtype: str, shape: tuple[int, ...]) -> None:
    """FormatError unless a stored tensor of this type and shape can hold the values."""
    if dtype != "uint8" or len(shape) != 1:
        raise FormatError(f"it is said to be compressed, and stored as {dtype} of shape {list(shape)}")
    if not 0 < encoded.nbytes <= shape[0] * MOST_RATIO:
        raise FormatError(f"{shape[0]} bytes of zstd cannot hold {encoded.dtype} of shape {list(encoded.shape)}")


def decode_rows(table: TensorTable, encoded: Mapping[str, Encoded]) -> None:
    """Give these rows of what shards hold the type and shape of their values, and the step that leads there.

    Raises:
        FormatError: A tensor is not there, or cannot hold what it is said to.
        UnsupportedFeatureError: zstandard is not installed.
    """
    if encoded:
        needed()
    rows = {name: row for row, name in enumerate(table.names)}
    for name, of in encoded.items():
        if name not in rows:
            raise FormatError("it is said to be compressed, and not in the shards", tensor=name)
        row = rows[name]
        try:
            check_encoded(of, table.dtype(row).name, table.shapes[row])
        except FormatError as error:
            raise error.locate(tensor=name) from None
        extent = Extent(int(table.source[row]), int(table.offset[row]), int(table.nbytes[row]))
        frame = Frame(extent.nbytes, of.nbytes, of.shuffle, of.crc32c)
        table.pieces[row] = (Piece(extent, (Zstd((frame,)),)),)
        table.source[row] = table.offset[row] = table.nbytes[row] = 0
        table.shapes[row] = of.shape
        table.set_dtype(row, from_name(of.dtype))
