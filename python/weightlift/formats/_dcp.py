"""Checkpoints of torch.distributed.checkpoint: a directory of ``.metadata`` and ``__R_N.distcp``, without PyTorch.

The metadata say which chunks each tensor has and where they are (``_dcp_metadata``); each chunk, and each object that
is no tensor, is what ``torch.save`` made of it, somewhere in a file. The headers of these parts are read, and tensors
are put together of their chunks (``_dcp_chunks``). Pickles are decoded, never run.

Specification: docs/formats/dcp.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from weightlift._layout import Layout, ReadOptions, TensorEntry, TensorTable
from weightlift._tree import encode_value
from weightlift.errors import FormatError, NotFoundError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._dcp_chunks import assembled, check_chunks, placed
from weightlift.formats._dcp_metadata import MODULE, Checkpoint, Chunk, Item, ShardedTensor, parse_metadata
from weightlift.formats._dcp_tree import structure_of
from weightlift.formats._pickle import MAX_PICKLE, Refused
from weightlift.formats._read_only import ReadOnly
from weightlift.formats._torch import Saved, read_saved
from weightlift.formats._torch_rows import MAX_RATIO, MOST_ALWAYS, core_dtype, entry_of, row_of
from weightlift.formats._torch_tree import Walk
from weightlift.formats._torch_vocabulary import StoredTensor, Unreadable
from weightlift.protocols import Choose, Files, Reader, SupportsPreload

__all__ = ["DCP", "Dcp"]

_MAX_FILES = 10_000
_MAX_PICKLES = 256 << 20
"""Bytes of the pickles of all chunks and objects together; one has some 200."""

_SMALL = 64 << 10
_HEAD, _TAIL = 8 << 10, 4 << 10
"""What is fetched beforehand of a part of a remote file: all of a small one, else where its headers are."""

_AT_ONCE = 512
_NOTHING = encode_value(None)
"""In the place of what is no array, and is said to be so when it is asked for."""


class Dcp(ReadOnly):
    """The dcp format; see the module."""

    name = "dcp"
    suffixes: Sequence[str] = (".metadata",)
    instead = "directories of torch.distributed.checkpoint are read, not written; save as .safetensors or .pt"

    def sniff(self, head: bytes, size: int) -> bool:
        """A pickle that begins with the metadata's class."""
        return head[:1] == b"\x80" and MODULE.encode() in head[:128]

    def read(self, files: Files, name: str) -> Layout:
        """The tensors of all chunks and the objects beside them, given the ``.metadata``."""
        return self.read_with(files, name, ReadOptions())

    def read_with(self, files: Files, name: str, options: ReadOptions) -> Layout:
        """Likewise; with ``skip_unsafe``, what is code is left out."""
        checkpoint = _metadata(files, name, skip_unsafe=options.skip_unsafe)
        return _read(files, checkpoint, skip_unsafe=options.skip_unsafe)

    def read_some(self, files: Files, name: str, choose: Choose) -> Layout | None:
        """The tensors that are chosen: headers of no other chunks are read, and no objects."""
        checkpoint = _metadata(files, name, skip_unsafe=False)
        known = {name: entry for name, entry in checkpoint.entries.items() if isinstance(entry, ShardedTensor)}
        chosen = choose(list(known))
        if chosen is None:
            return None
        return _read(files, Checkpoint({n: entry for n, entry in known.items() if n in chosen}, {}), skip_unsafe=False)


def _metadata(files: Files, name: str, *, skip_unsafe: bool) -> Checkpoint:
    """The content of ``.metadata``."""
    reader = files.open(name)
    try:
        if reader.size > MAX_PICKLE:
            raise UnsafeContentError(f"metadata of {reader.size} bytes; at most {MAX_PICKLE} are read")
        checkpoint = parse_metadata(reader.read_at(0, reader.size), skip_unsafe=skip_unsafe)
        for tensor, entry in checkpoint.entries.items():
            if isinstance(entry, ShardedTensor):
                _checked(tensor, entry)
    except WeightliftError as error:
        raise error.locate(path=reader.name) from None
    return checkpoint


def _checked(name: str, tensor: ShardedTensor) -> None:
    try:
        check_chunks(tensor)
    except FormatError as error:
        raise error.locate(tensor=name) from None


# --- parts of files -------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Part:
    """Some bytes of a file, as a reader."""

    whole: Reader
    begin: int
    size: int

    @property
    def name(self) -> str:
        """That of the file."""
        return self.whole.name

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """As of any file."""
        if offset + nbytes > self.size:
            raise FormatError(f"{nbytes} bytes at {offset} reach out of the {self.size} that were saved")
        return self.whole.read_at(self.begin + offset, nbytes)


@dataclass(frozen=True)
class _Wanted:
    """Something to read: entry ``name``, or chunk number ``chunk`` of it."""

    name: str
    chunk: int
    item: Item


@dataclass
class _Content:
    """What has been read so far; ``chunks`` by name and number."""

    chunks: dict[tuple[str, int], TensorEntry] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, TensorEntry] = field(default_factory=dict)
    objects: dict[str, UnsupportedFeatureError] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    pickled: int = 0

    def count(self, nbytes: int) -> None:
        """Take account of a pickle."""
        self.pickled += nbytes
        if self.pickled > _MAX_PICKLES:
            raise UnsafeContentError(f"the pickles of its parts have more than {_MAX_PICKLES} bytes")


def _read(files: Files, checkpoint: Checkpoint, *, skip_unsafe: bool) -> Layout:
    """The layout of all entries."""
    wanted = list(_wanted(checkpoint))
    sources = {file: number for number, file in enumerate(sorted({one.item.file for one in wanted}))}
    if len(sources) > _MAX_FILES:
        raise UnsafeContentError(f"the chunks lie in {len(sources)} files; at most {_MAX_FILES} are opened")
    files.prepare(list(sources))
    content = _Content()
    wanted.sort(key=lambda one: (sources[one.item.file], one.item.offset))
    for begin in range(0, len(wanted), _AT_ONCE):
        some = wanted[begin : begin + _AT_ONCE]
        _fetch(files, some)
        for one in some:
            reader = _open(files, one.item.file)
            try:
                _take(checkpoint, content, one, reader, sources[one.item.file], skip_unsafe=skip_unsafe)
            except UnsupportedFeatureError as error:
                error.locate(path=reader.name, tensor=one.name)
                content.objects.setdefault(one.name, error)
            except WeightliftError as error:
                raise error.locate(path=reader.name, tensor=one.name, offset=one.item.offset) from None
    layout = _layout(checkpoint, content, tuple(sources))
    sizes = [files.open(source).size for source in sources]
    total, limit = sum(entry.nbytes for entry in layout.tensors.values()), max(MAX_RATIO * sum(sizes), MOST_ALWAYS)
    if total > limit:
        raise UnsafeContentError(f"the tensors take {total} bytes, of files of {sum(sizes)}; at most {limit} are made")
    return layout.validate(sizes)


def _wanted(checkpoint: Checkpoint) -> Iterator[_Wanted]:
    for name, entry in checkpoint.entries.items():
        if isinstance(entry, Item):
            yield _Wanted(name, -1, entry)
        else:
            yield from (_Wanted(name, number, chunk.item) for number, chunk in enumerate(entry.chunks))


def _open(files: Files, file: str) -> Reader:
    try:
        return files.open(file)
    except NotFoundError as error:
        raise NotFoundError(f"the metadata name the file {file!r}, which is not there", path=error.path) from None


def _fetch(files: Files, wanted: Sequence[_Wanted]) -> None:
    """Have the headers of these parts of remote files fetched, as they would cost a round trip each."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for one in wanted:
        of = spans.setdefault(one.item.file, [])
        if one.item.length <= _SMALL:
            of.append((one.item.offset, one.item.length))
        else:
            of += [(one.item.offset, _HEAD), (one.item.offset + one.item.length - _TAIL, _TAIL)]
    for file, ranges in spans.items():
        reader = _open(files, file)
        if isinstance(reader, SupportsPreload):
            reader.preload(ranges)


def _take(
    checkpoint: Checkpoint, content: _Content, one: _Wanted, reader: Reader, source: int, *, skip_unsafe: bool
) -> None:
    """Read one part."""
    item = one.item
    if item.transforms:
        raise UnsupportedFeatureError(f"its bytes were transformed by {', '.join(item.transforms)[:80]}")
    if item.offset + item.length > reader.size:
        raise FormatError(
            f"bytes {item.offset} to {item.offset + item.length} of {item.file!r} are said to hold it; the file has "
            f"{reader.size}"
        )
    part = _Part(reader, item.offset, item.length)
    try:
        saved = read_saved(part, skip_unsafe=skip_unsafe, tail=_TAIL)
    except WeightliftError as error:  # its offsets are those of the part
        error.offset = None if error.offset is None else error.offset + item.offset
        error.end = None if error.end is None else error.end + item.offset
        raise
    content.count(saved.pickled)
    entry = checkpoint.entries[one.name]
    if isinstance(entry, ShardedTensor):
        row = _chunk(entry, entry.chunks[one.chunk], saved)
        content.chunks[one.name, one.chunk] = placed(row, source, item.offset)
    else:
        _object(checkpoint, content, one, saved, source)


def _chunk(tensor: ShardedTensor, chunk: Chunk, saved: Saved) -> TensorEntry:
    """The row of a chunk, which must be what the metadata say."""
    found = saved.root
    if isinstance(found, Unreadable):
        raise UnsupportedFeatureError(f"{chunk} is {found.what}")
    if not isinstance(found, StoredTensor):
        raise FormatError(f"{chunk} is stored as a {type(found).__name__.lower()}, not as a tensor")
    if (found.dtype, found.size) != (tensor.dtype, chunk.size):
        raise FormatError(
            f"{chunk} is stored as {found.dtype} of shape {list(found.size)}; {tensor.dtype} was to be there"
        )
    return entry_of(found, saved.place(found.storage), big=saved.big)


def _object(checkpoint: Checkpoint, content: _Content, one: _Wanted, saved: Saved, source: int) -> None:
    """Something else than a tensor, in which there may be tensors, too."""
    if isinstance(saved.root, Refused):
        content.skipped[one.name] = saved.root.name
        return
    walk = Walk(saved.root, budget=10 * saved.pickled + 1000, under=(one.name,))
    for inner in (*walk.tensors, *walk.objects):
        taken = inner in content.inner or inner in content.objects
        if taken or (inner != one.name and inner in checkpoint.entries):
            raise FormatError(f"a tensor in it is called {inner!r}, as another tensor of the checkpoint is")
    content.nodes[one.name] = walk.structure
    content.objects.update(walk.objects)
    content.skipped.update(walk.skipped)
    for inner, tensor in walk.tensors.items():
        row = row_of(tensor, saved.place, big=saved.big)
        content.inner[inner] = placed(row, source, one.item.offset)


# --- the whole ------------------------------------------------------------------------------------
def _layout(checkpoint: Checkpoint, content: _Content, sources: tuple[str, ...]) -> Layout:
    """The layout, not yet validated."""
    entries: dict[str, TensorEntry] = {}
    for name, entry in checkpoint.entries.items():
        if not isinstance(entry, ShardedTensor) or name in content.objects:
            continue
        try:
            parts = [content.chunks[name, number] for number in range(len(entry.chunks))]
            entries[name] = assembled(entry, core_dtype(entry.dtype), parts)
        except UnsupportedFeatureError as error:
            error.locate(tensor=name)
            content.objects[name] = error
    entries.update(content.inner)
    leaves = {
        name: name if isinstance(entry, ShardedTensor) and name in entries else content.nodes.get(name, _NOTHING)
        for name, entry in checkpoint.entries.items()
        if name not in content.skipped or name in content.nodes
    }
    layout = Layout(
        "dcp",
        TensorTable.from_entries(entries),
        sources,
        objects=content.objects,
        structure=structure_of(leaves, checkpoint.paths),
        shared=bool(content.inner),
    )
    layout.extra = {"skipped": content.skipped} if content.skipped else {}
    return layout


DCP = Dcp()
"""The format, as it stands in ``FORMATS``."""
