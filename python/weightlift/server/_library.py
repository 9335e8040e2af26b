"""The directory that is served, and every change that is made to it.

Protocol. A model is a directory with a ``model.json``; an upload or copy is made complete in a hidden directory beside
the models, synced, and then takes its name in one step: a rename, or, over an old model, an exchange of the two names.
A single file is written under a hidden name beside its place and renamed. So at every instant, whatever is killed,
there is the old or the new; what a killed server left in hidden places is removed when the next one starts. One
server at a time may write: it holds a lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from threading import RLock

from weightlift.errors import AccessError, NotFoundError, QuotaError, StorageError
from weightlift.server._conditions import etag_of
from weightlift.server._errors import HTTPException
from weightlift.server._exchange import exchange
from weightlift.server._names import (
    HIDDEN,
    MODEL_JSON,
    SINGLE_FILES,
    check_file,
    check_model,
    is_model_name,
    is_weights_file,
)
from weightlift.server._responses import OpenFile
from weightlift.server._settings import SettingsError

__all__ = ["Check", "Library", "sync_tree"]

_TEMPORARY = ".weightlift-upload-"
_RESERVE = 64 << 20
"""Bytes of disk that uploads leave free."""
_MAX_LISTED = 10_000

Check = Callable[[str | None], None]
"""Called with the entity tag of what is there (None: nothing) before it is replaced; raises to stop that."""


class Library:
    """The models and files of a directory.

    Args:
        root: The directory.
        read_only: Nothing is changed, not even a lock is taken.
        quota: Most bytes that it may hold.
    """

    def __init__(self, root: Path, *, read_only: bool = False, quota: int | None = None) -> None:
        """See the class."""
        if not root.is_dir():
            raise SettingsError(f"{root} is not a directory")
        self.root = Path(os.path.realpath(root))
        self.read_only = read_only
        self._quota = quota
        self._lock = RLock()
        self._reserved = 0
        self._held: int | None = None

    # --- life ---
    def start(self) -> None:
        """Take the lock and remove what a killed server left; SettingsError if another one is writing here."""
        if self.read_only or self._held is not None:
            return
        hidden = self.root / HIDDEN
        try:
            hidden.mkdir(mode=0o700, exist_ok=True)
            self._held = os.open(hidden / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"cannot write to {self.root} ({error.strerror}): use --read-only") from None
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.stop()
            raise SettingsError(
                f"another server is writing to {self.root}: stop it, or start this one with --read-only"
            ) from None
        self._tidy()

    def stop(self) -> None:
        """Give the lock back."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _tidy(self) -> None:
        old = self.root / HIDDEN / "old"
        for kept in old.iterdir() if old.is_dir() else ():
            if not (self.root / kept.name).exists():
                kept.rename(self.root / kept.name)  # killed between the two renames of a replacement
        for folder in (old, self.root / HIDDEN / "uploads"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder_name, folders, files in os.walk(self.root):
            folders[:] = [f for f in folders if not f.startswith(".")]
            for file in files:
                if file.startswith(_TEMPORARY):
                    Path(folder_name, file).unlink()

    # --- what is there ---
    def models(self) -> list[str]:
        """Names of the models, sorted."""
        with os.scandir(self.root) as entries:
            names = [e.name for e in entries if is_model_name(e.name) and e.is_dir()]
        return sorted(n for n in names if (self.root / n / MODEL_JSON).is_file() and self._inside(self.root / n))

    def files(self) -> list[str]:
        """Relative paths of the files that hold weights, sorted; those of models are not among them."""
        found: list[str] = []
        models = set(self.models())
        for folder, folders, files in os.walk(self.root):
            base = Path(folder).relative_to(self.root)
            folders[:] = sorted(f for f in folders if not f.startswith(".") and (str(base) != "." or f not in models))
            names = set(files)
            for name in sorted(files):
                if not name.startswith(".") and _is_entry(name, names):
                    found.append(str(base / name))
            if len(found) > _MAX_LISTED:
                break
        return [f for f in found[:_MAX_LISTED] if self._inside(self.root / f)]

    def model(self, name: str) -> Path:
        """The directory of a model; NotFoundError."""
        folder = self.root / check_model(name)
        if not (folder / MODEL_JSON).is_file():
            raise NotFoundError(f"there is no model {name!r}")
        if not self._inside(folder):
            raise AccessError(f"{name!r} is a link out of the directory")
        return folder

    def file(self, path: str) -> Path:
        """The place of a weights file; NotFoundError."""
        place = self.root / check_file(path)
        if not is_weights_file(path) or not place.is_file():
            raise NotFoundError(f"there is no weights file {path!r}")
        if not self._inside(place):
            raise AccessError(f"{path!r} is a link out of the directory")
        return place

    def open(self, place: Path, folder: int | None = None) -> OpenFile:
        """Open a file for sending; what was opened, not its name, must lie inside the directory.

        Args:
            place: Absolute, or relative to ``folder``.
            folder: Descriptor of a directory.
        """
        name = str(place) if folder is not None else os.path.relpath(place, self.root)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"there is no {name!r}") from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFoundError(f"{name!r} is not a file")
            if not self._is_below(os.path.realpath(f"/proc/self/fd/{fd}")):
                raise AccessError(f"{name!r} is a link out of the directory")
        except BaseException:
            os.close(fd)
            raise
        kind = "application/json" if place.suffix in (".json", ".crc32c") else "application/octet-stream"
        return OpenFile(fd, status, kind)

    def _inside(self, place: Path) -> bool:
        return self._is_below(os.path.realpath(place))

    def _is_below(self, real: str) -> bool:
        return real.startswith(f"{str(self.root).rstrip('/')}/")

    # --- room ---
    @contextmanager
    def reserve(self, nbytes: int | None, most: int) -> Iterator[int]:
        """Room for an upload of ``nbytes`` (None: it does not say); gives the bytes that it may have.

        Raises:
            QuotaError: There is no room for them.
        """
        with self._lock:
            free = shutil.disk_usage(self.root).free - _RESERVE - self._reserved
            if self._quota is not None:
                free = min(free, self._quota - self._used() - self._reserved)
            room = min(most, max(0, free)) if nbytes is None else nbytes
            if free < room or not room:
                raise QuotaError(
                    f"no room: {max(0, free)} bytes are left for uploads, and this one has {nbytes or '?'}"
                )
            self._reserved += room
        try:
            yield room
        finally:
            with self._lock:
                self._reserved -= room

    def _used(self) -> int:
        """Bytes of all files but those of uploads under way, which are reserved."""
        total = 0
        for folder, folders, files in os.walk(self.root):
            folders[:] = [f for f in folders if f != HIDDEN]
            for file in files:
                with suppress(OSError):
                    total += Path(folder, file).lstat().st_size
        return total

    # --- changes ---
    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A new hidden directory; what is left in it goes when the work is done."""
        place = self.root / HIDDEN / "uploads" / token_hex(8)
        place.mkdir(parents=True, mode=0o755)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def publish_model(self, staged: Path, name: str, check: Check) -> bool:
        """Let a complete model directory take a name; whether one was replaced.

        Args:
            staged: In a :meth:`workplace`; holds the old model afterwards, if there was one.
            name: The name.
            check: See :data:`Check`.
        """
        target = self.root / check_model(name)
        sync_tree(staged)
        with self._lock:
            check(self.model_tag(name))
            replaced = os.path.lexists(target)
            if replaced and not (target / MODEL_JSON).is_file():
                raise HTTPException(409, f"{name!r} exists, and is no model")
            if not replaced:
                staged.rename(target)
            elif not exchange(str(staged), str(target)):
                self._replace(staged, target)
            _sync(self.root)
        return replaced

    def _replace(self, staged: Path, target: Path) -> None:
        """Without an exchange: for an instant there is neither, and a server that is killed then mends it at start."""
        old = self.root / HIDDEN / "old"
        old.mkdir(exist_ok=True)
        target.rename(old / target.name)
        try:
            staged.rename(target)
        except BaseException:
            (old / target.name).rename(target)
            raise
        shutil.rmtree(old / target.name, ignore_errors=True)

    def publish_file(self, staged: Path, path: str, check: Check) -> bool:
        """Let a complete file take a name; whether one was replaced."""
        target = self.root / check_file(path)
        _sync(staged)
        with self._lock:
            check(self.file_tag(path))
            replaced = target.exists()
            if target.is_dir():
                raise HTTPException(409, f"{path!r} is a directory")
            staged.replace(target)
            _sync(target.parent)
        return replaced

    @contextmanager
    def temporary_file(self, path: str) -> Iterator[Path]:
        """A hidden name beside a file that is to be; directories are made. It ends like the file, so that it parses.

        What has that name in the end is removed.
        """
        target = self.root / check_file(path)
        parts = path.split("/")[:-1]
        if parts and (self.root / parts[0] / MODEL_JSON).is_file() and is_model_name(parts[0]):
            raise HTTPException(409, f"{parts[0]!r} is a model: replace it as a whole")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise HTTPException(409, f"a part of {path!r} is a file, not a directory") from None
        if not self._inside(target.parent / "x"):
            raise AccessError(f"{path!r} leads out of the directory")
        place = target.with_name(f"{_TEMPORARY}{token_hex(8)}-{target.name}")
        try:
            yield place
        finally:
            place.unlink(missing_ok=True)

    def model_tag(self, name: str) -> str | None:
        """The entity tag of a model's ``model.json``; None if there is no such model."""
        return _tag(self.root / name / MODEL_JSON)

    def file_tag(self, path: str) -> str | None:
        """The entity tag of a file; None if there is none."""
        return _tag(self.root / path)

    def delete_model(self, name: str, check: Check) -> None:
        """Remove a model: first, in one step, its name."""
        with self.workplace() as place, self._lock:
            folder = self.model(name)
            check(self.model_tag(name))
            if folder.is_symlink():
                folder.unlink()
            else:
                folder.rename(place / "deleted")
            _sync(self.root)

    def delete_file(self, path: str, check: Check) -> None:
        """Remove a file, and the checksums beside it."""
        with self._lock:
            place = self.file(path)
            check(self.file_tag(path))
            place.unlink()
            place.with_name(f"{place.name}.crc32c").unlink(missing_ok=True)
            _sync(place.parent)

    def rename_model(self, name: str, to: str) -> None:
        """Give a model another name; 409 if that is taken."""
        target = self.root / check_model(to)
        with self._lock:
            folder = self.model(name)
            if os.path.lexists(target):
                raise HTTPException(409, f"{to!r} exists already")
            folder.rename(target)
            _sync(self.root)

    def copy_model(self, name: str, to: str) -> None:
        """Make a copy of a model; 409 if the name is taken."""
        target = self.root / check_model(to)
        if os.path.lexists(target):
            raise HTTPException(409, f"{to!r} exists already")
        folder = self.model(name)
        nbytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        with self.reserve(nbytes, nbytes), self.workplace() as place:
            shutil.copytree(folder, place / "copy", symlinks=True)
            self.publish_model(place / "copy", to, _must_be_new(to))


def _must_be_new(name: str) -> Check:
    def check(tag: str | None) -> None:
        if tag is not None:
            raise HTTPException(409, f"{name!r} exists already")

    return check


def _is_entry(name: str, beside: set[str]) -> bool:
    """Whether a file is to be listed: not one shard of a set that has an index."""
    if name.endswith(".json"):
        return name.endswith(SINGLE_FILES) or name == MODEL_JSON
    stem, _, rest = name.partition("-0")
    sharded = "-of-" in rest and f"{stem}.safetensors.index.json" in beside
    return name.endswith(SINGLE_FILES) and not sharded


def _tag(place: Path) -> str | None:
    try:
        return etag_of(place.stat())
    except OSError:
        return None


def _sync(path: Path) -> None:
    """Make a file's bytes, or the names in a directory, survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise StorageError(f"cannot sync: {error.strerror}", errno=error.errno, path=str(path)) from error
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make a directory and all in it survive a power cut."""
    for name, _, files in os.walk(folder):
        for file in files:
            _sync(Path(name, file))
        _sync(Path(name))
