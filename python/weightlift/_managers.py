"""Listing, copying, moving and removing models, wherever a manager knows how.

A manager serves one URL scheme: it lists the models that are there, and removes one. Copying needs none: it loads from
one place, lazily, and saves to the other. A move saves to the new place, loads that back and compares it with the
original, and only then removes the original; TensorFlow.js removes first, and loses the model when the save fails.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from weightlift import _models, _sidecar
from weightlift._artifacts import plain
from weightlift._awaiting import settle
from weightlift._handlers import MODEL_JSON
from weightlift._http_models import HttpModels, document_url
from weightlift._json import as_javascript
from weightlift._router import ROUTER
from weightlift._source import open_in
from weightlift._superseded import Superseded
from weightlift._urls import Url, as_text, is_file, local_path, redacted, scheme_of
from weightlift.errors import NotFoundError, RoutingError, StorageError, WeightliftError
from weightlift.formats import by_suffix
from weightlift.protocols import KnowsPlaces, ModelManager, Store
from weightlift.stores._local import LocalStore
from weightlift.types import ModelArtifacts, ModelArtifactsInfo, SaveResult

__all__ = [
    "copy_model",
    "list_models",
    "move_model",
    "register_model_manager",
    "remove_model",
    "unregister_model_manager",
]

Options = Mapping[str, Any]


def stored_info(store: Store, name: str, saved: float) -> ModelArtifactsInfo:
    """What a model's document and the sizes of its files say; all sizes are 0 where it cannot be read."""
    date = datetime.fromtimestamp(saved, timezone.utc)
    try:
        source = open_in(store, name, format="tfjs")
        extra, readers = source.layout.extra, source.readers()
    except (WeightliftError, OSError):
        return ModelArtifactsInfo(date)
    info = ModelArtifacts(model_topology=extra.get("modelTopology"), weight_specs=extra.get("weightSpecs")).info()
    return replace(info, date_saved=date, weight_data_bytes=sum(r.size for r in readers))


# --- the managers of this library -----------------------------------------------------------------
class _Files:
    """Directories with a ``model.json``, and files of weights."""

    def list(self, url: str | None, options: Options) -> dict[str, ModelArtifactsInfo]:
        """The directories at and below a path that hold a ``model.json``; hidden ones are left out."""
        if url is None:
            return {}
        root = local_path(url)
        if not root.is_dir():
            raise NotFoundError("there is no such directory", path=str(root))
        found = {}
        for folder in sorted(_folders(root)):
            inside = folder.relative_to(root).as_posix()
            key = url if inside == "." else f"{url.rstrip('/')}/{inside}"
            saved = (folder / MODEL_JSON).stat().st_mtime
            found[key] = stored_info(LocalStore(folder, MODEL_JSON), MODEL_JSON, saved)
        return found

    def remove(self, url: str, options: Options) -> None:
        """Remove ``model.json`` and the weight files that it names, but for those that another JSON file mentions."""
        path = local_path(url)
        if path.is_dir():
            path = path / MODEL_JSON
        if not path.is_file():
            raise NotFoundError("there is no model", path=str(path))
        fmt = by_suffix(path.name)
        if fmt is None:
            raise StorageError("not a file of a known format: it is not removed", path=str(path))
        store = LocalStore(path.parent, path.name)
        rest = Superseded(store, fmt, path.name, manifest=path.name)
        with contextlib.suppress(
            WeightliftError
        ):  # what cannot be read is removed as far as its files have usual names
            rest.add(open_in(store, path.name, format=fmt.name).layout.sources)
        store.delete(path.name)
        with contextlib.suppress(NotFoundError):
            store.delete(f"{path.name}{_sidecar.SUFFIX}")
        rest.remove((), ())
        if path.name == MODEL_JSON:
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # if nothing else is in it

    def place(self, url: str, options: Options) -> object:
        """The real path of the file."""
        path = local_path(url)
        return os.path.realpath(path / MODEL_JSON if path.is_dir() or by_suffix(path.name) is None else path)


def _folders(root: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if MODEL_JSON in files:
            yield Path(folder)


class _Memory:
    """Folders with a ``model.json`` in the memory of the process."""

    def list(self, url: str | None, options: Options) -> dict[str, ModelArtifactsInfo]:
        """All, or those at and below a name."""
        from weightlift.stores._memory import PROCESS, MemoryStore

        below = _below(url)
        found = {}
        for name in PROCESS.names():
            folder, _, file = name.rpartition("/")
            if file == MODEL_JSON and folder and (below is None or f"{folder}/".startswith(f"{below}/")):
                store = MemoryStore(folder, PROCESS.snapshot(folder))
                found[f"memory://{folder}"] = stored_info(store, MODEL_JSON, PROCESS.saved(name))
        return found

    def remove(self, url: str, options: Options) -> None:
        """Forget a model."""
        from weightlift.stores._memory import PROCESS, MemoryStore, name_of

        name = name_of(url)
        if MemoryStore(name).exists(MODEL_JSON):
            PROCESS.publish(name, {})
        elif name in PROCESS.names():
            MemoryStore().delete(name)
        else:
            raise NotFoundError("there is no model of that name in the memory of this process", url=url)

    def place(self, url: str, options: Options) -> object:
        """The name."""
        from weightlift.stores._memory import name_of

        return name_of(url).removesuffix(f"/{MODEL_JSON}")


class _Databases:
    """The models of ``localstorage://`` or ``indexeddb://``."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def _open(self, options: Options) -> Any:
        from weightlift.stores import _indexeddb, _localstorage

        known = {"localstorage": _localstorage.LocalStorage, "indexeddb": _indexeddb.IndexedDb}
        try:
            return known[self._scheme](**options)
        except TypeError:
            raise TypeError(f"{self._scheme}:// URLs have no option {', '.join(options)}") from None

    def list(self, url: str | None, options: Options) -> dict[str, ModelArtifactsInfo]:
        """All, or those at and below a path."""
        below = _below(url)
        models = self._open(options).models()
        return {
            f"{self._scheme}://{path}": info
            for path, info in models.items()
            if below is None or f"{path}/".startswith(f"{below}/")
        }

    def remove(self, url: str, options: Options) -> None:
        """Remove a model; NotFoundError."""
        from weightlift.stores._browser_models import model_path

        self._open(options).remove(model_path(url))

    def place(self, url: str, options: Options) -> object:
        """The database and the path in it."""
        from weightlift.stores._browser_models import model_path

        return os.path.realpath(self._open(options).database.path), model_path(url)


def _below(url: str | None) -> str | None:
    """The folder that a listing is confined to; None for all."""
    return ((url or "").partition("://")[2].strip("/")) or None


_managers: dict[str, ModelManager] = {
    "http": HttpModels(),
    "https": HttpModels(),
    "localstorage": _Databases("localstorage"),
    "indexeddb": _Databases("indexeddb"),
    "memory": _Memory(),
    "file": _Files(),
}


# --- the public functions -------------------------------------------------------------------------
def register_model_manager(scheme: str, manager: ModelManager) -> None:
    """Let the models of a URL scheme be listed and removed.

    Args:
        scheme: Without ``://``.
        manager: Any object with ``list(url, options)``, which gives :class:`ModelArtifactsInfo` by URL (``url`` None
            means all), and ``remove(url, options)``. May have ``place(url, options)``: equal values mean one place.

    Raises:
        RoutingError: The scheme is malformed, or has a manager.

    Example:
        >>> import weightlift as wl
        >>> class Nowhere:
        ...     def list(self, url, options):
        ...         return {}
        ...     def remove(self, url, options):
        ...         raise wl.NotFoundError("there is nothing", url=url)
        >>> wl.register_model_manager("nowhere", Nowhere())
        >>> wl.list_models("nowhere://")
        {}
        >>> wl.unregister_model_manager("nowhere")
    """
    if scheme_of(f"{scheme}://") != scheme:
        raise RoutingError(f"{scheme!r} is not a URL scheme in lower case, without ://")
    if scheme in _managers:
        raise RoutingError(f"there is a model manager for {scheme}:// already; unregister it first")
    _managers[scheme] = manager


def unregister_model_manager(scheme: str) -> None:
    """Forget the manager of a scheme; RoutingError if there is none.

    Example:
        >>> import weightlift as wl
        >>> wl.unregister_model_manager("nowhere")
        Traceback (most recent call last):
        ...
        weightlift.errors.RoutingError: there is no model manager for nowhere://...
    """
    if _managers.pop(scheme, None) is None:
        raise RoutingError(f"there is no model manager for {scheme}:// (there are: {', '.join(sorted(_managers))})")


def list_models(url: Url | None = None, **options: Any) -> dict[str, ModelArtifactsInfo]:
    """The models that are there, with their sizes and dates, by URL.

    Args:
        url: A directory, or a URL whose scheme can list (``memory://``, ``localstorage://``, ``indexeddb://`` ...,
            with or without a folder in it; ``http(s)://`` for a server of ``weightlift serve``). Default: all models of
            all schemes that need no place to look in.
        options: Of the URL's scheme.

    Returns:
        As TensorFlow.js's ``tf.io.listModels``. A model that cannot be read is listed with sizes of 0.

    Raises:
        RoutingError: Models of that scheme cannot be listed.
        NotFoundError: There is no such directory.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(3, "f4")}), "models/a")
        >>> {url: info.weight_data_bytes for url, info in wl.list_models("models").items()}
        {'models/a': 12}
    """
    if url is not None:
        text = as_text(url)
        return dict(_manager(text).list(text, options))
    found: dict[str, ModelArtifactsInfo] = {}
    for manager in list(_managers.values()):
        found |= manager.list(None, options)
    return found


def remove_model(url: Url, **options: Any) -> None:
    """Remove a model and its weight files.

    Raises:
        NotFoundError: There is none.
        RoutingError: Models of that scheme cannot be removed.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(3, "f4")}), "memory://old")
        >>> wl.remove_model("memory://old")
        >>> "memory://old" in wl.list_models()
        False
    """
    text = as_text(url)
    _manager(text).remove(text, options)


def copy_model(
    source: Url,
    target: Url,
    *,
    load_options: Options | None = None,
    save_options: Options | None = None,
) -> ModelArtifactsInfo:
    """Copy a model, between schemes too: quantised weights keep their stored bytes.

    Args:
        source: Where it is; any URL or path that :func:`load_model` takes.
        target: Where it goes, as :func:`save_model` takes it; a model there is replaced.
        load_options: For :func:`load_model`.
        save_options: For :func:`save_model`.

    Returns:
        Sizes and date of the copy.

    Raises:
        RoutingError: Both are the same place, or there is no handler for one.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(3, "f4")}), "my-model")
        >>> wl.copy_model("my-model", "memory://copy").weight_data_bytes
        12
    """
    _, info = _copy(source, target, load_options or {}, save_options or {})
    return info


def move_model(
    source: Url,
    target: Url,
    *,
    load_options: Options | None = None,
    save_options: Options | None = None,
) -> ModelArtifactsInfo:
    """Move a model: copy it, read the copy back and compare it with the original, then remove the original.

    Arguments and result are those of :func:`copy_model`.

    Raises:
        RoutingError: Models cannot be removed from where it is, or both are the same place.
        StorageError: The copy could not be made, or is not the same; the original is there.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(3, "f4")}), "my-model")
        >>> _ = wl.move_model("my-model", "memory://moved")
        >>> wl.load_model("memory://moved").weights["w"][...].tolist()
        [0.0, 0.0, 0.0]
    """
    manager = _manager(as_text(source))
    original, info = _copy(source, target, load_options or {}, save_options or {})
    own = _store_options(save_options or {}, _models.SAVE_DEFAULTS)
    written = document_url(as_text(target)) if _scheme(as_text(target)) in ("http", "https") else target
    copy = settle(_models.begin_load(written, **own))
    difference = _difference(original, copy)
    if difference is not None:
        raise StorageError(
            f"the copy is not the same as the original, which is kept: {difference}", url=_shown(as_text(target))
        )
    manager.remove(as_text(source), _store_options(load_options or {}, _models.LOAD_DEFAULTS))
    return info


def _store_options(options: Options, common: Options) -> dict[str, Any]:
    """Those of the scheme itself, which all verbs take."""
    return {k: v for k, v in options.items() if k not in common and k not in ("metadata", "include_optimizer")}


def _copy(
    source: Url, target: Url, load_options: Options, save_options: Options
) -> tuple[ModelArtifacts, ModelArtifactsInfo]:
    """The model that was copied, and what the copy is."""
    _refuse_same(as_text(source), as_text(target), load_options, save_options)
    artifacts = settle(_models.begin_load(source, **load_options))
    result = settle(_models.begin_save(artifacts, target, **save_options))
    info = result.model_artifacts_info if isinstance(result, SaveResult) else None
    return artifacts, info if info is not None else artifacts.info()


def _refuse_same(source: str, target: str, load_options: Options, save_options: Options) -> None:
    scheme = _scheme(source)
    if scheme != _scheme(target):
        return
    manager = _managers.get(scheme)
    if isinstance(manager, KnowsPlaces):
        own = (_store_options(load_options, _models.LOAD_DEFAULTS), _store_options(save_options, _models.SAVE_DEFAULTS))
        same = manager.place(source, own[0]) == manager.place(target, own[1])
    else:
        same = source.rstrip("/") == target.rstrip("/")
    if same:
        raise RoutingError(f"source and target are the same place: {_shown(target)}")


def _scheme(url: str) -> str:
    return "file" if is_file(url) else scheme_of(url) or ""


def _shown(url: str) -> str:
    """A URL for messages; those of HTTP may hold secrets."""
    return redacted(url) if _scheme(url) in ("http", "https") else url


def _manager(url: str) -> ModelManager:
    """The manager of a URL's scheme."""
    scheme = _scheme(url)
    if scheme not in _managers:
        ROUTER.get_load_handlers(url)  # lets an installed package register its own
    manager = _managers.get(scheme)
    if manager is None:
        near = difflib.get_close_matches(scheme, _managers, 1)
        raise RoutingError(
            f"models of {scheme}:// can neither be listed nor removed; schemes with a model manager: "
            f"{', '.join(sorted(_managers))}{f'; did you mean {near[0]}://?' if near else ''}",
            url=_shown(url),
        )
    return manager


def _difference(a: ModelArtifacts, b: ModelArtifacts) -> str | None:
    """What is not the same in two models; weights are compared one at a time."""
    optional = ("weight_specs", "converted_by")  # what a handler may add of itself
    for name, value in vars(a).items():
        other = getattr(b, name)
        if name == "weights" or (name in optional and (value is None or other is None)):
            continue
        if _text(value) != _text(other):
            return f"{name} differs"
    if list(a.weights) != list(b.weights):
        return "the weights have other names"
    for name in a.weights:
        x, y = np.asarray(a.weights[name]), np.asarray(b.weights[name])
        alike = x.dtype == y.dtype and x.shape == y.shape
        if not alike or not (x.tolist() == y.tolist() if x.dtype == object else _same_bytes(x, y)):
            return f"weight {name!r} differs"
    return None


def _text(value: Any) -> str:
    """JSON with sorted keys and JavaScript's numbers, which some places keep."""
    return as_javascript(json.dumps(plain(value), sort_keys=True, default=dict).encode()).decode()


def _same_bytes(x: Any, y: Any) -> bool:
    a, b = (np.ascontiguousarray(v).reshape(-1).view(np.uint8) for v in (x, y))
    return bool(np.array_equal(a, b))
