"""Keras' two containers of HDF5 files: the ``.keras`` archive, and the index of sharded weights (``.weights.json``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from weightlift import _json
from weightlift._checksum import crc32
from weightlift._dtypes import from_name
from weightlift._inflate import inflate
from weightlift._json import impostor
from weightlift._layout import Chain, Checksum, Extent, Inline, Layout, Piece, TensorEntry, TensorTable
from weightlift._steps import Deflate
from weightlift.errors import ChecksumError, FormatError, NotFoundError, TruncatedError, UnsafeContentError
from weightlift.formats._npz import NPZ
from weightlift.formats._safetensors_index import checked_shards, is_index
from weightlift.formats._window import Window
from weightlift.formats._zip import (
    DEFLATED,
    LOCAL,
    LOCAL_MAGIC,
    STORED,
    ZIP64_ROOM,
    Member,
    header_spans,
    locate,
    read_directory,
)
from weightlift.protocols import Files, Reader, SupportsPreload

__all__ = ["CONFIG", "METADATA", "WEIGHTS", "is_keras_index", "is_keras_zip", "read_index", "read_zip"]

CONFIG, METADATA, WEIGHTS, WEIGHTS_NPZ = "config.json", "metadata.json", "model.weights.h5", "model.weights.npz"
_FIRST = (CONFIG, METADATA, WEIGHTS, WEIGHTS_NPZ)
_MAX_JSON = 1 << 28
_MAX_INDEX = 1 << 26
_MAX_RATIO = 200
"""Weights that inflate to more than this many times their stored size are no weights."""
_SMALL = 1 << 26
_PART = 1 << 20

ReadPart = Callable[[Reader, str, int, int], Layout]


# --- .keras -----------------------------------------------------------------------------------------
def is_keras_zip(head: bytes) -> bool:
    """Whether a file that begins so is a zip archive whose first member is one of Keras'."""
    if not head.startswith(LOCAL_MAGIC) or len(head) < LOCAL.size:
        return False
    name_size = LOCAL.unpack_from(head)[-2]
    return head[LOCAL.size : LOCAL.size + name_size].decode("latin-1") in _FIRST


def read_zip(reader: Reader, name: str, read: ReadPart) -> Layout:
    """The weights in a ``.keras`` file; its configuration is metadata, as text.

    Raises:
        FormatError: It is no ``.keras`` file, or damaged.
        UnsafeContentError: It inflates beyond reason.
    """
    if not reader.read_at(0, min(4, reader.size)).startswith(b"PK"):
        found = impostor(reader.read_at(0, min(4096, reader.size))) or "no zip archive"
        raise FormatError(f"no .keras file: it is {found}", offset=0)
    members, small = _open_archive(reader)
    weights = members.get(WEIGHTS) or members.get(WEIGHTS_NPZ)
    if weights is None or CONFIG not in members:
        missing = " and ".join(n for n, m in ((CONFIG, members.get(CONFIG)), (WEIGHTS, weights)) if m is None)
        raise FormatError(f"no .keras file: {missing} missing; it has {', '.join(members)[:200]}")
    if weights.method == STORED:
        layout = _stored(reader, name, weights, read)
    else:
        layout = _inflated(reader, name, weights, read)
    layout.metadata = _metadata(small)
    return layout


def _open_archive(reader: Reader) -> tuple[dict[str, Member], dict[str, bytes]]:
    """All members by name, and the bytes of the small documents."""
    directory = read_directory(reader)
    members = sorted(directory.members, key=lambda member: member.header)
    wanted = (CONFIG, METADATA)
    for member in members:
        if member.name in wanted and member.size > _MAX_JSON:
            raise FormatError(f"{member.name} has {member.size} bytes, expected at most {_MAX_JSON}")
    spans = [
        (at, n + m.stored_size if m.name in wanted else min(n, LOCAL.size + len(m.raw_name) + ZIP64_ROOM))
        for m, (at, n) in zip(members, header_spans(members, directory.begin, 0), strict=True)
    ]
    window = Window(reader, spans, directory.begin)
    small = {m.name: _content(window, m) for m in locate(window, members) if m.name in wanted}
    return {member.name: member for member in directory.members}, small


def _content(window: Window, member: Member) -> bytes:
    """All bytes of a member, which match its CRC-32."""
    if member.method != STORED:
        return _inflate(window.reader, member)
    _check_crc(window.reader, member)
    return window.read(member.data, member.size)


def _check_crc(reader: Reader, member: Member) -> None:
    found = 0
    for at in range(0, member.size, _PART):
        found = crc32(reader.read_at(member.data + at, min(_PART, member.size - at)), found)
    if found != member.crc32:
        raise ChecksumError(
            f"CRC-32 of {member.name!r} is {found:08x}, expected {member.crc32:08x}",
            offset=member.data,
            end=member.data + member.stored_size,
        )


def _inflate(reader: Reader, member: Member) -> bytes:
    out = bytearray(member.size)
    inflate(reader, Extent(0, member.data, member.stored_size), Deflate(member.size, 0, member.crc32), out)
    return bytes(out)


def _metadata(small: Mapping[str, bytes]) -> dict[str, Any]:
    """What ``metadata.json`` says, and the configuration as text."""
    found: dict[str, Any] = {}
    if METADATA in small:
        said = _json.loads(small[METADATA], what=METADATA, max_bytes=_MAX_JSON)
        if not isinstance(said, dict):
            raise FormatError(f"{METADATA} is not a JSON object")
        found = dict(said)
    try:
        return {**found, "config": small[CONFIG].decode("utf-8")}
    except UnicodeDecodeError as error:
        raise FormatError(f"{CONFIG} is not UTF-8: {error.reason}") from None


def _stored(reader: Reader, name: str, member: Member, read: ReadPart) -> Layout:
    if member.name == WEIGHTS:
        try:
            layout = read(reader, name, member.data, member.size)
        except FormatError:
            if not isinstance(reader, SupportsPreload):
                _check_crc(reader, member)  # which says better what is wrong
            raise
        piece = Piece(Extent(0, member.data, member.size))
        whole = TensorEntry(from_name("uint8"), (member.size,), (piece,), None, Checksum("crc32", member.crc32))
        layout.whole = TensorTable.from_entries({member.name: whole})
        return layout
    part = _Part(reader, member.data, member.size)
    layout = NPZ.read(_One(name, part), name)
    entries = {
        n: _moved(entry, lambda e: replace(e, offset=e.offset + member.data)) for n, entry in layout.tensors.items()
    }
    return Layout("hdf5", TensorTable.from_entries(entries), (name,), objects=layout.objects)


def _inflated(reader: Reader, name: str, member: Member, read: ReadPart) -> Layout:
    """Weights that are compressed as one: they are inflated into memory, within a bound."""
    if member.size > _SMALL and member.size > _MAX_RATIO * max(1, member.stored_size):
        raise UnsafeContentError(f"{member.name} inflates from {member.stored_size} to {member.size} bytes")
    if member.name != WEIGHTS or member.method != DEFLATED:
        raise FormatError(f"{member.name} is compressed, which is not known of such weights")
    data = _inflate(reader, member)
    layout = read(_Memory(data, reader.name), name, 0, len(data))
    entries = {n: _inlined(entry, data) for n, entry in layout.tensors.items()}
    return Layout(
        "hdf5", TensorTable.from_entries(entries), (name,), objects=layout.objects, extra=layout.extra, shared=True
    )


def _moved(entry: TensorEntry, move: Callable[[Extent], Extent]) -> TensorEntry:
    """An entry whose extents lie elsewhere."""

    def moved(piece: Piece) -> Piece:
        if isinstance(piece.where, Extent):
            return replace(piece, where=move(piece.where))
        return replace(piece, where=Chain(tuple(map(move, piece.extents)))) if piece.extents else piece

    return replace(entry, pieces=tuple(map(moved, entry.pieces)))


def _inlined(entry: TensorEntry, data: bytes) -> TensorEntry:
    def inlined(piece: Piece) -> Piece:
        if not piece.extents:
            return piece
        return replace(piece, where=Inline(b"".join(data[e.offset : e.offset + e.nbytes] for e in piece.extents)))

    return replace(entry, pieces=tuple(map(inlined, entry.pieces)))


class _Memory:
    """A reader of bytes."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.size = data, name, len(data)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes."""
        if offset + nbytes > self.size:
            raise TruncatedError("read beyond the end", path=self.name, offset=offset, end=offset + nbytes)
        return self.data[offset : offset + nbytes]


class _Part:
    """A reader of a part of a file, as a file of its own."""

    def __init__(self, reader: Reader, begin: int, size: int) -> None:
        self._reader, self._begin = reader, begin
        self.size, self.name = size, reader.name

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes of the part."""
        if offset + nbytes > self.size:
            raise TruncatedError("read beyond the end", path=self.name, offset=offset, end=offset + nbytes)
        return self._reader.read_at(self._begin + offset, nbytes)


class _One:
    """Files, of which there is one."""

    remote = False

    def __init__(self, name: str, reader: Any) -> None:
        self._name, self._reader = name, reader

    def open(self, relative: str) -> Any:
        if relative != self._name:
            raise NotFoundError("no such file", path=relative)
        return self._reader

    def prepare(self, names: Any) -> None:
        """Nothing to do."""


# --- .weights.json ----------------------------------------------------------------------------------
def is_keras_index(head: bytes) -> bool:
    """Whether a file that begins so is an index of shards of weights."""
    return is_index(head) and b'"weight_map"' in head and b'.weights.h5"' in head


def read_index(files: Files, reader: Reader, read: Callable[[Files, str], Layout]) -> Layout:
    """The layout of all shards of the index in ``reader``.

    Raises:
        FormatError: The index or a shard breaks a rule, or they do not belong together.
        UnsafeContentError: A shard's name could reach beyond the folder.
        NotFoundError: A shard is missing.
    """
    if reader.size > _MAX_INDEX:
        raise UnsafeContentError(f"an index of {reader.size} bytes; at most {_MAX_INDEX} are accepted")
    index = _json.loads(reader.read_at(0, reader.size), what="the index", max_bytes=_MAX_INDEX)
    groups = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(groups, dict):
        raise FormatError("the index's 'weight_map' is not an object")
    named: dict[str, str] = {}
    for group, shards in groups.items():
        listed = [shards] if isinstance(shards, str) else shards
        if not isinstance(listed, list) or not all(isinstance(shard, str) for shard in listed):
            raise FormatError("the index maps the group to something that is no list of file names", tensor=group)
        named.update({f"{group}:{shard}": shard for shard in listed})
    shards = checked_shards(named)
    files.prepare(shards)
    found: dict[str, TensorEntry] = {}
    objects: dict[str, Any] = {}
    shared = False
    for number, shard in enumerate(shards):
        layout = _read_shard(files, shard, read)
        for name, entry in layout.tensors.items():
            _check_listed(groups, name, shard)
            if name in found:
                raise FormatError(f"the tensor is in {shard!r} and in another shard", tensor=name)
            found[name] = _moved(entry, partial(_to_source, number))
        objects.update(layout.objects)
        shared |= layout.shared
    absent = [g for g in groups if not any(name.startswith(f"{g.strip('/')}/") for name in found)]
    if absent:
        raise FormatError(f"groups of the index are in none of its shards: {', '.join(absent[:10])}")
    order = sorted(found, key=lambda n: (n.rpartition("/")[0], *_number(n)))
    table = TensorTable.from_entries({name: found[name] for name in order})
    kept = {k: v for k, v in (index.get("metadata") or {}).items() if k != "total_size"}
    return Layout("hdf5", table, tuple(shards), objects=objects, metadata=kept, shared=shared)


def _to_source(number: int, extent: Extent) -> Extent:
    return replace(extent, source=number)


def _number(name: str) -> tuple[int, str]:
    last = name.rpartition("/")[2]
    return (int(last), "") if last.isascii() and last.isdigit() else (1 << 62, last)


def _check_listed(groups: Mapping[str, Any], name: str, shard: str) -> None:
    """A tensor of a group that the index maps elsewhere would be there twice, or not where it should be."""
    group = name.rpartition("/")[0]
    listed = groups.get(f"/{group}", groups.get(group))
    if listed is None or shard not in ([listed] if isinstance(listed, str) else listed):
        raise FormatError(f"the tensor is in {shard!r}, where the index has none of its group", tensor=name)


def _read_shard(files: Files, shard: str, read: Callable[[Files, str], Layout]) -> Layout:
    try:
        return read(files, shard)
    except NotFoundError as error:
        raise NotFoundError(f"the index names the file {shard!r}, which is not there", path=error.path) from None
    except FormatError as error:
        raise error.locate(path=files.open(shard).name) from None
