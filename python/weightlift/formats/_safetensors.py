"""safetensors: a length, a JSON header, and the tensors' bytes without a gap.

Protocol (docs/formats/safetensors.md has all of it; the format is Hugging Face's,
https://github.com/huggingface/safetensors):

- one file: ``u64 N``, N bytes of JSON ``{"__metadata__": {str: str}, NAME: {"dtype", "shape", "data_offsets"}}``,
  data. The header is parsed by the core, strictly; nothing else is read here.
- shards: ``STEM.safetensors.index.json`` holds ``{"metadata": {...}, "weight_map": {NAME: FILE}}``.
- ours, where others ignore it: ``__metadata__["weightlift.crc32c"]`` holds the digest of the table and a CRC-32C
  of every tensor, ``["weightlift.structure"]`` what was saved if it was not a flat dict. In an index, both lie in
  ``metadata``, and the digest covers the shards' checksums, so that shards of two saves are never mixed.

Writing: the header is complete but for its checksums, which have a fixed width and are patched in by ``seal``
once the payload has been hashed. The index is published last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core, _json
from weightlift._dtypes import DTYPES, DType
from weightlift._layout import KINDS, U32, U64, Layout, TensorTable
from weightlift._packing import Checksums, Manifest, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift.errors import (
    FormatError,
    NotFoundError,
    TruncatedError,
    UnsafeContentError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.protocols import Files, Reader

__all__ = ["SAFETENSORS", "Safetensors"]

CHECKSUM_KEY = "weightlift.crc32c"
STRUCTURE_KEY = "weightlift.structure"

MAX_HEADER = 100_000_000  # the reference library accepts no more
MAX_INDEX = 256 << 20
MAX_SHARDS = 10_000
MAX_STRUCTURE_DEPTH = 400  # a container level of _tree is three levels of JSON

_FIRST_READ = 64 << 10  # holds most headers whole, so that a remote file needs one request
_DIRECT_PAYLOAD = 1 << 20  # from here on the data begins on a page, for direct I/O
_PAGE = 4096
_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"
_DERIVED = ("total_size", "total_parameters")  # what an index says about its tensors, not about the model
_CHECKSUM_PREFIX = f'{{"__metadata__":{{"{CHECKSUM_KEY}":"'.encode()

_TO_CORE = {spelling: DTYPES[name] for spelling, name in _core.safetensors_types()}
_SPELLING = {dtype.name: spelling for spelling, dtype in _TO_CORE.items()}

Rows = npt.NDArray[np.intp]


# --- reading --------------------------------------------------------------------------------------
@dataclass
class _File:
    """One parsed file: its table (all in source 0), and what its metadata said."""

    table: TensorTable
    metadata: dict[str, str]
    checksum: str | None
    damaged: str | None


def _is_index(head: bytes) -> bool:
    """Whether a file that begins so is JSON text; as a header length, any text is far too large."""
    return head.lstrip(b" \t\r\n")[:1] == b"{" and (len(head) < 8 or int.from_bytes(head[:8], "little") > MAX_HEADER)


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


def _read_file(reader: Reader, head: bytes) -> _File:
    text, data = _read_header(reader, head)
    names, types, type_index, shapes, begin, end, metadata, digest = _core.parse_safetensors(
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
    return _File(table, metadata, checksum, damaged)


def _fill_checksums(table: TensorTable, text: str, digest: int) -> str | None:
    """Put the stored checksums into the table; the reason, where they cannot be trusted."""
    if len(text) != 8 * (len(table) + 1):
        return f"the checksums have {len(text)} digits, {len(table)} tensors need {8 * (len(table) + 1)}"
    try:
        values = np.frombuffer(bytes.fromhex(text), ">u4")
    except ValueError:
        values = np.zeros(0, ">u4")
    if len(values) != len(table) + 1:  # fromhex passes over white space
        return "the checksums are not hexadecimal digits"
    if int(values[0]) != digest:
        return f"the header was changed: its checksum is {digest:08x}, {int(values[0]):08x} was stored"
    table.check_kind[:] = KINDS.index("crc32c")
    table.check_value[:] = values[1:]
    return None


def _parse_structure(text: object) -> Any:
    if text is None:
        return None
    what = f"the value of {STRUCTURE_KEY!r}"
    if not isinstance(text, str):
        raise FormatError(f"{what} is not a string")
    return _json.loads(text.encode("utf-8"), what=what, max_bytes=MAX_INDEX, max_depth=MAX_STRUCTURE_DEPTH)


def _read_index(files: Files, reader: Reader, name: str) -> Layout:
    metadata, weight_map = _parse_index(reader)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        _check_shard_name(shard)
    if len(shards) > MAX_SHARDS:
        raise UnsafeContentError(f"the index names {len(shards)} files; at most {MAX_SHARDS} are accepted")
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
    if stored is not None and stored != _index_digest(metadata, weight_map, checksums):
        reasons.insert(0, "the index does not belong to these shards, or was changed")
    structure = _parse_structure(metadata.pop(STRUCTURE_KEY, None))
    for key in _DERIVED:
        metadata.pop(key, None)
    return Layout(
        "safetensors",
        _concatenate(tables),
        tuple(shards),
        metadata={**_common([f.metadata for f in parsed]), **metadata},
        structure=structure,
        damaged="; ".join(reasons) or None,
    )


def _parse_index(reader: Reader) -> tuple[dict[str, Any], dict[str, str]]:
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


def _check_shard_name(shard: str) -> None:
    """Shards lie beside their index; a name that could reach elsewhere is refused."""
    if not shard or shard in (".", "..") or any(c in shard for c in "/\\:\0"):
        raise UnsafeContentError(f"the index names the file {shard!r}; only plain file names are accepted")


def _read_shard(files: Files, shard: str) -> _File:
    try:
        reader = files.open(shard)
    except NotFoundError as error:
        raise NotFoundError(f"the index names the file {shard!r}, which is not there", path=error.path) from None
    try:
        return _read_file(reader, reader.read_at(0, min(reader.size, _FIRST_READ)))
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


def _index_digest(metadata: Mapping[str, Any], weight_map: Mapping[str, str], shards: Mapping[str, str | None]) -> str:
    """Over everything the index says and the checksums of its shards, however the JSON was written."""
    text = json.dumps([metadata, weight_map, shards], sort_keys=True, separators=(",", ":"))
    return f"{_core.crc32c(text.encode('ascii')):08x}"


# --- writing --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Shard:
    """One file to be written: its header, and its tensors in data order."""

    header: bytes
    rows: Rows
    begin: U64
    nbytes: int
    digest: int

    def checksum(self, crc32c: U32) -> str:
        """The value of CHECKSUM_KEY."""
        return f"{self.digest:08x}" + crc32c[self.rows].astype(">u4").tobytes().hex()


@dataclass(frozen=True)
class _State:
    """What ``seal`` and ``manifest`` need beside the checksums."""

    shards: tuple[_Shard, ...]
    names: Sequence[str]
    checksums: bool
    index_metadata: Mapping[str, Any]


def _stored_dtypes(specs: TensorSpecs) -> list[DType]:
    dtypes = list(specs.dtypes)
    for row, encoding in specs.encodings.items():
        dtypes[row] = encoding.stored
    return dtypes


def _file_metadata(options: PackOptions, *, sharded: bool) -> dict[str, str]:
    """The user's metadata, which the format restricts to strings."""
    reserved = (CHECKSUM_KEY, STRUCTURE_KEY, *(_DERIVED if sharded else ()))
    for key, value in options.metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UnsupportedFeatureError(
                f"safetensors metadata maps strings to strings, but {key!r} is {type(value).__name__}; "
                "store json.dumps(value) instead"
            )
        if key in reserved:
            raise UnsupportedFeatureError(f"the metadata key {key!r} is reserved; choose another")
    return dict(options.metadata)


def _structure_text(structure: Any) -> str:
    try:
        return json.dumps(structure, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UnsupportedFeatureError(f"the structure cannot be written as JSON: {error}") from None


def _split(nbytes: U64, shard_size: int | None) -> list[Rows]:
    """Rows of each file, in the caller's order: a file is closed when one more tensor would not fit."""
    if shard_size is None:
        return [np.arange(len(nbytes))]
    if shard_size < 1:
        raise FormatError(f"shard_size is {shard_size}; it must be positive")
    starts, used = [0], 0
    for row, size in enumerate(nbytes.tolist()):
        if used and used + size > shard_size:
            starts.append(row)
            used = 0
        used += size
    return np.split(np.arange(len(nbytes)), starts[1:])


def _plan_shard(specs: TensorSpecs, dtypes: Sequence[DType], rows: Rows, metadata: dict[str, str]) -> _Shard:
    """Where each tensor of one file goes, and the header that says so."""
    names, shapes = specs.names, specs.shapes
    by_name = np.array(sorted(rows.tolist(), key=names.__getitem__), np.intp)
    # Descending item size keeps every tensor aligned to its items. Empty ones come first: that is where data
    # order (begin, end, name) puts what begins at 0 and ends there.
    bits = np.fromiter((dtypes[i].bits for i in by_name), np.int64, len(by_name))
    rank = np.where(specs.nbytes[by_name] == 0, -(1 << 40), -bits)
    rows = by_name[np.argsort(rank, kind="stable")]
    sizes = specs.nbytes[rows]
    end = np.cumsum(sizes, dtype=np.uint64)
    begin = end - sizes
    payload = int(end[-1]) if len(end) else 0

    shape_texts: dict[tuple[int, ...], str] = {}
    items = []
    if metadata:
        items.append('"__metadata__":' + json.dumps(metadata, separators=(",", ":"), ensure_ascii=False))
    for row, first, last in zip(rows.tolist(), begin.tolist(), end.tolist(), strict=True):
        shape = shapes[row]
        shape_text = shape_texts.get(shape)
        if shape_text is None:
            shape_text = shape_texts[shape] = ",".join(map(str, shape))
        items.append(
            f'{encode_basestring(names[row])}:{{"dtype":"{_SPELLING[dtypes[row].name]}",'
            f'"shape":[{shape_text}],"data_offsets":[{first},{last}]}}'
        )
    try:
        text = ("{" + ",".join(items) + "}").encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnsupportedFeatureError(
            f"a name or metadata text holds half a surrogate pair: {error.object[error.start - 20 : error.end]!r}"
        ) from None
    text += b" " * (-(8 + len(text)) % (_PAGE if payload >= _DIRECT_PAYLOAD else 8))
    if len(text) > MAX_HEADER:
        raise UnsupportedFeatureError(
            f"the header takes {len(text)} bytes, the format allows {MAX_HEADER}; use shard_size="
        )
    # Reading our own header back gives the digest, and checks sizes against shapes before anything is written.
    digest = _core.parse_safetensors(text, payload, "the header to be written")[-1]
    header = len(text).to_bytes(8, "little") + text
    return _Shard(header, rows, begin + np.uint64(len(header)), len(header) + payload, digest)


class Safetensors:
    """The Format of safetensors files and of their sharded indexes."""

    name = "safetensors"
    suffixes = (_INDEX_SUFFIX, _SUFFIX)

    def sniff(self, head: bytes, size: int) -> bool:
        """Whether the bytes are a header's length and then JSON, or an index."""
        if _is_index(head):
            return b'"weight_map"' in head
        return size > 8 and int.from_bytes(head[:8], "little") <= MAX_HEADER and head[8:].lstrip(b" \t\r\n")[:1] == b"{"

    def read(self, files: Files, name: str) -> Layout:
        """The layout of one file or of all shards of an index.

        ``X.safetensors`` also stands for ``X.safetensors.index.json``, where only that is there.
        """
        try:
            reader = files.open(name)
        except NotFoundError:
            if not name.endswith(_SUFFIX):
                raise
            try:
                reader = files.open(name + ".index.json")
            except NotFoundError:
                pass
            else:
                return self._read(files, reader, name + ".index.json")
            raise
        return self._read(files, reader, name)

    def _read(self, files: Files, reader: Reader, name: str) -> Layout:
        try:
            head = reader.read_at(0, min(reader.size, _FIRST_READ))
            if _is_index(head):
                return _read_index(files, reader, name)
            parsed = _read_file(reader, head)
            structure = _parse_structure(parsed.metadata.pop(STRUCTURE_KEY, None))
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return Layout(
            self.name,
            parsed.table,
            (name,),
            metadata=parsed.metadata,
            structure=structure,
            damaged=parsed.damaged,
        )

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Refuse what the format has no type for; nothing is encoded."""
        if quantize:
            raise UnsupportedFeatureError("safetensors has no quantisation; use format='tfjs', or dtype='float16'")
        refused = [
            f"{specs.names[row]!r} ({'strings' if row in specs.strings else dtype.name})"
            for row, dtype in enumerate(_stored_dtypes(specs))
            if dtype.name not in _SPELLING or row in specs.strings
        ]
        if refused:
            more = f" and {len(refused) - 20} more" if len(refused) > 20 else ""
            raise UnsupportedFeatureError(
                f"safetensors cannot hold {', '.join(refused[:20])}{more}; "
                f"pass dtype= with one of {', '.join(sorted(_SPELLING))}, or use format='npz'"
            )
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Headers and placements; an index where the caller asked for shards or named an index."""
        if options.compression is not None:
            raise UnsupportedFeatureError(f"safetensors cannot compress ({options.compression!r}); use format='npz'")
        dtypes = _stored_dtypes(specs)
        groups = _split(specs.nbytes, options.shard_size)
        sharded = len(groups) > 1 or name.lower().endswith(_INDEX_SUFFIX)
        metadata = _file_metadata(options, sharded=sharded)
        own = {}
        if options.structure is not None:
            own[STRUCTURE_KEY] = _structure_text(options.structure)

        shards = []
        for rows in groups:
            blank = {CHECKSUM_KEY: "0" * 8 * (len(rows) + 1)} if options.checksums else {}
            shards.append(_plan_shard(specs, dtypes, rows, {**blank, **metadata, **({} if sharded else own)}))
        names, manifest = _file_names(name, len(shards), sharded=sharded)
        index_metadata = {"total_size": int(specs.nbytes.sum()), **metadata, **own}
        return Packing(
            [PackedFile(n, s.nbytes, ((0, s.header),)) for n, s in zip(names, shards, strict=True)],
            Placements.whole(
                np.concatenate([s.rows for s in shards]).astype(np.uint32),
                np.repeat(np.arange(len(shards), dtype=np.uint32), [len(s.rows) for s in shards]),
                np.concatenate([s.begin for s in shards]),
                np.concatenate([specs.nbytes[s.rows] for s in shards]),
            ),
            manifest=manifest,
            state=_State(tuple(shards), specs.names, options.checksums, index_metadata),
        )

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """The checksums, in the places that the headers keep for them."""
        state: _State = packing.state
        if not state.checksums:
            return {}
        at = 8 + len(_CHECKSUM_PREFIX)
        return {i: [(at, s.checksum(checksums.crc32c).encode("ascii"))] for i, s in enumerate(state.shards)}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """The index, as transformers lays it out."""
        state: _State = packing.state
        files = [names.get(f.name, f.name) for f in packing.files]
        weight_map = {state.names[row]: f for f, s in zip(files, state.shards, strict=True) for row in s.rows}
        weight_map = dict(sorted(weight_map.items()))
        metadata = dict(state.index_metadata)
        if state.checksums:
            sums = {f: s.checksum(checksums.crc32c) for f, s in zip(files, state.shards, strict=True) if len(s.rows)}
            metadata[CHECKSUM_KEY] = _index_digest(metadata, weight_map, sums)
        text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, ensure_ascii=False)
        return text.encode("utf-8") + b"\n"


def _file_names(name: str, count: int, *, sharded: bool) -> tuple[list[str], Manifest | None]:
    """Names of the data files beside the target, and the index."""
    if not sharded:
        return [name], None
    stem = name
    for suffix in Safetensors.suffixes:
        if name.lower().endswith(suffix):
            stem = name[: -len(suffix)]
            break
    files = [f"{stem}-{i + 1:05}-of-{count:05}{_SUFFIX}" for i in range(count)]
    return files, Manifest(name if name.lower().endswith(_INDEX_SUFFIX) else stem + _INDEX_SUFFIX)


SAFETENSORS = Safetensors()
