"""An HTTP/1.1 server that serves bytes with ranges, and does each thing wrong that it is asked to.

For every request the server makes the honest answer, lets a fault change it, and sends the result. All requests are
kept, so that tests can count them and look at the headers that arrived.

    with FaultServer({"/x.npy": data}) as server:
        server.fault = faults.in_turn(faults.reset_at(1000), faults.status(503))
        wl.load(server.url("/x.npy"))
        assert [r.range for r in server.requests] == ...
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from types import TracebackType
from typing import Any

from tests.http.messages import Answer, Connection, Ending, Request

__all__ = ["Fault", "FaultServer", "Resource", "file_answer"]

Fault = Callable[[Request, Answer], Answer]
"""Makes the answer that is sent from the honest one."""

SEND = 1 << 16
"""Bytes a write: small enough that a reset comes near its byte."""


@dataclass(frozen=True)
class Resource:
    """One file.

    Attributes:
        etag: With its quotes; by default a hash of the data. None sends none.
        modified: Seconds since the epoch for Last-Modified; None sends none.
    """

    data: bytes
    etag: str | None = ""
    modified: float | None = 1_700_000_000
    content_type: str = "application/octet-stream"

    def validators(self) -> list[tuple[str, str]]:
        """The headers that name this version of the file."""
        found = []
        if self.etag is not None:
            found.append(("ETag", self.etag or f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'))
        if self.modified is not None:
            found.append(("Last-Modified", formatdate(self.modified, usegmt=True)))
        return found


def file_answer(request: Request, resource: Resource) -> Answer:
    """What a good server answers to a GET or HEAD of a file: conditions first, then the range."""
    data, size = resource.data, len(resource.data)
    headers = (("Content-Type", resource.content_type), ("Accept-Ranges", "bytes"), *resource.validators())
    whole = Answer(200, headers, data)
    tag, modified = whole.header("ETag"), whole.header("Last-Modified")
    known, since = request.headers.get("if-none-match"), request.headers.get("if-modified-since")
    if (known is not None and known == tag) or (known is None and since is not None and since == modified):
        return replace(whole, status=304, body=b"")
    if request.headers.get("if-match", "*") not in ("*", tag):
        return Answer(412)
    if "if-range" in request.headers and request.headers["if-range"] not in (tag, modified):
        return whole
    spans = [(begin, size if end is None else min(end, size)) for begin, end in request.ranges]
    satisfiable = [(begin, end) for begin, end in spans if begin < end]
    if not spans:
        return whole
    if not satisfiable:
        return Answer(416, whole.with_headers(content_range=f"bytes */{size}"))
    if len(spans) > 1:
        return _several_ranges(whole, satisfiable)
    ((begin, end),) = satisfiable
    headers = whole.with_headers(content_range=f"bytes {begin}-{end - 1}/{size}")
    return replace(whole, status=206, headers=headers, body=data[begin:end])


def _several_ranges(whole: Answer, spans: list[tuple[int, int]]) -> Answer:
    """A multipart answer, as RFC 9110 has it."""
    boundary, size = "byte-ranges-0123456789", len(whole.body)
    parts = [
        f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Range: bytes {begin}-{end - 1}/{size}\r\n\r\n".encode()
        + whole.body[begin:end]
        for begin, end in spans
    ]
    headers = whole.with_headers(content_type=f"multipart/byteranges; boundary={boundary}")
    return replace(whole, status=206, headers=headers, body=b"".join(parts) + f"\r\n--{boundary}--\r\n".encode())


class FaultServer:
    """Serves ``files`` (path to bytes or Resource) on a free port of loopback until it is closed.

    Attributes:
        files: May be changed at any time.
        fault: Changes answers; None is an honest server.
        requests: All that came, in order of arrival.
        stored: Bodies of PUT and POST that were answered with success, by path.
    """

    def __init__(self, files: Mapping[str, bytes | Resource] | None = None, fault: Fault | None = None) -> None:
        self.files: dict[str, bytes | Resource] = dict(files or {})
        self.fault = fault
        self.requests: list[Request] = []
        self.stored: dict[str, bytes] = {}
        self._sent = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connections: dict[int, socket.socket] = {}
        self._count = 0
        self._answering = 0
        self._stalled = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> FaultServer:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The URL of a path; ``localhost`` is another host than ``127.0.0.1`` to a client."""
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        """End all connections and threads."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a thread of the fault server does not end"

    def drop_connections(self) -> None:
        """Close every open connection now."""
        with self._lock:
            open_now = list(self._connections.values())
        for sock in open_now:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._connections)

    @property
    def connections(self) -> int:
        """Connections that there were so far."""
        return self._count

    @property
    def body_bytes_sent(self) -> int:
        """Of all answers; waits for those under way, which a client may have in hand before this server counts them."""
        self._settle()
        return self._sent

    @property
    def body_bytes_so_far(self) -> int:
        """Of all answers, those under way included."""
        return self._sent

    @property
    def stalled(self) -> int:
        """Connections that are open, and over which nothing comes any more."""
        return self._stalled

    def _settle(self) -> None:
        self.wait_until(lambda: not self._answering)

    def forget(self) -> None:
        """Begin to count anew."""
        self._settle()
        with self._lock:
            self.requests.clear()
            self._sent = 0

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Until something has happened at the server; AssertionError if it does not."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "what was waited for did not happen at the server"
            time.sleep(0.002)

    # --- threads ------------------------------------------------------------------------------------
    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._closing.is_set():  # and it is too late for close() to end this one
                    sock.close()
                    return
                number = self._count
                self._count += 1
                self._connections[number] = sock
            self._threads = [t for t in self._threads if t.is_alive()]
            self._start(self._serve, Connection(sock, number))

    def _serve(self, connection: Connection) -> None:
        try:
            while self._one(connection):
                pass
        except (OSError, ValueError):
            pass  # the client went away, or what it sent is no HTTP
        finally:
            with self._lock:
                self._connections.pop(connection.number, None)
            connection.sock.close()

    def _one(self, connection: Connection) -> bool:
        """Answer one request; whether there may be another."""
        request = self._read_head(connection)
        if request is None:
            return False
        with self._lock:
            request = replace(request, number=len(self.requests))
            self.requests.append(request)
            self._answering += 1
        try:
            answer = self._answer(connection, request)
        finally:
            with self._lock:
                self._answering -= 1
        return self._end(connection.sock, answer)

    def _answer(self, connection: Connection, request: Request) -> Answer:
        answer = self.honest(request)
        if self.fault is not None:
            answer = self.fault(request, answer)
        if answer.take != 0:
            request = self._read_body(connection, request, answer)
            with self._lock:
                if request.number < len(self.requests):
                    self.requests[request.number] = request
                whole = answer.take is None and len(request.body) == int(
                    request.headers.get("content-length", len(request.body))
                )
                if answer.store and answer.status < 300 and whole:
                    self.stored[request.path] = request.body
        self._send(connection, request, answer)
        return answer

    # --- reading ------------------------------------------------------------------------------------
    @staticmethod
    def _read_head(connection: Connection) -> Request | None:
        head = connection.line_block()
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.split(":", 1) for line in lines)
        return Request(0, connection.number, method, target, {n.strip().lower(): v.strip() for n, v in pairs})

    @staticmethod
    def _read_body(connection: Connection, request: Request, answer: Answer) -> Request:
        chunked = "chunked" in request.headers.get("transfer-encoding", "")
        length = int(request.headers.get("content-length", 0))
        if (chunked or length) and "100-continue" in request.headers.get("expect", "").lower():
            connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if chunked and answer.take is None:
            return replace(request, body=connection.chunks())
        count = length if answer.take is None else answer.take
        return replace(request, body=connection.exactly(count))

    # --- answering ----------------------------------------------------------------------------------
    def honest(self, request: Request) -> Answer:
        """What a good server answers."""
        if request.method in ("PUT", "POST"):
            return Answer(201, (("Content-Type", "application/json"),), b'{"stored": true}', store=True)
        if request.method == "DELETE":
            gone = self.files.pop(request.path, None) is not None
            return Answer(204 if gone else 404)
        found = self.files.get(request.path)
        if found is None:
            return Answer(404, (("Content-Type", "text/html"),), b"<!DOCTYPE html><h1>404 Not Found</h1>")
        return file_answer(request, found if isinstance(found, Resource) else Resource(found))

    def _send(self, connection: Connection, request: Request, answer: Answer) -> None:
        sock = connection.sock
        body = b"" if request.method == "HEAD" or answer.status in (204, 304) else answer.body
        head = answer.head()
        stop = len(body) if answer.stop is None else min(answer.stop, len(body))
        if answer.stop is None or answer.stop >= 0:  # a negative stop ends it before the head
            sock.sendall(head)
            self._send_body(sock, memoryview(body)[:stop], answer)
            if answer.framing == "chunked" and stop == len(body):
                sock.sendall(b"0\r\n\r\n")

    def _send_body(self, sock: socket.socket, body: memoryview, answer: Answer) -> None:
        for at in range(0, len(body), SEND):
            part = body[at : at + SEND]
            if answer.framing == "chunked":
                sock.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            else:
                sock.sendall(part)
            with self._lock:
                self._sent += len(part)
            if answer.pace is not None and self._closing.wait(len(part) / answer.pace):
                return

    def _end(self, sock: socket.socket, answer: Answer) -> bool:
        """What comes after the answer; whether there may be another request."""
        if answer.ending == Ending.STALL:
            self._stall(sock)
        elif answer.ending == Ending.RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return answer.ending == Ending.KEEP and answer.framing != "close"

    def _stall(self, sock: socket.socket) -> None:
        """Until the client goes away, or the server is closed; what the client still sends is not read."""
        gone = select.poll()
        gone.register(sock, select.POLLRDHUP)
        with self._lock:
            self._stalled += 1
        try:
            gone.poll()
        finally:
            with self._lock:
                self._stalled -= 1
