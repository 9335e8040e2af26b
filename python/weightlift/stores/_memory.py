"""Files in the memory of the process, behind ``memory://`` URLs.

Protocol. One table of the process maps names (``run/model.json``) to finished bytes, which nobody changes any more: a
reader keeps those that it opened. A write fills memory of its own, and one assignment under the table's lock publishes
it. A whole model is written into a table of its own and replaces the old one's files in one step (``publish``), and it
is loaded from a copy of the table (``snapshot``), so that no reader sees parts of two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from weightlift import _core
from weightlift.errors import NotFoundError
from weightlift.stores._buffers import BufferWriter
from weightlift.stores._paths import check_relative

__all__ = ["PROCESS", "MemoryStore", "Table", "at_url", "name_of"]

SCHEME = "memory"
OPTIONS = ()


@dataclass(frozen=True)
class _File:
    """Finished bytes, and when they were (seconds since the epoch)."""

    data: Any
    saved: float


@dataclass
class Table:
    """Files by name; every access to ``files`` holds the lock."""

    files: dict[str, _File] = field(default_factory=dict)
    lock: Any = field(default_factory=Lock)

    def snapshot(self, folder: str) -> Table:
        """A table of its own with the files of a folder as they are now."""
        with self.lock:
            return Table({n: f for n, f in self.files.items() if n.startswith(f"{folder}/")})

    def publish(self, folder: str, new: Mapping[str, _File]) -> None:
        """Replace all files of a folder by others, in one step."""
        with self.lock:
            for name in [n for n in self.files if n.startswith(f"{folder}/")]:
                del self.files[name]
            self.files.update(new)

    def names(self) -> list[str]:
        """All names, sorted."""
        with self.lock:
            return sorted(self.files)

    def saved(self, name: str) -> float:
        """When a file was written; 0 if it is gone."""
        with self.lock:
            return self.files[name].saved if name in self.files else 0.0


PROCESS = Table()
"""What ``memory://`` URLs mean."""


def name_of(url: str) -> str:
    """The name in the table that a URL means, without slashes at its end; UnsafeContentError for one that escapes."""
    return check_relative(url.partition("://")[2].rstrip("/"))


def at_url(url: str, options: Mapping[str, Any]) -> tuple[MemoryStore, str]:
    """The folder and the name in it of the file that a URL means; the name is "" for a folder.

    Raises:
        TypeError: There are options, which this scheme does not have.
    """
    if options:
        raise TypeError(f"{SCHEME}:// URLs have no option {', '.join(options)} (for {url})")
    name = name_of(url)
    known = PROCESS.names()
    if url.endswith("/") or (name not in known and any(n.startswith(f"{name}/") for n in known)):
        return MemoryStore(name), ""
    folder, _, file = name.rpartition("/")
    return MemoryStore(folder), file


class MemoryStore:
    """The files of one folder of a table.

    Args:
        folder: Its name; "" for all.
        table: By default that of the process.
    """

    def __init__(self, folder: str = "", table: Table | None = None) -> None:
        """See the class."""
        self.table = PROCESS if table is None else table
        self._prefix = f"{folder}/" if folder else ""

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> MemoryStore:
        """A store of its own with these files."""
        now = time.time()
        return cls("", Table({name: _File(data, now) for name, data in files.items()}))

    @property
    def url(self) -> str:
        """Of the folder."""
        return f"{SCHEME}://{self._prefix.rstrip('/')}"

    def path(self, relative: str) -> str:
        """The URL of a file."""
        return f"{SCHEME}://{self._name(relative)}"

    def _name(self, relative: str) -> str:
        return self._prefix + check_relative(relative)

    def open(self, relative: str) -> _core.Reader:
        """A reader of the bytes that are there now."""
        name = self._name(relative)
        with self.table.lock:
            found = self.table.files.get(name)
        if found is None:
            raise NotFoundError("there is no such file in the memory of this process", url=self.path(relative))
        return _core.MemoryReader(found.data, self.path(relative))

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> BufferWriter:
        """A writer of ``nbytes`` bytes; ``durable`` means nothing here."""
        name, table = self._name(relative), self.table

        def publish(data: Any) -> None:
            with table.lock:
                table.files[name] = _File(data, time.time())

        return BufferWriter(nbytes, self.path(relative), publish)

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        name = self._name(relative)
        with self.table.lock:
            return name in self.table.files

    def list(self) -> Iterator[str]:
        """Relative names of all files in the folder, sorted."""
        return (n[len(self._prefix) :] for n in self.table.names() if n.startswith(self._prefix))

    def delete(self, relative: str) -> None:
        """Remove a file; NotFoundError."""
        name = self._name(relative)
        with self.table.lock:
            if self.table.files.pop(name, None) is None:
                raise NotFoundError("there is no such file in the memory of this process", url=self.path(relative))

    def alias(self, source: str, target: str) -> bool:
        """Let ``target`` name the bytes of ``source`` too."""
        old, new = self._name(source), self._name(target)
        with self.table.lock:
            self.table.files[new] = self.table.files[old]
        return True

    def sync(self) -> None:
        """Nothing outlives the process."""
