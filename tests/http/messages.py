"""HTTP/1.1 messages as the fault server reads and writes them: plain, and without a library's opinion."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Answer", "Connection", "Ending", "Request"]

MAX_HEAD = 1 << 20


@dataclass(frozen=True)
class Request:
    """What a client sent.

    Attributes:
        number: Of all requests to the server, from 0, in order of arrival.
        connection: Number of the connection that it came over.
        headers: By lower-case name.
        body: As sent, transfer encoding undone; filled in once it was read.
        at: When it came, in seconds of the monotonic clock.
    """

    number: int
    connection: int
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    at: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def ranges(self) -> list[tuple[int, int | None]]:
        """(first byte, byte after the last or None) of each range that is asked for."""
        text = self.headers.get("range", "")
        if not re.fullmatch(r"bytes=\d+-\d*(, ?\d+-\d*)*", text):
            return []
        return [(int(a), int(b) + 1 if b else None) for a, b in re.findall(r"(\d+)-(\d*)", text)]

    @property
    def range(self) -> tuple[int, int | None] | None:
        """The range, if there is exactly one."""
        return self.ranges[0] if len(self.ranges) == 1 else None


class Ending:
    """What happens to the connection after an answer."""

    KEEP = "keep"  # the next request may come
    CLOSE = "close"  # orderly
    RESET = "reset"  # by a TCP reset
    STALL = "stall"  # nothing more is sent, and the connection stays open


@dataclass(frozen=True)
class Answer:
    """What the server will send; faults are functions that change it.

    Attributes:
        headers: In order, names as they are sent. Content-Length and Transfer-Encoding come from ``framing``.
        framing: ``"length"``, ``"chunked"`` or ``"close"`` (the end of the connection ends the body).
        stop: Bytes of the body after which ``ending`` comes; None is all of it.
        raw_head: Sent instead of status line and headers.
        claimed_length: Content-Length, where it is not the body's.
        take: Bytes of the request's body that are read before the answer; None is all of it.
        pace: Bytes a second, None for as fast as it goes.
        store: The body of the request becomes the file at its path.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    framing: str = "length"
    ending: str = Ending.KEEP
    stop: int | None = None
    raw_head: bytes | None = None
    claimed_length: int | None = None
    take: int | None = None
    pace: float | None = None
    store: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header, by any case of its name."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def with_headers(self, **values: str | None) -> tuple[tuple[str, str], ...]:
        """The headers with some replaced, added or (None) removed; ``_`` in a name stands for ``-``."""
        named = {n.replace("_", "-").title(): v for n, v in values.items()}
        kept = [(n, v) for n, v in self.headers if n.title() not in named]
        return (*kept, *((n, v) for n, v in named.items() if v is not None))

    def head(self) -> bytes:
        """Status line and headers."""
        if self.raw_head is not None:
            return self.raw_head
        lines = [f"HTTP/1.1 {self.status} Status", *(f"{n}: {v}" for n, v in self.headers)]
        if self.framing == "length" and self.status not in (204, 304):
            length = len(self.body) if self.claimed_length is None else self.claimed_length
            lines.append(f"Content-Length: {length}")
        elif self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        if self.ending != Ending.KEEP and self.framing == "close":
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class Connection:
    """One client's connection: buffered reads, whole writes."""

    sock: socket.socket
    number: int
    buffer: bytearray = field(default_factory=bytearray)

    def fill(self) -> bool:
        """Read something more; False at the end."""
        data = self.sock.recv(1 << 16)
        self.buffer += data
        return bool(data)

    def line_block(self) -> bytes | None:
        """Everything up to an empty line; None when the client has closed."""
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > MAX_HEAD or not self.fill():
                return None
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer = bytearray(rest)
        return head

    def line(self) -> bytes:
        """One line, without its end."""
        while b"\r\n" not in self.buffer:
            if not self.fill():
                raise ConnectionError("closed in a line")
        line, _, rest = bytes(self.buffer).partition(b"\r\n")
        self.buffer = bytearray(rest)
        return line

    def exactly(self, count: int) -> bytes:
        """That many bytes, or fewer at the end."""
        while len(self.buffer) < count and self.fill():
            pass
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def chunks(self) -> bytes:
        """A body in chunks, put together."""
        parts = []
        while size := int(self.line().split(b";")[0], 16):
            parts.append(self.exactly(size))
            self.line()
        while self.line():
            pass  # trailers
        return b"".join(parts)
