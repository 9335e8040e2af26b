"""Zip archives for reading, as a validated table of members.

``read_directory`` reads the central directory from the end of the file (end record, ZIP64 records, entries);
``locate`` reads the local headers, which say where each member's data begins. Nothing else is read and
nothing is inflated. The archive is taken literally, and refused where two readers could see two things in it:

- the directory ends where its end record begins (no bytes before the archive, no hidden directory);
- counts, sizes and offsets agree between the end records, and with the entries;
- a local header repeats its entry's name, method and flags, and its sizes and CRC-32 unless they follow the
  data (flag bit 3);
- no two members have one name or share bytes; none reaches into the directory or out of the file;
- no encryption, no second disk, no symbolic link, and no method but "stored" and "deflate".

Names are keys, never paths: ``../x`` is a name like any other. Specification: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from weightlift._json import impostor
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._window import Window
from weightlift.protocols import Reader, SupportsPreload

__all__ = [
    "DEFLATED",
    "STORED",
    "ZIP64_ROOM",
    "Directory",
    "Member",
    "header_spans",
    "locate",
    "read_directory",
    "spans_of",
]

STORED, DEFLATED = 0, 8
LOCAL_MAGIC, ENTRY_MAGIC, END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
END64_MAGIC, LOCATOR_MAGIC = b"PK\6\6", b"PK\6\7"

LOCAL = struct.Struct("<4sHHHHHIIIHH")
"""Magic, version needed, flags, method, time, date, CRC-32, stored size, size, name length, extra length."""
ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
"""Magic, version made by, version needed, flags ... extra length as LOCAL, then comment length, disk,
internal and external attributes, local header offset."""
END = struct.Struct("<4sHHHHIIH")
"""Magic, disk, directory's disk, entries here, entries, directory size, directory offset, comment length."""
END64 = struct.Struct("<4sQHHIIQQQQ")
"""Magic, size of the rest, version made by, version needed, disk, directory's disk, entries here, entries,
directory size, directory offset."""
LOCATOR = struct.Struct("<4sIQI")
"""Magic, end record's disk, its offset, disks."""

FLAG_DESCRIPTOR, FLAG_UTF8 = 0x0008, 0x0800
_FLAG_ENCRYPTED = 0x2041  # traditional, strong, masked headers
_FLAG_PATCH = 0x0020
_LOCAL_FLAGS = _FLAG_ENCRYPTED | _FLAG_PATCH | FLAG_DESCRIPTOR | FLAG_UTF8  # must be the same in both places
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
_MAX_DIRECTORY = 1 << 28
_HEAD = 4096
_TAIL = 1 << 17  # read where each read costs a round trip: holds the directory of a thousand members, too
_MAX_RATIO = 1032  # deflate cannot make more of one byte
_ZIP64_EXTRA = 0x0001
ZIP64_ROOM = 20  # bytes of the extra field that most local headers have, if any; padding comes behind it
_LONG_HEADER = 1 << 13  # headers may be padded so that data begins on a page
_MOST_WITH_HEADERS = 8 << 20  # bytes of members that are fetched together with their headers
_UNIX, _TYPE_MASK, _SYMLINK = 3, 0o170000, 0o120000


@dataclass(slots=True)
class Member:
    """One file in the archive.

    Attributes:
        name: As the archive has it.
        raw_name: Its bytes.
        method: STORED or DEFLATED.
        flags: General purpose bits.
        crc32: Of the uncompressed bytes.
        stored_size: Bytes in the archive.
        size: Bytes when uncompressed.
        header: Where its local header begins.
        data: Where its data begins; known after ``locate``.
    """

    name: str
    raw_name: bytes
    method: int
    flags: int
    crc32: int
    stored_size: int
    size: int
    header: int
    data: int = -1


@dataclass(frozen=True, slots=True)
class Directory:
    """All members in directory order, and where the directory begins: no member reaches beyond."""

    members: list[Member]
    begin: int


@dataclass(frozen=True, slots=True)
class _End:
    """What the end records say: entries, and the byte range of the directory."""

    count: int
    begin: int
    size: int


def read_directory(reader: Reader, *, tail: int | None = None) -> Directory:
    """The directory; FormatError names the byte range of what is wrong.

    Args:
        reader: The archive.
        tail: Bytes in which its end record must be; default: wherever a comment can have moved it.
    """
    end = _read_end(reader, tail)
    return Directory(_parse_directory(reader.read_at(end.begin, end.size), end), end.begin)


# --- the end of the file --------------------------------------------------------------------------
def _read_end(reader: Reader, tail_size: int | None) -> _End:
    """The end record and, if there is one, its ZIP64 form."""
    size = reader.size
    if tail_size is None:
        tail_size = _TAIL if isinstance(reader, SupportsPreload) else MAX16 + END.size
    tail_size = min(size, tail_size)
    tail_at = size - tail_size
    tail = reader.read_at(tail_at, tail_size)
    at = tail_at + _find_end(tail, reader)
    disk, entries_disk, here, count, dir_size, dir_at, _ = END.unpack_from(tail, at - tail_at)[1:]
    dir_end = at
    if at >= LOCATOR.size:
        locator = reader.read_at(at - LOCATOR.size, LOCATOR.size)
        if locator.startswith(LOCATOR_MAGIC):
            plain = (disk, entries_disk, here, count, dir_size, dir_at)
            dir_end, (disk, entries_disk, here, count, dir_size, dir_at) = _read_end64(
                reader, locator, at - LOCATOR.size, plain
            )
    if disk or entries_disk or here != count:
        raise UnsupportedFeatureError("zip archive split over several disks", offset=at, end=size)
    if dir_at + dir_size != dir_end:
        raise FormatError(
            f"zip directory of {dir_size} bytes at {dir_at} does not end at its end record at {dir_end}: "
            "bytes were put before the archive, or it is cut",
            offset=at,
            end=size,
        )
    if count * ENTRY.size > dir_size:
        raise FormatError(f"zip directory of {dir_size} bytes cannot hold {count} entries", offset=at, end=size)
    if dir_size > _MAX_DIRECTORY:
        raise UnsupportedFeatureError(
            f"zip directory of {dir_size} bytes; at most {_MAX_DIRECTORY} are read", offset=dir_at, end=dir_end
        )
    return _End(count, dir_at, dir_size)


def _find_end(tail: bytes, reader: Reader) -> int:
    """Where in ``tail`` the end record begins: the only one whose comment reaches the end of the file."""
    size = reader.size
    found = []
    at = tail.rfind(END_MAGIC)
    while at >= 0:
        if at + END.size <= len(tail) and at + END.size + END.unpack_from(tail, at)[-1] == len(tail):
            found.append(at)
        at = tail.rfind(END_MAGIC, 0, at + len(END_MAGIC) - 1)
    if not found:
        instead = impostor(reader.read_at(0, min(_HEAD, size)))
        reason = "no end record; is the file cut off?" if instead is None else f"it is {instead}"
        raise FormatError(f"not a zip archive: {reason}", offset=size - len(tail), end=size)
    if len(found) > 1:
        raise FormatError("ambiguous zip archive: several end records", offset=size - len(tail) + found[-1], end=size)
    return found[0]


def _read_end64(
    reader: Reader, locator: bytes, at: int, plain: tuple[int, ...]
) -> tuple[int, tuple[int, int, int, int, int, int]]:
    """Where the ZIP64 end record begins, and the fields of END that it gives."""
    _, disk, record_at, disks = LOCATOR.unpack(locator)
    if disk or disks > 1:
        raise UnsupportedFeatureError("zip archive split over several disks", offset=at, end=at + LOCATOR.size)
    if record_at + END64.size > at:
        raise FormatError(f"zip64 end record at {record_at} does not lie before its locator", offset=at)
    magic, rest, _, _, *fields = END64.unpack(reader.read_at(record_at, END64.size))
    if magic != END64_MAGIC or record_at + 12 + rest != at:
        raise FormatError("malformed zip64 end record", offset=record_at, end=at)
    limits = (MAX16, MAX16, MAX16, MAX16, MAX32, MAX32)
    for old, new, limit in zip(plain, fields, limits, strict=True):
        if old not in (new, limit):
            raise FormatError(f"zip end records disagree: {old} and {new}", offset=record_at, end=at)
    disk, entries_disk, here, count, dir_size, dir_at = fields
    return record_at, (disk, entries_disk, here, count, dir_size, dir_at)


# --- the directory --------------------------------------------------------------------------------
def _parse_directory(data: bytes, end: _End) -> list[Member]:
    members: list[Member] = []
    names: set[str] = set()
    at = 0
    for _ in range(end.count):
        try:
            member, following = _parse_entry(data, at, end.begin)
            if member.name in names:
                raise FormatError(f"two zip members are called {member.name!r}")
        except FormatError as error:
            error.locate(offset=end.begin + at, end=end.begin + end.size)
            raise
        names.add(member.name)
        members.append(member)
        at = following
    if at != len(data):
        raise FormatError(
            f"{len(data) - at} bytes after the last of {end.count} zip entries",
            offset=end.begin + at,
            end=end.begin + len(data),
        )
    return members


def _parse_entry(data: bytes, at: int, directory: int) -> tuple[Member, int]:
    """The entry at ``at``, and where the next one begins."""
    if at + ENTRY.size > len(data) or data[at : at + 4] != ENTRY_MAGIC:
        raise FormatError("malformed zip entry")
    (
        _, made_by, _, flags, method, _, _, crc, stored, size,
        name_size, extra_size, comment_size, disk, _, attributes, header,
    ) = ENTRY.unpack_from(data, at)  # fmt: skip
    name_at = at + ENTRY.size
    extra_at = name_at + name_size
    following = extra_at + extra_size + comment_size
    if following > len(data):
        raise FormatError("zip entry reaches out of the directory")
    raw_name = data[name_at:extra_at]
    name = _decode_name(raw_name, flags)
    if MAX32 in (stored, size, header) or disk == MAX16:
        size, stored, header, disk = _zip64_fields(data[extra_at : extra_at + extra_size], size, stored, header, disk)
    if disk:
        raise UnsupportedFeatureError(f"zip member {name!r} is on another disk")
    if flags & _FLAG_ENCRYPTED:
        raise UnsupportedFeatureError(f"zip member {name!r} is encrypted")
    if method not in (STORED, DEFLATED) or flags & _FLAG_PATCH:
        raise UnsupportedFeatureError(f"zip member {name!r} uses method {method}; stored (0) and deflate (8) are known")
    if made_by >> 8 == _UNIX and (attributes >> 16) & _TYPE_MASK == _SYMLINK:
        raise UnsafeContentError(f"zip member {name!r} is a symbolic link")
    if method == STORED and stored != size:
        raise FormatError(f"stored zip member {name!r} has {stored} bytes but claims {size}")
    if method == DEFLATED and size > stored * _MAX_RATIO:
        raise FormatError(f"zip member {name!r} claims {size} bytes from {stored}, more than deflate can hold")
    if header + LOCAL.size + name_size + stored > directory:
        raise FormatError(f"zip member {name!r} of {stored} bytes at {header} reaches out of the archive")
    return Member(name, raw_name, method, flags, crc, stored, size, header), following


def _decode_name(raw: bytes, flags: int) -> str:
    """UTF-8 where the flag says so, else code page 437, as the specification has it."""
    try:
        name = raw.decode("utf-8" if flags & FLAG_UTF8 else "cp437")
    except UnicodeDecodeError:
        raise FormatError(f"zip member name is not UTF-8: {raw[:80]!r}") from None
    if not name or "\0" in name:
        raise FormatError(f"zip member name is empty or holds NUL: {name[:80]!r}")
    return name


def _zip64_fields(extra: bytes, size: int, stored: int, header: int, disk: int) -> tuple[int, int, int, int]:
    """The fields that are too large for the entry, from its ZIP64 extra field (those as they are, without one)."""
    body = _extra_field(extra, _ZIP64_EXTRA)
    if body is None:
        return size, stored, header, 0 if disk == MAX16 else disk
    wanted = [size, stored, header].count(MAX32)
    if len(body) < 8 * wanted + 4 * (disk == MAX16):
        raise FormatError("zip64 extra field is too short")
    wide = iter(struct.unpack_from(f"<{wanted}Q", body))
    size, stored, header = (next(wide) if value == MAX32 else value for value in (size, stored, header))
    return size, stored, header, int.from_bytes(body[8 * wanted :][:4], "little") if disk == MAX16 else disk


def _extra_field(extra: bytes, wanted: int) -> bytes | None:
    """The body of the first extra field of a kind."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


# --- local headers --------------------------------------------------------------------------------
def header_spans(members: Sequence[Member], end: int, ahead: int) -> list[tuple[int, int]]:
    """Where to read ahead: (offset, nbytes) of each local header and of up to ``ahead`` bytes of data behind it.

    ``members`` are sorted by ``header``. What lies between a header and the next one, or the directory at ``end``, less
    the data is the length of the header, or a little more where a descriptor follows the data. This is a guess,
    which costs time where there is something else between members; ``locate`` knows.
    """
    spans = []
    for member, following in zip(members, [*(m.header for m in members), end][1:], strict=True):
        least = LOCAL.size + len(member.raw_name)
        length = following - member.header - member.stored_size
        if not least <= length <= _LONG_HEADER:
            length = least + ZIP64_ROOM
        spans.append((member.header, length + min(ahead, member.stored_size)))
    return spans


def spans_of(members: Sequence[Member], end: int, ahead: int, wanted: Container[str]) -> list[tuple[int, int]]:
    """As ``header_spans``, of the members called ``wanted`` only; with all of their data, if that is little.

    One request then brings a tensor with its headers. Much data is better read into place.
    """
    chosen = [(s, m) for s, m in zip(header_spans(members, end, ahead), members, strict=True) if m.name in wanted]
    whole = [(at, n - min(ahead, m.stored_size) + m.stored_size) for (at, n), m in chosen]
    return whole if sum(n for _, n in whole) <= _MOST_WITH_HEADERS else [span for span, _ in chosen]


def locate(window: Window, members: Sequence[Member], wanted: Container[str] | None = None) -> Iterator[Member]:
    """Each member in turn, once its local header has been read and its ``data`` is known.

    ``members`` are sorted by ``header``; so are the reads. With ``wanted``, the headers of members by other names are
    neither read nor yielded. FormatError where a header contradicts its entry or members overlap.
    """
    previous, previous_end = "", 0
    for member in members:
        if member.header < previous_end:
            raise FormatError(
                f"zip members {previous!r} and {member.name!r} overlap", offset=member.header, end=previous_end
            )
        # No member ends before this, whatever its local header says.
        previous, previous_end = member.name, member.header + LOCAL.size + len(member.raw_name) + member.stored_size
        if wanted is None or member.name in wanted:
            _locate(window, member)
            previous_end = member.data + member.stored_size
            yield member


def _locate(window: Window, member: Member) -> None:
    head = window.read(member.header, LOCAL.size + len(member.raw_name))
    magic, _, flags, method, _, _, crc, stored, size, name_size, extra_size = LOCAL.unpack_from(head)
    problem = ""
    if magic != LOCAL_MAGIC:
        problem = "has no local header"
    elif name_size != len(member.raw_name) or head[LOCAL.size :] != member.raw_name:
        problem = "has another name in its local header"
    elif method != member.method or (flags ^ member.flags) & _LOCAL_FLAGS:
        problem = "has another method or other flags in its local header"
    else:
        if MAX32 in (stored, size):
            extra = window.read(member.header + len(head), extra_size)
            size, stored, _, _ = _zip64_fields(extra, size, stored, 0, 0)
        given, expected = (crc, stored, size), (member.crc32, member.stored_size, member.size)
        if given != expected and not (flags & FLAG_DESCRIPTOR and _follows_data(given, expected)):
            problem = f"has CRC-32 and sizes {given} in its local header, {expected} in the directory"
    if problem:
        raise FormatError(f"zip member {member.name!r} {problem}", offset=member.header, end=member.header + len(head))
    member.data = member.header + len(head) + extra_size
    if member.data + member.stored_size > window.end:
        raise FormatError(
            f"zip member {member.name!r} reaches into the directory",
            offset=member.data,
            end=member.data + member.stored_size,
        )


def _follows_data(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether what a local header with a data descriptor gives is right or left open."""
    return all(a == b or a in (0, MAX32) for a, b in zip(given, expected, strict=True))
