"""Zip archives for writing: the bytes of headers, directory and end records.

Plain zip 2.0 wherever it can be; ZIP64 fields only for members or offsets of 4 GiB and more, and end records
for 65,535 members and more. Dates are 1980-01-01, so that equal content gives equal files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from weightlift.errors import UnsupportedFeatureError
from weightlift.formats._zip import (
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    ENTRY,
    ENTRY_MAGIC,
    FLAG_DESCRIPTOR,
    FLAG_UTF8,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR,
    LOCATOR_MAGIC,
    MAX16,
    MAX32,
)

__all__ = ["ENTRY_CRC_AT", "LOCAL_CRC_AT", "NewMember", "aligned_extra", "encode_name", "end_records"]

LOCAL_CRC_AT, ENTRY_CRC_AT = 14, 16
"""Where the CRC-32 stands in a local header and in an entry."""
_DATE = 0x21  # 1980-01-01
_MADE_BY = 3 << 8  # Unix, for the file mode
_MODE = 0o100644 << 16
_ALIGNMENT_EXTRA = 0xD935  # as Android's zipalign writes it: u16 alignment, zeros
_ZIP64_EXTRA = 0x0001


@dataclass(frozen=True, slots=True)
class NewMember:
    """What the headers of a member are made from; the fields are those of ``_zip.Member``.

    With FLAG_DESCRIPTOR in ``flags`` CRC-32 and sizes follow the data, and ``stored_size`` may be an upper bound
    until the directory is written.
    """

    raw_name: bytes
    flags: int
    method: int
    crc32: int
    stored_size: int
    size: int
    header: int

    @property
    def wide(self) -> bool:
        """Whether its sizes need ZIP64."""
        return max(self.size, self.stored_size) >= MAX32

    @property
    def version(self) -> int:
        """Version needed to extract it, times 10."""
        return 45 if self.wide or self.header >= MAX32 else 20

    def local_header(self, extra: bytes = b"") -> bytes:
        """The local header with an extra field (after the ZIP64 one, if there must be one)."""
        crc, stored, size = self.crc32, self.stored_size, self.size
        if self.flags & FLAG_DESCRIPTOR:
            crc = stored = size = 0
        if self.wide:
            extra = struct.pack("<HHQQ", _ZIP64_EXTRA, 16, size, stored) + extra
            stored = size = MAX32
        return (
            LOCAL.pack(
                LOCAL_MAGIC, 45 if self.wide else 20, self.flags, self.method, 0, _DATE,
                crc, stored, size, len(self.raw_name), len(extra),
            )
            + self.raw_name
            + extra
        )  # fmt: skip

    def descriptor(self, wide: bool) -> bytes:
        """What follows the data of a member with FLAG_DESCRIPTOR whose local header was (not) ``wide``."""
        return struct.pack("<4sIQQ" if wide else "<4sIII", b"PK\7\x08", self.crc32, self.stored_size, self.size)

    def entry(self) -> bytes:
        """The directory entry."""
        large = [value for value in (self.size, self.stored_size, self.header) if value >= MAX32]
        extra = struct.pack(f"<HH{len(large)}Q", _ZIP64_EXTRA, 8 * len(large), *large) if large else b""
        return (
            ENTRY.pack(
                ENTRY_MAGIC, _MADE_BY | self.version, self.version, self.flags, self.method, 0, _DATE, self.crc32,
                min(self.stored_size, MAX32), min(self.size, MAX32), len(self.raw_name), len(extra),
                0, 0, 0, _MODE, min(self.header, MAX32),
            )
            + self.raw_name
            + extra
        )  # fmt: skip


def encode_name(name: str) -> tuple[bytes, int]:
    """A member's name in bytes, and the flag that its encoding needs."""
    try:
        raw = name.encode("ascii" if name.isascii() else "utf-8")
    except UnicodeEncodeError:
        raise UnsupportedFeatureError("zip cannot hold a name that is not Unicode text", tensor=name) from None
    if len(raw) > MAX16 or b"\0" in raw:
        raise UnsupportedFeatureError("zip cannot hold a name longer than 65,535 bytes or with NUL", tensor=name)
    return raw, 0 if name.isascii() else FLAG_UTF8


def aligned_extra(member: NewMember, before: int, alignment: int) -> bytes:
    """An extra field after which the data begins ``before`` bytes short of a multiple of ``alignment``."""
    begin = member.header + LOCAL.size + len(member.raw_name) + (20 if member.wide else 0) + 6
    padding = -(begin + before) % alignment
    return struct.pack("<HHH", _ALIGNMENT_EXTRA, 2 + padding, min(alignment, 64)) + bytes(padding)


def end_records(count: int, begin: int, size: int) -> bytes:
    """What follows a directory of ``count`` entries and ``size`` bytes at ``begin``."""
    end = END.pack(END_MAGIC, 0, 0, min(count, MAX16), min(count, MAX16), min(size, MAX32), min(begin, MAX32), 0)
    if count < MAX16 and max(begin, size) < MAX32:
        return end
    end64 = END64.pack(END64_MAGIC, END64.size - 12, _MADE_BY | 45, 45, 0, 0, count, count, size, begin)
    return end64 + LOCATOR.pack(LOCATOR_MAGIC, 0, begin + size, 1) + end
