"""A remote file as parsers read it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

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
        self._starts: list[int] = []
        self._ranges: Sequence[Any] = []
        self._last: tuple[int, bytes] = (0, b"")

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes, or TruncatedError."""
        if offset + nbytes <= self._head:
            return self.core.read_at(offset, nbytes)
        held = self.preloaded(offset, nbytes)
        if held is not None:
            return held
        at, data = self._last
        if not at <= offset <= offset + nbytes <= at + len(data):
            at, data = offset, self.core.read_at(offset, nbytes)
            if nbytes <= MOST_KEPT:
                self._last = at, data
        return data[offset - at : offset - at + nbytes]

    def preloaded(self, offset: int, nbytes: int) -> bytes | None:
        """These bytes, if they were preloaded."""
        i = bisect_right(self._starts, offset) - 1
        begin = offset - self._starts[i] if i >= 0 else 0
        if i < 0 or begin + nbytes > len(self._ranges[i]):
            return None
        return bytes(self._ranges[i][begin : begin + nbytes])

    def read_into(self, offset: int, out: Any) -> None:
        """Fill ``out`` from ``offset`` on."""
        self.core.read_into(offset, out)

    def holding(self, ranges: Sequence[tuple[int, int]]) -> _http.Reader:
        """What plans read from."""
        return self.core

    def preload(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges and keep them for ``read_at``: by a few lists of ranges, or by a small request each."""
        ends = ((at, min(at + n, self.size)) for at, n in ranges)
        wanted = sorted((at, end - at) for at, end in ends if end > max(at, self._head))
        spans = joined(wanted, RANGE_COST)
        found: Sequence[Any] | None = None
        if len(spans) > FEW_RANGES and self.core.ranged and self.core.etag:
            found = multipart_ranges(self._client, self._address, self.core, spans)
        if found is None:
            spans = joined(wanted, REQUEST_COST)
            found = self._side_by_side(spans)
        self._starts = [at for at, _ in spans]
        self._ranges = found

    def _side_by_side(self, wanted: Sequence[tuple[int, int]]) -> Sequence[Any]:
        """Ranges by a request each, several at once."""
        ends = list(accumulate(n for _, n in wanted))
        memory = np.empty(ends[-1] if ends else 0, np.uint8)
        read_ranges(self.core, wanted, memory, apart=True)
        return np.split(memory, ends[:-1])
