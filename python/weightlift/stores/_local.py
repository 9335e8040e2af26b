"""Directories of the local file system.

Protocol. A relative name (from a manifest or an index) is a plain relative path: not absolute, no ``..``, no
NUL, no backslash. What it names must lie, links resolved, inside the store's directory; a directory whose
manifest is itself a link (as in the Hugging Face cache) may link beside that manifest's real place too. New
files appear whole or not at all: see ``weightlift/writer.h``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from weightlift import _core
from weightlift._descriptors import with_more_descriptors
from weightlift._stored_arrays import ArraysReader, StoredArrays
from weightlift.errors import StorageError, UnsafeContentError
from weightlift.stores._paths import check_relative

__all__ = ["LocalStore"]


class LocalStore:
    """Files below one directory.

    Args:
        root: The directory.
        manifest: Name of the file that was asked for, in ``root``; its own links are trusted.
        mode: How files are read: ``"auto"``, ``"buffered"`` or ``"direct"``.
        make_directories: Whether ``create`` makes the directories of a file that are not there.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        manifest: str | None = None,
        *,
        mode: str = "auto",
        make_directories: bool = True,
    ) -> None:
        """See the class."""
        self.root = Path(root)
        self.mode = mode
        self._make_directories = make_directories
        self._manifest = manifest
        self._allowed: tuple[str, ...] | None = None

    @property
    def url(self) -> str:
        """The directory."""
        return str(self.root)

    def trusting(self, manifest: str) -> LocalStore:
        """The same directory, with another file as the one that was asked for."""
        return LocalStore(self.root, manifest, mode=self.mode, make_directories=self._make_directories)

    def path(self, relative: str) -> str:
        """The path of a relative name, checked; the manifest's own name is taken as it is."""
        if relative == self._manifest:
            return self._join(relative)
        path = self._join(check_relative(relative))
        if "/" not in relative and relative != "." and not os.path.islink(path):
            return path  # in the root itself: one look instead of one at each directory above
        if self._allowed is None:
            roots = {os.path.realpath(self.root)}
            if self._manifest is not None:
                roots.add(os.path.dirname(os.path.realpath(os.path.join(self.root, self._manifest))))
            self._allowed = tuple(root.rstrip("/") + "/" for root in roots)
        if not os.path.realpath(path).startswith(self._allowed):
            raise UnsafeContentError(f"{relative!r} is a link out of the directory {self.root}; refused", path=path)
        return path

    def _join(self, relative: str) -> str:
        """As a person would write it: no ``./`` in front of what is in the working directory."""
        root = str(self.root)
        return relative if root == "." else os.path.join(root, relative)

    def open(self, relative: str) -> _core.FileReader:
        """A reader; NotFoundError names the file."""
        path = self.path(relative)
        return with_more_descriptors(lambda: _core.FileReader(path, self.mode))

    def open_arrays(self, stored: StoredArrays) -> ArraysReader:
        """Arrays of one directory, through tensorstore; see :class:`~weightlift._stored_arrays.OpensArrays`."""
        from weightlift.stores._tensorstore import open_arrays  # for those who have such files

        folder = os.path.dirname(stored.described_by)
        root = os.path.dirname(self.path(stored.described_by)) or "."
        return open_arrays(root, lambda name: self.path(os.path.join(folder, name)), stored)

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> _core.FileWriter:
        """An atomic writer of ``nbytes`` bytes; parent directories are made (see ``make_directories``)."""
        path = self.path(relative)
        parent = os.path.dirname(path)
        if parent and self._make_directories and not os.path.isdir(parent):
            try:
                os.makedirs(parent, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"cannot make the directory: {error.strerror}", errno=error.errno, path=parent
                ) from error
        return with_more_descriptors(lambda: _core.FileWriter(path, nbytes, "auto", durable))

    def commit_all(self, writers: Sequence[_core.FileWriter]) -> None:
        """Commit several of this store's writers; none is published before all are durable."""
        _core.commit_all(writers)

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        return os.path.lexists(self.path(relative))

    def list(self) -> Iterator[str]:
        """Relative names of all regular files below the directory, sorted."""
        return (str(p.relative_to(self.root)) for p in sorted(self.root.rglob("*")) if p.is_file())

    def delete(self, relative: str) -> None:
        """Remove a file; NotFoundError."""
        _core.remove_file(self.path(relative))

    def alias(self, source: str, target: str) -> bool:
        """Make ``target`` name the same file as ``source``, atomically; False where links are not offered."""
        a, b = self.path(source), self.path(target)
        temporary = f"{a}.link"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            os.link(a, temporary)
        except OSError:
            return False
        _core.rename_over(temporary, b)
        return True

    def sync(self) -> None:
        """Make renames durable: fsync of the directory."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
