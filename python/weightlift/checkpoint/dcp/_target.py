"""One checkpoint that is written whole, or not at all, by several processes that another one coordinates.

In a directory: ``NAME`` is written as ``.NAME.writing``, into which all processes write, and then renamed. An older
``NAME`` is ``.NAME.replaced`` meanwhile, where readers find it: for as long as a rename takes, or if something crashed
in between, until the next save. In an object store: see ``_object_target``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from weightlift._source import refuse_options
from weightlift._urls import as_text, is_file, local_path
from weightlift.checkpoint._durable import exchange, located, make_directory
from weightlift.checkpoint._folders import Folder, LocalFolder
from weightlift.checkpoint._manifest import MANIFEST, Manifest, read_manifest
from weightlift.errors import NotFoundError, StorageError

__all__ = ["Target", "TargetFolder", "target_at"]


class Target(Protocol):
    """A place for one checkpoint."""

    @property
    def made(self) -> Folder:
        """What the processes write into, once one has begun."""

    @property
    def identity(self) -> str:
        """Of the save, for its manifest."""

    def label(self, rank: int) -> str:
        """What begins the names of a process' shards."""

    def begin(self) -> None:
        """Make the folder to write into; StorageError where something else is, or where another job writes."""

    def commit(self, manifest: Manifest) -> None:
        """Make what was written the checkpoint."""

    def current(self) -> tuple[Folder, Manifest]:
        """The checkpoint that is there now; NotFoundError."""


def target_at(
    url: str | os.PathLike[str], store_options: Mapping[str, Any] | None = None, *, overwrite: bool = True
) -> Target:
    """The place at a URL; asks nothing.

    Args:
        url: A path, a ``file://`` URL, or one of an object store.
        store_options: As :func:`weightlift.load` takes them for this URL.
        overwrite: Whether a checkpoint that is there may be replaced.

    Raises:
        UnsupportedFeatureError: No checkpoints can be kept there.
    """
    if is_file(url):
        refuse_options(url, store_options)
        return TargetFolder(Path(local_path(url)), overwrite=overwrite)
    from weightlift.checkpoint.dcp._object_target import TargetObjects

    return TargetObjects(as_text(url), store_options or {}, overwrite=overwrite)


_WRITING: weakref.WeakValueDictionary[Path, TargetFolder] = weakref.WeakValueDictionary()
"""What has a lock, by the directory that is written."""


class TargetFolder:
    """A directory that holds one checkpoint.

    Args:
        path: Its name.
        overwrite: Whether a checkpoint that is there may be replaced.
    """

    _lock: int | None = None

    def __init__(self, path: Path, *, overwrite: bool = True) -> None:
        """See the class."""
        self._path, self._overwrite = path, overwrite
        self._writing = path.with_name(f".{path.name}.writing")
        self._aside = path.with_name(f".{path.name}.replaced")
        self.identity = secrets.token_hex(16)

    def __del__(self) -> None:
        """A save that has failed is in nobody's way."""
        self._unlock()

    @property
    def made(self) -> LocalFolder:
        """See the class."""
        return LocalFolder(self._writing)

    def label(self, rank: int) -> str:
        """By its number: the lock keeps other jobs out."""
        return f"r{rank:05d}-"

    def current(self) -> tuple[LocalFolder, Manifest]:
        """The checkpoint, wherever it is now."""
        for path in (self._path, self._aside):
            if (path / MANIFEST).exists():
                return LocalFolder(path), read_manifest(LocalFolder(path))
        hint = ": this is one of DCP itself, which weightlift.load reads" if (self._path / ".metadata").exists() else ""
        raise NotFoundError(f"there is no checkpoint{hint}", path=str(self._path))

    def begin(self) -> None:
        """Make the directory to write into; StorageError where something else is, or where another job writes."""
        with located(self._path, "write a checkpoint"):
            self._check()
            make_directory(self._path.parent)
            self._writing.mkdir(exist_ok=True)
            failed = _WRITING.pop(
                self._writing, None
            )  # of this process, which does not save to one place twice at once
            if failed is not None:
                failed._unlock()
            self._lock = os.open(self._writing, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _WRITING[self._writing] = self
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._unlock()
                raise StorageError(
                    "another job is writing a checkpoint of this name", errno=errno.EWOULDBLOCK, path=str(self._path)
                ) from None
            for path in self._writing.iterdir():  # what a save left that has failed
                path.unlink()

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, and give the directory its name."""
        self.made.put(MANIFEST, manifest.to_json())
        with located(self._path, "commit the checkpoint"):
            with contextlib.suppress(OSError):
                self._path.rmdir()  # one that is empty, made in advance
            if (self._aside / MANIFEST).exists() and not self._path.exists():
                self._aside.rename(self._path)  # a crash has left it there: it stays until the new one is
            shutil.rmtree(self._aside, ignore_errors=True)
            exchange(self._writing, self._path, self._aside if self._path.exists() else None)
        self._unlock()
        shutil.rmtree(self._aside, ignore_errors=True)

    def _check(self) -> None:
        """Refuse to take the place of what is no checkpoint of ours."""
        try:
            names = sorted(path.name for path in self._path.iterdir())
        except FileNotFoundError:
            return
        if MANIFEST in names and not self._overwrite:
            raise StorageError("there is a checkpoint; overwrite=True replaces it", path=str(self._path))
        if names and MANIFEST not in names:
            raise StorageError(
                f"the directory holds what is no checkpoint ({', '.join(names[:3])} ...): give another name",
                errno=errno.EEXIST,
                path=str(self._path),
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
