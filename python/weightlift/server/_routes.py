"""The URLs: models, files, the JSON API and the page; see ``docs/server.md``."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from anyio import CancelScope, CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from weightlift import __version__, _json
from weightlift._source import open_source
from weightlift.errors import ChangedError, ChecksumError, FormatError, NotFoundError, WeightliftError
from weightlift.formats import by_name
from weightlift.server._archive import ArchiveResponse
from weightlift.server._conditions import may_write
from weightlift.server._describe import Catalogue
from weightlift.server._errors import HTTPException, error_response, status_of, told
from weightlift.server._library import Check, Library
from weightlift.server._manifest import seal
from weightlift.server._names import (
    MODEL_JSON,
    SINGLE_FILES,
    check_file,
    check_model,
    is_weights_file,
)
from weightlift.server._responses import Compressed, FileResponse, OpenFile
from weightlift.server._settings import Settings
from weightlift.server._upload import FileSink, ModelSink, body_of, receive_into

__all__ = ["Routes"]

LOG = logging.getLogger("weightlift.server")

PAGE = Path(__file__).with_name("page")
_PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MAX_BODY = 64 << 10
_MAX_SIDECAR = 64 << 20
_MAX_BINS = 256
_HEAVY_JOBS = 2
"""Histograms, verifications and copies that run at one time."""

T = TypeVar("T")
Endpoint = Callable[..., Awaitable[Any]]


def answers(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose errors become answers."""

    @wraps(endpoint)
    async def answering(self: Routes, request: Request) -> Any:
        try:
            return await endpoint(self, request)
        except HTTPException as error:
            return error_response(error.status_code, error.detail, dict(error.headers or {}))
        except ClientDisconnect:
            return error_response(400, "the connection was closed")  # nobody is there to read it
        except (WeightliftError, OSError) as error:
            status = status_of(error)
            if status == 500:
                LOG.exception("%s %s failed", request.method, request.url.path)
            return error_response(status, told(error, self.library.root))

    return answering


@asynccontextmanager
async def in_thread(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave what waits for the disk, or for a lock, in a thread: the event loop serves others meanwhile."""
    value = await to_thread.run_sync(manager.__enter__)
    try:
        yield value
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(manager.__exit__, None, None, None)


class Routes:
    """The endpoints over one library.

    Args:
        library: The directory.
        settings: Of the server.
    """

    def __init__(self, library: Library, settings: Settings) -> None:
        """See the class."""
        self.library = library
        self.settings = settings
        self.catalogue = Catalogue(library.root)
        self._compressed = Compressed()
        self._page = Library(PAGE, read_only=True)
        self._heavy = CapacityLimiter(_HEAVY_JOBS)
        self._uploads = 0

    def table(self) -> list[Route]:
        """All routes."""
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/page/{path}", self.page, methods=["GET"]),
            Route("/models/{name}", self.model, methods=["POST", "PUT", "DELETE", "GET"]),
            Route("/models/{name}/{path:path}", self.model_file, methods=["GET"]),
            Route("/files/{path:path}", self.file, methods=["GET", "PUT", "DELETE"]),
            Route("/api/server", self.about, methods=["GET"]),
            Route("/api/models", self.models, methods=["GET"]),
            Route("/api/models/{name}", self.describe, methods=["GET"]),
            Route("/api/models/{name}/archive.zip", self.archive, methods=["GET"]),
            Route("/api/models/{name}/histogram", self.histogram, methods=["GET"]),
            Route("/api/models/{name}/verify", self.verify, methods=["POST"]),
            Route("/api/models/{name}/rename", self.rename, methods=["POST"]),
            Route("/api/models/{name}/copy", self.copy, methods=["POST"]),
            Route("/api/files", self.files, methods=["GET"]),
            Route("/api/file", self.describe, methods=["GET"]),
            Route("/api/file/histogram", self.histogram, methods=["GET"]),
            Route("/api/file/verify", self.verify, methods=["POST"]),
        ]

    # --- models ---
    @answers
    async def model(self, request: Request) -> Response:
        """Upload, or delete, a whole model."""
        name = request.path_params["name"]
        if request.method in ("POST", "PUT"):
            return await self._upload_model(request, check_model(name))
        if request.method == "DELETE":
            await to_thread.run_sync(self.library.delete_model, name, _conditions(request))
            return Response(None, 204)
        await to_thread.run_sync(self.library.model, name)
        raise HTTPException(404, f"a model is loaded from its model.json: {_model_url(name)}{MODEL_JSON}")

    async def _upload_model(self, request: Request, name: str) -> Response:
        _conditions(request)(await to_thread.run_sync(self.library.model_tag, name))  # before the body is taken
        library = self.library

        async def take(room: int) -> Response:
            async with in_thread(library.workplace()) as place:
                sink = ModelSink(place, request.headers.get("content-type", ""), self.settings)
                try:
                    await receive_into(sink, request.receive, room, self.settings)
                    folder = await to_thread.run_sync(sink.assemble)
                finally:
                    sink.abandon()
                sealed = await to_thread.run_sync(partial(seal, folder, checksums=self.settings.checksums))
                publish = partial(library.publish_model, folder, name, _conditions(request))
                replaced = await to_thread.run_sync(publish)
            url = f"{_model_url(name)}{MODEL_JSON}"
            LOG.info("%s: %s bytes, %s", name, sealed["bytes"], "replaced" if replaced else "new")
            tag = await to_thread.run_sync(library.model_tag, name)
            headers = {"Location": url, **({"ETag": tag} if tag else {})}
            return JSONResponse({"name": name, "url": url, **sealed}, 200 if replaced else 201, headers)

        return await self._in_turn(request, take)

    async def _in_turn(self, request: Request, take: Callable[[int], Awaitable[Response]]) -> Response:
        """Run an upload, if there is room for its bytes and not too many are under way."""
        most, stated = self.settings.max_upload, request.headers.get("content-length")
        nbytes = int(stated) if stated is not None and stated.isdigit() else None
        if nbytes is not None and nbytes > most:
            raise HTTPException(413, f"the upload has {nbytes} bytes; at most {most} are taken here")
        if nbytes == 0:
            raise HTTPException(400, "the body is empty")
        if "content-encoding" in request.headers:
            raise HTTPException(415, "send the body without a content encoding")
        if self._uploads >= self.settings.max_uploads:
            raise HTTPException(503, "too many uploads are under way", {"Retry-After": "5"})
        self._uploads += 1
        try:
            async with in_thread(self.library.reserve(nbytes, most)) as room:
                return await take(room)
        finally:
            self._uploads -= 1

    @answers
    async def model_file(self, request: Request) -> Any:
        """A model's JSON or one of its weight files."""
        name, path = request.path_params["name"], check_file(request.path_params["path"])
        return await to_thread.run_sync(self._open_model_file, name, path)

    def _open_model_file(self, name: str, path: str) -> FileResponse:
        folder = self.library.model(name)
        place = folder / path
        if not is_weights_file(path) and place not in self.catalogue.files(folder):
            raise NotFoundError(f"there is no {path!r} in the model {name!r}")
        return self._response(self.library.open(place))

    @answers
    async def archive(self, request: Request) -> Any:
        """All files of a model as one zip."""
        name = request.path_params["name"]

        def begin() -> Any:
            folder = self.library.model(name)
            # A model is replaced by another directory: what is open here stays the same model, or loses files.
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                paths = [file.relative_to(folder) for file in self.catalogue.files(folder)]
                if not os.path.samestat(os.fstat(held), folder.stat()):
                    raise ChangedError(f"the model {name!r} was replaced meanwhile: ask again")
            except BaseException:
                os.close(held)
                raise
            return ArchiveResponse(
                f"{name}.zip",
                [f"{name}/{path}" for path in paths],
                lambda entry: self.library.open(Path(entry).relative_to(name), held),
                lambda: os.close(held),
            )

        return await to_thread.run_sync(begin)

    @answers
    async def rename(self, request: Request) -> Response:
        """Give a model the name ``{"to": name}``."""
        to = await self._wanted_name(request)
        await to_thread.run_sync(self.library.rename_model, request.path_params["name"], to)
        return JSONResponse({"name": to, "url": f"{_model_url(to)}{MODEL_JSON}"})

    @answers
    async def copy(self, request: Request) -> Response:
        """Copy a model to the name ``{"to": name}``."""
        to = await self._wanted_name(request)
        await to_thread.run_sync(self.library.copy_model, request.path_params["name"], to, limiter=self._heavy)
        url = f"{_model_url(to)}{MODEL_JSON}"
        return JSONResponse({"name": to, "url": url}, 201, {"Location": url})

    async def _wanted_name(self, request: Request) -> str:
        """``to`` of a JSON body."""
        body = bytearray()
        async for chunk in body_of(request.receive, self.settings):
            body += chunk
            if len(body) > _MAX_BODY:
                raise HTTPException(413, "the body is too long")
        value = _json.loads(bytes(body), what="the body", max_bytes=_MAX_BODY)
        to = value.get("to") if isinstance(value, dict) else None
        if not isinstance(to, str):
            raise FormatError('the body is {"to": NAME}')
        return check_model(to)

    # --- files ---
    @answers
    async def file(self, request: Request) -> Any:
        """A single weights file."""
        path = request.path_params["path"]
        if request.method == "PUT":
            return await self._upload_file(request, check_file(path))
        if request.method == "DELETE":
            await to_thread.run_sync(self.library.delete_file, path, _conditions(request))
            return Response(None, 204)
        return await to_thread.run_sync(lambda: self._response(self.library.open(self.library.file(path))))

    async def _upload_file(self, request: Request, path: str) -> Response:
        library = self.library
        if not path.endswith((*SINGLE_FILES, ".crc32c")):
            raise HTTPException(415, f"a single file ends in {', '.join(SINGLE_FILES)}; models go to /models/NAME")
        _conditions(request)(await to_thread.run_sync(library.file_tag, path))

        async def take(room: int) -> Response:
            async with in_thread(library.temporary_file(path)) as staged:
                sink = await to_thread.run_sync(FileSink, staged)
                try:
                    await receive_into(sink, request.receive, room, self.settings)
                finally:
                    sink.close()
                await to_thread.run_sync(_check_parses, staged)
                replaced = await to_thread.run_sync(library.publish_file, staged, path, _conditions(request))
                await to_thread.run_sync(_forget_old_checksums, library.root / path)
            tag = await to_thread.run_sync(library.file_tag, path)
            headers = {"Location": f"/files/{quote(path)}", **({"ETag": tag} if tag else {})}
            return JSONResponse({"path": path}, 200 if replaced else 201, headers)

        return await self._in_turn(request, take)

    def _response(self, file: OpenFile) -> FileResponse:
        is_json = file.content_type == "application/json"
        return FileResponse(file, compressed=self._compressed if is_json else None)

    # --- descriptions ---
    @answers
    async def about(self, request: Request) -> Response:
        """What a page needs to know of the server."""
        settings = self.settings
        return _json_response(
            {
                "version": __version__,
                "directory": self.library.root.name,
                "read_only": settings.read_only,
                "token_for_writes": settings.token is not None,
                "token_for_reads": settings.private,
                "max_upload": settings.max_upload,
                "single_files": list(SINGLE_FILES),
            }
        )

    @answers
    async def models(self, request: Request) -> Response:
        """All models, a summary each."""

        def collect() -> list[dict[str, Any]]:
            rows = []
            for name in self.library.models():
                url = f"{_model_url(name)}{MODEL_JSON}"
                rows.append({"name": name, "url": url, **_public(self.catalogue.summary(self.library.root / name))})
            return rows

        return _json_response({"models": await to_thread.run_sync(collect)})

    @answers
    async def files(self, request: Request) -> Response:
        """All single files, a summary each."""

        def collect() -> list[dict[str, Any]]:
            rows = []
            for path in self.library.files():
                summary = _public(self.catalogue.summary(self.library.root / path))
                rows.append({"path": path, "url": f"/files/{quote(path)}", **summary})
            return rows

        return _json_response({"files": await to_thread.run_sync(collect)})

    @answers
    async def describe(self, request: Request) -> Response:
        """Everything about one model or file, but its values."""
        place = await to_thread.run_sync(self._place, request)
        return _json_response(_public(await to_thread.run_sync(self.catalogue.details, place)))

    @answers
    async def histogram(self, request: Request) -> Response:
        """Statistics and histogram of ``?weight=``."""
        weight, bins = request.query_params.get("weight"), request.query_params.get("bins", "32")
        if weight is None:
            raise HTTPException(400, "say which: ?weight=NAME")
        if not bins.isdecimal() or not 1 <= int(bins) <= _MAX_BINS:
            raise HTTPException(400, f"bins is a number from 1 to {_MAX_BINS}")
        place = await to_thread.run_sync(self._place, request)
        work = partial(self.catalogue.histogram, place, weight, int(bins))
        return _json_response(_public(await to_thread.run_sync(work, limiter=self._heavy)))

    @answers
    async def verify(self, request: Request) -> Response:
        """Compare every tensor with its checksum."""
        place = await to_thread.run_sync(self._place, request)
        return _json_response(await to_thread.run_sync(self.catalogue.verify, place, limiter=self._heavy))

    def _place(self, request: Request) -> Path:
        """The model's directory, or the file, that a request is about."""
        if "name" in request.path_params:
            return self.library.model(request.path_params["name"])
        path = request.query_params.get("path")
        if path is None:
            raise HTTPException(400, "say which: ?path=FILE")
        return self.library.file(path)

    # --- the page ---
    @answers
    async def page(self, request: Request) -> Any:
        """The web page and what it consists of."""
        name = request.path_params.get("path", "index.html")
        place = PAGE / name
        kind = _PAGE_TYPES.get(place.suffix)
        if "/" in name or kind is None:
            raise NotFoundError(f"there is no {name!r}")
        file = await to_thread.run_sync(self._page.open, place)
        return FileResponse(OpenFile(file.fd, file.status, f"{kind}; charset=utf-8"), compressed=self._compressed)


def _public(description: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is for this server only."""
    return {k: v for k, v in description.items() if not k.startswith("_")}


def _json_response(value: Mapping[str, Any]) -> Response:
    return JSONResponse(dict(value), headers={"Cache-Control": "no-cache"})


def _model_url(name: str) -> str:
    return f"/models/{quote(name)}/"


def _conditions(request: Request) -> Check:
    """If-Match and If-None-Match, to be compared at the moment of the change."""

    def check(tag: str | None) -> None:
        if not may_write(request.headers, tag):
            raise HTTPException(412, "what is there is not what If-Match or If-None-Match asks for")

    return check


def _check_parses(place: Path) -> None:
    """The errors of a file that is not what its name says."""
    if place.name.endswith(".crc32c"):
        if place.stat().st_size > _MAX_SIDECAR:
            raise FormatError(f"a sidecar of more than {_MAX_SIDECAR} bytes is refused")
        value = _json.loads(place.read_bytes(), what="the sidecar", max_bytes=_MAX_SIDECAR)
        if not isinstance(value, dict) or value.get("weightlift") != 1:
            raise FormatError("this is no checksum sidecar")
        return
    layout = open_source(place).layout
    if layout.damaged:
        raise ChecksumError(layout.damaged)
    if not place.name.lower().endswith(tuple(by_name(layout.format).suffixes)):
        raise FormatError(f"the content is {layout.format}, and the name does not say so")


def _forget_old_checksums(place: Path) -> None:
    """A sidecar that speaks of the file before this one would call this one damaged."""
    sidecar = place.with_name(f"{place.name}.crc32c")
    if sidecar.exists() and open_source(place).layout.damaged:
        sidecar.unlink(missing_ok=True)
