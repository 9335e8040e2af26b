"""Models between a real browser and this machine: dumps of localStorage and of IndexedDB, as JSON.

A dump of localStorage is an object of all keys and values. A dump of IndexedDB is TensorFlow.js's database: ``name``,
``version`` and, by name, ``stores`` with their ``records``. In these a buffer is an object with ``__arraybuffer__``
(base64) and ``byteLength``, and a date one with ``__date__`` (ISO 8601). docs/schemes.md has the JavaScript that makes
dumps and takes them. Text is laid out as ``JSON.stringify(dump, null, 1)`` does, so that what is imported is exported
as the same bytes.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightlift._json import as_javascript, loads
from weightlift._source import open_in
from weightlift._urls import Url, local_path
from weightlift.errors import FormatError, NotFoundError, RoutingError, StorageError, WeightliftError
from weightlift.stores._browser_models import DOCUMENT, WEIGHTS, Parts, info_of, model_path, parsed
from weightlift.stores._local import LocalStore
from weightlift.types import ModelArtifactsInfo

if TYPE_CHECKING:
    from weightlift.stores._indexeddb import IndexedDb

__all__ = ["export_browser_dump", "import_browser_dump"]

Database = str | os.PathLike[str] | None
Infos = dict[str, ModelArtifactsInfo]

MAX_BYTES = 4 << 30
MAX_DEPTH = 250
NAME, VERSION = "tensorflowjs", 1
INFOS, MODELS = "model_info_store", "models_store"


# --- the public functions -------------------------------------------------------------------------
def import_browser_dump(
    dump: Url, *, database: Database = None, quota: int | None = None, replace: bool = False
) -> Infos:
    """Take the models of a browser over, from a dump of its localStorage or its IndexedDB.

    All models of the dump are imported, or none. Keys of localStorage that are not TensorFlow.js's are left alone.

    Args:
        dump: A JSON file, see docs/schemes.md. Its content tells which storage it is of.
        database: Where they go, instead of the user's own database.
        quota: Of ``localstorage://``, in UTF-16 code units.
        replace: Replace models of the same names; without it they are an error.

    Returns:
        The models by URL, ``localstorage://NAME`` or ``indexeddb://NAME``.

    Raises:
        FormatError: No such dump, or a model in it is damaged; says where.
        StorageError: There are models of these names.
        QuotaError: They do not fit.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(3, "f4")}), "indexeddb://w", database="a.db")
        >>> _ = wl.export_browser_dump("indexeddb", "dump.json", database="a.db")
        >>> list(wl.import_browser_dump("dump.json", database="b.db"))
        ['indexeddb://w']
    """
    path = local_path(dump)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except FileNotFoundError as error:
        raise NotFoundError("no such file", path=str(path), errno=error.errno) from error
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=str(path), errno=error.errno) from error
    try:
        if size > MAX_BYTES:
            raise FormatError(f"it has {size} bytes; at most {MAX_BYTES} are accepted")
        value = loads(data, what="the dump", max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
        if isinstance(value, dict) and "stores" in value:
            if quota is not None:
                raise TypeError("a dump of IndexedDB has no quota")
            return _import_indexed_db(value, database, replace=replace)
        if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            return _import_local_storage(value, database, quota, replace=replace)
        raise FormatError("neither a dump of localStorage (an object of strings) nor of IndexedDB (with 'stores')")
    except WeightliftError as error:
        raise error.locate(path=str(path)) from None


def export_browser_dump(scheme: str, dump: Url, *, database: Database = None) -> Infos:
    """Write all models of ``localstorage://`` or ``indexeddb://`` into a dump, for a browser to take over.

    Args:
        scheme: ``"localstorage"`` or ``"indexeddb"``.
        dump: The JSON file to write; it appears whole.
        database: Where they are, instead of the user's own database.

    Returns:
        The models by URL.

    Raises:
        RoutingError: Another scheme.
        StorageError: The file cannot be written.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(3, "f4")}), "localstorage://w", database="a.db")
        >>> list(wl.export_browser_dump("localstorage", "dump.json", database="a.db"))
        ['localstorage://w']
    """
    from weightlift.stores._indexeddb import IndexedDb
    from weightlift.stores._localstorage import LocalStorage

    path, scheme = local_path(dump), scheme.removesuffix("://")
    if scheme == "localstorage":
        storage = LocalStorage(database)
        text = json.dumps(storage.items(), ensure_ascii=False, indent=1).encode()
        _write(path, len(text), iter([text]))
        models = storage.models()
    elif scheme == "indexeddb":
        stored = IndexedDb(database)
        models = stored.models()
        _write(path, *_indexed_db_text(stored, list(models)))
    else:
        raise RoutingError(f"{scheme!r}: dumps are of localstorage or indexeddb")
    return {f"{scheme}://{name}": info for name, info in models.items()}


# --- localStorage ---------------------------------------------------------------------------------
def _import_local_storage(value: Mapping[str, str], database: Database, quota: int | None, *, replace: bool) -> Infos:
    from weightlift.stores._localstorage import ENTRIES, PREFIX, LocalStorage, decoded, parts_of

    items = {k: v for k, v in value.items() if k.startswith(PREFIX)}
    models: dict[str, dict[str, str]] = {}
    for key, text in items.items():
        name, _, entry = key[len(PREFIX) :].rpartition("/")
        if entry not in ENTRIES:
            raise FormatError(f"the key {key!r} is none of TensorFlow.js's: they end in {', '.join(ENTRIES)}")
        models.setdefault(name, {})[entry] = text
    infos: Infos = {}
    for name, entries in models.items():
        _check_name(name)
        if "info" not in entries:
            raise FormatError(f"model {name!r} has no key 'info'")
        infos[f"localstorage://{name}"] = info_of(parsed(entries["info"], f"the info of {name!r}"), f"info of {name!r}")
        _check(name, parts_of(entries, name), decoded(entries["weight_data"], f"weight_data of {name!r}"))
    storage = LocalStorage(database, quota)
    _refuse_existing(models, storage.models(), replace=replace)
    with storage.database.writing() as connection:
        storage.put(connection, list(models), items)
    return infos


# --- IndexedDB ------------------------------------------------------------------------------------
def _import_indexed_db(value: Mapping[str, Any], database: Database, *, replace: bool) -> Infos:
    from weightlift.stores._indexeddb import IndexedDb

    infos, records = (_records(value, store) for store in (INFOS, MODELS))
    if list(infos) != list(records):
        raise FormatError(f"{INFOS} and {MODELS} have not the same models")
    found: Infos = {}
    ready: list[tuple[str, dict[str, Any], dict[str, Any], bytes | None]] = []
    for name, record in records.items():
        info = _dated(record.get("modelArtifactsInfo"), name)
        found[f"indexeddb://{name}"] = info_of(info, f"modelArtifactsInfo of {name!r}")
        artifacts = record.get("modelArtifacts")
        if not isinstance(artifacts, dict):
            raise FormatError(f"modelArtifacts of {name!r} is no object")
        data = _buffer(artifacts["weightData"], name) if "weightData" in artifacts else None
        apart = ("modelTopology", "weightSpecs", "weightData", "weightsManifest")
        rest = {k: v for k, v in artifacts.items() if k not in apart}
        specs = artifacts.get("weightSpecs") or []
        if not isinstance(specs, list):
            raise FormatError(f"weightSpecs of {name!r} is no list")
        _check(name, Parts(artifacts.get("modelTopology"), specs, rest), data or b"")
        kept = {k: None if k == "weightData" else v for k, v in artifacts.items()}
        ready.append((name, kept, info, data))
    stored = IndexedDb(database)
    _refuse_existing(records, stored.models(), replace=replace)
    stored.publish_all(ready)
    return found


def _records(value: Mapping[str, Any], store: str) -> dict[str, dict[str, Any]]:
    """A store's records by model name."""
    if value.get("name") != NAME or value.get("version") != VERSION:
        found = f"{value.get('name')!r}, version {value.get('version')!r}"
        raise FormatError(f"the dump is of database {found}; TensorFlow.js has {NAME!r}, version {VERSION}")
    stores = value["stores"]
    raw = stores.get(store) if isinstance(stores, dict) else None
    records = raw.get("records") if isinstance(raw, dict) else None
    if not isinstance(records, list) or raw is None or raw.get("keyPath") != "modelPath":
        raise FormatError(f"the dump has no object store {store!r} with the key 'modelPath' and a list of records")
    result: dict[str, dict[str, Any]] = {}
    for record in records:
        name = record.get("modelPath") if isinstance(record, dict) else None
        if not isinstance(name, str) or name in result:
            raise FormatError(f"{store}: modelPath is {name!r}, not a name of its own")
        _check_name(name)
        result[name] = record
    return result


def _dated(info: Any, name: str) -> dict[str, Any]:
    """An info with its date as text, as this library keeps it."""
    date = info.get("dateSaved") if isinstance(info, dict) else None
    if not isinstance(date, dict) or list(date) != ["__date__"]:
        raise FormatError(f'dateSaved of {name!r} is no date: {{"__date__": "2026-11-22T01:27:51.796Z"}}')
    return {k: date["__date__"] if k == "dateSaved" else v for k, v in info.items()}


def _buffer(raw: Any, name: str) -> bytes:
    """The bytes of a buffer."""
    from weightlift.stores._localstorage import decoded

    text = raw.get("__arraybuffer__") if isinstance(raw, dict) else None
    if not isinstance(text, str):
        raise FormatError(f'weightData of {name!r} is no buffer: {{"__arraybuffer__": BASE64, "byteLength": N}}')
    data = decoded(text, f"weightData of {name!r}")
    if raw.get("byteLength") != len(data):
        raise FormatError(f"weightData of {name!r} has {len(data)} bytes, and byteLength {raw.get('byteLength')!r}")
    return data


def _indexed_db_text(stored: IndexedDb, names: list[str]) -> tuple[int, Iterator[bytes]]:
    """The dump, and how many bytes it has at most. It comes a part at a time: buffers are never whole in memory."""
    infos, models = [], []
    buffers: list[tuple[int | None, int, int, str]] = []
    for name in sorted(names, key=lambda n: n.encode("utf-16-be")):  # as IndexedDB sorts
        artifacts, info, data, nbytes, chunk = stored.record(name)
        dated = {k: {"__date__": v} if k == "dateSaved" else v for k, v in info.items()}
        if "weightData" in artifacts:
            artifacts["weightData"] = {"__arraybuffer__": f"\0{len(buffers)}\0", "byteLength": nbytes}
            buffers.append((data, nbytes, chunk, name))
        infos.append({"modelPath": name, "modelArtifactsInfo": dated})
        models.append({"modelPath": name, "modelArtifacts": artifacts, "modelArtifactsInfo": dated})
    store = {"keyPath": "modelPath", "autoIncrement": False, "indexNames": []}
    stores = {INFOS: {**store, "records": infos}, MODELS: {**store, "records": models}}
    dump = {"name": NAME, "version": VERSION, "stores": stores}
    text = as_javascript(json.dumps(dump, ensure_ascii=False, indent=1).encode())
    bound = len(text) + sum(4 * -(-nbytes // 3) for _, nbytes, _, _ in buffers)
    return bound, _with_buffers(text, stored, buffers)


def _with_buffers(
    rest: bytes, stored: IndexedDb, buffers: Sequence[tuple[int | None, int, int, str]]
) -> Iterator[bytes]:
    """A text in which each buffer's number stands for its base64."""
    for number, (data, nbytes, chunk, name) in enumerate(buffers):
        begin, _, rest = rest.partition(b'"\\u0000%d\\u0000"' % number)
        yield begin + b'"'
        yield from _encoded(stored.chunk(data or 0, i, f"indexeddb://{name}") for i in range(-(-nbytes // chunk)))
        yield b'"'
    yield rest


def _encoded(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The base64 of parts that follow each other."""
    left = b""
    for part in parts:
        left += part
        whole = len(left) // 3 * 3
        yield base64.b64encode(left[:whole])
        left = left[whole:]
    yield base64.b64encode(left)


# --- both -----------------------------------------------------------------------------------------
def _check_name(name: str) -> None:
    try:
        model_path(f"x://{name}")
        if name.endswith("/"):
            raise FormatError("a slash at the end")
    except FormatError as error:
        raise type(error)(f"the model's name {name!r} is refused: {error.message}") from None


def _check(name: str, parts: Parts, data: bytes) -> None:
    """The weights are what their specs say; the format's own errors, with the model's name."""
    from weightlift.stores._memory import MemoryStore

    store = MemoryStore.of({DOCUMENT: parts.document(len(data)), WEIGHTS: data})
    try:
        open_in(store, DOCUMENT, format="tfjs")
    except WeightliftError as error:
        raise FormatError(f"model {name!r}: {error.message}", tensor=error.tensor) from None


def _refuse_existing(wanted: Mapping[str, Any], known: Mapping[str, Any], *, replace: bool) -> None:
    existing = [name for name in wanted if name in known]
    if existing and not replace:
        raise StorageError(f"there are models called {', '.join(map(repr, existing))}; replace=True replaces them")


def _write(path: Path, bound: int, parts: Iterator[bytes]) -> None:
    """A file of at most ``bound`` bytes, whole or not at all."""
    writer = LocalStore(path.parent, path.name).create(path.name, bound)
    at = 0
    try:
        for part in parts:
            writer.write_at(at, part)
            at += len(part)
        writer.truncate(at)
        writer.commit()
    except BaseException:
        writer.abort()
        raise
