"""A directory of steps: names, the lock of its writer, commit and deletion.

Protocol (docs/checkpoints.md says why each step is there):

1. One writer: an exclusive lock (flock) on ``.lock``, held while a checkpointer writes; one a rank where several
   processes write together (``.lock-00001`` ...). Readers need none.
2. A step is made in ``.writing-STEP-RANDOM``: shards, each durable, then the index, then the manifest; then the
   directory itself is synced, renamed to ``step-STEP``, and the directory above is synced. Readers see only ``step-*``.
3. A step that takes the place of another: that one becomes ``.replaced-STEP-RANDOM`` first, and is removed last. Killed
   between the renames, readers find it there, and the next writer gives it its name back.
4. Deletion: renamed to ``.deleting-STEP-RANDOM``, the directory above synced, then removed file by file. Shards of
   other steps are links of their own (never references), so a deletion cannot break them.
5. Litter: what begins with ``.writing-`` or ``.deleting-`` while nobody holds the lock was left by a crash. The next
   writer removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightlift._source import refuse_options
from weightlift._urls import as_text, is_file, local_path
from weightlift.checkpoint._durable import exchange, located, make_directory, sync_directory
from weightlift.checkpoint._folders import Directory, Folder, LocalFolder, identity_of
from weightlift.checkpoint._manifest import MANIFEST, Manifest, read_manifest
from weightlift.errors import FormatError, NotFoundError, StorageError

__all__ = ["StepDirectory", "directory_at"]

_STEP = re.compile(r"step-(\d{8,18})")
_ASKING = 0.2
"""Seconds, many times what ``locked_by`` holds a lock, which it takes to see whether it can."""

_LITTER = re.compile(r"\.(writing|deleting|replaced)-(\d{8,18})-[0-9a-f]{8}")


def directory_at(
    url: str | os.PathLike[str], rank: int = 0, store_options: Mapping[str, Any] | None = None
) -> Directory:
    """The steps at a URL: of the local file system, or of an object store.

    Args:
        url: A path, or a URL.
        rank: Of this process, among those that write together.
        store_options: As :func:`weightlift.load` takes them for this URL.

    Raises:
        UnsupportedFeatureError: No checkpoints can be kept there.
    """
    if is_file(url):
        refuse_options(url, store_options)
        return StepDirectory(url, rank)
    from weightlift.checkpoint._object_directory import object_directory

    return object_directory(as_text(url), rank, store_options or {})


class StepDirectory:
    """The steps below one directory of the local file system.

    Args:
        url: A path or ``file://`` URL; made by the first save.
        rank: Of this process, among those that write together; that of rank 0 makes, commits and deletes.
    """

    pauses = 0.005, 0.25
    moves = True
    _lock: int | None = None

    def __init__(self, url: str | os.PathLike[str], rank: int = 0) -> None:
        """See the class."""
        self._rank = rank
        self.hidden: list[str] = []
        """Files that belong to a job, which the next one removes."""
        self.token = secrets.token_hex(8)
        """Tells this writer from all others, of which the lock says it."""
        self._abandoned: list[Folder] = []
        self.root = Path(local_path(url))
        self.shared = LocalFolder(self.root)
        self._known: dict[int, tuple[tuple[int, int, int], Manifest]] = {}

    def __del__(self) -> None:
        """A checkpointer that nobody closed is in nobody's way."""
        self.unlock()

    # --- reading ----------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        """The directory."""
        return str(self.root)

    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.root.is_dir()

    def steps(self) -> list[int]:
        """The committed steps, in order."""
        return sorted(self._found())

    def newest(self) -> int:
        """The newest committed step; -1: there is none."""
        return max([-1, *self.steps()])

    def path(self, step: int) -> Path:
        """The directory of a step; NotFoundError says which steps there are."""
        path = self.root / _name(step)
        if path.is_dir():
            return path
        found = self._found()
        if step not in found:
            there = ", ".join(map(str, sorted(found)[-10:])) if found else "none"
            raise NotFoundError(f"there is no step {step}; committed are {there}", path=str(self.root))
        return found[step]

    def folder(self, step: int) -> LocalFolder:
        """The files of a step; NotFoundError."""
        return LocalFolder(self.path(step))

    def _found(self) -> dict[int, Path]:
        """The directories of the committed steps; of one whose replacement was cut short, that of the old one."""
        try:
            paths = list(self.root.iterdir())
        except FileNotFoundError:
            return {}
        found: dict[int, Path] = {}
        for path in paths:
            step, old = _STEP.fullmatch(path.name), _LITTER.fullmatch(path.name)
            if step is not None and path.name == _name(int(step[1])):
                found[int(step[1])] = path
            elif old is not None and old[1] == "replaced":
                found.setdefault(int(old[2]), path)
        return found

    def manifest(self, step: int) -> Manifest:
        """The manifest of a step; FormatError when it is damaged, or is that of another step."""
        folder = self.path(step)
        path = folder / MANIFEST
        try:
            identity = _identity(path)
        except FileNotFoundError:
            raise FormatError("the step has no manifest: something has removed it", path=str(path)) from None
        known = self._known.get(step)
        if known is not None and known[0] == identity:
            return known[1]
        manifest = read_manifest(LocalFolder(folder))
        if manifest.step != step:
            raise FormatError(f"the manifest is of step {manifest.step}, not of {step}", path=str(path))
        self._known[step] = (identity, manifest)
        return manifest

    def unique_bytes(self, step: int) -> int:
        """What deleting a step would free."""
        stats = (path.stat() for path in self.path(step).iterdir())
        return sum(s.st_size for s in stats if s.st_nlink == 1)

    def litter(self) -> list[str]:
        """What crashes left; only what nobody is writing now, if that can be told (see ``locked_by``)."""
        return [path.name for path in self._litter()]

    def _litter(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if _LITTER.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def writing(self, step: int) -> list[LocalFolder]:
        """Where a step is being written, or was when something crashed."""
        return [LocalFolder(path) for path in self._litter() if path.name.startswith(f".writing-{step:08d}-")]

    def locked_by(self, rank: int = 0) -> str | None:
        """Who is writing now as this rank: a process and its machine; None: nobody."""
        if self._lock is not None and rank == self._rank:
            return _myself()
        return self._locked(rank, _holder)

    def lost(self, rank: int) -> bool | None:
        """Whether a rank does not hold its lock."""
        return self.locked_by(rank) is None

    def writer(self) -> str | None:
        """The token of the one that is rank 0 now; None: nobody is."""
        return self._locked(0, lambda fd: _said(fd).get("token", ""))

    def _locked(self, rank: int, say: Callable[[int], str]) -> str | None:
        """What is said of the holder of a lock; None where nobody has it."""
        try:
            fd = os.open(self.root / _lock_name(rank), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return say(fd)
        finally:
            os.close(fd)
        return None

    # --- writing ----------------------------------------------------------------------------------
    def lock(self) -> None:
        """Become the directory's writer, and clear away what a crash left; StorageError where another one is."""
        if self._lock is not None:
            return
        with located(self.root, "make the directory of the checkpoints"):
            make_directory(self.root)
            fd = os.open(self.root / _lock_name(self._rank), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _take(fd)
        except BlockingIOError:
            who = _holder(fd)
            os.close(fd)
            raise StorageError(
                f"another checkpointer is writing here: {who}. Two jobs cannot share a directory of checkpoints; give "
                "one of them another, or close the other checkpointer",
                errno=errno.EWOULDBLOCK,
                path=str(self.root),
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"who": _myself(), "token": self.token}).encode(), 0)
        self._lock = fd
        _LOCKED.add(self)
        if self._rank == 0:
            self.collect()
            for name in self.hidden:
                (self.root / name).unlink(missing_ok=True)

    def unlock(self) -> None:
        """Let another one write."""
        if self._lock is not None:
            os.close(self._lock)  # the file stays: to remove it would let two writers in
            self._lock = None

    def collect(self) -> list[str]:
        """Remove litter, or put it back where it belongs; the names."""
        names = []
        for path in self._litter():
            match = _LITTER.fullmatch(path.name)
            assert match is not None
            final = self.root / _name(int(match[2]))
            if match[1] == "replaced" and not final.exists():
                path.rename(final)
                sync_directory(self.root)
            else:
                self.abandon(LocalFolder(path))
            names.append(path.name)
        return names

    def begin(self, step: int) -> LocalFolder:
        """A new directory for a step that is being written."""
        while self._abandoned:
            self.abandon(self._abandoned.pop())
        path = self.root / _hidden("writing", step)
        with located(path, "make the directory of a step"):
            path.mkdir()
        return LocalFolder(path)

    def commit(self, made: Folder, manifest: Manifest) -> int:
        """Write the manifest of a step, and give the step its name, durably; the bytes of the manifest."""
        text, step = manifest.to_json(), manifest.step
        made.put(MANIFEST, text)
        final, old = self.root / _name(step), None
        with located(final, "commit the step"):
            if final.exists():
                old = self.root / _hidden("replaced", step)
            exchange(self.root / made.name, final, old)
        self._known[step] = (_identity(final / MANIFEST), manifest)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return len(text)

    def became(self, made: Folder, step: int) -> bool | None:
        """Whether what was written in a folder is committed as this step; None: it is still being written."""
        if made.exists():
            return None
        try:
            return self.manifest(step).identity == identity_of(made)
        except (FormatError, StorageError):
            return False

    def abandon(self, made: Folder) -> None:
        """Remove a step that could not be completed: at once for all that look for it, then file by file."""
        match, gone = _LITTER.fullmatch(made.name), self.root / made.name
        if match is not None and match[1] != "deleting":
            with contextlib.suppress(OSError):
                gone = gone.rename(gone.with_name(_hidden("deleting", int(match[2]))))
        shutil.rmtree(gone, ignore_errors=True)

    def abandon_later(self, made: Folder) -> None:
        """Remove such a step once others have seen what became of it: when the next one is begun."""
        self._abandoned.append(made)

    def delete(self, step: int) -> None:
        """Remove a committed step."""
        path = self.path(step)
        gone = self.root / _hidden("deleting", step)
        with located(path, "delete the step"):
            path.rename(gone)
            sync_directory(self.root)
        self._known.pop(step, None)
        shutil.rmtree(gone, ignore_errors=True)


_LOCKED: weakref.WeakSet[StepDirectory] = weakref.WeakSet()


def _unlock_in_child() -> None:
    """A lock is held as long as any process has the file: workers of a job that was killed must not hold it."""
    for directory in list(_LOCKED):
        directory.unlock()


os.register_at_fork(after_in_child=_unlock_in_child)


def _identity(path: Path) -> tuple[int, int, int]:
    """What is another when a file is another: inode, size, and when it was written."""
    info = path.stat()
    return info.st_ino, info.st_size, info.st_mtime_ns


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _lock_name(rank: int) -> str:
    return f".lock-{rank:05d}" if rank else ".lock"


def _take(fd: int) -> None:
    """Lock a file; BlockingIOError where another has it, for longer than it takes to ask who has it."""
    end = time.monotonic() + _ASKING
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(_ASKING / 20)


def _hidden(kind: str, step: int) -> str:
    return f".{kind}-{step:08d}-{secrets.token_hex(4)}"


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(fd: int) -> str:
    return _said(fd).get("who") or "a process that did not say which"


def _said(fd: int) -> dict[str, str]:
    """What the holder of a lock has written into it."""
    with contextlib.suppress(ValueError, OSError):
        said = json.loads(os.pread(fd, 4096, 0))
        if isinstance(said, dict):
            return {str(key): str(value)[:200] for key, value in said.items()}
    return {}
