"""Shards of one model and the index that maps each tensor to its file.

The protocol is in ``_safetensors``; the rules are in docs/formats/safetensors.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _json
from weightlift._checksum import crc32c
from weightlift._dtypes import DType
from weightlift._layout import U32, Layout, TensorTable
from weightlift.errors import FormatError, NotFoundError, UnsafeContentError, WeightliftError
from weightlift.formats._safetensors_encoded import ENCODED_KEY, decode_rows, parse_encoded
from weightlift.formats._safetensors_file import CHECKSUM_KEY, MAX_HEADER, File, Rows, read_file, read_head
from weightlift.formats._safetensors_pieces import PIECES_KEY, Parts, join_pieces, parse_pieces
from weightlift.protocols import Files, Reader

__all__ = [
    "DERIVED",
    "INDEX_SUFFIX",
    "checked_shards",
    "index_digest",
    "is_index",
    "parse_index",
    "read_index",
    "shard_names",
]

INDEX_SUFFIX = ".safetensors.index.json"
DERIVED = ("total_size", "total_parameters")
"""Metadata that says something about the tensors, not about the model; not kept."""

MAX_INDEX = 256 << 20
MAX_SHARDS = 10_000


def is_index(head: bytes) -> bool:
    """Whether a file that begins so is JSON text; as a header length, any text is far too large."""
    return head.lstrip(b" \t\r\n")[:1] == b"{" and (len(head) < 8 or int.from_bytes(head[:8], "little") > MAX_HEADER)


def read_index(files: Files, reader: Reader) -> Layout:
    """The layout of all shards of the index in ``reader``; ``metadata`` still holds our own keys but the checksum.

    Raises:
        FormatError: The index or a shard breaks a rule, or they do not belong together.
        UnsafeContentError: A shard's name could reach beyond the folder, or a limit is exceeded.
        NotFoundError: A shard is missing.
    """
    metadata, weight_map = parse_index(reader)
    shards = checked_shards(weight_map)
    files.prepare(shards)
    parsed = [_read_shard(files, shard) for shard in shards]
    tables = [_mapped_rows(f.table, shard, weight_map) for f, shard in zip(parsed, shards, strict=True)]
    if sum(map(len, tables)) != len(weight_map):
        present = {n for table in tables for n in table.names}
        absent = [n for n in weight_map if n not in present]
        listed = ", ".join(f"{n!r} ({weight_map[n]})" for n in absent[:10])
        raise FormatError(f"{len(absent)} tensors of the index are not in the file they are mapped to: {listed}")
    reasons = [f"{shard}: {f.damaged}" for f, shard in zip(parsed, shards, strict=True) if f.damaged]
    stored = metadata.pop(CHECKSUM_KEY, None)
    checksums = {shard: f.checksum for f, shard in zip(parsed, shards, strict=True)}
    if stored is not None and stored != index_digest(metadata, weight_map, checksums):
        reasons.insert(0, "the index does not belong to these shards, or was changed")
    for key in DERIVED:
        metadata.pop(key, None)
    table = _concatenate(tables)
    order: U32 | None = np.fromiter((table.index(name) for name in weight_map), np.uint32, len(weight_map))
    encoded = metadata.pop(ENCODED_KEY, None)
    if encoded is not None:
        decode_rows(table, parse_encoded(encoded))
    pieces = metadata.pop(PIECES_KEY, None)
    parts: dict[str, Parts] = {}
    if pieces is not None and order is not None:
        (table, parts), order = join_pieces(table, order, parse_pieces(pieces)), None
    return Layout(
        "safetensors",
        table,
        tuple(shards),
        order=order,
        metadata={**_common([f.metadata for f in parsed]), **metadata},
        damaged="; ".join(reasons) or None,
        parts=parts,
    )


def parse_index(reader: Reader) -> tuple[dict[str, Any], dict[str, str]]:
    """The index's metadata and weight map, checked for type."""
    if reader.size > MAX_INDEX:
        raise UnsafeContentError(f"an index of {reader.size} bytes; at most {MAX_INDEX} are accepted")
    index = _json.loads(reader.read_at(0, reader.size), what="the index", max_bytes=MAX_INDEX)
    if not isinstance(index, dict) or "weight_map" not in index:
        raise FormatError("not an index of safetensors files: it has no 'weight_map'")
    metadata, weight_map = index.get("metadata") or {}, index["weight_map"]
    if not isinstance(metadata, dict):
        raise FormatError("the index's 'metadata' is not an object")
    if not isinstance(weight_map, dict):
        raise FormatError("the index's 'weight_map' is not an object")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise FormatError("the index maps the tensor to something that is not a file name", tensor=tensor)
    return metadata, weight_map


def checked_shards(weight_map: Mapping[str, str]) -> list[str]:
    """The files that a weight map names, sorted; UnsafeContentError for too many, or a name that reaches elsewhere."""
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        _check_shard_name(shard)
    if len(shards) > MAX_SHARDS:
        raise UnsafeContentError(f"the index names {len(shards)} files; at most {MAX_SHARDS} are accepted")
    return shards


def shard_names(reader: Reader) -> list[str]:
    """The files that the index in ``reader`` names; they are not opened."""
    shards = sorted(set(parse_index(reader)[1].values()))
    for shard in shards:
        _check_shard_name(shard)
    return shards


def _check_shard_name(shard: str) -> None:
    """Shards lie beside their index; a name that could reach elsewhere is refused."""
    if not shard or shard in (".", "..") or any(c in shard for c in "/\\:\0"):
        raise UnsafeContentError(f"the index names the file {shard!r}; only plain file names are accepted")


def _read_shard(files: Files, shard: str) -> File:
    try:
        reader = files.open(shard)
    except NotFoundError as error:
        raise NotFoundError(f"the index names the file {shard!r}, which is not there", path=error.path) from None
    try:
        return read_file(reader, read_head(reader))
    except WeightliftError as error:
        raise error.locate(path=reader.name) from None


def _mapped_rows(table: TensorTable, shard: str, weight_map: Mapping[str, str]) -> TensorTable:
    """The rows that the index maps to this shard.

    The index is the authority on what belongs to the model, so other tensors are left out. One that the index
    maps to another shard is refused: it would be there twice, or not where it should be.
    """
    mapped = [weight_map.get(name) for name in table.names]
    if mapped.count(shard) == len(mapped):
        return table
    for name, target in zip(table.names, mapped, strict=True):
        if target is not None and target != shard:
            raise FormatError(f"the tensor is in {shard!r}, the index maps it to {target!r}", tensor=name)
    rows = np.flatnonzero([target == shard for target in mapped])
    return _take(table, rows)


def _take(table: TensorTable, rows: Rows) -> TensorTable:
    kept = TensorTable(
        [table.names[i] for i in rows],
        table.dtypes,
        table.dtype_index[rows],
        [table.shapes[i] for i in rows],
        table.source[rows],
        table.offset[rows],
        table.nbytes[rows],
    )
    kept.check_kind, kept.check_value = table.check_kind[rows], table.check_value[rows]
    return kept


def _concatenate(tables: Sequence[TensorTable]) -> TensorTable:
    """One table of all; the source of each is its number."""
    dtypes: dict[DType, int] = {}
    index = [np.zeros(0, np.uint32)]
    for table in tables:
        numbers = np.array([dtypes.setdefault(d, len(dtypes)) for d in table.dtypes], np.uint32)
        index.append(numbers[table.dtype_index])

    def column(name: str, dtype: type) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(getattr(table, name) for table in tables)])

    joined = TensorTable(
        [name for table in tables for name in table.names],
        tuple(dtypes),
        np.concatenate(index),
        [shape for table in tables for shape in table.shapes],
        np.repeat(np.arange(len(tables), dtype=np.uint32), [len(table) for table in tables]),
        column("offset", np.uint64),
        column("nbytes", np.uint64),
    )
    joined.check_kind = column("check_kind", np.uint8)
    joined.check_value = column("check_value", np.uint32)
    return joined


def _common(metadata: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all shards say (``{"format": "pt"}``), which therefore is said about the whole."""
    if not metadata:
        return {}
    shared = reduce(lambda a, b: a & b, (set(m.items()) for m in metadata))
    return {key: value for key, value in metadata[0].items() if (key, value) in shared}


def index_digest(metadata: Mapping[str, Any], weight_map: Mapping[str, str], shards: Mapping[str, str | None]) -> str:
    """Over everything the index says and the checksums of its shards, however the JSON was written."""
    text = json.dumps([metadata, weight_map, shards], sort_keys=True, separators=(",", ":"))
    return f"{crc32c(text.encode('ascii')):08x}"
