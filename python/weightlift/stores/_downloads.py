"""A model as a browser downloads it: ``PREFIX.json`` and ``PREFIX.weights.bin`` in the user's downloads directory.

Protocol. Nothing is ever overwritten: as browsers do, the pair is called ``PREFIX (1).json`` and
``PREFIX (1).weights.bin`` if one of the names is taken, and so on. A save reserves the first free number by making both
names as empty files, each by a call that fails if the name exists, so that no two saves get the same one; then it
replaces its own weights, and last its own document, by whole files. What a failed save reserved is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weightlift import _core
from weightlift.errors import AccessError, NotFoundError, StorageError, UnsupportedFeatureError
from weightlift.stores._browser_models import DOCUMENT, WEIGHTS, model_path
from weightlift.stores._local import LocalStore
from weightlift.stores._sqlite import own_options

__all__ = ["OPTIONS", "Downloads", "downloads_directory"]

SCHEME = "downloads"
OPTIONS = ("directory",)
DEFAULT_PREFIX = "model"
MOST_TWINS = 10_000


def downloads_directory() -> Path:
    """The user's downloads directory, as the desktop has it."""
    try:
        from platformdirs import user_downloads_path
    except ImportError:
        raise UnsupportedFeatureError(
            "the user's downloads directory needs platformdirs: pip install 'weightlift[browser]', or give directory="
        ) from None
    return user_downloads_path()


class Downloads:
    """Where one model is written; the names of its files are settled when the first of them is created.

    Args:
        url: ``downloads://PREFIX``; the prefix is ``model`` if there is none.
        options: ``directory``: instead of the user's.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """Makes nothing; UnsafeContentError for a prefix that leads elsewhere."""
        given = own_options(options, OPTIONS, SCHEME)
        prefix = url.partition("://")[2].rstrip("/") or DEFAULT_PREFIX
        model_path(f"{SCHEME}://{prefix}")
        if "/" in prefix:
            raise UnsupportedFeatureError(f"the prefix {prefix!r} names a folder: give directory= instead", url=url)
        self.root = Path(given.get("directory") or downloads_directory())
        self._prefix = prefix
        self._stem: str | None = None
        self._written: set[str] = set()

    @property
    def url(self) -> str:
        """The directory."""
        return str(self.root)

    @property
    def weights(self) -> str:
        """The name of the weights file; reserves the pair of names."""
        return f"{self._reserved()}.weights.bin"

    def _name(self, relative: str) -> str:
        """What the document, or the weights file, of the model is really called."""
        names = {DOCUMENT: f"{self._reserved()}.json", WEIGHTS: self.weights}
        return names.get(relative, relative)

    def _reserved(self) -> str:
        if self._stem is None:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                self._stem = self._reserve()
            except PermissionError as error:
                raise AccessError(f"cannot write: {error.strerror}", errno=error.errno, path=str(self.root)) from error
            except OSError as error:
                if isinstance(error, StorageError):
                    raise
                raise StorageError(f"cannot write: {error.strerror}", errno=error.errno, path=str(self.root)) from error
        return self._stem

    def _reserve(self) -> str:
        """The first stem of which neither name is taken, by making both."""
        for number in range(MOST_TWINS):
            stem = f"{self._prefix} ({number})" if number else self._prefix
            if _made(self.root / f"{stem}.json"):
                if _made(self.root / f"{stem}.weights.bin"):
                    return stem
                (self.root / f"{stem}.json").unlink()
        raise StorageError(f"there are {MOST_TWINS} downloads called {self._prefix!r}", path=str(self.root))

    def abandon(self) -> None:
        """Remove both files, of a save that failed."""
        if self._stem is not None:
            for name in (DOCUMENT, WEIGHTS):
                with contextlib.suppress(OSError):
                    (self.root / self._name(name)).unlink()

    def finish(self) -> None:
        """Remove the empty weights file of a model that has no weights."""
        if self._stem is not None and self.weights not in self._written:
            (self.root / self.weights).unlink()

    # --- as a store -------------------------------------------------------------------------------
    def path(self, relative: str) -> str:
        """The path of a file."""
        return LocalStore(self.root).path(self._name(relative))

    def open(self, relative: str) -> _core.FileReader:
        """A reader of what was written."""
        return LocalStore(self.root).open(self._name(relative))

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> _core.FileWriter:
        """A writer of one of the two files, which replaces the empty one that holds its name."""
        if relative not in (DOCUMENT, WEIGHTS):
            raise UnsupportedFeatureError(
                f"a download is a JSON file and one file of weights, not {relative!r}: leave shard_size= out"
            )
        self._written.add(self._name(relative))
        return LocalStore(self.root).create(self._name(relative), nbytes, durable=durable)

    def exists(self, relative: str) -> bool:
        """No: the names that a save writes to are its own."""
        return False

    def list(self) -> Iterable[str]:
        """The files that were written."""
        return iter(sorted(self._written))

    def delete(self, relative: str) -> None:
        """NotFoundError: nothing is removed from downloads."""
        raise NotFoundError("downloads are not removed", path=str(self.root / relative))


def _made(path: Path) -> bool:
    """Whether the file was not there, and is now."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    return True
