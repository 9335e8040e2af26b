"""Several files as one zip, stored, made while it is sent."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from time import gmtime
from urllib.parse import quote

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from weightlift.server._responses import OpenFile

__all__ = ["ArchiveResponse"]

_BLOCK = 1 << 20


class _Pipe:
    """What zipfile writes to, and the response takes from; it cannot seek."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._blocks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """There is nothing to close."""

    def take(self) -> bytes:
        data = b"".join(self._blocks)
        self._blocks.clear()
        return data


class ArchiveResponse(StreamingResponse):
    """A download of files, which are opened one after the other: a model may have more than a process may open.

    Args:
        filename: What the download is called.
        names: In the archive.
        open_file: Opens the file of a name.
        close: Called at the end, however that comes.
    """

    def __init__(
        self, filename: str, names: Sequence[str], open_file: Callable[[str], OpenFile], close: Callable[[], None]
    ) -> None:
        """See the class."""
        self._close = close
        plain = filename.encode("ascii", "replace").decode().replace('"', "'")
        disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename)}"
        super().__init__(
            _zip(names, open_file),
            media_type="application/zip",
            headers={"Content-Disposition": disposition, "Cache-Control": "no-cache"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def _zip(names: Sequence[str], open_file: Callable[[str], OpenFile]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            file = open_file(name)
            try:
                yield from _entry(archive, pipe, name, file)
            finally:
                file.close()
    yield pipe.take()


def _entry(archive: zipfile.ZipFile, pipe: _Pipe, name: str, file: OpenFile) -> Iterator[bytes]:
    info = zipfile.ZipInfo(name, gmtime(max(file.status.st_mtime, 315532800))[:6])
    info.external_attr = 0o644 << 16
    size = file.status.st_size
    with archive.open(info, "w", force_zip64=size >= 1 << 31) as entry:
        for offset in range(0, size, _BLOCK):
            entry.write(file.read(offset, min(_BLOCK, size - offset)))
            yield pipe.take()
