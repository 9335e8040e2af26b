"""One safetensors file: its header read into a table, and a table written into a header.

The protocol is in ``_safetensors``; the rules are in docs/formats/safetensors.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from weightlift import _core, _json
from weightlift._checksum import from_hex, to_hex
from weightlift._dtypes import DTYPES, DType
from weightlift._layout import KINDS, U32, U64, TensorTable
from weightlift._packing import TensorSpecs
from weightlift.errors import FormatError, TruncatedError, UnsupportedFeatureError
from weightlift.protocols import Reader

__all__ = [
    "CHECKSUM_KEY",
    "CHECKSUM_OFFSET",
    "MAX_HEADER",
    "SPELLING",
    "File",
    "PlannedFile",
    "Rows",
    "StoredTypes",
    "plan_file",
    "read_file",
    "read_head",
    "stored_types",
]

CHECKSUM_KEY = "weightlift.crc32c"
CHECKSUM_OFFSET = 8 + len(f'{{"__metadata__":{{"{CHECKSUM_KEY}":"')
"""Where its value begins in a file whose header begins with it, as ours do."""

MAX_HEADER = 100_000_000  # the reference library accepts no more

_FIRST_READ = 64 << 10  # holds most headers whole, so that a remote file needs one request
_DIRECT_PAYLOAD = 1 << 20  # from here on the data begins on a page, for direct I/O
_PAGE = 4096

_TO_CORE = {spelling: DTYPES[name] for spelling, name in _core.safetensors_types()}
SPELLING = {dtype.name: spelling for spelling, dtype in _TO_CORE.items()}
"""How a header spells each dtype that the format can hold."""

Rows = npt.NDArray[np.intp]


# --- reading --------------------------------------------------------------------------------------
@dataclass
class File:
    """One parsed file: its table (all in source 0), the rows as the header lists them, what its metadata said."""

    table: TensorTable
    order: U32
    metadata: dict[str, str]
    checksum: str | None
    damaged: str | None


def _read_header(reader: Reader, head: bytes) -> tuple[bytes, int]:
    """The header's JSON and the position of the data; ``head`` is the beginning of the file."""
    found = _json.impostor(head)
    if found is not None:
        raise FormatError(f"not a safetensors file: it is {found}", offset=0)
    if len(head) < 8:
        raise FormatError(f"not a safetensors file: it has {len(head)} bytes, fewer than a header's length takes")
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise FormatError(
            f"not a safetensors file: a header of {length} bytes is announced, the format allows {MAX_HEADER}",
            offset=0,
            end=8,
        )
    end = 8 + length
    if end > reader.size:
        if head[8:].lstrip(b" \t\r\n")[:1] not in (b"{", b""):
            raise FormatError("not a safetensors file: no JSON object follows the first 8 bytes", offset=8)
        raise TruncatedError(f"the header ends at byte {end}, the file at {reader.size}", offset=8, end=end)
    text = head[8:end]
    if end > len(head):
        text += reader.read_at(len(head), end - len(head))
    return text, end


def read_head(reader: Reader) -> bytes:
    """The beginning of a file, long enough to hold most headers."""
    return reader.read_at(0, min(reader.size, _FIRST_READ))


def read_file(reader: Reader, head: bytes) -> File:
    """Parse one file, of which ``head`` is the beginning.

    Raises:
        FormatError: The header breaks a rule of the format.
        TruncatedError: The file ends before its header or its tensors do.
    """
    text, data = _read_header(reader, head)
    names, types, type_index, shapes, begin, end, metadata, digest, order = _core.parse_safetensors(
        text, reader.size - data, reader.name
    )
    table = TensorTable(
        names,
        [_TO_CORE[t] for t in types],
        type_index,
        shapes,
        np.zeros(len(names), np.uint32),
        begin + np.uint64(data),
        end - begin,
    )
    checksum = metadata.pop(CHECKSUM_KEY, None)
    damaged = None if checksum is None else _fill_checksums(table, checksum, digest)
    return File(table, order, metadata, checksum, damaged)


def _fill_checksums(table: TensorTable, text: str, digest: int) -> str | None:
    """Put the stored checksums into the table; the reason, where they cannot be trusted."""
    if len(text) != 8 * (len(table) + 1):
        return f"the checksums have {len(text)} digits, {len(table)} tensors need {8 * (len(table) + 1)}"
    values = from_hex(text, len(table) + 1)
    if values is None:
        return "the checksums are not hexadecimal digits in small letters"
    if int(values[0]) != digest:
        return (
            f"the header was changed: its checksum is {digest:08x}, {int(values[0]):08x} was stored (a tool that "
            f"writes a file anew should not copy {CHECKSUM_KEY!r} into it)"
        )
    table.check_kind[:] = KINDS.index("crc32c")
    table.check_value[:] = values[1:]
    return None


@dataclass(frozen=True)
class PlannedFile:
    """One file to be written: its header, and its tensors in data order."""

    header: bytes
    rows: Rows
    begin: U64
    nbytes: int
    digest: int

    def checksum(self, crc32c: U32) -> str:
        """The value of CHECKSUM_KEY."""
        return f"{self.digest:08x}" + to_hex(crc32c[self.rows])


class StoredTypes(NamedTuple):
    """Element types as the file holds them: the distinct ones, and the number of each row's."""

    types: list[DType]
    number: U32


def stored_types(specs: TensorSpecs) -> StoredTypes:
    """The types of all rows. Compared by identity, as their hashes take longer than all else here."""
    dtypes = specs.dtypes
    if specs.encodings:
        dtypes = [specs.stored(i) for i in range(len(specs))]
    types = {id(d): d for d in dtypes}
    number = {key: i for i, key in enumerate(types)}
    index = np.fromiter(map(number.__getitem__, map(id, dtypes)), np.uint32, len(dtypes))
    return StoredTypes(list(types.values()), index)


def plan_file(specs: TensorSpecs, stored: StoredTypes, rows: Rows, metadata: Mapping[str, str]) -> PlannedFile:
    """Where each tensor of one file goes, and the header that says so.

    Raises:
        UnsupportedFeatureError: The header is too large, or holds text that is not Unicode.
    """
    whole = len(rows) == len(specs)  # then they are all rows, in order
    picked = slice(None) if whole else rows
    names = specs.names if whole else [specs.names[i] for i in rows.tolist()]
    shapes = specs.shapes if whole else [specs.shapes[i] for i in rows.tolist()]
    # The header lists tensors in the caller's order; a load gives that order back. Their data lie by descending
    # item size, which keeps every tensor aligned to its items. Empty ones come first, by name: that is where data
    # order (begin, end, name) puts what begins at 0 and ends there.
    sizes = specs.nbytes[picked]
    bits = np.array([d.bits for d in stored.types], np.int64)[stored.number[picked]]
    filled, empty = np.flatnonzero(sizes), np.flatnonzero(sizes == 0)
    by_name = sorted(empty.tolist(), key=names.__getitem__)
    order = np.concatenate([np.array(by_name, np.intp), filled[np.argsort(-bits[filled], kind="stable")]])
    end = np.empty(len(rows), np.uint64)
    end[order] = np.cumsum(sizes[order], dtype=np.uint64)
    begin = end - sizes
    payload = int(sizes.sum())
    # The core reads its own header back: that gives the digest, and checks sizes against shapes before anything is
    # written.
    columns = (names, [SPELLING[d.name] for d in stored.types], stored.number[picked], shapes, begin, end)
    alignment, metadata_text = _PAGE if payload >= _DIRECT_PAYLOAD else 8, _metadata_text(metadata)
    try:
        header, digest = _core.write_safetensors_header(*columns, metadata_text, payload, alignment)
    except UnsupportedFeatureError:
        broken = next((n for n in names if n.encode("utf-8", "ignore").decode() != n), None)
        raise UnsupportedFeatureError(
            "its name holds half a surrogate pair, which is no character", tensor=broken
        ) from None
    if len(header) - 8 > MAX_HEADER:
        raise UnsupportedFeatureError(
            f"the header takes {len(header) - 8} bytes, the format allows {MAX_HEADER}; use shard_size="
        )
    return PlannedFile(header, rows[order], begin[order] + np.uint64(len(header)), len(header) + payload, digest)


def _metadata_text(metadata: Mapping[str, str]) -> bytes:
    """The JSON of ``__metadata__``; nothing where there is none."""
    if not metadata:
        return b""
    try:
        return json.dumps(metadata, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UnsupportedFeatureError("metadata holds half a surrogate pair, which is no character") from None
