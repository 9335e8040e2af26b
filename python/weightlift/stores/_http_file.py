"""A remote file as parsers read it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlift import _core
from weightlift._ranges import read_ranges
from weightlift.stores._http_ranges import FEW_RANGES, RANGE_COST, REQUEST_COST, joined, multipart_ranges

if TYPE_CHECKING:
    from weightlift import _http

__all__ = ["RemoteFile"]

MOST_KEPT = 1 << 20
"""Of the last read, which parsers often read again in part."""


class RemoteFile:
    """A remote file as parsers read it: what was preloaded costs no request.

    Attributes:
        core: What plans read from.
    """

    def __init__(self, core: _http.Reader, client: _http.Client, address: str, head: int = 0) -> None:
        """Read through ``core``, which ``client`` opened at ``address`` and which holds the first ``head`` bytes."""
        self.core = core
        self._head = head
        self._client, self._address = client, address
        self.name = core.name
        self.size = core.size
        self.final_url = core.final_url
        self._lists = bool(core.ranged and core.etag)
        self._preloads: tuple[Sequence[int], Sequence[Any]] = [], []
        self._last: tuple[int, bytes] = (0, b"")

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes, or TruncatedError."""
        if offset + nbytes <= self._head:
            return self.core.read_at(offset, nbytes)
        held = self.preloaded(offset, nbytes)
        if held is not None:
            return held
        data = self.core.read_at(offset, nbytes)
        if nbytes <= MOST_KEPT:
            self._last = offset, data
        return data

    def preloaded(self, offset: int, nbytes: int) -> bytes | None:
        """These bytes, if they were preloaded or are part of the last read."""
        held = self._held(offset, nbytes)
        return None if held is None else bytes(held)

    def _held(self, offset: int, nbytes: int) -> memoryview | None:
        starts, ranges = self._preloads
        i = bisect_right(starts, offset) - 1
        for at, data in (self._last, (starts[i], ranges[i]) if i >= 0 else (0, b"")):
            if at <= offset and offset + nbytes <= at + len(data):
                return memoryview(data)[offset - at : offset - at + nbytes]
        return None

    def read_into(self, offset: int, out: Any) -> None:
        """Fill ``out`` from ``offset`` on."""
        self.core.read_into(offset, out)

    def holding(self, ranges: Sequence[tuple[int, int]]) -> _http.Reader | _core.FunctionReader:
        """What plans read from: what is held here, where that is all they need."""
        beyond = [(at, n) for at, n in ranges if at + n > self._head]
        if not beyond or any(self._held(at, n) is None for at, n in beyond):
            return self.core
        return _core.FunctionReader(self._fill, self.size, self.name)

    def _fill(self, offset: int, view: memoryview) -> None:
        held = self._held(offset, len(view))
        if held is None:
            self.core.read_into(offset, view)
        else:
            view[:] = held

    def preload(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges and keep them for ``read_at``: by a few lists of ranges, or by a small request each.

        What is held already is not asked for again, and a server that once had no answer to a list gets no other.
        """
        ends = ((at, min(at + n, self.size)) for at, n in ranges)
        wanted = sorted((at, end - at) for at, end in ends if end > max(at, self._head) and not self._kept(at, end))
        if all(self._held(at, n) is not None for at, n in wanted):
            return
        spans = joined(wanted, RANGE_COST)
        found: Sequence[Any] | None = None
        if len(spans) > FEW_RANGES and self._lists:
            found = multipart_ranges(self._client, self._address, self.core, spans)
            self._lists = found is not None
        if found is None:
            spans = joined(wanted, REQUEST_COST)
            found = self._side_by_side(spans)
        self._preloads = [at for at, _ in spans], found

    def _kept(self, begin: int, end: int) -> bool:
        """Whether the last read holds these bytes."""
        at, data = self._last
        return at <= begin and end <= at + len(data)

    def _side_by_side(self, wanted: Sequence[tuple[int, int]]) -> Sequence[Any]:
        """Ranges by a request each, several at once."""
        ends = list(accumulate(n for _, n in wanted))
        memory = np.empty(ends[-1] if ends else 0, np.uint8)
        read_ranges(self.core, wanted, memory, apart=True)
        return np.split(memory, ends[:-1])
