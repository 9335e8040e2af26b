"""Running the server: the socket, the line that says where it is, and a quiet end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from weightlift.server._app import create_app
from weightlift.server._settings import Settings, SettingsError, check_binding

__all__ = ["serve"]

_GRACE = 5
"""Seconds that requests under way have to end when the server is stopped."""

_MAX_CONNECTIONS = 1000


def serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    insecure: bool = False,
    certificate: str | None = None,
    key: str | None = None,
    announce: Callable[[str], object] = print,
) -> None:
    """Serve until the process is interrupted or terminated.

    Args:
        settings: What and how.
        host: Address to listen on.
        port: 0: any free one.
        insecure: Strangers may write; see :func:`check_binding`.
        certificate: PEM file: serve HTTPS.
        key: PEM file of its key, if that is not in the same file.
        announce: Called with the URL, once the server answers.

    Raises:
        SettingsError: It may not, or cannot, be started like this.
    """
    check_binding(settings, host, insecure=insecure)
    listener = _listen(host, port)
    try:
        config = uvicorn.Config(
            create_app(settings),
            http=type("Protocol", (_Protocol,), {"patience": settings.idle_timeout}),
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_GRACE,
            limit_concurrency=_MAX_CONNECTIONS,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        scheme = "http" if certificate is None else "https"
        server = _Server(config, lambda: announce(_url(scheme, host, listener)))
        logging.getLogger("weightlift.server").setLevel(logging.INFO)
        old = signal.signal(signal.SIGTERM, _interrupt)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # how a server ends
        finally:
            signal.signal(signal.SIGTERM, old)
    finally:
        listener.close()


class _Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for the rest of a request's head, nor for somebody to read an answer."""

    patience = 30.0
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()
        self._read()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def _expect_reader(self, unread: int) -> None:
        self._reading = self.loop.call_later(self.patience, self._check_reader, unread)

    def _check_reader(self, unread: int) -> None:
        """Who reads slowly is waited for; who reads nothing holds a connection and a file."""
        left = self.transport.get_write_buffer_size()
        if left < unread:
            self._expect_reader(left)
        else:
            self.transport.abort()

    def _read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch(self) -> None:
        """Start the clock when a head begins, stop it when it is complete."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.patience, self._give_up)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._say = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._say()


def _interrupt(number: int, frame: Any) -> None:
    """The server, done with a signal, raises it again: SIGTERM then ends like Ctrl-C."""
    raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    name = host.strip("[]")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def _url(scheme: str, host: str, listener: socket.socket) -> str:
    bound, port = listener.getsockname()[:2]
    name = host if host == "localhost" else f"[{bound}]" if ":" in bound else bound
    return f"{scheme}://{name}:{port}/"
