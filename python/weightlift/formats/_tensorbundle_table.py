"""The index of a TensorBundle: a sorted table of keys and values, in blocks, as LevelDB lays it out.

A block is entries, then the offsets of those whose key is written in full, then their number; behind it a byte for the
compression and a masked CRC-32C. Other entries share the beginning of their key with the one before. The footer, the
last 48 bytes, says where the block is that lists the others. Specification: docs/formats/tensorbundle.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weightlift._checksum import crc32c
from weightlift._strings import masked, varint
from weightlift.errors import ChecksumError, FormatError
from weightlift.formats._tensorbundle_proto import read_varint
from weightlift.formats._tensorbundle_snappy import decompress

__all__ = ["FOOTER", "MAGIC", "MAX_TABLE", "build_table", "first_value", "read_table"]

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48
MAX_TABLE = 256 << 20
"""Bytes of an index, and of its blocks once decompressed: some million tensors."""

_TRAILER = 5
_RAW, _SNAPPY = 0, 1
_RESTART_EVERY = 16
_BLOCK = 256 << 10

Pair = tuple[bytes, bytes]


# --- reading ----------------------------------------------------------------------------------------
def first_value(head: bytes) -> bytes | None:
    """The value of the empty key, if a file that begins so is a table of which that is the first."""
    if head[:2] != b"\0\0":
        return None
    try:
        size, at = read_varint(head, 2)
    except FormatError:
        return None
    return head[at : at + size] if 0 < size <= len(head) - at else None


def read_table(data: bytes) -> list[Pair]:
    """All (key, value), in order.

    Raises:
        FormatError: A block or an entry breaks a rule.
        ChecksumError: A block does not match its checksum.
    """
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise FormatError("not an index of TensorFlow's: its last 8 bytes are not the number of a table")
    blocks = _Blocks(data)
    footer = data[-FOOTER:]
    metaindex, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    for _ in _entries(blocks.read(*metaindex)):
        raise FormatError("the table has extra blocks, which TensorFlow does not write")
    pairs: list[Pair] = []
    for last, value in _entries(blocks.read(*index)):
        handle, at = _handle(value, 0)
        if at != len(value):
            raise FormatError("a block's place is followed by something else")
        before = pairs[-1][0] if pairs else None
        pairs += _entries(blocks.read(*handle), before)
        if not pairs or pairs[-1][0] > last:
            raise FormatError("a block holds keys beyond the one that it is listed under")
    return pairs


class _Blocks:
    """The blocks of a table, which may not be more than the file once they are decompressed, within reason."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_TABLE
        self._taken: set[int] = set()

    def read(self, offset: int, size: int) -> bytes:
        """The block at ``offset``, decompressed."""
        end = offset + size + _TRAILER
        if end > len(self._data) - FOOTER:
            raise FormatError(f"a block of {size} bytes at {offset} reaches beyond the table")
        if offset in self._taken:
            raise FormatError("two blocks lie in one place", offset=offset)
        self._taken.add(offset)
        stored = int.from_bytes(self._data[end - 4 : end], "little")
        computed = masked(crc32c(self._data[offset : end - 4]))
        if computed != stored:
            raise ChecksumError(
                f"masked CRC-32C of a block of the index is {computed:08x}, expected {stored:08x}",
                offset=offset,
                end=end,
            )
        block, kind = self._data[offset : offset + size], self._data[offset + size]
        if kind == _SNAPPY:
            block = decompress(block, self._left)
        elif kind != _RAW:
            raise FormatError(f"a block of the index is compressed in the unknown way {kind}", offset=offset)
        self._left -= len(block)
        return block


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block is (offset, bytes), and where the next thing is."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _entries(block: bytes, before: bytes | None = None) -> Iterator[Pair]:
    """The entries of a block, whose keys rise, from beyond ``before`` on."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise FormatError(f"a block of {len(block)} bytes cannot have {restarts} restarts")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or at + fresh + size > end:
            raise FormatError(f"an entry of the index reaches beyond its block, or shares {shared} of {len(key)} bytes")
        key = key[:shared] + block[at : at + fresh]
        at += fresh + size
        if before is not None and key <= before:
            raise FormatError(f"the keys of the index do not rise: {key[:80]!r} after {before[:80]!r}")
        before = key
        yield key, block[at - size : at]


# --- writing ----------------------------------------------------------------------------------------
def build_table(pairs: Sequence[Pair]) -> bytes:
    """The bytes of a table of pairs whose keys rise, as TensorFlow writes it."""
    out = bytearray()
    index: list[Pair] = []
    waiting: list[Pair] = []
    size = 0
    for key, value in pairs:
        waiting.append((key, value))
        size += len(key) + len(value) + 8
        if size >= _BLOCK:
            index.append((key, _append(out, waiting)))
            waiting, size = [], 0
    if waiting or not index:
        index.append((waiting[-1][0] if waiting else b"", _append(out, waiting)))
    metaindex = _append(out, [])
    handles = metaindex + _append(out, index, every=1)
    out += handles.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC
    return bytes(out)


def _append(out: bytearray, pairs: Sequence[Pair], every: int = _RESTART_EVERY) -> bytes:
    """Add a block; returns its handle."""
    block, restarts, before = bytearray(), [0], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % every:
            shared = _common(before, key)
        elif i:
            restarts.append(len(block))
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    for restart in (*restarts, len(restarts)):
        block += restart.to_bytes(4, "little")
    handle = varint(len(out)) + varint(len(block))
    block.append(_RAW)
    out += block + masked(crc32c(bytes(block))).to_bytes(4, "little")
    return handle


def _common(a: bytes, b: bytes) -> int:
    """How many bytes two keys begin with alike."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
