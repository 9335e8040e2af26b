"""Files as answers: ranges, conditions, HEAD, and JSON compressed once."""

from __future__ import annotations

import gzip
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from threading import Lock

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weightlift.errors import TruncatedError
from weightlift.server._conditions import etag_of, http_date, ranges_of, read_status, wants_ranges

__all__ = ["Compressed", "FileResponse", "OpenFile", "accepts_gzip"]

_BLOCK = 1 << 20
_MIN_GZIP = 1 << 10
_MAX_GZIP = 64 << 20


@dataclass(frozen=True)
class OpenFile:
    """A regular file that is open for reading; whoever has it closes it."""

    fd: int
    status: os.stat_result
    content_type: str

    def read(self, offset: int, nbytes: int) -> bytes:
        """Exactly these bytes; TruncatedError if the file has shrunk."""
        data = os.pread(self.fd, nbytes, offset)
        while len(data) < nbytes:
            more = os.pread(self.fd, nbytes - len(data), offset + len(data))
            if not more:
                raise TruncatedError("the file became shorter while it was sent", offset=offset + len(data))
            data += more
        return data

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


class Compressed:
    """JSON files compressed with gzip, each once, as long as they fit into ``max_bytes`` of memory."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        """See the class."""
        self._max_bytes = max_bytes
        self._held = 0
        self._lock = Lock()
        self._by_tag: OrderedDict[str, bytes] = OrderedDict()

    def get(self, file: OpenFile) -> bytes | None:
        """The compressed bytes of a file; None where it is too small, too large or not worth it."""
        size, tag = file.status.st_size, etag_of(file.status)
        if not _MIN_GZIP <= size <= _MAX_GZIP:
            return None
        with self._lock:
            data = self._by_tag.get(tag)
            if data is not None:
                self._by_tag.move_to_end(tag)
                return data or None
        data = gzip.compress(file.read(0, size), 6, mtime=0)
        if len(data) >= size:
            data = b""
        with self._lock:
            if tag not in self._by_tag:
                self._by_tag[tag] = data
                self._held += len(data)
            while self._held > self._max_bytes and len(self._by_tag) > 1:
                self._held -= len(self._by_tag.popitem(last=False)[1])
        return data or None


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    wanted: dict[str, float] = {}
    for item in header.lower().split(","):
        coding, _, parameter = item.partition(";")
        weight = parameter.strip().removeprefix("q=")
        try:
            wanted[coding.strip()] = float(weight) if weight else 1.0
        except ValueError:
            wanted[coding.strip()] = 0.0
    return wanted.get("gzip", wanted.get("*", 0.0)) > 0


class FileResponse:
    """Sends an open file, or what the request asks of it, and closes it.

    Not Starlette's: that opens a name when headers made from an earlier ``stat`` are sent already, so that a file
    which is replaced in between is sent with the size and tag of the one before it. See also ``_conditions``.

    Args:
        file: Closed at the end, however that comes.
        headers: Further headers.
        compressed: Where to find the compressed form, for files that are served compressed.
    """

    def __init__(
        self, file: OpenFile, *, headers: Mapping[str, str] | None = None, compressed: Compressed | None = None
    ) -> None:
        """See the class."""
        self._file = file
        self._headers = dict(headers or {})
        self._compressed = compressed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await self._answer(scope, receive, send)
        finally:
            self._file.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, status = Headers(scope=scope), self._file.status
        tag, modified, size = etag_of(status), status.st_mtime, status.st_size
        zipped_tag = f'{tag[:-1]}-gzip"'
        head = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-cache",
            "Content-Type": self._file.content_type,
            "ETag": tag,
            "Last-Modified": http_date(modified),
            **self._headers,
        }
        zipped = None
        if self._compressed is not None:
            head["Vary"] = "Accept-Encoding"
            if "range" not in asked and accepts_gzip(asked.get("accept-encoding", "")):
                zipped = await to_thread.run_sync(self._compressed.get, self._file)
            if zipped is not None:
                head |= {"ETag": zipped_tag, "Content-Encoding": "gzip", "Content-Length": str(len(zipped))}
        code = read_status(asked, (tag, zipped_tag), modified)
        if code != 200:
            kept = {k: v for k, v in head.items() if k not in ("Content-Type", "Content-Encoding", "Content-Length")}
            await Response(None, code, kept)(scope, receive, send)
            return
        if zipped is not None:
            await Response(None if scope["method"] == "HEAD" else zipped, 200, head)(scope, receive, send)
            return
        ranges = ranges_of(asked["range"], size) if wants_ranges(asked, tag, modified) else None
        if ranges is None:
            await self._send(scope, send, 200, {**head, "Content-Length": str(size)}, [(0, size)])
        elif not ranges:
            refused = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes", "ETag": tag}
            await Response(None, 416, refused)(scope, receive, send)
        elif len(ranges) == 1:
            (begin, end), count = ranges[0], ranges[0][1] - ranges[0][0]
            head |= {"Content-Range": f"bytes {begin}-{end - 1}/{size}", "Content-Length": str(count)}
            await self._send(scope, send, 206, head, [(begin, end)])
        else:
            await self._send_many(scope, send, head, ranges)

    async def _send_many(self, scope: Scope, send: Send, head: dict[str, str], ranges: list[tuple[int, int]]) -> None:
        """Several ranges, as multipart/byteranges."""
        boundary, kind = token_hex(16), head["Content-Type"]
        parts: list[bytes | tuple[int, int]] = []
        for begin, end in ranges:
            place = f"bytes {begin}-{end - 1}/{self._file.status.st_size}"
            parts.append(f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {place}\r\n\r\n".encode())
            parts.append((begin, end))
        parts.append(f"\r\n--{boundary}--\r\n".encode())
        total = sum(len(p) if isinstance(p, bytes) else p[1] - p[0] for p in parts)
        head |= {"Content-Type": f"multipart/byteranges; boundary={boundary}", "Content-Length": str(total)}
        await self._send(scope, send, 206, head, parts)

    async def _send(
        self, scope: Scope, send: Send, code: int, head: Mapping[str, str], parts: list[bytes | tuple[int, int]]
    ) -> None:
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in head.items()]
        await send({"type": "http.response.start", "status": code, "headers": raw})
        if scope["method"] != "HEAD":
            for part in parts:
                for block in [part] if isinstance(part, bytes) else _blocks(*part):
                    data = block if isinstance(block, bytes) else await to_thread.run_sync(self._file.read, *block)
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _blocks(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the reads that make up a range."""
    for offset in range(begin, end, _BLOCK):
        yield offset, min(_BLOCK, end - offset)
