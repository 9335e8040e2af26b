"""TensorFlow.js: ``model.json`` (or a bare ``weights_manifest.json``) and its binary weight files.

Protocol. A JSON document lists groups; a group lists files ("shards") and weights. The weights of a group lie
back to back, without padding, in the concatenation of its shards, little-endian, in C order; a weight may
straddle shards. Sizes follow from shapes and dtypes, except for strings, which carry their lengths. Quantised
weights are uint8, uint16 or float16 on disk and float32 (or int32) to the reader. What TensorFlow.js has no room for
(checksums, narrower dtypes, the structure of what was saved) is kept in one extra key, ``weightlift``,
which it ignores.

The rules, with their sources, are in docs/formats/tfjs.md. ``_tfjs_manifest`` understands the JSON,
``_tfjs_shards`` the files, ``_tfjs_pack`` decides what is written where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from weightlift import _json
from weightlift._dtypes import DType
from weightlift._layout import KINDS, U32, U64, Inline, Layout, Piece, TensorEntry, TensorTable
from weightlift._packing import Checksums, Encoding, Packing, PackOptions, TensorSpecs
from weightlift._steps import Strings
from weightlift.errors import FormatError, UnsafeContentError
from weightlift.formats import _tfjs_pack
from weightlift.formats._tfjs_manifest import Document, Record, Weight, parse, parse_weights, shard_path
from weightlift.formats._tfjs_shards import Shards
from weightlift.protocols import Files, Reader

__all__ = ["TFJS", "TfjsFormat"]

MAX_JSON = 256 << 20
MAX_DEPTH = 200

_WEIGHT_FILE = re.compile(
    r"([^/]+\.)?(weights(-wl[0-9a-f]{8})?\.bin|group\d+-shard\d+of\d+(-wl[0-9a-f]{8})?(\.bin)?)", re.ASCII
)
"""Names that TensorFlow.js, its converter and we give weight files, with the mark of a save that was cut short."""

_MARKS = (b'"modelTopology"', b'"weightsManifest"', b'"layers-model"', b'"graph-model"')


class TfjsFormat:
    """TensorFlow.js layers models, graph models and bare weights manifests; see the module."""

    name = "tfjs"
    suffixes: Sequence[str] = (".json",)

    def sniff(self, head: bytes, size: int) -> bool:
        """JSON with a model's keys, or a list of groups."""
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text.startswith(b"["):
            return b'"weights"' in text or b'"paths"' in text
        return text.startswith(b"{") and any(mark in text for mark in _MARKS)

    def read(self, files: Files, name: str) -> Layout:
        """The layout of a document and its shards; reads the JSON and the lengths of strings."""
        base = PurePosixPath(name)
        document = _document(files.open(name), base.name)
        return _layout(document, files, base.parent)

    def paths(self, reader: Reader, name: str) -> list[str]:
        """The weight files that the document ``name`` lists, as relative names."""
        groups = _document(reader, name).groups
        return [shard_path(p, i) for i, (paths, _) in enumerate(groups, 1) for p in paths]

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, Any] | str | None) -> dict[int, str]:
        """As ``Format.encode``: widen exactly what TensorFlow.js lacks, quantise what was asked for."""
        return _tfjs_pack.encode(specs, quantize)

    @property
    def takes_late_ranges(self) -> bool:
        """As ``TakesLateRanges``: scale and min of weights are in the document alone, which is written last."""
        return True

    def keep(self, entry: TensorEntry) -> Encoding | None:
        """As ``KeepsEncodings.keep``: quantised weights need not lose more by being quantised again."""
        return _tfjs_pack.keep(entry)

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """As ``Format.pack``: one ``weights.bin``, or shards."""
        return _tfjs_pack.pack(specs, name, options)

    def replaced(self, files: Files, name: str, manifest: str | None) -> Sequence[str]:
        """As ``ReplacesFiles.replaced``: the weight files that the document names."""
        paths = self.paths(files.open(name), PurePosixPath(name).name)
        return [p for p in dict.fromkeys(paths) if _WEIGHT_FILE.fullmatch(p)]

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing: the data files hold data only."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """As ``Format.manifest``: the JSON document."""
        return _tfjs_pack.manifest(packing, checksums, names)


def _document(reader: Reader, name: str) -> Document:
    if reader.size > MAX_JSON:
        raise UnsafeContentError(f"it has {reader.size} bytes; at most {MAX_JSON} are accepted")
    text = reader.read_at(0, reader.size)
    return parse(_json.loads(text, what=name, max_bytes=MAX_JSON, max_depth=MAX_DEPTH, lenient=True))


class _Rows:
    """The table in the making: one row a weight."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: dict[DType, int] = {}
        self.dtype_index: list[int] = []
        self.extents: list[tuple[U32, U64, U64]] = []
        self.pieces: dict[int, tuple[Piece, ...]] = {}

    def add_group(self, weights: Sequence[Weight], shards: Shards) -> None:
        """Append the weights of one group; those that are not simply a run of one shard get a piece."""
        first = len(self.names)
        self.names += [w.name for w in weights]
        self.shapes += [w.shape for w in weights]
        kinds = {id(w.dtype): w.dtype for w in weights}  # far fewer hashes of them
        numbers = {key: self.dtypes.setdefault(dtype, len(self.dtypes)) for key, dtype in kinds.items()}
        self.dtype_index += [numbers[id(w.dtype)] for w in weights]
        nbytes = np.array(shards.measure(weights), np.uint64)
        begin = np.cumsum(nbytes, dtype=np.uint64) - nbytes
        source, offset, plain = shards.locate_many(begin, nbytes)
        plain &= np.array([w.item > 0 and not w.steps for w in weights], bool)
        for i in np.flatnonzero(~plain).tolist():
            weight, size = weights[i], int(nbytes[i])
            where = shards.locate(int(begin[i]), size) if size else Inline(b"")
            steps = weight.steps if weight.item else (Strings(weight.elements),)
            self.pieces[first + i] = (Piece(where, steps),)
        zero = np.uint64(0)
        self.extents.append((np.where(plain, source, 0), np.where(plain, offset, zero), np.where(plain, nbytes, zero)))

    def table(self, crc32c: Mapping[str, int]) -> TensorTable:
        """The finished table with its checksums."""
        columns = [np.concatenate(c) if c else np.zeros(0) for c in zip(*self.extents, strict=True)] or [
            np.zeros(0)
        ] * 3
        source, offset, nbytes = columns
        table = TensorTable(
            self.names,
            list(self.dtypes),
            np.array(self.dtype_index, np.uint32),
            self.shapes,
            source.astype(np.uint32),
            offset.astype(np.uint64),
            nbytes.astype(np.uint64),
            pieces=self.pieces,
        )
        if crc32c:
            known = np.array([name in crc32c for name in self.names], bool)
            table.check_kind[known] = KINDS.index("crc32c")
            table.check_value[known] = np.array([crc32c[n] for n in self.names if n in crc32c], np.uint32)
        return table


def _layout(document: Document, files: Files, base: PurePosixPath) -> Layout:
    rows, record = _Rows(), document.record
    sources: list[str] = []
    sizes: list[int] = []
    presumed: dict[int, int] = {}
    specs: list[Any] = []
    for number, (paths, raw_weights) in enumerate(document.groups, 1):
        names = [str(base / shard_path(p, number)) for p in paths]
        weights = parse_weights(raw_weights, number, record.dtypes)
        if (twice := _duplicate([*sources, *names])) is not None:
            raise FormatError(f"group {number} lists the weight file {twice!r} that was listed before")
        shards = Shards(files, names, number, len(sources), weights)
        rows.add_group(weights, shards)
        presumed.update(shards.presumed)
        sources += names
        sizes += shards.sizes
        specs += raw_weights
    if (twice := _duplicate(rows.names)) is not None:
        raise FormatError("two weights have the same name", tensor=twice)
    if not record.damaged:
        _check_record(record, set(rows.names))
    metadata = document.extra.get("userDefinedMetadata")
    layout = Layout(
        format="tfjs",
        tensors=rows.table(record.crc32c),
        sources=tuple(sources),
        metadata=metadata if isinstance(metadata, dict) else {},
        structure=record.structure,
        extra={**document.extra, "weightSpecs": specs},
        damaged=record.damaged,
        expected=presumed or None,
    )
    return layout.validate(sizes)


def _duplicate(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    seen: set[str] = set()
    if len(set(names)) == len(names):
        return None
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _check_record(record: Record, names: Set[str]) -> None:
    """Our own record speaks of the weights that are there."""
    for what, table in (("checksum", record.crc32c), ("dtype", record.dtypes)):
        for name in table:
            if name not in names:
                raise FormatError(f"there is a {what} for a weight that the manifest does not have", tensor=name)


TFJS = TfjsFormat()
"""The format."""
