"""Models as TensorFlow.js keeps them in a browser's localStorage, in a database of the user's: ``localstorage://PATH``.

Protocol. A model is five entries, ``tensorflowjs_models/PATH/`` with ``info``, ``model_topology``, ``weight_specs``,
``weight_data`` (base64 of all weights) and ``model_metadata``, written in this order as JavaScript writes them. What
TensorFlow.js does not know (our checksums) is one more key of ``model_metadata``, which it ignores. All five are
replaced in one transaction, in which the quota is checked, so a failed save leaves the old model. The quota is counted
as browsers do: UTF-16 code units of all keys and values.

To formats a model is a directory with ``model.json`` and ``weights.bin``, which is written as a whole when its document
is, and opened as a whole when its document is.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightlift import _core
from weightlift.errors import FormatError, NotFoundError, QuotaError, UnsupportedFeatureError
from weightlift.stores._browser_models import DOCUMENT, WEIGHTS, Parts, listed, model_path, parsed, stringify
from weightlift.stores._buffers import BufferWriter
from weightlift.stores._paths import check_relative
from weightlift.stores._sqlite import Database, own_options
from weightlift.types import ModelArtifactsInfo

if TYPE_CHECKING:
    import sqlite3

__all__ = ["ENTRIES", "PREFIX", "QUOTA", "LocalStorage", "LocalStorageStore", "at_url", "decoded", "parts_of"]

SCHEME = "localstorage"
OPTIONS = ("database", "quota")
PREFIX = "tensorflowjs_models/"
ENTRIES = ("info", "model_topology", "weight_specs", "weight_data", "model_metadata")
QUOTA = 5 << 20
"""UTF-16 code units that browsers give a site."""

_SCHEMA = "CREATE TABLE storage (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, units INTEGER)"


def units(text: str) -> int:
    """UTF-16 code units of a text."""
    return len(text) + sum(c > "\uffff" for c in text) if not text.isascii() else len(text)


def key_of(path: str, entry: str) -> str:
    """The key of one of a model's entries."""
    return f"{PREFIX}{path}/{entry}"


class LocalStorage:
    """The whole storage: keys and values, and the models that they are.

    Args:
        database: Its file; default: in the user's data directory.
        quota: UTF-16 code units that all keys and values may have; default: ``QUOTA``.
    """

    def __init__(self, database: str | os.PathLike[str] | None = None, quota: int | None = None) -> None:
        """See the class; opens nothing."""
        self.database = Database(database, "localstorage.sqlite3", _SCHEMA)
        self.quota = QUOTA if quota is None else quota

    def read(self, path: str) -> dict[str, str]:
        """A model's entries, by their last part; NotFoundError."""
        url = f"{SCHEME}://{path}"
        with self.database.reading(url=url) as connection:
            found = {}
            for entry in ENTRIES:
                row = connection.execute("SELECT value FROM storage WHERE key = ?", (key_of(path, entry),)).fetchone()
                if row is not None:
                    found[entry] = row[0]
        if "info" not in found:
            raise NotFoundError(f"in local storage, there is no model with name {path!r}", url=url)
        return found

    def write(self, path: str, entries: Mapping[str, str]) -> None:
        """Replace a model, whole; QuotaError if there is no room for it."""
        with self.database.writing(url=f"{SCHEME}://{path}") as connection:
            self.put(connection, [path], {key_of(path, e): entries[e] for e in ENTRIES if e in entries})

    def put(self, connection: sqlite3.Connection, paths: Sequence[str], items: Mapping[str, str]) -> None:
        """Replace the entries of models by ``items``, in their order, inside a transaction."""
        for path in paths:
            _forget(connection, path)
        used = int(connection.execute("SELECT COALESCE(SUM(units), 0) FROM storage").fetchone()[0])
        needed = sum(units(k) + units(v) for k, v in items.items())
        if used + needed > self.quota:
            names, sizes = ", ".join(map(repr, paths)), "; ".join(_sizes(path, items) for path in paths)
            raise QuotaError(
                f"{names}: this needs {needed} of {self.quota} UTF-16 code units, of which {used} are taken by other "
                f"models ({sizes}): remove some, give quota=, or use indexeddb://",
                url=f"{SCHEME}://{paths[0]}",
            )
        connection.executemany(
            "INSERT INTO storage (key, value, units) VALUES (?, ?, ?)",
            [(k, v, units(k) + units(v)) for k, v in items.items()],
        )

    def remove(self, path: str) -> None:
        """Remove a model; NotFoundError."""
        url = f"{SCHEME}://{path}"
        if not self.database.path.exists():
            raise NotFoundError(f"cannot find model at path {path!r}", url=url)
        with self.database.writing(url=url) as connection:
            if not _forget(connection, path):
                raise NotFoundError(f"cannot find model at path {path!r}", url=url)

    def holds(self, path: str) -> bool:
        """Whether there is such a model."""
        if not self.database.path.exists():
            return False
        with self.database.reading() as connection:
            found = connection.execute("SELECT 1 FROM storage WHERE key = ?", (key_of(path, "info"),)).fetchone()
        return found is not None

    def models(self) -> dict[str, ModelArtifactsInfo]:
        """The models by path, sorted."""
        if not self.database.path.exists():
            return {}
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT key, value FROM storage WHERE substr(key, 1, ?) = ? AND substr(key, -5) = '/info' ORDER BY key",
                (len(PREFIX), PREFIX),
            ).fetchall()
        return {k[len(PREFIX) : -len("/info")]: listed(v) for k, v in rows}

    def items(self) -> dict[str, str]:
        """All keys and values, in the order in which they were written."""
        if not self.database.path.exists():
            return {}
        with self.database.reading() as connection:
            return dict(connection.execute("SELECT key, value FROM storage ORDER BY id").fetchall())


def _forget(connection: sqlite3.Connection, path: str) -> bool:
    keys = [(key_of(path, entry),) for entry in ENTRIES]
    before = connection.total_changes
    connection.executemany("DELETE FROM storage WHERE key = ?", keys)
    return connection.total_changes > before


def _sizes(path: str, items: Mapping[str, str]) -> str:
    """As TensorFlow.js has them in its message."""
    parts = {"modelTopologyBytes": "model_topology", "weightSpecsBytes": "weight_specs"}
    sizes = {name: len(items.get(key_of(path, entry), "").encode()) for name, entry in parts.items()}
    data = items.get(key_of(path, "weight_data"), "")
    sizes["weightDataBytes"] = len(data) // 4 * 3 - data[-2:].count("=")
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def at_url(url: str, options: Mapping[str, Any]) -> tuple[LocalStorageStore, str]:
    """The directory that a model is, and the name of its document."""
    return LocalStorageStore(url, LocalStorage(**own_options(options, OPTIONS, SCHEME))), DOCUMENT


class LocalStorageStore:
    """One model, as a directory with ``model.json`` and ``weights.bin``.

    ``weights.bin`` is replaced together with the document, and so is never in the way of a new one: ``exists`` and
    ``list`` tell of the document only.
    """

    def __init__(self, url: str, storage: LocalStorage) -> None:
        """Opens nothing; UnsafeContentError for a path that is refused."""
        self._path, self._storage = model_path(url), storage
        self.url = f"{SCHEME}://{self._path}"
        self._opened: bytes | None = None
        self._staged: bytes = b""

    def path(self, relative: str) -> str:
        """What messages call a file."""
        check_relative(relative)
        return self.url if relative == DOCUMENT else f"{self.url}#{relative}"

    def open(self, relative: str) -> _core.Reader:
        """A reader; the weights are those of the document that was opened last.

        Raises:
            NotFoundError: There is no such model.
            FormatError: One of its entries is missing, or is not what it should be.
        """
        name = self.path(relative)
        if relative == DOCUMENT:
            document, self._opened = self._read()
            return _core.MemoryReader(document, name)
        if relative != WEIGHTS:
            raise NotFoundError("there is no such file", url=name)
        if self._opened is None:
            self._opened = self._read()[1]
        return _core.MemoryReader(self._opened, name)

    def _read(self) -> tuple[bytes, bytes]:
        """The document and the weights, as they are at one moment."""
        found = self._storage.read(self._path)
        try:
            parts = parts_of(found, self._path)
            data = decoded(found["weight_data"], f"weight_data of model {self._path!r}")
        except FormatError as error:
            raise error.locate(url=self.url) from None
        return parts.document(len(data)), data

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> BufferWriter:
        """A writer of the weights, or of the document, whose commit publishes both."""
        name = self.path(relative)
        if relative == WEIGHTS:
            return BufferWriter(nbytes, name, self._stage)
        if relative != DOCUMENT:
            raise UnsupportedFeatureError(
                f"a model in local storage has no file {relative!r}: leave shard_size= and format= out", url=self.url
            )
        return BufferWriter(nbytes, name, self._publish)

    def _stage(self, data: Any) -> None:
        self._staged = data.tobytes()

    def _publish(self, document: Any) -> None:
        parts, data = Parts.of(document.tobytes(), SCHEME), self._staged
        self._staged, self._opened = b"", None
        values = (
            parts.info(len(data)).to_json(),
            parts.topology,
            list(parts.specs),
            None,
            dict(parts.rest),
        )
        entries = {e: stringify(v) for e, v in zip(ENTRIES, values, strict=True)}
        entries["weight_data"] = base64.b64encode(data).decode()
        self._storage.write(self._path, entries)

    def exists(self, relative: str) -> bool:
        """Whether there is such a model, for its document; no for anything else."""
        self.path(relative)
        return relative == DOCUMENT and self._storage.holds(self._path)

    def list(self) -> Iterable[str]:
        """The document, if there is a model."""
        return iter([DOCUMENT] if self.exists(DOCUMENT) else [])

    def delete(self, relative: str) -> None:
        """Remove the model, by its document; NotFoundError."""
        name = self.path(relative)
        if relative != DOCUMENT:
            raise NotFoundError("there is no such file", url=name)
        self._storage.remove(self._path)


def parts_of(entries: Mapping[str, str], path: str) -> Parts:
    """A model's entries, understood; FormatError for one that is missing, or is not what it should be."""
    words = {"model_topology": "topology is", "weight_specs": "weight specs are", "weight_data": "weight values are"}
    for entry, what in words.items():
        if entry not in entries:
            raise FormatError(f"in local storage, the {what} missing of model {path!r}")
    specs = parsed(entries["weight_specs"], "weight_specs")
    rest = parsed(entries.get("model_metadata", "{}"), "model_metadata")
    if not isinstance(rest, dict) or not isinstance(specs, list):
        what = "model_metadata is no object" if isinstance(specs, list) else "weight_specs is no list"
        raise FormatError(f"in local storage, {what}: model {path!r}")
    rest = {k: v for k, v in rest.items() if k not in ("modelTopology", "weightsManifest")}
    return Parts(parsed(entries["model_topology"], "model_topology"), specs, rest)


def decoded(text: str, what: str) -> bytes:
    """The bytes of a base64 text; FormatError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what} is not base64: {error}") from None
