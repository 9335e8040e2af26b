"""Many small ranges of one file by one request (RFC 9110, section 14.6: ``multipart/byteranges``).

Not every server answers such a request; what comes instead is not read, and the caller asks for each range by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weightlift.errors import FormatError, StorageError

if TYPE_CHECKING:
    from weightlift import _http

__all__ = ["FEW_RANGES", "multipart_ranges"]

FEW_RANGES = 4
"""So many, or fewer, are asked for side by side: that any server can do."""

MOST_RANGES = 150
"""In one request: servers refuse, or ignore, long lists, and long header fields."""

_HEADER_ROOM = 512
_CONTENT_RANGE = re.compile(rb"content-range:[ \t]*bytes[ \t]+(\d+)-(\d+)/(\d+)", re.IGNORECASE)
_BOUNDARY = re.compile(r'multipart/byteranges\s*;.*?boundary="?([^";]{1,70})"?', re.IGNORECASE)


def multipart_ranges(
    client: _http.Client, url: str, reader: _http.Reader, wanted: Sequence[tuple[int, int]]
) -> list[bytes] | None:
    """The bytes of each (offset, nbytes) of ``wanted``, sorted and apart; None if the server does not play along."""
    result: list[bytes] = []
    for begin in range(0, len(wanted), MOST_RANGES):
        some = wanted[begin : begin + MOST_RANGES]
        found = _request(client, url, reader, some)
        if found is None:
            return None
        result += found
    return result


def _request(
    client: _http.Client, url: str, reader: _http.Reader, wanted: Sequence[tuple[int, int]]
) -> list[bytes] | None:
    asked = ", ".join(f"{at}-{at + n - 1}" for at, n in wanted)
    limit = sum(n for _, n in wanted) + _HEADER_ROOM * (len(wanted) + 1)
    try:
        answer = client.get(url, limit=limit, headers=[("Range", f"bytes={asked}")])
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
