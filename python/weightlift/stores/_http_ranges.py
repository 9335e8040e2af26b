"""Many small ranges of one file by few requests (RFC 9110, section 14.6: ``multipart/byteranges``).

Not every server answers such a request; what comes instead is not read, and the caller asks for each range by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weightlift.errors import FormatError, StorageError

if TYPE_CHECKING:
    from weightlift import _http

__all__ = ["FEW_RANGES", "RANGE_COST", "REQUEST_COST", "joined", "multipart_ranges"]

FEW_RANGES = 4
"""So many, or fewer, are asked for side by side: that any server can do."""

LONGEST_LIST = 8000
"""Bytes of a list of ranges: nginx and Apache refuse a header field of more than 8 KiB. Some 330 ranges of 100 GB."""

CAUTIOUS_RANGES = 150
"""If a longer list is not answered, this one may be: Apache sends the whole file to those who ask for over 200."""

RANGE_COST = 1 << 10
"""Bytes that are better fetched than left out by one more range of a list, which takes some 200 bytes of the answer and
1/330 of a request, that is, of a round trip: the time of some 250 KB (20 ms at 100 Mbit/s)."""

REQUEST_COST = 16 << 10
"""Likewise, by one more request: a round trip, but of the 16 that are under way at once."""

_HEADER_ROOM = 512
_CONTENT_RANGE = re.compile(rb"content-range:[ \t]*bytes[ \t]+(\d+)-(\d+)/(\d+)", re.IGNORECASE)
_BOUNDARY = re.compile(r'multipart/byteranges\s*;.*?boundary="?([^";]{1,70})"?', re.IGNORECASE)


def joined(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Ranges (offset, nbytes), sorted, of which those that overlap or lie up to ``gap`` bytes apart became one.

    Example:
        >>> joined([(0, 10), (5, 10), (20, 1), (30, 1)], 5)
        [(0, 21), (30, 1)]
    """
    result: list[tuple[int, int]] = []
    for offset, nbytes in ranges:
        begin, length = result[-1] if result else (0, -gap - 1)
        if offset <= begin + length + gap:
            result[-1] = begin, max(length, offset + nbytes - begin)
        else:
            result.append((offset, nbytes))
    return result


def multipart_ranges(
    client: _http.Client, url: str, reader: _http.Reader, wanted: Sequence[tuple[int, int]]
) -> list[bytes] | None:
    """The bytes of each (offset, nbytes) of ``wanted``, sorted and apart; None if the server does not play along."""
    result: list[bytes] = []
    most = len(wanted)
    while len(result) < len(wanted):
        some = _list_of(wanted, len(result), most)
        found = _request(client, url, reader, some)
        if found is not None:
            result += found
        elif not result and len(some) > CAUTIOUS_RANGES:
            most = CAUTIOUS_RANGES
        else:
            return None
    return result


def _list_of(wanted: Sequence[tuple[int, int]], begin: int, most: int) -> Sequence[tuple[int, int]]:
    """Ranges from number ``begin`` on, as many as go into one request."""
    end, room = begin, LONGEST_LIST
    while end < min(begin + most, len(wanted)):
        room -= len(_text(wanted[end])) + 1
        if room < 0:
            break
        end += 1
    return wanted[begin:end]


def _text(span: tuple[int, int]) -> str:
    return f"{span[0]}-{span[0] + span[1] - 1}"


def _request(
    client: _http.Client, url: str, reader: _http.Reader, wanted: Sequence[tuple[int, int]]
) -> list[bytes] | None:
    limit = sum(n for _, n in wanted) + _HEADER_ROOM * (len(wanted) + 1)
    try:
        answer = client.get(url, limit=limit, headers=[("Range", f"bytes={','.join(map(_text, wanted))}")])
    except (FormatError, StorageError):
        return None  # the whole file, or an error: asking in the ordinary way tells
    fields = {name.lower(): value for name, value in answer.headers}
    boundary = _BOUNDARY.match(fields.get("content-type", ""))
    if answer.status != 206 or boundary is None or fields.get("etag") != reader.etag:
        return None
    parts = _parse(answer.body, boundary[1].encode("latin-1"), reader.size)
    found = [parts.get(span) for span in wanted]
    return [part for part in found if part is not None] if all(part is not None for part in found) else None


def _parse(body: bytes, boundary: bytes, size: int) -> dict[tuple[int, int], bytes]:
    """The parts by (offset, nbytes); each says itself which it is, and how long it is."""
    parts: dict[tuple[int, int], bytes] = {}
    mark = b"--" + boundary
    at = body.find(mark)
    while at >= 0:
        head = at + len(mark)
        data = body.find(b"\r\n\r\n", head)
        if data < 0:
            break
        said = _CONTENT_RANGE.search(body, head, data)
        if said is None:
            break
        first, last, total = map(int, said.groups())
        begin, nbytes = data + 4, last - first + 1
        if total != size or nbytes <= 0 or begin + nbytes > len(body):
            break
        parts[first, nbytes] = body[begin : begin + nbytes]
        at = body.find(mark, begin + nbytes)
    return parts
