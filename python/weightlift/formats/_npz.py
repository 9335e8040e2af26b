"""NumPy's ``.npz``: a zip archive of npy files.

Reading: the directory, the local headers and the npy headers give the table; a stored member is one extent, a
deflated one an extent to inflate, both under the archive's CRC-32. A member called ``NAME.npy`` is the tensor
``NAME``; what else the archive holds is listed in ``extra["other_members"]``. MXNet 2's archives are npz, and their
sparse arrays come whole (``_npz_sparse``).

Writing: members stored, their data aligned to 64 bytes (large arrays to pages) by an extra field in the local
header, CRC-32 patched in when the payload has been hashed. ``compression="deflate"`` goes through ``compress``.
A list becomes ``arr_0``, ``arr_1`` ... and a single array ``arr_0``, as ``np.savez`` calls them.

Specification: numpy.savez; PKWARE APPNOTE; docs/formats/npz.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightlift._checksum import crc32, crc32_combine
from weightlift._dtypes import DType
from weightlift._layout import KINDS, Extent, Layout, Piece, ReadOptions, TensorEntry, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._steps import Deflate
from weightlift._tree import SINGLE
from weightlift.errors import FormatError, UnsafeContentError
from weightlift.formats._npy import check_encodable, check_options
from weightlift.formats._npy_header import HEAD_BYTES, Header, header_length, parse_header
from weightlift.formats._npy_objects import check_repeated
from weightlift.formats._npz_deflate import NewArchive, archive_bound, write_archive
from weightlift.formats._npz_objects import member_objects
from weightlift.formats._npz_sparse import SparseMembers, sparse_members
from weightlift.formats._sparse_limit import too_large
from weightlift.formats._window import Window
from weightlift.formats._zip import (
    DEFLATED,
    END_MAGIC,
    LOCAL,
    LOCAL_MAGIC,
    STORED,
    Directory,
    Member,
    header_spans,
    locate,
    read_directory,
    spans_of,
)
from weightlift.formats._zip_write import ENTRY_CRC_AT, LOCAL_CRC_AT, NewMember, aligned_extra, end_records
from weightlift.protocols import Choose, Files, Reader

__all__ = ["NPZ"]

_SUFFIX = ".npy"
_HEADER_READ = 128  # the length of nearly every npy header
_AHEAD = 256  # of a member, for its npy header: that is as long as they get, but for structured types
_CRC32 = KINDS.index("crc32")
_ALIGNMENT = 64
_PAGE = 4096
_PAGE_FROM = 1 << 20  # arrays from this size on begin on a page, for direct reads and writes


@dataclass
class _Rows:
    """The table in the making: one row a tensor, in directory order."""

    names: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtype_index: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    crc: list[tuple[int, int, int]] = field(default_factory=list)
    dtypes: dict[DType, int] = field(default_factory=dict)
    pieces: dict[int, tuple[Piece, ...]] = field(default_factory=dict)
    strides: dict[int, tuple[int, ...]] = field(default_factory=dict)
    pickled: bool = False

    def add_entries(self, entries: Mapping[str, TensorEntry]) -> None:
        """The rows of arrays in a pickle."""
        self.pickled = True
        for name, entry in entries.items():
            row = len(self.names)
            self.names.append(name)
            self.shapes.append(entry.shape)
            self.dtype_index.append(self.dtypes.setdefault(entry.dtype, len(self.dtypes)))
            self.pieces[row] = entry.pieces
            if entry.strides is not None:
                self.strides[row] = entry.strides
            self.crc.append((0, 0, 0))
            self.offset.append(0)
            self.nbytes.append(0)

    def add(self, name: str, header: Header, member: Member) -> None:
        """The row of the array in ``member``."""
        row = len(self.names)
        self.names.append(name)
        self.shapes.append(header.shape)
        self.dtype_index.append(self.dtypes.setdefault(header.dtype, len(self.dtypes)))
        if header.fortran and header.strides is not None:
            self.strides[row] = header.strides
        data = member.data + header.nbytes
        if member.method == DEFLATED:
            inflate = Deflate(member.size, header.nbytes, member.crc32)
            self.pieces[row] = (Piece(Extent(0, member.data, member.stored_size), (inflate, *header.steps)),)
            self.crc.append((0, 0, 0))
        else:
            self.crc.append((_CRC32, member.crc32, header.crc32))
        if header.swap and member.method == STORED:
            self.pieces[row] = (Piece(Extent(0, data, header.data_nbytes), header.steps),)
        plain = row not in self.pieces
        self.offset.append(data if plain else 0)
        self.nbytes.append(header.data_nbytes if plain else 0)

    def add_entry(self, name: str, entry: TensorEntry) -> None:
        """The row of a sparse array, whose checksum is that of its parts."""
        assert entry.checksum is not None
        self.pieces[len(self.names)] = entry.pieces
        self.names.append(name)
        self.shapes.append(entry.shape)
        self.dtype_index.append(self.dtypes.setdefault(entry.dtype, len(self.dtypes)))
        self.offset.append(0)
        self.nbytes.append(0)
        self.crc.append((_CRC32, entry.checksum.value, 0))

    def table(self) -> TensorTable:
        """The columns."""
        table = TensorTable(
            self.names,
            tuple(self.dtypes),
            np.array(self.dtype_index, np.uint32),
            self.shapes,
            np.zeros(len(self.names), np.uint32),
            np.array(self.offset, np.uint64),
            np.array(self.nbytes, np.uint64),
            pieces=self.pieces,
            strides=self.strides,
        )
        checks = np.array(self.crc, np.uint32).reshape(-1, 3)
        table.check_kind = checks[:, 0].astype(np.uint8)
        table.check_value = checks[:, 1].copy()
        table.check_initial = checks[:, 2].copy()
        return table


class Npz:
    """The npz format; see the module."""

    name = "npz"
    suffixes: Sequence[str] = (".npz",)
    metadata_in_file = False

    def sniff(self, head: bytes, size: int) -> bool:
        """A zip archive whose first member is an npy file, or an empty one."""
        if head.startswith(END_MAGIC):
            return size == 22
        if not head.startswith(LOCAL_MAGIC) or len(head) < LOCAL.size:
            return False
        name_size = LOCAL.unpack_from(head)[-2]
        return head[LOCAL.size : LOCAL.size + name_size].endswith(_SUFFIX.encode())

    def read(self, files: Files, name: str) -> Layout:
        """One tensor for each npy member.

        A member of Python objects is a pickle; its arrays are tensors, too, below the member's name. One that is
        refused becomes an error in ``objects``, which is raised when that name is asked for: the other arrays of such
        an archive can be loaded by name.
        """
        return self.read_with(files, name, ReadOptions())

    def read_with(self, files: Files, name: str, options: ReadOptions) -> Layout:
        """Likewise; with ``skip_unsafe``, what is code is left out."""
        reader = files.open(name)
        with _located(reader):
            return _read_members(reader, name, read_directory(reader), None, skip_unsafe=options.skip_unsafe)

    def read_some(self, files: Files, name: str, choose: Choose) -> Layout | None:
        """The tensors that are chosen by name: the headers of no other members are read."""
        reader = files.open(name)
        with _located(reader):
            directory = read_directory(reader)
            known = [_key(member) for member in directory.members if member.name.endswith(_SUFFIX)]
            wanted = None if any(key.endswith("/format") for key in known) else choose(known)
            if wanted is None:  # not there, or there may be sparse arrays, which are several members
                return None
            members = {key + _SUFFIX for key in wanted}
            return _read_members(reader, name, directory, members, skip_unsafe=False)

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Arrays are stored as they are."""
        check_encodable("npz", specs, quantize)
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Members in the order of ``specs``, whose names become those that ``np.savez`` gives a list."""
        check_options("npz", options, compressions=("deflate",))
        structure = _rename(specs, options.structure)
        archive = NewArchive.of(specs)
        packing = _pack_stored(specs, archive, name) if options.compression is None else _pack_deflated(archive, name)
        packing.structure = structure
        return packing

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """CRC-32 into every local header, and the directory again with all of them."""
        if packing.compressed:
            return {}
        state: _Sealing = packing.state
        directory = bytearray(state.directory)
        patches: list[tuple[int, bytes]] = []
        for header, nbytes, local_at, entry_at, data_crc in zip(
            state.archive.headers, state.archive.nbytes, state.local_at, state.entry_at, checksums.crc32, strict=True
        ):
            crc = crc32_combine(crc32(header), int(data_crc), nbytes).to_bytes(4, "little")
            patches.append((local_at, crc))
            directory[entry_at : entry_at + 4] = crc
        patches.append((state.directory_at, bytes(directory)))
        return {0: patches}

    def compress(
        self,
        packing: Packing,
        payload: Iterable[tuple[int, Any]],
        sink: Callable[[bytes], object],
        *,
        threads: int = 0,
    ) -> Checksums:
        """Write the whole archive of a ``compressed`` packing, deflated; see ``write_archive``."""
        return write_archive(packing.state, payload, sink, threads=threads)

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise FormatError("npz has no manifest")


# --- reading --------------------------------------------------------------------------------------
@contextmanager
def _located(reader: Reader) -> Iterator[None]:
    """Errors of the format say which file they are of."""
    try:
        yield
    except FormatError as error:
        error.locate(path=reader.name)
        raise


def _read_members(
    reader: Reader, name: str, directory: Directory, wanted: Set[str] | None, *, skip_unsafe: bool
) -> Layout:
    """The layout of the members called ``wanted``, or of all."""
    members = sorted(directory.members, key=lambda member: member.header)
    if wanted is None:
        spans = header_spans(members, directory.begin, _AHEAD)
    else:
        spans = spans_of(members, directory.begin, _AHEAD, wanted)
    window = Window(reader, spans, directory.begin)
    headers: dict[str, bytes] = {}
    for member in locate(window, members, wanted):
        if member.name.endswith(_SUFFIX):
            headers[member.name] = _npy_header(window, member)
    read = directory.members if wanted is None else [m for m in directory.members if m.name in wanted]
    return _layout(name, read, headers, window, skip_unsafe=skip_unsafe).validate([reader.size])


def _npy_header(window: Window, member: Member) -> bytes:
    """The npy header at the start of a member."""
    try:
        if member.method == STORED:
            head = window.read(member.data, min(member.size, _HEADER_READ))
        else:
            head = _inflate_head(window, member)
        length = header_length(head)
        if length > member.size:
            raise FormatError(f"npy header of {length} bytes in a zip member of {member.size}")
        if length > len(head) and member.method == STORED:
            head = window.read(member.data, length)
        if length > len(head):
            raise FormatError(f"npy header cut off after {len(head)} of {length} bytes")
    except FormatError as error:
        raise _place(error, member) from None
    return head[:length]


def _inflate_head(window: Window, member: Member) -> bytes:
    """The npy header of a deflated member; inflates no more than that."""
    at, end = member.data, member.data + member.stored_size
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    made, wanted = b"", HEAD_BYTES
    while len(made) < wanted and not decoder.eof:
        waiting = decoder.unconsumed_tail
        if not waiting:
            # Deflate expands what it cannot compress by far less than twice; only empty blocks could need more.
            if at >= min(end, member.data + 2 * wanted + _AHEAD):
                break
            waiting = window.read(at, min(_AHEAD, end - at))
            at += len(waiting)
        try:
            made += decoder.decompress(waiting, wanted - len(made))
        except zlib.error as error:
            raise FormatError(f"malformed deflate stream: {error}") from None
        if len(made) == HEAD_BYTES == wanted:
            wanted = header_length(made)
    return made


def _layout(
    name: str, members: Sequence[Member], headers: Mapping[str, bytes], window: Window, *, skip_unsafe: bool
) -> Layout:
    """The layout, with tensors in directory order; a sparse array where the first of its members is."""
    rows = _Rows()
    objects: dict[str, object] = {}
    others: list[str] = []
    nodes: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    sparse = dict(sparse_members(members, headers, window))
    whole = _whole_ones(sparse, objects, window.reader.size)
    for member in members:
        header = headers.get(member.name)
        if header is None:
            others.append(member.name)
            continue
        key = _key(member)
        array = key.rpartition("/")[0]
        if array in sparse and member.name in sparse[array].members:
            if array in whole:
                rows.add_entry(array, whole.pop(array))
                nodes[array] = array
                continue
            if sparse[array].entry is not None and array not in objects:
                continue
            if key == f"{array}/format":
                objects.setdefault(key, sparse[array].kind)
                continue
        try:
            parsed = parse_header(header)
            if parsed.nbytes + parsed.data_nbytes != member.size:
                raise FormatError(
                    f"zip member of {member.size} bytes holds a header of {parsed.nbytes} and an array of "
                    f"{parsed.data_nbytes}: {parsed.dtype} of shape {parsed.shape}"
                )
        except UnsafeContentError as error:
            _place(error, member)
            try:
                walk = member_objects(window.reader, member, header, key, skip_unsafe=skip_unsafe)
                check_repeated(walk.tensors, window.reader.size)
            except FormatError as refused:
                objects[key] = _place(refused, member).locate(path=window.reader.name).with_traceback(None)
                continue
            rows.add_entries(walk.tensors)
            objects.update(walk.objects)
            skipped.update(walk.skipped)
            nodes[key] = walk.structure
            continue
        except FormatError as error:
            raise _place(error, member) from None
        rows.add(key, parsed, member)
        nodes[key] = key
    kinds = {array: found.kind for array, found in sparse.items() if found.entry is not None and array not in objects}
    facts = {"other_members": others, "skipped": skipped, "sparse": kinds}
    return Layout(
        "npz", rows.table(), (name,), objects=objects, extra={k: fact for k, fact in facts.items() if fact},
        structure={"dict": [list(item) for item in nodes.items()]} if rows.pickled else None, shared=rows.pickled,
    )  # fmt: skip


def _whole_ones(sparse: Mapping[str, SparseMembers], objects: dict[str, object], size: int) -> dict[str, TensorEntry]:
    """The sparse arrays that can be made whole; of the others ``objects`` gets the reason."""
    found = {array: members.entry for array, members in sparse.items() if members.entry is not None}
    refused = too_large({array: entry.nbytes for array, entry in found.items()}, size)
    objects |= refused
    return {array: entry for array, entry in found.items() if array not in refused}


def _key(member: Member) -> str:
    return member.name[: -len(_SUFFIX)]


def _place(error: FormatError, member: Member) -> FormatError:
    error.locate(tensor=_key(member), offset=member.data, end=member.data + member.stored_size)
    return error


# --- writing --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Sealing:
    """What ``seal`` needs: where the CRC-32 fields are, in the file and in the directory."""

    archive: NewArchive
    local_at: list[int]
    entry_at: list[int]
    directory_at: int
    directory: bytes


def _rename(specs: TensorSpecs, structure: Any) -> Any:
    """Call the rows of a single tensor or of a flat list as ``np.savez`` does; returns the structure in new names."""
    if structure == SINGLE:
        kind, old = "", [SINGLE]
    elif isinstance(structure, dict) and structure.keys() <= {"list", "tuple"}:
        ((kind, old),) = structure.items()
    else:
        return structure
    if not all(isinstance(name, str) for name in old):
        return structure
    new = {name: f"arr_{i}" for i, name in enumerate(old)}
    specs.names = [new[name] for name in specs.names]
    return {kind: list(new.values())} if kind else specs.names[0]


def _pack_stored(specs: TensorSpecs, archive: NewArchive, name: str) -> Packing:
    """Local header, npy header and data of each member, then the directory."""
    literals: list[tuple[int, bytes]] = []
    offsets: list[int] = []
    directory = bytearray()
    entry_at: list[int] = []
    local_at: list[int] = []
    at = 0
    for (raw_name, flags), header, nbytes in zip(archive.names, archive.headers, archive.nbytes, strict=True):
        size = len(header) + nbytes
        member = NewMember(raw_name, flags, STORED, 0, size, size, at)
        before, alignment = (len(header), _PAGE) if nbytes >= _PAGE_FROM else (0, _ALIGNMENT)
        head = member.local_header(aligned_extra(member, before, alignment)) + header
        literals.append((at, head))
        local_at.append(at + LOCAL_CRC_AT)
        entry_at.append(len(directory) + ENTRY_CRC_AT)
        directory += member.entry()
        offsets.append(at + len(head))
        at += len(head) + nbytes
    tail = bytes(directory) + end_records(len(specs), at, len(directory))
    literals.append((at, tail))
    rows = np.arange(len(specs), dtype=np.uint32)
    placements = Placements.whole(
        rows, np.zeros(len(specs), np.uint32), np.array(offsets, np.uint64), specs.nbytes.copy()
    )
    state = _Sealing(archive, local_at, entry_at, at, bytes(directory))
    file = PackedFile(name, at + len(tail), tuple(literals))
    return Packing([file], placements, sidecar=True, crc32=True, state=state)


def _pack_deflated(archive: NewArchive, name: str) -> Packing:
    """The size is an upper bound: it is known only when all is compressed."""
    none32, none64 = np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    placements = Placements.whole(none32, none32, none64, none64)
    file = PackedFile(name, archive_bound(archive))
    return Packing([file], placements, sidecar=True, crc32=True, compressed=True, state=archive)


NPZ = Npz()
"""The format, as it stands in ``FORMATS``."""
