"""TensorFlow's checkpoints (TensorBundle): ``PREFIX.index`` and ``PREFIX.data-SSSSS-of-NNNNN``, without TensorFlow.

The index is a sorted table (``_tensorbundle_table``) of protocol buffers (``_tensorbundle_proto``) that say where each
tensor lies in the data files, and hold a masked CRC-32C of its bytes: those are the layout's checksums. Tensors may be
stored in slices (``_tensorbundle_slices``). Checkpoints of objects (``tf.train.Checkpoint``, ``save_weights``) have
keys that are paths of attributes, which are made readable (``_tensorbundle_names``); ``tensorbundle-keys`` takes the
keys as they stand, in both directions. Writing: ``_tensorbundle_write``.

A folder's ``checkpoint`` file names the newest prefix, and is read as that.

Specification: docs/formats/tensorbundle.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weightlift import _json
from weightlift._layout import Layout
from weightlift._packing import Checksums, Packing, PackOptions, TensorSpecs
from weightlift._strings import encode_varint_strings
from weightlift.errors import FormatError, NotFoundError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._tensorbundle_names import GRAPH, readable_names
from weightlift.formats._tensorbundle_proto import Entry, Header, fields, parse_entry, parse_header
from weightlift.formats._tensorbundle_rows import Rows, table_of
from weightlift.formats._tensorbundle_slices import slice_key
from weightlift.formats._tensorbundle_table import MAGIC, MAX_TABLE, first_value, read_table
from weightlift.formats._tensorbundle_write import (
    INDEX,
    build_index,
    counted_otherwise,
    data_name,
    pack_bundle,
    refuse_types,
)
from weightlift.protocols import Files, Reader

__all__ = ["TENSORBUNDLE", "TENSORBUNDLE_KEYS", "TensorBundle"]

MAX_STATE = 1 << 20
MAX_FILES = 10_000

_NEWEST = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPED = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_CONTROL = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class TensorBundle:
    """The Format of TensorFlow's checkpoints; see the module.

    Args:
        name: As in ``format=``.
        keys: Tensors are called by their keys, all of them, whatever these are.
    """

    suffixes: Sequence[str] = (INDEX,)

    def __init__(self, name: str, *, keys: bool = False) -> None:
        """See the class."""
        self.name = name
        self._keys = keys

    def sniff(self, head: bytes, size: int) -> bool:
        """A table whose first key is empty, as that of a bundle is, or the file that names one."""
        if _NEWEST.match(head):
            return True
        if len(head) == size and head.endswith(MAGIC):
            return True
        value = first_value(head)
        try:
            return value is not None and (_is_v1(value) or parse_header(value).shards > 0)
        except FormatError:
            return False

    def read(self, files: Files, name: str) -> Layout:
        """The tensors of a bundle, given its index or the file that names it; only the index is read."""
        reader = files.open(name)
        if _NEWEST.match(reader.read_at(0, min(MAX_STATE, reader.size))):
            name = _newest(files, reader, name)
            reader = files.open(name)
        try:
            layout, sizes = self._read(files, reader, name)
            return layout.validate(sizes)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Tensors are stored as they are, in the types that TensorFlow has."""
        refuse_types(specs, quantize)
        return {}

    def encode_strings(self, strings: Sequence[bytes]) -> tuple[bytes, int]:
        """As TensorFlow stores them, and the checksum that goes with that."""
        return encode_varint_strings(strings)

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Data files in the order of ``specs``, ``PREFIX.index``, and ``checkpoint``."""
        if options.compression is not None:
            raise UnsupportedFeatureError(f"TensorFlow's checkpoints cannot be compressed ({options.compression!r})")
        return pack_bundle(specs, name, options, keys=self._keys)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Data files hold no checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """The index."""
        return build_index(packing, checksums, names)

    def other_names(self, planned: Sequence[str], taken: Callable[[str], bool]) -> Mapping[str, str]:
        """As ``NumbersFiles.other_names``."""
        return counted_otherwise(planned, taken)

    def replaced(self, files: Files, name: str, manifest: str | None) -> Sequence[str]:
        """As ``ReplacesFiles.replaced``: the data files of the index that is there now."""
        index = manifest or name
        header, entries = _read_index(files.open(index))
        return _data_files(index, sorted({e.shard for e in entries.values() if not e.slices}), header.shards)

    def _read(self, files: Files, reader: Reader, name: str) -> tuple[Layout, list[int]]:
        """The layout, and the sizes of its sources."""
        header, entries = _read_index(reader)
        tensors = sorted((key for key in entries if not key.startswith(b"\0")), key=lambda key: _place(entries, key))
        try:
            texts = [key.decode("utf-8") for key in tensors]
        except UnicodeDecodeError as error:
            raise FormatError(f"a key of the index is not text: {error.object[:80]!r}") from None
        names = texts
        if not self._keys and GRAPH in texts:
            tensors.remove(GRAPH.encode())
            texts.remove(GRAPH)
            names = readable_names(texts)
        _no_stray_slices(entries)
        shards = sorted({entry.shard for entry in entries.values() if not entry.slices})
        sources = _data_files(name, shards, header.shards)
        rows = Rows(header, entries, {shard: i for i, shard in enumerate(shards)})
        table = table_of(rows, tensors, names)
        own = _own(header.extra)
        layout = Layout(
            self.name, table, tuple(sources), metadata=own.get("metadata") or {}, structure=own.get("structure")
        )
        if self._keys and GRAPH in texts:
            layout.structure = None  # it is of names that are made from keys
        sizes = _sizes(files, entries, shards, sources)
        graph = entries.get(GRAPH.encode())
        if graph is not None and graph.slices:
            raise FormatError("the object graph is stored in slices", tensor=GRAPH)
        if graph is not None and graph.offset + graph.size > sizes[shards.index(graph.shard)]:
            raise FormatError("the object graph lies beyond the end of its data file", tensor=GRAPH)
        if files.remote:
            layout.expected = dict(enumerate(sizes))
        return layout, sizes


# --- the index --------------------------------------------------------------------------------------
def _is_v1(value: bytes) -> bool:
    """Whether the first value is that of TensorFlow's first format: a message in field 1, not a number."""
    try:
        number, part = next(fields(value))
    except (FormatError, StopIteration):
        return False
    return number == 1 and isinstance(part, bytes)


def _read_index(reader: Reader) -> tuple[Header, dict[bytes, Entry]]:
    """The header, and the entries by key, in their order."""
    if reader.size > MAX_TABLE:
        raise UnsafeContentError(f"an index of {reader.size} bytes; at most {MAX_TABLE} are read")
    pairs = read_table(reader.read_at(0, reader.size))
    if not pairs or pairs[0][0]:
        raise FormatError("not an index of TensorFlow's: it is a table without a header")
    if _is_v1(pairs[0][1]):
        raise UnsupportedFeatureError(
            "a checkpoint of TensorFlow's first format (V1), one file of slices; "
            "save it again with tf.compat.v1.train.Saver, which writes V2"
        )
    header = parse_header(pairs[0][1])
    entries = {}
    for key, value in pairs[1:]:
        try:
            entries[key] = parse_entry(value)
        except FormatError as error:
            raise error.locate(tensor=key.decode("utf-8", "backslashreplace")) from None
    return header, entries


def _place(entries: Mapping[bytes, Entry], key: bytes) -> tuple[int, int, int]:
    """Where a tensor begins: the order in which tensors were saved, which the index sorts by key."""
    entry = entries[key]
    if entry.slices:
        entry = entries.get(slice_key(key, entry.slices[0]), entry)
    return entry.shard, entry.offset, entry.size


def _no_stray_slices(entries: Mapping[bytes, Entry]) -> None:
    """Every slice belongs to a tensor that lists it."""
    stored = sum(key.startswith(b"\0") for key in entries)
    listed = sum(len(entry.slices) for entry in entries.values())
    if stored != listed:
        raise FormatError(f"the index has {stored} entries of slices; its tensors list {listed}")


def _own(extra: bytes) -> Mapping[str, Any]:
    """What we wrote into the header: the user's metadata, and the structure of what was saved."""
    if not extra:
        return {}
    value = _json.loads(extra, what="our own field of the header", max_bytes=MAX_TABLE, max_depth=400)
    if not isinstance(value, dict) or not isinstance(value.get("metadata", {}), dict):
        raise FormatError("our own field of the header is not an object of metadata and structure")
    return value


def _newest(files: Files, reader: Reader, name: str) -> str:
    """The index that a ``checkpoint`` file names; of a path that is not relative only the last part counts."""
    found = _NEWEST.match(reader.read_at(0, min(MAX_STATE, reader.size)))
    assert found is not None
    raw = _ESCAPED.sub(lambda m: _unescaped(m[1]), found[1])
    try:
        prefix = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"the checkpoint that it names is not text: {raw[:80]!r}", path=reader.name) from None
    if prefix.startswith("/"):  # where it was written; the folder may have moved since
        prefix = prefix.rpartition("/")[2]
    folder, slash, _ = name.rpartition("/")
    index = f"{folder}{slash}{prefix}{INDEX}"
    try:
        files.open(index)
    except NotFoundError as error:
        raise NotFoundError(f"it names the checkpoint {prefix!r}, which is not there", path=reader.name) from error
    return index


def _unescaped(text: bytes) -> bytes:
    if text[:1].isdigit():
        return bytes([int(text, 8) & 0xFF])
    return _CONTROL.get(text, text)


# --- the data files ---------------------------------------------------------------------------------
def _data_files(name: str, shards: Sequence[int], count: int) -> list[str]:
    if not name.endswith(INDEX):
        raise FormatError(f"the index of a checkpoint is called PREFIX{INDEX}, and its data files after it")
    if len(shards) > MAX_FILES:
        raise UnsafeContentError(f"the tensors lie in {len(shards)} data files; at most {MAX_FILES} are opened")
    if any(shard >= count for shard in shards):
        raise FormatError(f"a tensor is in data file {shards[-1]}; there are {count}, from 0 on")
    prefix = name[: -len(INDEX)]
    return [data_name(prefix, shard, count) for shard in shards]


def _sizes(files: Files, entries: Mapping[bytes, Entry], shards: Sequence[int], sources: Sequence[str]) -> list[int]:
    """Bytes in each data file. Remote ones are not opened yet: they should end where their last tensor does."""
    if not files.remote:
        return [_size(files, source) for source in sources]
    ends = dict.fromkeys(shards, 0)
    for entry in entries.values():
        if not entry.slices:
            ends[entry.shard] = max(ends[entry.shard], entry.offset + entry.size)
    return list(ends.values())


def _size(files: Files, source: str) -> int:
    try:
        return files.open(source).size
    except NotFoundError as error:
        raise NotFoundError(f"the index needs the data file {source!r}, which is not there", path=error.path) from None


TENSORBUNDLE = TensorBundle("tensorbundle")
"""The format, as it stands in ``FORMATS``."""

TENSORBUNDLE_KEYS = TensorBundle("tensorbundle-keys", keys=True)
"""The same files, tensors called by their keys; asked for by name only."""
