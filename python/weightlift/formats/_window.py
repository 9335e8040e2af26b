"""Small reads at rising offsets, in few large ones.

Archives scatter their headers among the data, and their directory says where about. A local file is read ahead as far
as headers lie close together (small members), and only a little where they do not (large ones): one of a hundred
thousand small arrays takes some reads of a mebibyte, one of ten large arrays ten reads of four kibibytes. Of a file
that costs a round trip for each read, all headers are fetched beforehand; how, is the reader's business.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from weightlift.errors import FormatError
from weightlift.protocols import Reader, SupportsPreload

__all__ = ["Window"]

_LEAST = 4096  # what a read costs no less than
_CLOSE = 1 << 16  # bytes that are cheaper to read than to skip
_MOST = 1 << 20
_MOST_PRELOADED = 4096  # spans, so that memory stays bounded


class Window:
    """A view of ``reader`` up to ``end`` (exclusive) that will be asked for bytes in each of ``spans``.

    ``spans``, (offset, nbytes), are sorted by offset; bytes elsewhere may be asked for, too. Not thread-safe.
    """

    def __init__(self, reader: Reader, spans: Sequence[tuple[int, int]], end: int) -> None:
        self.reader = reader
        self.end = end
        self._spans = spans
        self._starts = [offset for offset, _ in spans]
        self._at = 0
        self._data = b""
        self._remote = reader if isinstance(reader, SupportsPreload) else None
        self._preloaded = 0

    def read(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes; FormatError where they reach beyond ``end``."""
        if offset + nbytes > self.end:
            raise FormatError(f"{nbytes} bytes of headers at {offset} reach beyond {self.end}", offset=offset)
        begin = offset - self._at
        if begin < 0 or begin + nbytes > len(self._data):
            self._at, begin = offset, 0
            ahead = self._ahead(offset) if self._remote is None else self._fetched(self._remote, offset)
            self._data = self.reader.read_at(offset, max(nbytes, min(ahead, self.end - offset)))
        return self._data[begin : begin + nbytes]

    def _ahead(self, offset: int) -> int:
        """How many bytes from ``offset`` on are worth reading."""
        last = offset
        for i in range(bisect_right(self._starts, offset), len(self._starts)):
            start = self._starts[i]
            if start - last > _CLOSE or start - offset > _MOST - _LEAST:
                break
            last = start
        return last + _LEAST - offset

    def _fetched(self, remote: SupportsPreload, offset: int) -> int:
        """How many bytes from ``offset`` on the reader holds, now that it was told of the span there."""
        i = bisect_right(self._starts, offset) - 1
        held = sum(self._spans[i]) - offset if i >= 0 else 0
        if held <= 0:
            return _LEAST
        if i >= self._preloaded:
            self._preloaded = i + _MOST_PRELOADED
            remote.preload(self._spans[i : self._preloaded])
        return held
