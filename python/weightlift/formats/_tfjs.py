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

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from weightlift import _json
from weightlift._layout import Checksum, Inline, Layout, Piece, Strings, TensorEntry, TensorTable
from weightlift._packing import Checksums, Encoding, Packing, PackOptions, TensorSpecs
from weightlift.errors import FormatError, UnsafeContentError
from weightlift.formats import _tfjs_pack
from weightlift.formats._tfjs_manifest import Document, Weight, parse, parse_weight, shard_path
from weightlift.formats._tfjs_shards import Shards
from weightlift.protocols import Files

__all__ = ["TFJS", "TfjsFormat"]

MAX_JSON = 256 << 20
MAX_DEPTH = 200

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
        reader = files.open(name)
        if reader.size > MAX_JSON:
            raise UnsafeContentError(f"it has {reader.size} bytes; at most {MAX_JSON} are accepted")
        base = PurePosixPath(name)
        document = parse(
            _json.loads(reader.read_at(0, reader.size), what=base.name, max_bytes=MAX_JSON, max_depth=MAX_DEPTH)
        )
        return _layout(document, files, base.parent)

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, Any] | str | None) -> dict[int, str]:
        """As ``Format.encode``: widen exactly what TensorFlow.js lacks, quantise what was asked for."""
        return _tfjs_pack.encode(specs, quantize)

    def keep(self, entry: TensorEntry) -> Encoding | None:
        """As ``KeepsEncodings.keep``: quantised weights need not lose more by being quantised again."""
        return _tfjs_pack.keep(entry)

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """As ``Format.pack``: one ``weights.bin``, or shards."""
        return _tfjs_pack.pack(specs, name, options)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing: the data files hold data only."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """As ``Format.manifest``: the JSON document."""
        return _tfjs_pack.manifest(packing, checksums, names)


def _layout(document: Document, files: Files, base: PurePosixPath) -> Layout:
    entries: dict[str, TensorEntry] = {}
    sources: list[str] = []
    sizes: list[int] = []
    specs: list[Any] = []
    for number, (paths, raw_weights) in enumerate(document.groups, 1):
        names = [str(base / shard_path(p, number)) for p in paths]
        for i, path in enumerate(names):
            if path in names[:i] or path in sources:
                raise FormatError(f"group {number} lists the weight file {path!r} that was listed before")
        weights = [parse_weight(raw, number, i, document.record.dtypes) for i, raw in enumerate(raw_weights, 1)]
        shards = Shards(files, names, number, len(sources))
        _add_group(entries, shards, weights, document)
        sources += names
        sizes += shards.sizes
        specs += raw_weights
    _check_record(document, entries)
    metadata = document.extra.get("userDefinedMetadata")
    layout = Layout(
        format="tfjs",
        tensors=TensorTable.from_entries(entries),
        sources=tuple(sources),
        metadata=metadata if isinstance(metadata, dict) else {},
        structure=document.record.structure,
        extra={**document.extra, "weightSpecs": specs},
        damaged=document.record.damaged,
    )
    return layout.validate(sizes)


def _add_group(entries: dict[str, TensorEntry], shards: Shards, weights: Sequence[Weight], document: Document) -> None:
    """Append one group's rows."""
    begin = 0
    for weight, size in zip(weights, shards.measure(weights), strict=True):
        if weight.name in entries:
            raise FormatError("two weights have the same name", tensor=weight.name)
        where = shards.locate(begin, size) if size else Inline(b"")
        steps = weight.steps if weight.item else (Strings(weight.count),)
        crc = document.record.crc32c.get(weight.name)
        checksum = None if crc is None else Checksum("crc32c", crc)
        entries[weight.name] = TensorEntry(weight.dtype, weight.shape, (Piece(where, steps),), checksum=checksum)
        begin += size


def _check_record(document: Document, entries: Mapping[str, TensorEntry]) -> None:
    """Our own record speaks of the weights that are there, unless the document was changed since."""
    if document.record.damaged:
        return
    for what, table in (("checksum", document.record.crc32c), ("dtype", document.record.dtypes)):
        for name in table:
            if name not in entries:
                raise FormatError(f"there is a {what} for a weight that the manifest does not have", tensor=name)


TFJS = TfjsFormat()
"""The format."""
