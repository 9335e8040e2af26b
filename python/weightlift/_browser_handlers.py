"""Handlers of the schemes that TensorFlow.js has in browsers, and of ``memory://``.

A model at ``memory://NAME`` is a folder of the process's table of files; one at ``localstorage://PATH`` or
``indexeddb://PATH`` is what TensorFlow.js keeps under these URLs, in a database of the user's. Modules of ``stores``
say how each appears whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from weightlift._handlers import MODEL_JSON, LoadOptions, StoreHandler
from weightlift._job import SaveOptions
from weightlift._router import ROUTER, Options, Router
from weightlift._source import HEAD, first_of_directory
from weightlift._urls import scheme_of
from weightlift.errors import FormatError, NotFoundError, StorageError, WeightliftError
from weightlift.formats import by_name, by_suffix
from weightlift.formats._tfjs import TFJS
from weightlift.formats._tfjs_upload import TfjsUpload
from weightlift.protocols import Store
from weightlift.stores import at_url
from weightlift.stores._picked import PickedFiles
from weightlift.types import ModelArtifacts, SaveResult

__all__ = [
    "BrowserFiles",
    "BrowserHandler",
    "DownloadHandler",
    "MemoryHandler",
    "browser_files",
    "register_browser_schemes",
]

_Options = TypeVar("_Options", SaveOptions, LoadOptions)


def _split(kind: type[_Options], options: Options, scheme: str, own: tuple[str, ...] = ()) -> _Options:
    """The options of one kind; TypeError for one that neither it nor the scheme has."""
    known = {f.name for f in fields(kind)}
    unknown = [name for name in options if name not in known and name not in own]
    if unknown:
        raise TypeError(f"{scheme}:// URLs have no option {', '.join(unknown)}")
    return kind(**{k: v for k, v in options.items() if k in known})


# --- memory:// ------------------------------------------------------------------------------------
class MemoryHandler:
    """A model in the memory of the process: a folder with ``model.json``, or a file of a known format."""

    def __init__(
        self, url: str, *, save_options: SaveOptions | None = None, load_options: LoadOptions | None = None
    ) -> None:
        """``url`` as the caller gave it; UnsafeContentError for a name that escapes."""
        from weightlift.stores._memory import name_of

        self.url = url
        self._name = name_of(url)
        self._save_options, self._load_options = save_options, load_options

    def __repr__(self) -> str:
        """The URL."""
        return f"<MemoryHandler {self.url}>"

    def save(self, artifacts: ModelArtifacts) -> SaveResult:
        """Keep a model; the new one replaces the old one in one step.

        Raises:
            UnsupportedFeatureError: The format has no room for something; says what.
            StorageError: There is a file of that name, or no memory.
        """
        from weightlift.stores._memory import PROCESS, MemoryStore, Table

        folder, _, file = self._name.rpartition("/")
        fmt = None if self.url.endswith("/") else by_suffix(file)
        if fmt is not None:
            return StoreHandler(MemoryStore(folder), fmt, file, save_options=self._save_options).save(artifacts)
        if self._name in PROCESS.names():
            raise StorageError("exists as a file; a model goes to a folder", url=self.url)
        table = Table()
        store: Store = MemoryStore(self._name, table)
        result = StoreHandler(store, by_name("tfjs"), MODEL_JSON, save_options=self._save_options).save(artifacts)
        PROCESS.publish(self._name, table.files)
        return result

    def load(self) -> ModelArtifacts:
        """Open a model as it is now: what replaces it later does not change what was opened.

        Raises:
            NotFoundError: There is none.
        """
        from weightlift.stores._memory import PROCESS, MemoryStore

        folder, _, file = self._name.rpartition("/")
        table = PROCESS.snapshot(self._name)
        if table.files:
            store: Store = MemoryStore(self._name, table)
            return StoreHandler(store, None, first_of_directory(store), load_options=self._load_options).load()
        store = MemoryStore(folder, PROCESS.snapshot(folder) if folder else None)
        if not store.exists(file):
            raise NotFoundError("there is no model of that name in the memory of this process", url=self.url)
        return StoreHandler(store, None, file, load_options=self._load_options).load()


def _save_memory(url: str, options: Options) -> MemoryHandler | None:
    if scheme_of(url) != "memory":
        return None
    return MemoryHandler(url, save_options=_split(SaveOptions, options, "memory"))


def _load_memory(url: str, options: Options) -> MemoryHandler | None:
    if scheme_of(url) != "memory":
        return None
    return MemoryHandler(url, load_options=_split(LoadOptions, options, "memory"))


# --- localstorage:// and indexeddb:// ---------------------------------------------------------------
class BrowserHandler:
    """A model in a database that stands for a browser's storage."""

    def __init__(
        self,
        url: str,
        options: Options,
        *,
        save_options: SaveOptions | None = None,
        load_options: LoadOptions | None = None,
    ) -> None:
        """``options`` are the scheme's: ``database`` and, of ``localstorage://``, ``quota``."""
        self.url = url
        self._store, self._name = at_url(url, options)
        self._save_options, self._load_options = save_options, load_options

    def __repr__(self) -> str:
        """The URL."""
        return f"<BrowserHandler {self.url}>"

    def save(self, artifacts: ModelArtifacts) -> SaveResult:
        """Keep a model; a save that fails leaves the old one.

        Raises:
            UnsupportedFeatureError: There is no room for something; says what.
            QuotaError: localstorage:// has not so much room.
            StorageError: The database cannot be written.
        """
        return self._handler().save(artifacts)

    def load(self) -> ModelArtifacts:
        """Open a model; its weights are read, and verified, when they are touched.

        Raises:
            NotFoundError: There is none.
            FormatError: What is there is damaged.
        """
        return self._handler().load()

    def _handler(self) -> StoreHandler:
        return StoreHandler(
            self._store,
            by_name("tfjs"),
            self._name,
            save_options=self._save_options,
            load_options=self._load_options,
        )


DATABASES = {"localstorage": ("database", "quota"), "indexeddb": ("database",)}
"""Options of the schemes that keep models in a database."""


def _save_browser(url: str, options: Options) -> BrowserHandler | None:
    own = DATABASES.get(scheme_of(url) or "")
    if own is None:
        return None
    saving = _split(SaveOptions, options, scheme_of(url) or "", own)
    return BrowserHandler(url, {k: v for k, v in options.items() if k in own}, save_options=saving)


def _load_browser(url: str, options: Options) -> BrowserHandler | None:
    own = DATABASES.get(scheme_of(url) or "")
    if own is None:
        return None
    loading = _split(LoadOptions, options, scheme_of(url) or "", own)
    return BrowserHandler(url, {k: v for k, v in options.items() if k in own}, load_options=loading)


# --- downloads:// ---------------------------------------------------------------------------------
class DownloadHandler:
    """A model in the user's downloads directory, as a browser leaves it there; only saves."""

    def __init__(self, url: str, options: Options, save_options: SaveOptions | None = None) -> None:
        """``options``: ``directory``."""
        from weightlift.stores._downloads import Downloads

        self.url = url
        self._options, self._save_options = options, save_options
        Downloads(url, options)  # refuses now what it would refuse later

    def __repr__(self) -> str:
        """The URL."""
        return f"<DownloadHandler {self.url}>"

    def save(self, artifacts: ModelArtifacts) -> SaveResult:
        """Write ``PREFIX.json`` and ``PREFIX.weights.bin``, or a pair with a number if there are such files.

        Raises:
            UnsupportedFeatureError: There is no room for something; says what.
            StorageError: The directory cannot be written; nothing is left there.
        """
        from weightlift.stores._downloads import Downloads

        store = Downloads(self.url, self._options)
        try:
            form = TfjsUpload(weights=f"./{store.weights}")
            result = StoreHandler(store, form, MODEL_JSON, save_options=self._save_options).save(artifacts)
            store.finish()
        except BaseException:
            store.abandon()
            raise
        return result


def _save_downloads(url: str, options: Options) -> DownloadHandler | None:
    if scheme_of(url) != "downloads":
        return None
    own = ("directory",)
    saving = _split(SaveOptions, options, "downloads", own)
    return DownloadHandler(url, {k: v for k, v in options.items() if k in own}, saving)


# --- files that were picked -----------------------------------------------------------------------
@dataclass(frozen=True)
class BrowserFiles:
    """Loads a model from files that were picked; made by :func:`weightlift.browser_files`."""

    store: PickedFiles

    def load(self) -> ModelArtifacts:
        """Open the model; its weights are read when they are touched.

        Raises:
            MismatchError: Files are missing or too much; all are listed.
            FormatError: None of the files is a model's JSON, or it is malformed.
        """
        document = self._document()
        try:
            self.store.match(TFJS.paths(self.store.open(document), document), document)
        except WeightliftError as error:
            raise error.locate(path=self.store.path(document)) from None
        return StoreHandler(self.store, TFJS, document).load()

    def _document(self) -> str:
        """The file that is the model's JSON."""
        heads = {name: self.store.open(name) for name in self.store.names}
        found = [n for n, r in heads.items() if TFJS.sniff(r.read_at(0, min(HEAD, r.size)), r.size)]
        found = found or [n for n in heads if n.lower().endswith(".json")]
        if len(found) != 1:
            what = f"more than one file is a model's JSON: {', '.join(map(repr, sorted(found)))}; give one"
            raise FormatError(what if found else f"none of the files is a model's JSON: {', '.join(map(repr, heads))}")
        return found[0]


def browser_files(files: Iterable[Any]) -> BrowserFiles:
    """A handler that loads a model from a list of files, as ``tf.io.browserFiles``; the order does not matter.

    Args:
        files: The JSON and all weight files: paths, (name, bytes) pairs, or open binary files with a name. Weight files
            are matched with the manifest by the last part of their names.

    Raises:
        MismatchError: No file, or several of one name.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.arange(3, dtype="f4")}), "my-model")
        >>> model = wl.load_model(wl.browser_files(["my-model/weights.bin", "my-model/model.json"]))
        >>> model.weights["w"][...].tolist()
        [0.0, 1.0, 2.0]
    """
    return BrowserFiles(PickedFiles(files))


# --- registration ---------------------------------------------------------------------------------
def register_browser_schemes(router: Router) -> None:
    """Let a router serve these schemes."""
    router.register_load(_load_memory, schemes=["memory"])
    router.register_save(_save_memory, schemes=["memory"])
    router.register_load(_load_browser, schemes=DATABASES)
    router.register_save(_save_browser, schemes=DATABASES)
    router.register_save(_save_downloads, schemes=["downloads"])


register_browser_schemes(ROUTER)
