"""The bytes of a pickle, or of MessagePack, that lies in a file, read as they are asked for.

NumPy pickles arrays with their elements in the stream, so such a pickle is as large as its arrays. Only what stands
between the arrays is read, in windows, and only so much of it.
"""

from __future__ import annotations

from typing import Any

from weightlift.errors import FormatError
from weightlift.formats._pickle import MAX_PICKLE
from weightlift.protocols import Reader

__all__ = ["PickledFile"]

_LEAST = 4096
_MOST = 1 << 16
"""Bytes read at once: few behind an array that was skipped, more where there are none."""


class PickledFile:
    """Bytes ``begin`` to ``end`` of a reader, as a ``Pickled``.

    Attributes:
        fetched: Bytes that were asked for; FormatError when they are more than ``MAX_PICKLE``.
    """

    def __init__(self, reader: Reader, begin: int, end: int) -> None:
        self.fetched = 0
        self._reader = reader
        self._begin = begin
        self._size = end - begin
        self._at = 0
        self._data = b""
        self._high = 0
        self._ahead = _LEAST

    def __len__(self) -> int:
        """How many there are."""
        return self._size

    def __getitem__(self, key: Any) -> Any:
        """One of them as a number, or a slice of them."""
        if isinstance(key, int):
            return self._bytes(key, key + 1)[0]
        return self._bytes(key.start, min(key.stop, self._size))

    def find(self, part: bytes, begin: int, end: int) -> int:
        """Where ``part`` begins; -1 if it is not there."""
        found = self._bytes(begin, min(end, self._size)).find(part)
        return found if found < 0 else begin + found

    def _bytes(self, begin: int, end: int) -> bytes:
        self.fetched += max(0, end - max(begin, self._high))
        self._high = max(self._high, end)
        if self.fetched > MAX_PICKLE:
            raise FormatError(f"it has more than {MAX_PICKLE} bytes beside its arrays")
        at = begin - self._at
        if at < 0 or end - self._at > len(self._data):
            near = 0 <= at <= len(self._data)
            self._ahead = min(2 * self._ahead, _MOST) if near else _LEAST
            count = min(max(end - begin, self._ahead), self._size - begin)
            self._data = self._reader.read_at(self._begin + begin, count)
            self._at, at = begin, 0
        return self._data[at : at + end - begin]
