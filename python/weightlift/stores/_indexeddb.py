"""Models as TensorFlow.js keeps them in a browser's IndexedDB, in a database of the user's: ``indexeddb://PATH``.

Protocol. The tables ``models_store`` and ``model_info_store`` are TensorFlow.js's object stores, by ``modelPath``.
A record's ``modelArtifacts`` is its JSON with ``null`` for ``weightData``; these bytes lie in ``weight_chunks``,
``CHUNK`` bytes a row, under a number that is never used again. A save puts the chunks in as they come, in short
transactions that nobody sees; then one transaction writes both records, and removes the old chunks: a save that fails,
or is killed, leaves the old model. Weights are read by range, from the chunks that hold it; a reader whose chunks are
gone says that the model was replaced. Chunks that a killed save left are removed by a later one, an hour after they
were last added to.

To formats a model is a directory with ``model.json`` and ``weights.bin``, as in ``_localstorage``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from weightlift import _core
from weightlift.errors import ChangedError, FormatError, NotFoundError, StorageError, UnsupportedFeatureError
from weightlift.stores._browser_models import DOCUMENT, WEIGHTS, Parts, listed, model_path, parsed, stringify
from weightlift.stores._buffers import BufferWriter
from weightlift.stores._paths import check_relative
from weightlift.stores._sqlite import Database, own_options
from weightlift.types import ModelArtifactsInfo

if TYPE_CHECKING:
    import sqlite3

__all__ = ["CHUNK", "IndexedDb", "IndexedDbStore", "at_url"]

Json = Mapping[str, Any]

SCHEME = "indexeddb"
OPTIONS = ("database",)
CHUNK = 1 << 20
"""Bytes a row."""

PAGE = 32 << 10
"""Bytes a page of the database: rows of CHUNK bytes are read three times as fast as from the usual 4 KiB."""

BATCH = 32
"""Rows put in by one transaction."""

ABANDONED_AFTER = 3600.0
"""Seconds after which chunks that no record names are those of a save that was killed."""

ARTIFACT_KEYS = (
    "modelTopology", "format", "generatedBy", "convertedBy", "trainingConfig", "userDefinedMetadata", "weightData",
    "weightSpecs", "signature", "modelInitializer", "initializerSignature",
)  # fmt: skip
"""The order in which TensorFlow.js's layers models have them."""

_SCHEMA = """
CREATE TABLE models_store (
  modelPath TEXT PRIMARY KEY, modelArtifacts TEXT NOT NULL, modelArtifactsInfo TEXT NOT NULL, data INTEGER);
CREATE TABLE model_info_store (modelPath TEXT PRIMARY KEY, modelArtifactsInfo TEXT NOT NULL);
CREATE TABLE weight_data (id INTEGER PRIMARY KEY AUTOINCREMENT, nbytes INTEGER, chunk INTEGER, touched REAL);
CREATE TABLE weight_chunks (data INTEGER, number INTEGER, bytes BLOB NOT NULL, UNIQUE (data, number))
"""


class IndexedDb:
    """The whole database.

    Args:
        database: Its file; default: in the user's data directory.
    """

    def __init__(self, database: str | os.PathLike[str] | None = None) -> None:
        """See the class; opens nothing."""
        self.database = Database(database, "indexeddb.sqlite3", _SCHEMA, page_bytes=PAGE)

    def record(self, path: str) -> tuple[Any, Any, int | None, int, int]:
        """(artifacts, info, number of the weight data, its bytes, bytes a row) of a model; NotFoundError."""
        url = f"{SCHEME}://{path}"
        with self.database.reading(url=url) as connection:
            row = connection.execute(
                "SELECT modelArtifacts, modelArtifactsInfo, data, nbytes, chunk FROM models_store "
                "LEFT JOIN weight_data ON id = data WHERE modelPath = ?",
                (path,),
            ).fetchone()
        if row is None:
            raise NotFoundError(f"cannot find model with path {path!r} in IndexedDB", url=url)
        artifacts, info = parsed(row[0], "modelArtifacts"), parsed(row[1], "modelArtifactsInfo")
        if not isinstance(artifacts, dict):
            raise FormatError("modelArtifacts is no object", url=url)
        return artifacts, info, row[2], row[3] or 0, row[4] or CHUNK

    def publish(self, path: str, artifacts: Json, info: Json, data: int | None) -> None:
        """Replace a model by one whose weight data was put in before."""
        with self.database.writing(url=f"{SCHEME}://{path}") as connection:
            _replace(connection, path, artifacts, info, data)
            _sweep(connection)

    def publish_all(self, models: Sequence[tuple[str, Json, Json, bytes | None]]) -> None:
        """Put models in, all or none: (path, artifacts, info, weight data)."""
        with self.database.writing() as connection:
            for path, artifacts, info, data in models:
                number = None if data is None else _begin(connection, len(data))
                for at in range(0, len(data or b""), CHUNK):
                    row = (number, at // CHUNK, (data or b"")[at : at + CHUNK])
                    connection.execute("INSERT INTO weight_chunks VALUES (?, ?, ?)", row)
                _replace(connection, path, artifacts, info, number)

    def begin(self, nbytes: int) -> int:
        """The number of new weight data."""
        with self.database.writing(durable=False) as connection:
            return _begin(connection, nbytes)

    def add(self, data: int, rows: Iterable[tuple[int, bytes]]) -> None:
        """Put chunks in, by their numbers; they are durable when the record that names them is."""
        with self.database.writing(durable=False) as connection:
            connection.execute("UPDATE weight_data SET touched = ? WHERE id = ?", (time.time(), data))
            connection.executemany("INSERT INTO weight_chunks VALUES (?, ?, ?)", [(data, n, b) for n, b in rows])

    def discard(self, data: int) -> None:
        """Remove weight data that no record names."""
        with self.database.writing() as connection:
            _drop(connection, data)

    def remove(self, path: str) -> None:
        """Remove a model; NotFoundError."""
        url = f"{SCHEME}://{path}"
        if not self.database.path.exists():
            raise NotFoundError(f"cannot find model with path {path!r} in IndexedDB", url=url)
        with self.database.writing(url=url) as connection:
            if not _forget(connection, path):
                raise NotFoundError(f"cannot find model with path {path!r} in IndexedDB", url=url)
        self.database.shrink()

    def holds(self, path: str) -> bool:
        """Whether there is such a model."""
        if not self.database.path.exists():
            return False
        with self.database.reading() as connection:
            found = connection.execute("SELECT 1 FROM models_store WHERE modelPath = ?", (path,)).fetchone()
        return found is not None

    def models(self) -> dict[str, ModelArtifactsInfo]:
        """The models by path, sorted."""
        if not self.database.path.exists():
            return {}
        with self.database.reading() as connection:
            rows = connection.execute("SELECT * FROM model_info_store ORDER BY modelPath").fetchall()
        return {path: listed(text) for path, text in rows}

    def chunk(self, data: int, number: int, name: str) -> bytes:
        """One row; ChangedError if it is gone."""
        with self.database.reading(url=name) as connection:
            row = connection.execute(
                "SELECT bytes FROM weight_chunks WHERE data = ? AND number = ?", (data, number)
            ).fetchone()
        if row is None:
            raise ChangedError("the model was replaced or removed since it was opened: open it again", url=name)
        found: bytes = row[0]
        return found


def _begin(connection: sqlite3.Connection, nbytes: int) -> int:
    """The number of new weight data, inside a transaction."""
    cursor = connection.execute(
        "INSERT INTO weight_data (nbytes, chunk, touched) VALUES (?, ?, ?)", (nbytes, CHUNK, time.time())
    )
    return int(cursor.lastrowid or 0)


def _replace(connection: sqlite3.Connection, path: str, artifacts: Json, info: Json, data: int | None) -> None:
    """Put both records of a model in, in place of the old ones."""
    _forget(connection, path)
    text = stringify(info)
    connection.execute("INSERT INTO model_info_store VALUES (?, ?)", (path, text))
    connection.execute("INSERT INTO models_store VALUES (?, ?, ?, ?)", (path, stringify(artifacts), text, data))


def _forget(connection: sqlite3.Connection, path: str) -> bool:
    """Remove a model inside a transaction; whether there was one."""
    row = connection.execute("SELECT data FROM models_store WHERE modelPath = ?", (path,)).fetchone()
    connection.execute("DELETE FROM model_info_store WHERE modelPath = ?", (path,))
    connection.execute("DELETE FROM models_store WHERE modelPath = ?", (path,))
    if row is not None and row[0] is not None:
        _drop(connection, row[0])
    return row is not None


def _drop(connection: sqlite3.Connection, data: int) -> None:
    connection.execute("DELETE FROM weight_chunks WHERE data = ?", (data,))
    connection.execute("DELETE FROM weight_data WHERE id = ?", (data,))


def _sweep(connection: sqlite3.Connection) -> None:
    """Remove what saves that were killed have left."""
    rows = connection.execute(
        "SELECT id FROM weight_data WHERE touched < ? "
        "AND id NOT IN (SELECT data FROM models_store WHERE data NOT NULL)",
        (time.time() - ABANDONED_AFTER,),
    ).fetchall()
    for (data,) in rows:
        _drop(connection, data)


class ChunkWriter(_core.FunctionWriter):
    """Weight data on its way in: rows are put in as they become whole, whatever the order of the writes."""

    def __init__(self, database: IndexedDb, nbytes: int, name: str) -> None:
        """``nbytes`` is the final size."""
        self.staging = staging = _Staging(database, nbytes, name)
        super().__init__(staging.write, name)

    def commit(self) -> None:
        """All rows are in; they are seen when the document is committed."""
        self.staging.finish()

    def abort(self) -> None:
        """Remove the rows."""
        self.staging.abort()

    def __del__(self) -> None:
        """A forgotten writer leaves nothing; what cannot be removed now, a later save removes."""
        if not self.staging.finished:
            with contextlib.suppress(Exception):
                self.staging.abort()


class _Staging:
    """Rows in the making."""

    def __init__(self, database: IndexedDb, nbytes: int, name: str) -> None:
        self.database, self.nbytes, self._name = database, nbytes, name
        self.number: int | None = None
        self.finished = False
        self._lock = Lock()
        self._parts: dict[int, tuple[bytearray, int]] = {}
        self._whole: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: memoryview) -> None:
        """Take bytes; put rows in when there are enough."""
        if offset + len(data) > self.nbytes:
            end = offset + len(data)
            raise StorageError(f"bytes {offset}-{end} do not fit a file of {self.nbytes}", url=self._name)
        with self._lock:
            while data:
                number, at = divmod(offset, CHUNK)
                size = min(CHUNK, self.nbytes - number * CHUNK)
                part = data[: size - at]
                if len(part) == size:
                    self._whole.append((number, bytes(part)))
                else:
                    self._take(number, at, part, size)
                offset, data = offset + len(part), data[len(part) :]
            if len(self._whole) >= BATCH:
                self._flush()

    def _take(self, number: int, at: int, part: memoryview, size: int) -> None:
        """Bytes of a row that are not all of it."""
        buffer, filled = self._parts.pop(number) if number in self._parts else (bytearray(size), 0)
        buffer[at : at + len(part)] = part
        if filled + len(part) == size:
            self._whole.append((number, bytes(buffer)))
        else:
            self._parts[number] = buffer, filled + len(part)

    def _flush(self) -> None:
        if self.number is None:
            self.number = self.database.begin(self.nbytes)
        rows, self._whole = self._whole, []
        self.database.add(self.number, rows)

    def finish(self) -> None:
        """Put in what is left; gaps are zeros."""
        with self._lock:
            self._whole += [(n, bytes(buffer)) for n, (buffer, _) in self._parts.items()]
            self._parts = {}
            self._flush()
            self.finished = True

    def abort(self) -> None:
        """Remove what was put in."""
        with self._lock:
            self._parts, self._whole = {}, []
            number, self.number = self.number, None
        if number is not None:
            self.database.discard(number)


def at_url(url: str, options: Mapping[str, Any]) -> tuple[IndexedDbStore, str]:
    """The directory that a model is, and the name of its document."""
    return IndexedDbStore(url, IndexedDb(**own_options(options, OPTIONS, SCHEME))), DOCUMENT


class IndexedDbStore:
    """One model, as a directory with ``model.json`` and ``weights.bin``; see ``_localstorage`` for what that means."""

    def __init__(self, url: str, database: IndexedDb) -> None:
        """Opens nothing; UnsafeContentError for a path that is refused."""
        self._path, self._database = model_path(url), database
        self.url = f"{SCHEME}://{self._path}"
        self._opened: tuple[int | None, int, int] | None = None
        self._staged: _Staging | None = None

    def path(self, relative: str) -> str:
        """What messages call a file."""
        check_relative(relative)
        return self.url if relative == DOCUMENT else f"{self.url}#{relative}"

    def open(self, relative: str) -> _core.Reader:
        """A reader; the weights are those of the document that was opened last, or ChangedError."""
        name = self.path(relative)
        if relative == DOCUMENT:
            document, self._opened = self._read()
            return _core.MemoryReader(document, name)
        if relative != WEIGHTS:
            raise NotFoundError("there is no such file", url=name)
        if self._opened is None:
            self._opened = self._read()[1]
        return self._weights(*self._opened, name)

    def _weights(self, data: int | None, nbytes: int, chunk: int, name: str) -> _core.Reader:
        database = self._database

        def fill(offset: int, view: memoryview) -> None:
            while view:
                number, at = divmod(offset, chunk)
                part = memoryview(database.chunk(data or 0, number, name))[at : at + len(view)]
                if not part:
                    raise FormatError(f"chunk {number} of the weight data is too short", url=name)
                view[: len(part)] = part
                offset, view = offset + len(part), view[len(part) :]

        return _core.FunctionReader(fill, nbytes, name)

    def _read(self) -> tuple[bytes, tuple[int | None, int, int]]:
        artifacts, _, data, nbytes, chunk = self._database.record(self._path)
        specs = artifacts.get("weightSpecs") or []
        if not isinstance(specs, list):
            raise FormatError("weightSpecs is no list", url=self.url)
        apart = ("modelTopology", "weightSpecs", "weightData", "weightsManifest")
        rest = {k: v for k, v in artifacts.items() if k not in apart}
        return Parts(artifacts.get("modelTopology"), specs, rest).document(nbytes), (data, nbytes, chunk)

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> ChunkWriter | BufferWriter:
        """A writer of the weights, or of the document, whose commit publishes both."""
        name = self.path(relative)
        if relative == WEIGHTS:
            writer = ChunkWriter(self._database, nbytes, name)
            self._staged = writer.staging
            return writer
        if relative != DOCUMENT:
            raise UnsupportedFeatureError(
                f"a model in IndexedDB has no file {relative!r}: leave shard_size= and format= out", url=self.url
            )
        return BufferWriter(nbytes, name, self._publish)

    def _publish(self, document: Any) -> None:
        staged, self._staged, self._opened = self._staged, None, None
        try:
            parts = Parts.of(document.tobytes(), SCHEME)
            nbytes = 0 if staged is None else staged.nbytes
            known = {
                "modelTopology": parts.topology,
                "weightData": None,
                "weightSpecs": list(parts.specs),
                **parts.rest,
            }
            keys = [k for k in ARTIFACT_KEYS if k in known]
            artifacts = {k: known[k] for k in [*keys, *(k for k in known if k not in keys)]}
            info = parts.info(nbytes).to_json()
            self._database.publish(self._path, artifacts, info, None if staged is None else staged.number)
        except BaseException:
            if staged is not None:
                staged.abort()
            raise

    def exists(self, relative: str) -> bool:
        """Whether there is such a model, for its document; no for anything else."""
        self.path(relative)
        return relative == DOCUMENT and self._database.holds(self._path)

    def list(self) -> Iterable[str]:
        """The document, if there is a model."""
        return iter([DOCUMENT] if self.exists(DOCUMENT) else [])

    def delete(self, relative: str) -> None:
        """Remove the model, by its document; NotFoundError."""
        name = self.path(relative)
        if relative != DOCUMENT:
            raise NotFoundError("there is no such file", url=name)
        self._database.remove(self._path)
