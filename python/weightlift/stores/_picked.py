"""Files that somebody picked, matched by the last part of their names: what a browser's file dialog gives."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from weightlift import _core
from weightlift.errors import FormatError, MismatchError, NotFoundError, UnsupportedFeatureError

__all__ = ["PickedFiles", "basename"]

Picked = Any
"""A path, (name, bytes), or an open binary file with a name."""


def basename(path: str) -> str:
    """The last part of a name, as TensorFlow.js takes it."""
    return path.strip().rstrip("/").rpartition("/")[2]


class PickedFiles:
    """A store of files without folders; only read.

    Args:
        files: Paths, (name, bytes) pairs, or open binary files; at least one, of different names.
    """

    url = "the files that were given"

    def __init__(self, files: Iterable[Picked]) -> None:
        """See the class; reads the open files, and nothing of the others."""
        if isinstance(files, (str, bytes, os.PathLike)):
            raise TypeError("files is a list: [model.json, weights.bin, ...]")
        given = [_named(f) for f in files]
        if not given:
            raise MismatchError("at least one file is needed, the model's JSON")
        twice = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
        if twice:
            raise MismatchError(f"more than one file is called {', '.join(map(repr, twice))}", unexpected=twice)
        self._files = dict(given)

    @property
    def names(self) -> list[str]:
        """Of the files, as they were given."""
        return list(self._files)

    def match(self, wanted: Sequence[str], document: str) -> None:
        """Compare the files with those that the manifest names; MismatchError lists all that is missing or too much."""
        names = [basename(path) for path in wanted]
        twice = [name for name, count in Counter(names).items() if count > 1]
        missing = [n for n in dict.fromkeys(names) if n not in self._files]
        spare = [n for n in self._files if n not in names and n != document]
        problems = []
        if twice:
            problems.append(f"the manifest of {document!r} has more than one file called {', '.join(map(repr, twice))}")
        if missing:
            problems.append(f"not given: {', '.join(map(repr, missing))}")
        if spare:
            problems.append(f"not in the manifest of {document!r}: {', '.join(map(repr, spare))}")
        if problems:
            raise MismatchError("; ".join(problems), missing=missing, unexpected=spare)

    def path(self, relative: str) -> str:
        """The path of a file, or its name."""
        found = self._files.get(basename(relative))
        return str(found) if isinstance(found, Path) else basename(relative)

    def open(self, relative: str) -> _core.Reader:
        """A reader of the file whose name ends as ``relative`` does."""
        found = self._files.get(basename(relative))
        if found is None:
            raise NotFoundError("was not given", path=basename(relative))
        return _core.FileReader(found) if isinstance(found, Path) else _core.MemoryReader(found, basename(relative))

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> Any:
        """UnsupportedFeatureError: only read."""
        raise UnsupportedFeatureError("files that were picked are only read")

    def exists(self, relative: str) -> bool:
        """Whether a file of that name was given."""
        return basename(relative) in self._files

    def list(self) -> Iterable[str]:
        """The names."""
        return iter(self._files)

    def delete(self, relative: str) -> None:
        """UnsupportedFeatureError: only read."""
        raise UnsupportedFeatureError("files that were picked are only read")


def _named(picked: Picked) -> tuple[str, Path | bytes]:
    """The name and what is behind it."""
    if isinstance(picked, (str, os.PathLike)):
        path = Path(os.fspath(picked))
        return path.name, path
    if isinstance(picked, tuple) and len(picked) == 2 and isinstance(picked[0], str):
        return basename(picked[0]), bytes(picked[1])
    name, read = getattr(picked, "name", None), getattr(picked, "read", None)
    if not isinstance(name, str) or read is None:
        raise TypeError(f"a {type(picked).__name__} is no path, (name, bytes) pair or open file with a name")
    data = read()
    if not isinstance(data, bytes):
        raise FormatError(f"{name!r} was opened as text: open it with 'rb'")
    return Path(name).name, data
