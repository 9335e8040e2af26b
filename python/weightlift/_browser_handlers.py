"""Handlers of the schemes that TensorFlow.js has in browsers, and of ``memory://``.

A model at ``memory://NAME`` is a folder of the process's table of files; one at ``localstorage://PATH`` or
``indexeddb://PATH`` is what TensorFlow.js keeps under these URLs, in a database of the user's. Modules of ``stores``
say how each appears whole.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

from weightlift._handlers import MODEL_JSON, LoadOptions, StoreHandler
from weightlift._job import SaveOptions
from weightlift._router import ROUTER, Options, Router
from weightlift._source import first_of_directory
from weightlift._urls import redacted, scheme_of
from weightlift.errors import NotFoundError, StorageError
from weightlift.formats import by_name, by_suffix
from weightlift.protocols import Store
from weightlift.stores import at_url
from weightlift.types import ModelArtifacts, SaveResult

__all__ = ["BrowserHandler", "MemoryHandler", "register_browser_schemes"]

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
        return f"<MemoryHandler {redacted(self.url)}>"

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
        return f"<BrowserHandler {redacted(self.url)}>"

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


# --- registration ---------------------------------------------------------------------------------
def register_browser_schemes(router: Router) -> None:
    """Let a router serve these schemes."""
    router.register_load(_load_memory, schemes=["memory"])
    router.register_save(_save_memory, schemes=["memory"])
    router.register_load(_load_browser, schemes=DATABASES)
    router.register_save(_save_browser, schemes=DATABASES)


register_browser_schemes(ROUTER)
