"""What was read of remote files, kept on the local disk.

Protocol. An entry is a folder ``<SHA-256 of the URL>/<SHA-256 of validators and size>`` with three files: ``meta.json``
says what it holds; ``data`` is a sparse file of the remote file's size; ``blocks`` has 8 bytes for each 256 KiB of
it, a flag and the CRC-32C of that block, 0 where the block is not there. An entry appears whole, by a rename.
Blocks are fetched when they are first asked for, and only they: data is written first, then its flag, so a block that
was torn by a crash, or damaged later, does not match its checksum when a process first uses it, and is fetched
again. Processes may share a cache without locks: they write the same bytes. An entry whose URL has another identity
now is removed; beyond the size bound, the entries opened longest ago are. Removing what another process has open is
harmless.

A URL's entry is asked about by one HEAD request; files whose server gives neither ETag nor Last-Modified are not kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._ranges import read_ranges
from weightlift._urls import redacted
from weightlift.errors import ChangedError, StorageError, TransportError, TruncatedError, UnsupportedFeatureError
from weightlift.stores._http_file import RemoteFile

if TYPE_CHECKING:
    from weightlift import _http

__all__ = ["Cache", "CachedFile"]

BLOCK = 256 << 10
SPARSE = 16
"""Ranges that are preloaded are kept if their blocks are not more than so many times their size: the headers that are
scattered over an npz are fetched anew each time, instead of a block around each."""

BATCH = 32 << 20
"""Bytes fetched into memory at once, on their way to the disk."""

TRIES = 5
"""Attempts to open an entry, which other processes may remove each time."""

PRESENT = np.uint64(1 << 32)


@dataclass(frozen=True)
class Identity:
    """Which version of a file: its validators, size, and where it came from in the end."""

    etag: str
    last_modified: str
    size: int
    final_url: str

    @classmethod
    def of(cls, file: RemoteFile) -> Identity:
        """Of a file that is open at its server."""
        return cls(file.core.etag, file.core.last_modified, file.size, file.final_url)

    @property
    def lasting(self) -> bool:
        """Whether a change would show."""
        return bool(self.etag or self.last_modified)

    @property
    def key(self) -> str:
        """Name of the entry."""
        return _digest(f"{self.etag or self.last_modified}\n{self.size}")


class Cache:
    """A folder of entries, at most ``limit`` bytes."""

    def __init__(self, root: Path, limit: int) -> None:
        """See the class; the folder is made when something is kept."""
        self.root = root
        self.limit = limit

    @classmethod
    def at(cls, where: bool | str | os.PathLike[str], limit: int) -> Cache:
        """``True``: in the user's cache directory (``WEIGHTLIFT_CACHE`` names another)."""
        if where is not True:
            return cls(Path(os.fspath(where)), limit)  # type: ignore[arg-type]
        given = os.environ.get("WEIGHTLIFT_CACHE")
        if given:
            return cls(Path(given), limit)
        try:
            from platformdirs import user_cache_path
        except ImportError:
            raise UnsupportedFeatureError(
                "cache=True needs platformdirs: pip install 'weightlift[http]', or name a directory"
            ) from None
        return cls(user_cache_path("weightlift") / "http", limit)

    def open(self, url: str, client: _http.Client) -> Any:
        """A reader of a URL that keeps what it reads."""

        def open_remote() -> RemoteFile:
            return RemoteFile(client.open(url), client, url)

        folder = self.root / _digest(url)
        remote: RemoteFile | None = None
        identity = _ask(url, client) if folder.is_dir() else None
        if identity is None or not (folder / identity.key / "meta.json").is_file():
            remote = open_remote()
            identity = Identity.of(remote)
        if not identity.lasting or identity.size == 0:
            return remote if remote is not None else open_remote()
        for _ in range(TRIES):
            try:
                entry = self._entry(folder, identity, redacted(url))
                return CachedFile(self, entry, identity, redacted(url), lambda: remote or open_remote())
            except OSError as error:
                gone = isinstance(error, (FileNotFoundError, FileExistsError))  # the latter where it goes meanwhile
                if not gone or self.root.is_file():
                    raise StorageError(
                        f"the cache cannot be used: {error.strerror}", errno=error.errno, path=str(self.root)
                    ) from error
        return remote if remote is not None else open_remote()  # reading matters more than keeping

    def _entry(self, folder: Path, identity: Identity, name: str) -> Path:
        """The folder of an entry, made if it is not there; other versions of the URL's file are removed."""
        entry = folder / identity.key
        if not _is_whole(entry, identity.size):
            shutil.rmtree(entry, ignore_errors=True)  # damaged, if it is there: it is fetched anew
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = folder / f".{identity.key}-{secrets.token_hex(4)}"
            new.mkdir(mode=0o700)
            for file, nbytes in (("data", identity.size), ("blocks", 8 * -(-identity.size // BLOCK))):
                with (new / file).open("wb") as out:
                    out.truncate(nbytes)
            meta = {"weightlift": 1, "url": name, "etag": identity.etag, "last_modified": identity.last_modified}
            (new / "meta.json").write_text(json.dumps({**meta, "size": identity.size}), "utf-8")
            try:
                new.rename(entry)
            except OSError:
                shutil.rmtree(new, ignore_errors=True)  # another process was faster
        for other in _inside(folder):
            if other.name != identity.key and not other.name.startswith("."):
                shutil.rmtree(other, ignore_errors=True)
        os.utime(entry / "meta.json")
        return entry

    def make_room(self, nbytes: int, keep: Path) -> bool:
        """Remove entries, those opened longest ago first, until ``nbytes`` more fit; False if they cannot."""
        entries = sorted(self._entries())
        held = sum(size for _, size, _ in entries)
        for _, size, entry in entries:
            if held + nbytes <= self.limit:
                break
            if entry != keep:
                shutil.rmtree(entry, ignore_errors=True)
                held -= size
        return held + nbytes <= self.limit

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(when it was opened last, bytes on the disk, folder) of each entry."""
        for entry in (entry for folder in _inside(self.root) for entry in _inside(folder)):
            with contextlib.suppress(OSError):
                used = sum((entry / f).stat().st_blocks * 512 for f in ("data", "blocks"))
                yield (entry / "meta.json").stat().st_mtime, used, entry


class CachedFile:
    """A remote file, read through its entry.

    Attributes:
        name: The URL, for messages.
        size: Bytes.
        final_url: After redirects.
    """

    def __init__(self, cache: Cache, entry: Path, identity: Identity, name: str, remote: Any) -> None:
        """``remote()`` opens the file at its server; it is called when something is missing.

        Raises FileNotFoundError where the entry is not there any more.
        """
        self.name, self.size, self.final_url = name, identity.size, identity.final_url
        self._cache, self._entry, self._identity, self._open_remote = cache, entry, identity, remote
        self._remote: Any = None
        count = -(-self.size // BLOCK)
        with contextlib.ExitStack() as opened:
            self._data = opened.enter_context((entry / "data").open("r+b"))
            self._flags = opened.enter_context((entry / "blocks").open("r+b"))
            if self._data.seek(0, os.SEEK_END) != self.size:
                raise FileNotFoundError(errno.ENOENT, "damaged since it was looked at", str(entry))
            opened.pop_all()  # they stay open
        self._trusted = np.zeros(count, bool)
        self._mapping = mmap.mmap(self._data.fileno(), self.size, access=mmap.ACCESS_READ)
        self._core = _core.MemoryReader(self._mapping, name)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes, or TruncatedError."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise TruncatedError(f"the file has {self.size} bytes", path=self.name, offset=offset, end=offset + nbytes)
        held = None if self._remote is None else self._remote.preloaded(offset, nbytes)
        if held is None:
            held = self.holding([(offset, nbytes)]).read_at(offset, nbytes)
        return bytes(held)

    def preload(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch what is missing of ranges; of those that are little of their blocks, not the blocks but them alone."""
        inside = [(at, min(n, self.size - at)) for at, n in ranges if 0 <= at < self.size]
        if len(self._missing(inside)) * BLOCK > SPARSE * sum(n for _, n in inside):
            self._server().preload(inside)
        else:
            self.holding(inside)

    def holding(self, ranges: Sequence[tuple[int, int]]) -> Any:
        """What the core reads these ranges from: the entry, or the server where the disk has no room."""
        missing = self._missing(ranges)
        if not missing:
            return self._core
        if not self._cache.make_room(len(missing) * BLOCK, self._entry):
            return self._server().core
        try:
            for batch in _batches(missing):
                self._fetch(batch)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            return self._server().core  # the disk is full: reading matters more than keeping
        return self._core

    def _missing(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Numbers of the blocks that ranges lie in and that are not there, or not whole."""
        wanted = np.zeros(len(self._trusted) + 1, np.int64)
        for at, nbytes in ranges:
            if nbytes:
                wanted[at // BLOCK] += 1
                wanted[-(-(at + nbytes) // BLOCK)] -= 1
        needed = np.flatnonzero((np.cumsum(wanted[:-1]) > 0) & ~self._trusted)
        if not len(needed):
            return []
        flags = self._read_flags(int(needed[0]), int(needed[-1]) + 1)
        return [i for i in needed.tolist() if not self._check(i, int(flags[i - needed[0]]))]

    def _server(self) -> Any:
        if self._remote is None:
            remote = self._open_remote()
            if Identity.of(remote).key != self._identity.key:
                raise ChangedError("the file is another one than when it was opened: open it again", path=self.name)
            self._remote = remote
        return self._remote

    def _read_flags(self, begin: int, end: int) -> npt.NDArray[np.uint64]:
        """The flags of blocks. They are not mapped: on a full disk, touching a hole may end the process."""
        flags = os.pread(self._flags.fileno(), 8 * (end - begin), 8 * begin)
        return np.frombuffer(flags.ljust(8 * (end - begin), b"\0"), np.uint64)

    def _check(self, i: int, value: int) -> bool:
        """Whether block ``i``, whose flag is ``value``, is there and whole."""
        if value >> 32 != 1:
            return False
        found = _core.crc32c(memoryview(self._mapping)[i * BLOCK : (i + 1) * BLOCK])
        self._trusted[i] = found == value & 0xFFFFFFFF
        return bool(self._trusted[i])

    def _fetch(self, numbers: list[int]) -> None:
        """Bring blocks, which are neighbours or not, and write them to the entry."""
        ranges = [(i * BLOCK, min(BLOCK, self.size - i * BLOCK)) for i in numbers]
        memory = np.empty(sum(n for _, n in ranges), np.uint8)
        read_ranges(self._server().core, ranges, memory)
        for k, (i, (offset, nbytes)) in enumerate(zip(numbers, ranges, strict=True)):
            part = memory[k * BLOCK : k * BLOCK + nbytes]  # only the file's last block is shorter
            _write_at(self._data.fileno(), part.data, offset)
            _write_at(self._flags.fileno(), (PRESENT | np.uint64(_core.crc32c(part))).data, i * 8)
            self._trusted[i] = True


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    """All of ``data``: on a disk that is nearly full, the first call may write some of it and fail only then."""
    data = data.cast("B")
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    per = BATCH // BLOCK
    for begin in range(0, len(numbers), per):
        yield numbers[begin : begin + per]


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing, if it is gone."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _is_whole(entry: Path, size: int) -> bool:
    """Whether all files of an entry are there, in the sizes that they were made in."""
    try:
        (entry / "meta.json").stat()
        sizes = [(entry / name).stat().st_size for name in ("data", "blocks")]
    except OSError:
        return False
    return sizes == [size, 8 * -(-size // BLOCK)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _ask(url: str, client: _http.Client) -> Identity | None:
    """The identity of a URL's file, by a HEAD request; None if the server does not answer such."""
    try:
        answer = client.request("HEAD", url)
    except TransportError:
        return None
    headers = {name.lower(): value for name, value in answer.headers}
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return None
    return Identity(headers.get("etag", ""), headers.get("last-modified", ""), int(length), answer.url)
