"""SQLite databases that stand for a browser's storage.

Protocol. A database is a file of the user's data directory, or the one that ``database=`` names. It is in WAL mode:
readers see what was committed when they began, and do not wait for the one writer that there may be at a time; writers
wait for each other, at most ``BUSY_SECONDS``. Every commit is synced to disk. A database is made when something is
first saved, and known by its application id, so that no file of another program is ever written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from weightlift.errors import AccessError, FormatError, NotFoundError, StorageError, UnsupportedFeatureError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["DIRECTORY_VARIABLE", "Database", "own_options"]

DIRECTORY_VARIABLE = "WEIGHTLIFT_BROWSER_DATA"
"""Environment variable: the directory of the databases."""

BUSY_SECONDS = 60.0
APPLICATION = 0x57544C46
VERSION = 1


def own_options(options: Mapping[str, Any], known: tuple[str, ...], scheme: str) -> dict[str, Any]:
    """The scheme's options; TypeError for one that it does not have."""
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{scheme}:// URLs have no option {', '.join(unknown)}")
    return dict(options)


def default_directory() -> Path:
    """Where databases are, if nobody says otherwise."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        return Path(given)
    try:
        from platformdirs import user_data_path
    except ImportError:
        raise UnsupportedFeatureError(
            "the user's data directory needs platformdirs: pip install 'weightlift[browser]', or set "
            f"{DIRECTORY_VARIABLE} or database="
        ) from None
    return user_data_path("weightlift")


class Database:
    """One database file; connections are opened when they are needed, and again after a fork.

    Args:
        path: The file; None for ``name`` in the user's data directory.
        name: See ``path``.
        schema: Statements that make the tables; the first begins with ``CREATE TABLE NAME``.
        page_bytes: Of a new database.
    """

    def __init__(self, path: str | os.PathLike[str] | None, name: str, schema: str, *, page_bytes: int = 4096) -> None:
        """See the class; opens nothing."""
        self._page_bytes = page_bytes
        self._connection: tuple[int, sqlite3.Connection] | None = None
        self._lock = RLock()
        self._schema = schema
        self._table = schema.split()[2]
        self.path = default_directory() / name if path is None else Path(path)

    def __repr__(self) -> str:
        """The file."""
        return f"<Database {self.path}>"

    @contextmanager
    def reading(self, *, url: str | None = None) -> Iterator[sqlite3.Connection]:
        """One view of what was committed; NotFoundError if there is no database."""
        with self._lock, self._translated(url):
            if not self.path.exists():
                raise NotFoundError("nothing was ever saved there", url=url, path=None if url else str(self.path))
            connection = self._open()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def writing(self, *, url: str | None = None, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing if an error leaves the block.

        ``durable``: synced to disk with all that was committed before it; else together with the next that is.
        """
        with self._lock, self._translated(url):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = self._open()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        """The connection of this process."""
        if self._connection is not None and self._connection[0] == os.getpid():
            return self._connection[1]
        import sqlite3

        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = os.getpid(), connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Settings, and the tables of a new database."""

        def number(pragma: str) -> int:
            return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])

        def missing() -> bool:
            """Whether the tables are not there: the file is new, or another storage's so far."""
            return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self._table,)).fetchone() is None

        ours = number("application_id") == APPLICATION
        if not ours:
            connection.execute(f"PRAGMA page_size = {self._page_bytes}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if not ours or missing():
            connection.execute("BEGIN IMMEDIATE")  # of several processes one makes them
            try:
                if number("application_id") != APPLICATION:
                    if number("schema_version"):
                        raise FormatError("the database is another program's; name another one", path=str(self.path))
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
                if number("user_version") == VERSION and missing():
                    for statement in self._schema.split(";"):
                        connection.execute(statement)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        if number("user_version") != VERSION:
            raise UnsupportedFeatureError(
                f"the database is of version {number('user_version')}, this library knows {VERSION}",
                path=str(self.path),
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA secure_delete = OFF")  # which writes over what is removed, as slow as a save

    @contextmanager
    def _translated(self, url: str | None) -> Iterator[None]:
        """Errors of SQLite and of the system, as this library's."""
        import sqlite3

        place: dict[str, Any] = {"path": str(self.path)} if url is None else {"url": url}
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(error, self.path, place) from error
        except PermissionError as error:
            if isinstance(error, AccessError):
                raise
            raise AccessError(f"{self.path}: {error.strerror}", errno=error.errno, **place) from error
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"{self.path}: {error.strerror}", errno=error.errno, **place) from error

    def __del__(self) -> None:
        """Close the connection."""
        self.close()

    def shrink(self) -> None:
        """Give the room of what was removed back to the file system."""
        with self._lock, self._translated(None):
            self._open().executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            if self._connection is not None and self._connection[0] == os.getpid():
                self._connection[1].close()
            self._connection = None


def _translate(error: sqlite3.Error, path: Path, place: Mapping[str, Any]) -> Exception:
    """SQLite's error as this library's."""
    import errno

    text = str(error)
    if "not a database" in text or "malformed" in text:
        return FormatError(f"{path} is damaged, or no SQLite database: {text}", **place)
    if "full" in text:
        return StorageError(f"{path}: no room: {text}", errno=errno.ENOSPC, **place)
    if "locked" in text or "busy" in text:
        return StorageError(
            f"{path} has been in use by another process for {BUSY_SECONDS:.0f} seconds: try again", **place
        )
    if "readonly" in text or "unable to open" in text:
        return AccessError(f"{path} cannot be opened or written: {text}", **place)
    return StorageError(f"{path}: {text}", **place)
