"""One directory that is written whole, or not at all, by several processes that another one coordinates.

``NAME`` is written as ``.NAME.writing``, into which all processes write, and then renamed. An older ``NAME`` is
``.NAME.replaced`` meanwhile, where readers find it: for as long as a rename takes, or if something crashed in between,
until the next save.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import weakref
from pathlib import Path

from weightlift.checkpoint._durable import exchange, located, make_directory
from weightlift.checkpoint._manifest import MANIFEST
from weightlift.errors import NotFoundError, StorageError

__all__ = ["TargetFolder"]


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
        self.made = path.with_name(f".{path.name}.writing")
        """Where it is written."""
        self._aside = path.with_name(f".{path.name}.replaced")

    def __del__(self) -> None:
        """A save that has failed is in nobody's way."""
        self._unlock()

    def current(self) -> Path:
        """Where the checkpoint is now; NotFoundError."""
        for path in (self._path, self._aside):
            if (path / MANIFEST).exists():
                return path
        hint = ": this is one of DCP itself, which weightlift.load reads" if (self._path / ".metadata").exists() else ""
        raise NotFoundError(f"there is no checkpoint{hint}", path=str(self._path))

    def begin(self) -> None:
        """Make the directory to write into; StorageError where something else is, or where another job writes."""
        with located(self._path, "write a checkpoint"):
            self._check()
            make_directory(self._path.parent)
            self.made.mkdir(exist_ok=True)
            failed = _WRITING.pop(self.made, None)  # of this process, which does not save to one place twice at once
            if failed is not None:
                failed._unlock()
            self._lock = os.open(self.made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _WRITING[self.made] = self
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._unlock()
                raise StorageError(
                    "another job is writing a checkpoint of this name", errno=errno.EWOULDBLOCK, path=str(self._path)
                ) from None
            for path in self.made.iterdir():  # what a save left that has failed
                path.unlink()

    def commit(self) -> None:
        """Give the directory its name."""
        with located(self._path, "commit the checkpoint"):
            with contextlib.suppress(OSError):
                self._path.rmdir()  # one that is empty, made in advance
            if (self._aside / MANIFEST).exists() and not self._path.exists():
                self._aside.rename(self._path)  # a crash has left it there: it stays until the new one is
            shutil.rmtree(self._aside, ignore_errors=True)
            exchange(self.made, self._path, self._aside if self._path.exists() else None)
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
