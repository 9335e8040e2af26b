"""Several files as one zip, stored, made while it is sent."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from time import gmtime
from urllib.parse import quote

from starlette.responses import StreamingResponse

from weightlift.server._responses import OpenFile

__all__ = ["archive_response"]

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


def archive_response(filename: str, files: Sequence[tuple[str, OpenFile]]) -> StreamingResponse:
    """A download of files (name in the archive, open file), which are closed at the end."""
    plain = filename.encode("ascii", "replace").decode().replace('"', "'")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename)}"
    return StreamingResponse(
        _zip(files),
        media_type="application/zip",
        headers={"Content-Disposition": disposition, "Cache-Control": "no-cache"},
    )


def _zip(files: Sequence[tuple[str, OpenFile]]) -> Iterator[bytes]:
    pipe = _Pipe()
    try:
        with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
            for name, file in files:
                info = zipfile.ZipInfo(name, gmtime(max(file.status.st_mtime, 315532800))[:6])
                info.external_attr = 0o644 << 16
                size = file.status.st_size
                with archive.open(info, "w", force_zip64=size >= 1 << 31) as entry:
                    for offset in range(0, size, _BLOCK):
                        entry.write(file.read(offset, min(_BLOCK, size - offset)))
                        yield pipe.take()
        yield pipe.take()
    finally:
        for _, file in files:
            file.close()
