"""Torch archives for writing.

Members are stored: ``archive/data.pkl``, ``archive/byteorder``, our own record, ``archive/data/0``, ``data/1`` ... (one
a tensor, aligned to 64 bytes, large ones to pages), ``archive/version``. There is no ``.format_version``: that record
promises the byte layout of torch's own writer, from which torch may compute offsets without looking.

Our record, ``archive/.weightlift/tensors.json``, is ignored by torch. It holds what torch's format has no room for:

- ``crc32c``: of each tensor's bytes, eight hexadecimal digits each, in the order of the pickle;
- ``pickle``: CRC-32C of ``data.pkl``, so that the sums are never taken for those of another object;
- ``names``: of the tensors, in that order, where the paths in the object do not give them;
- ``metadata``: the user's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weightlift._checksum import crc32, crc32c, to_hex
from weightlift._json import loads
from weightlift._layout import Layout
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._tree import unflatten
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._storable import refuse, unstorable
from weightlift.formats._torch_pickle import KINDS, StorageRow, write_pickle
from weightlift.formats._torch_tree import names_in, renamed
from weightlift.formats._zip import STORED
from weightlift.formats._zip_write import LOCAL_CRC_AT, NewMember, aligned_extra, end_records

__all__ = ["MAX_RECORD", "RECORD", "apply_record", "pack_torch", "refuse_types", "seal_torch", "some_checksums"]

RECORD = ".weightlift/tensors.json"
MAX_RECORD = 256 << 20
_TOP = "archive/"
_ALIGNMENT = 64
_PAGE = 4096
_PAGE_FROM = 1 << 20


def refuse_types(specs: TensorSpecs, quantize: object) -> None:
    """UnsupportedFeatureError for what torch has no type for, with every tensor's name."""
    if quantize:
        raise UnsupportedFeatureError("torch files have no such quantisation; use format='tfjs', or dtype='float16'")
    held = unstorable(specs, lambda dtype: dtype.name in KINDS)
    refuse("torch", held, f", or use format='npz'; the types are {', '.join(KINDS)}")


@dataclass
class _Member:
    """A member in the making: what its headers say, and where they are."""

    member: NewMember
    local_at: int
    data_at: int


@dataclass(frozen=True)
class _Sealing:
    """What ``seal`` needs: the members by row and the others, the record, and where the directory is."""

    members: Sequence[_Member]
    rows: Mapping[int, int]
    record: dict[str, Any] | None
    record_number: int
    order: Sequence[int]
    tail_at: int


def pack_torch(specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
    """Where everything goes, in one file."""
    structure = options.structure
    if structure is None:
        structure = {"dict": [[n, n] for n in specs.names]}
    unflatten(structure, dict.fromkeys(specs.names))  # FormatError if it is not of these tensors
    number = {n: i for i, n in enumerate(specs.names)}
    sizes = specs.nbytes.tolist()

    def row(tensor: str) -> StorageRow:
        i = number[tensor]
        return StorageRow(str(specs.same.get(i, i)), specs.dtypes[i], specs.shapes[i], sizes[i])

    pickle = write_pickle(structure, row)
    order, names = names_in(structure) if options.structure is not None else (specs.names, specs.names)
    record = _record(pickle, order, names, options)
    archive = _Archive()
    archive.add("data.pkl", pickle)
    archive.add("byteorder", b"little")
    record_number = len(archive.members)
    if record is not None:
        archive.add(RECORD, _dump(record))
    rows: dict[int, int] = {}
    offsets = []
    stored = [i for i in range(len(specs)) if i not in specs.same]
    for i in stored:
        rows[i] = len(archive.members)
        offsets.append(archive.room(f"data/{i}", sizes[i]))
    archive.add("version", b"3\n")
    tail_at = archive.at
    archive.literals.append((tail_at, archive.tail()))
    total = tail_at + len(archive.literals[-1][1])
    placements = Placements.whole(
        np.array(stored, np.uint32),
        np.zeros(len(stored), np.uint32),
        np.array(offsets, np.uint64),
        specs.nbytes[stored].copy(),
    )
    state = _Sealing(archive.members, rows, record, record_number, [number[n] for n in order], tail_at)
    file = PackedFile(name, total, tuple(archive.literals))
    return Packing([file], placements, crc32=True, state=state, stored_once=True)


class _Archive:
    """Members one after another, and the bytes that are not payload."""

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.literals: list[tuple[int, bytes]] = []
        self.at = 0

    def add(self, name: str, data: bytes) -> None:
        """A member whose content is known."""
        self.room(name, len(data), data)

    def room(self, name: str, nbytes: int, data: bytes | None = None) -> int:
        """A member of ``nbytes`` bytes; returns where they begin."""
        crc = 0 if data is None else crc32(data)
        member = NewMember(f"{_TOP}{name}".encode(), 0, STORED, crc, nbytes, nbytes, self.at)
        alignment = _PAGE if nbytes >= _PAGE_FROM and data is None else _ALIGNMENT
        head = member.local_header(aligned_extra(member, 0, alignment))
        begin = self.at + len(head)
        self.members.append(_Member(member, self.at + LOCAL_CRC_AT, begin))
        self.literals.append((self.at, head + (data or b"")))
        self.at = begin + nbytes
        return begin

    def tail(self) -> bytes:
        """The directory and its end records."""
        return _tail(self.members, self.at)


def _tail(members: Sequence[_Member], at: int) -> bytes:
    directory = b"".join(m.member.entry() for m in members)
    return directory + end_records(len(members), at, len(directory))


def seal_torch(packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
    """The CRC-32 of every member, and our checksums."""
    state: _Sealing = packing.state
    members = list(state.members)
    sums = {member: int(checksums.crc32[row]) for row, member in state.rows.items()}
    patches: list[tuple[int, bytes]] = []
    if state.record is not None and "crc32c" in state.record:
        text = to_hex(checksums.crc32c[np.asarray(state.order, np.intp)])
        data = _dump({**state.record, "crc32c": text})
        patches.append((members[state.record_number].data_at, data))
        sums[state.record_number] = crc32(data)
    for number, crc in sums.items():
        found = members[number]
        members[number] = replace(found, member=replace(found.member, crc32=crc))
        patches.append((found.local_at, crc.to_bytes(4, "little")))
    patches.append((state.tail_at, _tail(members, state.tail_at)))
    return {0: patches}


# --- our record -------------------------------------------------------------------------------------
def _record(pickle: bytes, order: Sequence[str], names: Sequence[str], options: PackOptions) -> dict[str, Any] | None:
    """The record, its checksums not known yet; None when there is nothing to say."""
    record: dict[str, Any] = {"weightlift": 1}
    if options.checksums:
        record["crc32c"] = "0" * 8 * len(order)
    if list(order) != list(names):
        record["names"] = list(order)
    if options.metadata:
        record["metadata"] = dict(options.metadata)
    return {**record, "pickle": f"{crc32c(pickle):08x}"} if len(record) > 1 else None


def _dump(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise UnsupportedFeatureError(f"the metadata cannot be written as JSON: {error}") from None


def apply_record(layout: Layout, data: bytes, pickle: bytes) -> None:
    """Give a layout the names, checksums and metadata that our record holds; what does not fit is damage."""
    record = _parse(data)
    if record.get("pickle") != f"{crc32c(pickle):08x}":
        layout.damaged = f"{RECORD} is that of another data.pkl: the file was damaged, or put together of two"
        return
    table = layout.tensors
    names = record.get("names")
    if names is not None:
        fits = isinstance(names, list) and len(names) == len(table) and all(isinstance(n, str) for n in names)
        if not fits or len(set(names)) != len(names):
            raise FormatError(f"{RECORD} does not name each of {len(table)} tensors")
        layout.structure = renamed(layout.structure, dict(zip(table.names, names, strict=True)))
        table.names = names
    text = record.get("crc32c")
    if text is not None and not table.set_crc32c(text):
        raise FormatError(f"{RECORD} does not hold a checksum for each of {len(table)} tensors")
    metadata = record.get("metadata", {})
    layout.metadata = metadata if isinstance(metadata, dict) else {}


def some_checksums(data: bytes, pickle: bytes, rows: Sequence[int], total: int) -> str | None:
    """The checksums that our record has for these of ``total`` tensors, "" if it has none.

    None: the record must be compared with all tensors, because it does not fit, or calls them by other names.
    """
    record = _parse(data)
    text = record.get("crc32c", "")
    if record.get("pickle") != f"{crc32c(pickle):08x}" or record.get("names") is not None or not isinstance(text, str):
        return None
    if text and len(text) != 8 * total:
        return None
    return "".join(text[8 * row : 8 * row + 8] for row in rows)


def _parse(data: bytes) -> dict[str, Any]:
    record = loads(data, what=RECORD, max_bytes=MAX_RECORD)
    if not isinstance(record, dict) or record.get("weightlift") != 1:
        raise FormatError(f"{RECORD} is not a record of version 1")
    return record
