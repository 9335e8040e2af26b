"""PyTorch's files (``torch.save``: .pt, .pth, .bin, .ckpt), read and written without PyTorch.

A zip archive: ``TOP/data.pkl`` is a pickle of the object, in which tensors are views of storages, and
``TOP/data/KEY`` the bytes of a storage. The pickle is decoded by ``_pickle``, which runs nothing, in the words of
``_torch_vocabulary``; ``_torch_tree`` finds the tensors in what it describes, and ``_torch_rows`` where their elements
lie. The weights of a TorchScript archive are read as those of any other. Files of torch before 1.6: ``_torch_legacy``;
sharded models: ``_torch_index``.

Writing: ``_torch_write``.

Specification: docs/formats/torch.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from weightlift._checksum import crc32
from weightlift._inflate import inflate
from weightlift._json import impostor
from weightlift._layout import Extent, Layout, ReadOptions
from weightlift._packing import Checksums, Packing, PackOptions, TensorSpecs
from weightlift._steps import Deflate
from weightlift.errors import ChecksumError, FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._npy import check_options
from weightlift.formats._pickle import MAX_PICKLE, decode_pickle
from weightlift.formats._torch_index import is_torch_index, read_torch_index
from weightlift.formats._torch_legacy import is_legacy, read_legacy
from weightlift.formats._torch_rows import Place, table_of
from weightlift.formats._torch_tree import Walk
from weightlift.formats._torch_vocabulary import Storage, StoredTensor, TorchVocabulary
from weightlift.formats._torch_write import (
    MAX_RECORD,
    RECORD,
    apply_record,
    pack_torch,
    refuse_types,
    seal_torch,
    some_checksums,
)
from weightlift.formats._window import Window
from weightlift.formats._zip import (
    DEFLATED,
    END_MAGIC,
    LOCAL,
    LOCAL_MAGIC,
    STORED,
    ZIP64_ROOM,
    Directory,
    Member,
    header_spans,
    locate,
    read_directory,
    spans_of,
)
from weightlift.protocols import Choose, Files, Reader

__all__ = ["TORCH", "Saved", "Torch", "read_saved"]

_HEAD = 4096
_TAR_AT, _TAR = 257, b"ustar"
_WORDS = ("version", ".data/version", "byteorder")
_VERSIONS = range(1, 11)
_MOST_SMALL = 1 << 10
"""Bytes of the records that hold a word."""

_FIRST = ("data.pkl", "version", "byteorder", "constants.pkl", ".format_version", ".storage_alignment")
_FIRST_FOLDERS = ("data/", "code/", "constants/", ".data/", "extra/")
"""What a torch archive can begin with, below its folder."""


class Torch:
    """The torch format; see the module."""

    name = "torch"
    keeps_values = True
    suffixes: Sequence[str] = (".ckpt", ".bin", ".pth", ".pt")

    def sniff(self, head: bytes, size: int) -> bool:
        """A zip archive whose first member is one of torch's, the number of the older format, or an index of shards."""
        if is_legacy(head) or is_torch_index(head):
            return True
        if not head.startswith(LOCAL_MAGIC) or len(head) < LOCAL.size:
            return False
        name_size = LOCAL.unpack_from(head)[-2]
        _, slash, rest = head[LOCAL.size : LOCAL.size + name_size].decode("latin-1").partition("/")
        return bool(slash) and (rest in _FIRST or rest.startswith(_FIRST_FOLDERS))

    def read(self, files: Files, name: str) -> Layout:
        """The tensors in the object that was saved, and the object around them; or those of all shards of an index."""
        return self.read_with(files, name, ReadOptions())

    def read_with(self, files: Files, name: str, options: ReadOptions) -> Layout:
        """Likewise; with ``skip_unsafe``, what is code is left out."""
        reader = files.open(name)
        read = partial(_read_file, skip_unsafe=options.skip_unsafe)
        try:
            if not is_torch_index(reader.read_at(0, min(_HEAD, reader.size))):
                return read(files, name)
            layout = read_torch_index(files, reader, read)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return layout.validate([files.open(shard).size for shard in layout.sources])

    def read_some(self, files: Files, name: str, choose: Choose) -> Layout | None:
        """The tensors that are chosen by name: the headers of no other storages are read.

        Only of an archive: the older format and an index of shards are read whole.
        """
        reader = files.open(name)
        try:
            if not reader.read_at(0, min(_HEAD, reader.size)).startswith(LOCAL_MAGIC):
                return None
            layout = _read_zip(reader, name, choose)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return None if layout is None else layout.validate([reader.size])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Tensors are stored as they are, in the types that torch has."""
        refuse_types(specs, quantize)
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """One storage a tensor, in the order of ``specs``."""
        check_options("torch", options, compressions=())
        return pack_torch(specs, name, options)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """CRC-32 where zip wants it, CRC-32C into our record."""
        return seal_torch(packing, checksums)

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise FormatError("torch has no manifest")


def _read_file(files: Files, name: str, *, skip_unsafe: bool) -> Layout:
    """One file, which is no index."""
    reader = files.open(name)
    try:
        head = reader.read_at(0, min(_HEAD, reader.size))
        if is_legacy(head):
            old = read_legacy(reader, skip_unsafe=skip_unsafe)
            layout: Layout | None = _layout(reader, name, Walk(old.root, budget=_budget(old.pickled)), old.place)
        elif head.startswith((LOCAL_MAGIC, END_MAGIC)):
            layout = _read_zip(reader, name, None, skip_unsafe=skip_unsafe)
        else:
            raise _other(head)
    except WeightliftError as error:
        raise error.locate(path=reader.name) from None
    assert layout is not None  # nothing was chosen
    return layout.validate([reader.size])


@dataclass(frozen=True)
class Saved:
    """What a file holds, before its tensors are looked for.

    Attributes:
        root: The object.
        pickled: Bytes of its pickle.
        place: Where a storage is.
        big: Elements are stored in big-endian order.
    """

    root: object
    pickled: int
    place: Callable[[Storage], Place]
    big: bool = False


def read_saved(reader: Reader, *, skip_unsafe: bool = False, tail: int | None = None) -> Saved:
    """The object that one file, or a part of one, holds; ``tail`` as for ``read_directory``."""
    head = reader.read_at(0, min(_HEAD, reader.size))
    if is_legacy(head):
        old = read_legacy(reader, skip_unsafe=skip_unsafe)
        return Saved(old.root, old.pickled, old.place)
    if not head.startswith((LOCAL_MAGIC, END_MAGIC)):
        raise _other(head)
    archive, root = _decoded(reader, read_directory(reader, tail=tail), everything=True, skip_unsafe=skip_unsafe)
    return Saved(root, len(archive.small["data.pkl"]), archive.place, archive.big)


def _other(head: bytes) -> FormatError:
    """What a file is that is none of torch's."""
    found = impostor(head)
    if found is not None:
        return FormatError(f"not a torch file: it is {found}", offset=0)
    if head[_TAR_AT:].startswith(_TAR):
        return UnsupportedFeatureError("a torch file of before 0.1.10, a tar archive; load and save it with torch once")
    if head[:1] == b"\x80":
        return FormatError("not a torch file: a bare pickle, which torch.save does not write", offset=0)
    return FormatError(f"not a torch file: it begins with {head[:16]!r}", offset=0)


# --- the archive ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Archive:
    """The members below the one folder of an archive, by their names there, and the small ones' bytes."""

    reader: Reader
    directory: Directory
    members: Mapping[str, Member]
    small: Mapping[str, bytes]

    def text(self, name: str) -> str | None:
        """What a member of one word says."""
        data = self.small.get(name)
        return None if data is None else data.decode("latin-1").strip()

    @property
    def big(self) -> bool:
        """Whether elements are stored in big-endian order."""
        return self.text("byteorder") == "big"

    def place(self, storage: Storage) -> Place:
        """Where a storage is."""
        member = self.members.get(f"data/{storage.key}")
        if member is None:
            raise FormatError(f"the archive has no member data/{storage.key[:80]}")
        crc = member.crc32 or None  # 0: torch was told not to compute it
        return Place(member.data, member.stored_size, member.size, member.method == DEFLATED, crc)

    def find(self, storages: Iterable[Storage]) -> None:
        """Read the local headers of the members that hold these, so that ``place`` knows where they are."""
        found = (self.members.get(f"data/{storage.key}") for storage in storages)
        wanted = {member.name for member in found if member is not None}
        members = sorted(self.directory.members, key=lambda member: member.header)
        window = Window(self.reader, spans_of(members, self.directory.begin, 0, wanted), self.directory.begin)
        for _ in locate(window, members, wanted):
            pass


def _read_zip(reader: Reader, name: str, choose: Choose | None, *, skip_unsafe: bool = False) -> Layout | None:
    """The layout of an archive, or of the tensors in it that are chosen; None: it must be read whole."""
    archive, root = _decoded(reader, read_directory(reader), everything=choose is None, skip_unsafe=skip_unsafe)
    pickle = archive.small["data.pkl"]
    walk = Walk(root, budget=_budget(len(pickle)))
    if choose is not None:
        return _some(archive, name, walk, choose, big=archive.big)
    layout = _layout(reader, name, walk, archive.place, big=archive.big)
    if RECORD in archive.small:
        apply_record(layout, archive.small[RECORD], pickle)
    return layout


def _decoded(reader: Reader, directory: Directory, *, everything: bool, skip_unsafe: bool) -> tuple[_Archive, object]:
    """An archive, and the object that its pickle describes."""
    archive = _open_archive(reader, directory, everything=everything)
    pickle = archive.small["data.pkl"]
    words = TorchVocabulary(script="constants.pkl" in archive.members, skip_unsafe=skip_unsafe)
    root, end = decode_pickle(pickle, words, where=archive.members["data.pkl"].data)
    if end != len(pickle):
        raise FormatError(f"{len(pickle) - end} bytes after the pickle in data.pkl")
    return archive, root


def _some(archive: _Archive, name: str, walk: Walk, choose: Choose, *, big: bool) -> Layout | None:
    """The layout of the tensors that are chosen; None if the whole file must be read."""
    known = list(walk.tensors)
    chosen = choose(known)
    if chosen is None:
        return None
    sums: str | None = ""
    if RECORD in archive.small:
        rows = [row for row, tensor in enumerate(known) if tensor in chosen]
        sums = some_checksums(archive.small[RECORD], archive.small["data.pkl"], rows, len(known))
    walk.keep(chosen)
    archive.find(tensor.storage for tensor in walk.tensors.values() if isinstance(tensor, StoredTensor))
    layout = _layout(archive.reader, name, walk, archive.place, big=big)
    return layout if sums == "" or (sums is not None and layout.tensors.set_crc32c(sums)) else None


def _budget(pickled: int) -> int:
    """Steps over an object whose pickle has so many bytes: many more than an object needs that repeats nothing."""
    return 10 * pickled + 1000


def _layout(reader: Reader, name: str, walk: Walk, place: Callable[[Storage], Place], *, big: bool = False) -> Layout:
    """The layout of the tensors in an object."""
    table = table_of(walk.tensors, place, reader.size, big=big)
    layout = Layout("torch", table, (name,), objects=walk.objects, structure=walk.structure, shared=True)
    for refused in walk.objects.values():
        refused.locate(path=reader.name)
    scales = {n: list(map(str, t.scheme)) for n, t in walk.tensors.items() if isinstance(t, StoredTensor) and t.scheme}
    facts = {"quantization": scales, "skipped": walk.skipped}
    layout.extra = {key: fact for key, fact in facts.items() if fact}
    return layout


def _open_archive(reader: Reader, directory: Directory, *, everything: bool) -> _Archive:
    """Read the small members, and find all others, too, if ``everything`` is wanted."""
    if not directory.members:
        raise FormatError("not a torch file: the zip archive is empty")
    top = directory.members[0].name.partition("/")[0] + "/"
    strange = next((m.name for m in directory.members if not m.name.startswith(top)), None)
    if strange is not None:
        raise FormatError(f"the archive has members in {top} and {strange[:80]!r} beside; torch's have one folder")
    if all(member.name != f"{top}data.pkl" for member in directory.members):
        raise FormatError(f"not a torch file: the zip archive has no {top}data.pkl")
    limits = {"data.pkl": MAX_PICKLE, RECORD: MAX_RECORD, **dict.fromkeys(_WORDS, _MOST_SMALL)}
    wanted = {f"{top}{name}": name for name in limits}
    members = sorted(directory.members, key=lambda member: member.header)
    for member in members:
        limit = limits.get(member.name.removeprefix(top), member.size)
        if member.size > limit:
            raise FormatError(f"{member.name!r} has {member.size} bytes; at most {limit} are read")
    spans = [
        (at, n + member.stored_size if member.name in wanted else min(n, _header_bytes(member)))
        for member, (at, n) in zip(members, header_spans(members, directory.begin, 0), strict=True)
        if everything or member.name in wanted
    ]
    window = Window(reader, spans, directory.begin)
    located = locate(window, members, None if everything else wanted)
    small = {wanted[m.name]: _content(window, m) for m in located if m.name in wanted}
    archive = _Archive(reader, directory, {m.name.removeprefix(top): m for m in members}, small)
    _check_words(archive)
    return archive


def _header_bytes(member: Member) -> int:
    """What is needed of a local header: all but the padding in front of the data, which can be long."""
    return LOCAL.size + len(member.raw_name) + ZIP64_ROOM


def _content(window: Window, member: Member) -> bytes:
    """All bytes of a member, which match its CRC-32."""
    if member.method == STORED:
        data = window.read(member.data, member.size)
    else:
        out = bytearray(member.size)
        inflate(window.reader, Extent(0, member.data, member.stored_size), Deflate(member.size), out)
        data = bytes(out)
    if member.crc32 and crc32(data) != member.crc32:
        raise ChecksumError(
            f"CRC-32 of {member.name!r} is {crc32(data):08x}, expected {member.crc32:08x}",
            offset=member.data,
            end=member.data + member.stored_size,
        )
    return data


def _check_words(archive: _Archive) -> None:
    """The version is known, and so is the order of bytes."""
    version = archive.text("version") or archive.text(".data/version")
    if version is None:
        raise FormatError("the archive does not say its version, which torch needs")
    if not version.isascii() or not version.isdigit() or int(version[:9]) not in _VERSIONS:
        raise UnsupportedFeatureError(f"the archive is of version {version[:40]!r}; 1 to 10 are known")
    order = archive.text("byteorder")
    if order not in (None, "little", "big"):
        raise FormatError(f"the archive's byteorder is {order[:40]!r}; little and big are known")


TORCH = Torch()
"""The format, as it stands in ``FORMATS``."""
