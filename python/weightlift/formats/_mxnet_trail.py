"""Headers that lie one behind the other's data: where the next one is, only the one before can say.

A local file is read ahead where headers lie close together, and a few kibibytes at a time where they do not. Of a file
that costs a round trip for each read, that would be one after another for every large array. But networks repeat
themselves, and so do the distances between their headers: where the last distances have occurred in this order before,
those that followed then are tried again, and the headers that they lead to are fetched at once, twice as many each time
as long as it goes well. What was guessed wrongly costs its few bytes; nothing is ever believed.
"""

from __future__ import annotations

from weightlift.protocols import Reader, SupportsPreload

__all__ = ["Trail"]

_LEAST = 4 << 10  # what a local read costs no less than
_MOST = 1 << 20
_CLOSE = 1 << 16  # bytes that are cheaper to read than to skip
_REMOTE_LEAST = 16 << 10  # what is worth a request of its own beside others
_REMOTE_MOST = 8 << 20
_REMOTE_CLOSE = 1 << 18  # the bytes of a round trip's time: one must be awaited before the next can begin
_GUESS = 256  # bytes of a header that was guessed
_FIRST_GUESSES = 8
_MOST_GUESSES = 512
_CONTEXT = 6  # distances that are compared: the more of them are alike, the better the guess
_SURE = 2  # so many alike are worth one


class Trail:
    """Reads headers at rising offsets, each beginning where the data before it end, and what follows the last.

    Not thread-safe.
    """

    def __init__(self, reader: Reader, count: int) -> None:
        """``count``: how many headers there are, as the file says."""
        self._reader = reader
        self._remote = reader if isinstance(reader, SupportsPreload) else None
        self._count = count
        self._at = 0
        self._data = b""
        self._ahead = 0
        self._headers: list[int] = []
        self._steps: list[int] = []  # the distances between headers
        self._seen: dict[tuple[int, ...], int] = {}  # distances in a row: which number followed them last
        self._guessed: dict[int, int] = {}  # where headers may be: the bytes that were fetched there
        self._right = 0

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes from ``offset`` on, fewer than ``nbytes`` only where the file ends."""
        nbytes = max(0, min(nbytes, self._reader.size - offset))
        begin = offset - self._at
        if begin < 0 or begin + nbytes > len(self._data):
            self._data = self._fetch(offset, nbytes)
            self._at, begin = offset, 0
        return self._data[begin : begin + nbytes]

    def header_at(self, offset: int) -> None:
        """Note that a header begins at ``offset``, or what follows the last one, before it is read."""
        if self._remote is None:
            return
        if self._headers:
            self._steps.append(offset - self._headers[-1])
            for length in range(_SURE, min(_CONTEXT, len(self._steps) - 1) + 1):
                self._seen[tuple(self._steps[-length - 1 : -1])] = len(self._steps) - 1
        self._headers.append(offset)

    def _fetch(self, offset: int, nbytes: int) -> bytes:
        """At least these bytes."""
        left = self._reader.size - offset
        close, least, most = _CLOSE, _LEAST, _MOST
        if self._remote is not None:
            close, least, most = _REMOTE_CLOSE, _REMOTE_LEAST, _REMOTE_MOST
            held = self._guess(self._remote, offset)
            if held >= nbytes:
                return self._reader.read_at(offset, held)
        near = 0 <= offset - (self._at + len(self._data)) < close
        self._ahead = min(self._ahead * 2, most) if near and self._ahead else least
        return self._reader.read_at(offset, max(nbytes, min(self._ahead, left)))

    def _guess(self, remote: SupportsPreload, offset: int) -> int:
        """How many bytes were fetched at ``offset`` beforehand, or are now, with those of headers that may follow."""
        if offset in self._guessed:
            self._right += 1
            return self._guessed[offset]
        if offset - (self._at + len(self._data)) < _REMOTE_LEAST:
            return 0
        failed = self._right < len(self._guessed)
        most = _FIRST_GUESSES if failed else min(max(2 * len(self._guessed), _FIRST_GUESSES), _MOST_GUESSES)
        places = self._places(offset, most)
        if len(places) < 2:
            return 0
        size, last = self._reader.size, len(places) == self._count + 2 - len(self._headers)
        self._guessed = {at: min(_GUESS, size - at) for at in places}
        if last:
            self._guessed[places[-1]] = min(_MOST, size - places[-1])
        self._right = 1
        remote.preload(list(self._guessed.items()))
        return self._guessed[offset]

    def _places(self, offset: int, most: int) -> list[int]:
        """``offset``, and where headers are behind it if distances repeat; the last may be where they end."""
        places, recent = [offset], self._steps[-_CONTEXT:]
        most = min(most, self._count + 2 - len(self._headers))
        while len(places) < most:
            keys = (tuple(recent[-length:]) for length in range(len(recent), _SURE - 1, -1))
            number = next((self._seen[key] for key in keys if key in self._seen), None)
            if number is None or places[-1] + self._steps[number] >= self._reader.size:
                break
            recent = [*recent[1 - _CONTEXT :], self._steps[number]]
            places.append(places[-1] + self._steps[number])
        return places
