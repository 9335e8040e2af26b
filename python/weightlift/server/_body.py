"""Answers that are given before a request's body has arrived.

Whoever still sends would not see the answer if the connection were closed at once (the system answers further bytes
with a reset, which discards what was not read yet), and would go on for as long as it likes if it were not. So the
answer is sent, what arrives is thrown away for a moment, and then the connection is closed.
"""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Send

__all__ = ["Body"]

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 32 << 20


class Body:
    """The body of a request, and the answer to it; ``receive`` and ``send`` take the place of the server's own."""

    def __init__(self, headers: Headers, receive: Receive, send: Send) -> None:
        """See the class."""
        self._receive = receive
        self._send = send
        self._pending = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._begun = "expect" not in headers  # else it begins when it is asked for

    async def receive(self) -> Message:
        """The next message."""
        self._begun = True
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._pending = False
        return message

    async def send(self, message: Message) -> None:
        """Send a message; the last one may wait for what is still on its way."""
        if not self._pending:
            await self._send(message)
        elif message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif message.get("more_body", False) or not self._begun:
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        with anyio.move_on_after(_LINGER_SECONDS):
            while self._pending and left > 0:
                left -= len((await self.receive()).get("body", b""))
