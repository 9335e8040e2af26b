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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightlift import _json
from weightlift._layout import U64, Layout
from weightlift._packing import Checksums, Manifest, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift.errors import FormatError, NotFoundError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._safetensors_encoded import ENCODED_KEY, Encoded, encoded_json
from weightlift.formats._safetensors_file import (
    CHECKSUM_KEY,
    CHECKSUM_OFFSET,
    MAX_HEADER,
    SPELLING,
    PlannedFile,
    Rows,
    plan_file,
    read_file,
    read_head,
    stored_types,
)
from weightlift.formats._safetensors_index import DERIVED, INDEX_SUFFIX, index_digest, is_index, read_index, shard_names
from weightlift.formats._safetensors_pieces import PIECES_KEY, Pieces, pieces_json
from weightlift.formats._storable import refuse, unstorable
from weightlift.protocols import Files, Reader

__all__ = ["SAFETENSORS", "Safetensors"]

STRUCTURE_KEY = "weightlift.structure"
MAX_STRUCTURE = 256 << 20
MAX_STRUCTURE_DEPTH = 400  # a container level of _tree is three levels of JSON

INDEX_INFIX = ".index.json"
_SUFFIX = ".safetensors"
_SHARD = re.compile(r".+-\d{5,}-of-\d{5,}(-wl[0-9a-f]{8})?\.safetensors")
"""Shards as they are called here, with the mark of a save that was cut short."""


def _parse_structure(text: object) -> Any:
    if text is None:
        return None
    what = f"the value of {STRUCTURE_KEY!r}"
    if not isinstance(text, str):
        raise FormatError(f"{what} is not a string")
    return _json.loads(text.encode("utf-8"), what=what, max_bytes=MAX_STRUCTURE, max_depth=MAX_STRUCTURE_DEPTH)


@dataclass(frozen=True)
class _State:
    """What ``seal`` and ``manifest`` need beside the checksums."""

    files: tuple[PlannedFile, ...]
    names: Sequence[str]
    checksums: bool
    index_metadata: Mapping[str, Any]


def _file_metadata(options: PackOptions, *, sharded: bool) -> dict[str, str]:
    """The user's metadata, which the format restricts to strings."""
    reserved = (CHECKSUM_KEY, STRUCTURE_KEY, *((PIECES_KEY, ENCODED_KEY, *DERIVED) if sharded else ()))
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
        text = json.dumps(structure, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
        return text
    except ValueError as error:  # NaN as a key; half a surrogate pair
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


def _blank(options: PackOptions, rows: Rows) -> dict[str, str]:
    """The place that a header keeps for its checksums."""
    return {CHECKSUM_KEY: "0" * 8 * (len(rows) + 1)} if options.checksums else {}


class Safetensors:
    """The Format of safetensors files and of their sharded indexes."""

    name = "safetensors"
    suffixes = (INDEX_SUFFIX, _SUFFIX)

    def sniff(self, head: bytes, size: int) -> bool:
        """Whether the bytes are a header's length and then JSON, or an index."""
        if is_index(head):
            return b'"weight_map"' in head
        return size > 8 and int.from_bytes(head[:8], "little") <= MAX_HEADER and head[8:].lstrip(b" \t\r\n")[:1] == b"{"

    def read(self, files: Files, name: str) -> Layout:
        """The layout of one file or of all shards of an index.

        ``X.safetensors`` also stands for ``X.safetensors.index.json``, where only that is there.
        """
        try:
            reader = files.open(name)
        except NotFoundError as error:
            if not name.endswith(_SUFFIX):
                raise
            try:
                reader = files.open(name + ".index.json")
            except NotFoundError:
                raise error from None
            name += ".index.json"
        return self._read(files, reader, name)

    def _read(self, files: Files, reader: Reader, name: str) -> Layout:
        try:
            head = read_head(reader)
            if is_index(head):
                layout = read_index(files, reader)
            else:
                file = read_file(reader, head)
                layout = Layout(self.name, file.table, (name,), metadata=file.metadata, damaged=file.damaged)
                layout.order = file.order
            metadata = dict(layout.metadata)
            layout.structure = _parse_structure(metadata.pop(STRUCTURE_KEY, None))
            layout.metadata = metadata
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return layout

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Refuse what the format has no type for; nothing is encoded."""
        if quantize:
            raise UnsupportedFeatureError("safetensors has no quantisation; use format='tfjs', or dtype='float16'")
        if "__metadata__" in specs.names:
            raise UnsupportedFeatureError("safetensors keeps the name '__metadata__' for itself; rename the tensor")
        if not specs.strings and all(d.core and d.name in SPELLING for d in stored_types(specs).types):
            return {}
        refused = unstorable(specs, lambda dtype: dtype.name in SPELLING)
        refuse("safetensors", refused, f", or use format='npz'; the types are {', '.join(sorted(SPELLING))}")
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Headers and placements; an index where the caller asked for shards or named an index."""
        if options.compression is not None:
            raise UnsupportedFeatureError(f"safetensors cannot compress ({options.compression!r}); use format='npz'")
        groups = (
            _split(specs.nbytes, options.shard_size)
            if options.shards is None
            else np.split(np.arange(len(specs)), options.shards[1:])
        )
        sharded = len(groups) > 1 or name.lower().endswith(INDEX_SUFFIX)
        metadata = _file_metadata(options, sharded=sharded)
        own = {} if options.structure is None else {STRUCTURE_KEY: _structure_text(options.structure)}
        in_file = metadata if sharded else {**metadata, **own}
        stored = stored_types(specs)
        planned = [plan_file(specs, stored, rows, {**_blank(options, rows), **in_file}) for rows in groups]
        names, manifest = _file_names(name, len(planned), sharded=sharded)
        return Packing(
            [PackedFile(n, p.nbytes, ((0, p.header),)) for n, p in zip(names, planned, strict=True)],
            Placements.whole(
                np.concatenate([p.rows for p in planned]).astype(np.uint32),
                np.repeat(np.arange(len(planned), dtype=np.uint32), [len(p.rows) for p in planned]),
                np.concatenate([p.begin for p in planned]),
                np.concatenate([specs.nbytes[p.rows] for p in planned]),
            ),
            manifest=manifest,
            state=_State(
                tuple(planned),
                specs.names,
                options.checksums,
                {"total_size": int(specs.nbytes.sum()), **metadata, **own},
            ),
        )

    def replaced(self, files: Files, name: str, manifest: str | None) -> Sequence[str]:
        """As ``ReplacesFiles.replaced``: the old set's shards; of the two forms of ``name`` the one not written."""
        index = manifest or name + INDEX_INFIX
        single = [name] if manifest not in (None, name) else []
        if not index.endswith(INDEX_SUFFIX):
            return []
        try:
            shards = shard_names(files.open(index))
        except WeightliftError:
            return single
        own = [shard for shard in shards if _SHARD.fullmatch(shard)]
        return [*single, *own] if manifest else [index, *own]

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """The checksums, in the places that the headers keep for them."""
        state: _State = packing.state
        if not state.checksums:
            return {}
        return {
            i: [(CHECKSUM_OFFSET, file.checksum(checksums.crc32c).encode("ascii"))]
            for i, file in enumerate(state.files)
        }

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """The index, as transformers lays it out."""
        state: _State = packing.state
        shards = [(names.get(f.name, f.name), p) for f, p in zip(packing.files, state.files, strict=True)]
        placed = {int(row): shard for shard, file in shards for row in file.rows}
        weight_map = {state.names[row]: placed[row] for row in sorted(placed)}
        sums: dict[str, str | None] | None = None
        if state.checksums:
            sums = {shard: file.checksum(checksums.crc32c) for shard, file in shards if len(file.rows)}
        return _index(state.index_metadata, weight_map, sums)

    def index_of(
        self,
        weight_map: Mapping[str, str],
        sums: Mapping[str, str | None],
        nbytes: int,
        structure: Any,
        pieces: Mapping[str, Pieces],
        encoded: Mapping[str, Encoded],
    ) -> bytes:
        """The index of shards that are there already, each of which has checksums.

        Args:
            weight_map: The shard of each stored tensor, in the order that they are to have.
            sums: What each shard's header has as its checksums (``File.checksum``).
            nbytes: Of all tensors.
            structure: See ``PackOptions``.
            pieces: Tensors that are stored in several.
            encoded: Tensors that are stored compressed.
        """
        own = {} if structure is None else {STRUCTURE_KEY: _structure_text(structure)}
        parts = {PIECES_KEY: pieces_json(pieces)} if pieces else {}
        parts |= {ENCODED_KEY: encoded_json(encoded)} if encoded else {}
        return _index({"total_size": nbytes, **own, **parts}, weight_map, sums)


def _index(metadata: Mapping[str, Any], weight_map: Mapping[str, str], sums: Mapping[str, str | None] | None) -> bytes:
    """The text of an index, with a digest over the shards' checksums where they have any."""
    metadata = dict(metadata)
    if sums is not None:
        metadata[CHECKSUM_KEY] = index_digest(metadata, weight_map, sums)
    text = json.dumps({"metadata": metadata, "weight_map": {}}, indent=2, ensure_ascii=False)
    if weight_map:  # json indents in Python: a hundred thousand names in a quarter of a second
        names = json.dumps(weight_map, separators=(",\n    ", ": "), ensure_ascii=False)
        text = f"{text[:-4]}{{\n    {names[1:-1]}\n  }}\n}}"
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
    return files, Manifest(name if name.lower().endswith(INDEX_SUFFIX) else stem + INDEX_SUFFIX)


SAFETENSORS = Safetensors()
