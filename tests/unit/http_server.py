"""A small HTTP server for tests: each test says how requests are answered."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request; ``reply`` and ``reply_range`` answer it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self)
        self.server.answer(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def reply(self, status: int, body: bytes = b"", **headers: object) -> None:
        """An answer with a Content-Length; ``_`` in a header's name stands for ``-``, None leaves it out."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **named}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def range(self) -> tuple[int, int] | None:
        """The range asked for, end exclusive."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None

    def reply_range(self, data: bytes, **headers: object) -> None:
        """206 with what was asked for of ``data``, or 200 with all of it."""
        wanted = self.range()
        if wanted is None:
            return self.reply(200, data, **headers)
        begin, end = wanted[0], min(wanted[1], len(data))
        if begin >= end:
            return self.reply(416, Content_Range=f"bytes */{len(data)}", **headers)
        return self.reply(206, data[begin:end], **{"Content_Range": f"bytes {begin}-{end - 1}/{len(data)}", **headers})

    def cut(self) -> None:
        """Close the connection without another word."""
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answer = answer
        self.seen: list[Exchange] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serve(answer: Answer) -> Iterator[Server]:
    """A server on a free port of this machine, for as long as the block lasts."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
