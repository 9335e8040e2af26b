"""Uploads: bodies that go to disk as they arrive, and are checked while they do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Protocol

import anyio
from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from weightlift.errors import FormatError, UnsafeContentError
from weightlift.server._errors import HTTPException
from weightlift.server._manifest import Promise, check_safe
from weightlift.server._names import MODEL_JSON
from weightlift.server._settings import Settings

__all__ = ["FileSink", "ModelSink", "body_of", "receive_into"]

_BLOCK = 1 << 20
_MAX_PARTS = 20_000
_MAX_FIELD = 64 << 10


class Sink(Protocol):
    """Takes a body, block by block, in a thread of its own."""

    def write(self, data: bytes) -> None:
        """Take some bytes."""

    def close(self) -> None:
        """The body is complete."""


async def receive_into(sink: Sink, receive: Receive, room: int, settings: Settings) -> int:
    """Feed a request's body to a sink; the bytes that it had.

    Args:
        sink: Where it goes.
        receive: Of the request.
        room: Most bytes.
        settings: Their time limits.

    Raises:
        HTTPException: Too large (413), or too slow (408).
        ClientDisconnect: It broke off.
    """
    pending, total = bytearray(), 0
    async for data in body_of(receive, settings):
        total += len(data)
        if total > room:
            raise HTTPException(413, f"the upload has more than {room} bytes, which is the most that is taken here")
        pending += data
        if len(pending) >= _BLOCK:
            block = bytes(pending)
            pending.clear()
            await to_thread.run_sync(sink.write, block)
    await to_thread.run_sync(sink.write, bytes(pending))
    await to_thread.run_sync(sink.close)
    return total


async def body_of(receive: Receive, settings: Settings) -> AsyncIterator[bytes]:
    """The blocks of a request's body, under the time limits of uploads; errors as of :func:`receive_into`."""
    end = monotonic() + settings.upload_timeout
    while True:
        wait = min(settings.idle_timeout, end - monotonic())
        message = None
        if wait > 0:
            with anyio.move_on_after(wait):
                message = await receive()
        if message is None:
            why = "it took too long" if monotonic() >= end else f"nothing arrived for {settings.idle_timeout:g} s"
            raise HTTPException(408, f"the request was given up: {why}")
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


class FileSink:
    """A body that is one file."""

    def __init__(self, place: Path) -> None:
        """The file is made anew."""
        self._file = place.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append."""
        _write(self._file, data)

    def close(self) -> None:
        """Finish, or give up."""
        self._file.close()


@dataclass
class _Part:
    """A file of the body: what it is called, and where it lies until it is known what it is."""

    name: str
    filename: str
    place: Path
    path: str | None = None
    nbytes: int = 0


@dataclass
class _Current:
    """The part that is arriving."""

    headers: dict[str, bytes] = field(default_factory=dict)
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    kind: str = ""
    part: _Part | None = None
    file: BinaryIO | None = None
    data: bytearray = field(default_factory=bytearray)


class ModelSink:
    """A multipart body as TensorFlow.js sends it: ``model.json`` and the weight files that it names, in any order.

    The parser is python-multipart's own. Starlette's forms are built on it, too, but give a form only when it is
    complete, with its files in the system's temporary directory; here each part is checked as it begins, each byte is
    counted as it comes, and files are written where a rename publishes them.

    Args:
        folder: An empty directory; :meth:`assemble` leaves the model in ``folder/model``.
        content_type: Of the request.
        settings: Its limits.

    Raises:
        HTTPException: The request is no multipart form (415).
    """

    def __init__(self, folder: Path, content_type: str, settings: Settings) -> None:
        """See the class."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise HTTPException(
                415, "send multipart/form-data with the parts model.json and its weight files, as TensorFlow.js does"
            )
        self._folder = folder
        self._settings = settings
        self._parts: list[_Part] = []
        self._count = 0
        self._json: bytes | None = None
        self._promise: Promise | None = None
        self._now = _Current()
        self._ended = False
        callbacks = {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._now.header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._now.header_value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._part_known,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise HTTPException(400, f"the multipart body cannot be read: {error}") from None

    # --- the body ---
    def write(self, data: bytes) -> None:
        """Take some bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise HTTPException(400, f"the multipart body is malformed: {error}") from None

    def close(self) -> None:
        """The body is complete."""
        if not self._ended:
            raise HTTPException(400, "the multipart body ends before its last boundary")

    def abandon(self) -> None:
        """Close what is open."""
        if self._now.file is not None:
            self._now.file.close()

    def _end(self) -> None:
        self._ended = True

    # --- its parts ---
    def _part_begin(self) -> None:
        self._count += 1
        if self._count > _MAX_PARTS:
            raise HTTPException(413, f"the form has more than {_MAX_PARTS} parts")
        self._now = _Current()

    def _header_end(self) -> None:
        now = self._now
        now.headers[now.header_name.decode("latin-1").lower()] = bytes(now.header_value)
        now.header_name.clear()
        now.header_value.clear()

    def _part_known(self) -> None:
        now = self._now
        _, options = parse_options_header(now.headers.get("content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if now.headers.get("content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise HTTPException(415, f"the part {name!r} has a transfer encoding; send it as it is")
        if b"filename" not in options and name != MODEL_JSON:
            now.kind = "field"
        elif name == MODEL_JSON or filename.endswith(".json"):
            if self._json is not None:
                raise FormatError("the form has two model.json")
            now.kind = "json"
        else:
            for text in (name, filename):
                check_safe(text)
            now.kind = "data"
            now.part = _Part(name, filename, self._folder / f"part{len(self._parts)}")
            if self._promise is not None:
                self._match(now.part, self._promise)
            self._parts.append(now.part)
            now.file = now.part.place.open("xb", buffering=0)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        now = self._now
        if now.part is not None and now.file is not None:
            now.part.nbytes += end - start
            if self._promise is not None and now.part.path is not None:
                self._promise.arrive(now.part.path, end - start)
            _write(now.file, memoryview(data)[start:end])
            return
        most = self._settings.max_json if now.kind == "json" else _MAX_FIELD
        now.data += data[start:end]
        if len(now.data) > most:
            raise HTTPException(413, f"the part {now.kind} has more than {most} bytes")

    def _part_end(self) -> None:
        now = self._now
        if now.file is not None:
            now.file.close()
            now.file = None
        elif now.kind == "json":
            self._json = bytes(now.data)
            self._promise = promise = Promise(self._json)
            for part in self._parts:  # those that came before it
                self._match(part, promise)
                promise.arrive(part.path or "", part.nbytes)
        self._now = _Current()

    def _match(self, part: _Part, promise: Promise) -> None:
        path = promise.find(part.filename, part.name)
        if path is None:
            known = ", ".join(map(repr, list(promise.paths)[:5])) or "none"
            raise UnsafeContentError(
                f"the part {part.filename or part.name!r} is no weight file of the manifest; they are: {known}"
            )
        if any(other.path == path for other in self._parts):
            raise FormatError(f"the weight file {path!r} is there twice")
        part.path = path

    # --- the model ---
    def assemble(self) -> Path:
        """The model's directory, once the body is complete; FormatError if something is missing."""
        if self._promise is None or self._json is None:
            raise FormatError("the form has no part model.json")
        self._promise.check_complete()
        folder = self._folder / "model"
        folder.mkdir()
        arrived = {part.path: part for part in self._parts}
        for path in self._promise.paths:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in arrived:
                arrived[path].place.rename(target)
            elif self._parts:
                raise FormatError(f"the weight file {path!r} is missing from the form")
            else:
                target.touch()  # no weights at all: TensorFlow.js sends no part for them
        (folder / MODEL_JSON).write_bytes(self._json)
        return folder


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    """All of it: an unbuffered file may take less."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
