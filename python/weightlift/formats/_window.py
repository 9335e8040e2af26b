"""Small reads at rising offsets, in few large ones.

Archives scatter their headers among the data. A window reads ahead as far as headers lie close together (small
members), and only a little where they do not (large ones): a file of a hundred thousand small arrays
takes some reads of a mebibyte, one of ten large arrays ten reads of four kibibytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from weightlift.errors import FormatError
from weightlift.protocols import Reader, SupportsPreload

__all__ = ["Window"]

_LEAST = 4096  # what a read costs no less than
_CLOSE = 1 << 16  # bytes that are cheaper to read than to skip
_LEAST_REMOTE = 4096 + 512  # holds a header that is padded so that its data begins on a page
_CLOSE_REMOTE = 1 << 14
_MOST = 1 << 20
_MOST_PRELOADED = 64 << 20


class Window:
    """A view of ``reader`` up to ``end`` (exclusive) that will be asked for bytes near each of ``starts``.

    ``starts`` is sorted. Not thread-safe.
    """

    def __init__(self, reader: Reader, starts: Sequence[int], end: int) -> None:
        self.reader = reader
        self.end = end
        self._starts = starts
        self._at = 0
        self._data = b""
        self._least, self._close = _LEAST, _CLOSE
        if isinstance(reader, SupportsPreload):
            self._least, self._close = _LEAST_REMOTE, _CLOSE_REMOTE
            reader.preload(self._runs())

    def _runs(self) -> list[tuple[int, int]]:
        """What will be read, if it is not too much to read ahead."""
        runs: list[tuple[int, int]] = []
        reached = total = 0
        for start in self._starts:
            if start < reached:
                continue
            nbytes = self._ahead(start)
            total += nbytes
            if total > _MOST_PRELOADED:
                return []
            runs.append((start, nbytes))
            reached = start + nbytes
        return runs

    def read(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes; FormatError where they reach beyond ``end``."""
        if offset + nbytes > self.end:
            raise FormatError(f"{nbytes} bytes of headers at {offset} reach beyond {self.end}", offset=offset)
        begin = offset - self._at
        if begin < 0 or begin + nbytes > len(self._data):
            self._at, begin = offset, 0
            self._data = self.reader.read_at(offset, max(nbytes, self._ahead(offset)))
        return self._data[begin : begin + nbytes]

    def peek(self, offset: int, nbytes: int) -> bytes:
        """As ``read``, but fewer bytes at the end."""
        return self.read(offset, max(0, min(nbytes, self.end - offset)))

    def _ahead(self, offset: int) -> int:
        """How many bytes from ``offset`` on are worth reading."""
        last = offset
        for i in range(bisect_right(self._starts, offset), len(self._starts)):
            start = self._starts[i]
            if start - last > self._close or start - offset > _MOST - self._least:
                break
            last = start
        return min(last + self._least, self.end) - offset
