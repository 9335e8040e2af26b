"""Where the files of one step lie: what writing, reading and the ranks need of it, wherever that is."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from weightlift._publish import put_file
from weightlift._source import Source, open_source
from weightlift.checkpoint._manifest import INDEX, Manifest
from weightlift.errors import StorageError
from weightlift.protocols import Store
from weightlift.stores._local import LocalStore

__all__ = ["JOB", "Directory", "Folder", "LocalFolder", "identity_of"]


JOB = "job.json"
"""In the folder of a step that many processes write, as long as they do."""


class Folder(Protocol):
    """The files of a step, or those beside the steps."""

    @property
    def name(self) -> str:
        """Of the folder; of a step that is being written it ends with the identity of the save."""

    @property
    def url(self) -> str:
        """For messages, and to load from."""

    @property
    def shard(self) -> int:
        """Bytes of a shard of small tensors: what is written anew, at most, because one of them changed."""

    @property
    def store(self) -> Store:
        """For shards; makes no directories: what has been removed stays so."""

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small file, whole or not at all."""

    def put_new(self, name: str, data: bytes) -> bool:
        """The same; False, and nothing is done, if there is one."""

    def read(self, name: str, most: int) -> bytes:
        """A small file; NotFoundError, and StorageError for one of more than ``most`` bytes."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of the files, by name; nothing where the folder is gone."""

    def has(self, name: str) -> bool:
        """Whether a file is there."""

    def exists(self) -> bool:
        """Whether the folder is there."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; such as are not there are passed over."""

    def take(self, source: Folder, names: Sequence[str]) -> set[str]:
        """Have files of another folder of this place, too, without moving their bytes; which it has then."""

    def open(self, mode: str = "auto") -> Source:
        """The tensors that the index in it tells of; ``mode``: how local files are read."""


class Directory(Protocol):
    """The steps of one place, and who writes there."""

    moves: bool
    """Whether a commit moves the folder: what is no part of the step is removed before that, else after it."""

    token: str
    """Tells this writer from all others."""

    hidden: list[str]
    """Files beside the steps that belong to a job, which the next one removes."""

    @property
    def url(self) -> str:
        """For messages."""

    @property
    def shared(self) -> Folder:
        """The files beside the steps."""

    @property
    def pauses(self) -> tuple[float, float]:
        """Seconds between two looks at what others have done: at first, and at most."""

    def exists(self) -> bool: ...
    def steps(self) -> list[int]: ...
    def newest(self) -> int: ...
    def folder(self, step: int) -> Folder: ...
    def manifest(self, step: int) -> Manifest: ...
    def writing(self, step: int) -> Sequence[Folder]: ...
    def litter(self) -> Sequence[str]: ...
    def unique_bytes(self, step: int) -> int: ...
    def locked_by(self, rank: int = 0) -> str | None: ...
    def lost(self, rank: int) -> bool | None: ...
    def writer(self) -> str | None: ...
    def lock(self) -> None: ...
    def unlock(self) -> None: ...
    def collect(self) -> list[str]: ...
    def begin(self, step: int) -> Folder: ...
    def commit(self, made: Folder, manifest: Manifest) -> int: ...
    def became(self, made: Folder, step: int) -> bool | None: ...
    def abandon(self, made: Folder) -> None: ...
    def abandon_later(self, made: Folder) -> None: ...
    def delete(self, step: int) -> None: ...


class LocalFolder:
    """A directory of the local file system."""

    shard = 16 << 20

    def __init__(self, path: Path) -> None:
        """``path``: which."""
        self.path = path
        self.name = path.name
        self.store = LocalStore(path, INDEX, make_directories=False)

    @property
    def url(self) -> str:
        """The path."""
        return str(self.path)

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """By a rename."""
        put_file(self.store, name, data, durable=durable)

    def put_new(self, name: str, data: bytes) -> bool:
        """By a link."""
        temporary = f"{name}.{secrets.token_hex(4)}"
        self.put(temporary, data, durable=False)
        try:
            os.link(self.path / temporary, self.path / name)
        except FileExistsError:
            return False
        finally:
            (self.path / temporary).unlink(missing_ok=True)
        return True

    def read(self, name: str, most: int) -> bytes:
        """See the class."""
        path = self.path / name
        nbytes = path.stat().st_size
        if nbytes > most:
            raise StorageError(f"a file of {nbytes} bytes; at most {most} are read", path=str(path))
        return path.read_bytes()

    def sizes(self) -> dict[str, int]:
        """See the class."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):  # other processes remove theirs meanwhile
                    found[path.name] = path.stat().st_size
        return found

    def has(self, name: str) -> bool:
        """See the class."""
        return (self.path / name).exists()

    def exists(self) -> bool:
        """See the class."""
        return self.path.exists()

    def remove(self, names: Iterable[str]) -> None:
        """See the class."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def take(self, source: Folder, names: Sequence[str]) -> set[str]:
        """By links; not where the file system has none, or a file has as many as it may."""
        taken: set[str] = set()
        if not isinstance(source, LocalFolder):
            return taken
        for name in names:
            with contextlib.suppress(OSError):
                os.link(source.path / name, self.path / name, follow_symlinks=False)
                taken.add(name)
        return taken

    def open(self, mode: str = "auto") -> Source:
        """See the class."""
        return open_source(self.path / INDEX, mode=mode)


def identity_of(folder: Folder) -> str:
    """What a manifest has of the folder that it was written for: by this the ranks know their save."""
    return folder.name.rpartition("-")[2]
