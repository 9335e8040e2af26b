"""Files of the model that a save replaces: what its manifest named and the new one does not is removed.

Protocol. The old manifest is read before the new one is published; files are removed after that, one by one, so a
save that is killed leaves litter at worst. Removed are only plain files (no links) inside the manifest's directory,
under names that this format's saves give (``ReplacesFiles.replaced``), and that no other JSON file of the
directory mentions. Local directories only.

A save that was killed between publishing its data files and its manifest left data files under marked names
(``marked``), which nothing names. The next save of that model removes those that have been there for an hour, so that
none of a save that is under way is among them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from weightlift._plan import OpenFiles
from weightlift.errors import WeightliftError
from weightlift.protocols import Format, ReplacesFiles
from weightlift.stores._local import LocalStore

__all__ = ["Superseded", "marked", "unmarked"]

MAX_JSON = 256 << 20
ABANDONED_AFTER = 3600.0
"""Seconds since a data file was published, by the file system's own time (ctime)."""

_MARK = re.compile(r"([^.]*)-wl[0-9a-f]{8}((\..*)?)", re.DOTALL)
_ESCAPED_ASCII = re.compile(rb"\\u00([0-7][0-9a-fA-F])")


def marked(name: str) -> str:
    """A new name for a data file whose own is taken, until its manifest is published."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-wl{secrets.token_hex(4)}{dot}{suffix}"


def unmarked(name: str) -> str | None:
    """The name that was marked; None if ``name`` carries no mark."""
    found = _MARK.fullmatch(name)
    return found[1] + found[2] if found else None


class Superseded:
    """The files of the model that is stored under ``name`` now."""

    def __init__(self, store: LocalStore, fmt: Format, name: str, *, manifest: str | None) -> None:
        """``name`` is the target's name; ``manifest`` that of the manifest to be written, if there is one."""
        self._store, self._manifest = store, manifest
        self._names: list[str] = []
        if isinstance(fmt, ReplacesFiles):
            try:
                self._names = list(fmt.replaced(OpenFiles(store), name, manifest))
            except (WeightliftError, OSError):
                return  # what is there is no model of this format: none of it is ours

    def add(self, names: Iterable[str]) -> None:
        """Remove these files, too: whoever asks knows that they are the model's, whatever they are called."""
        self._names += [n for n in names if n not in self._names]

    def remove(self, kept: Collection[str], planned: Collection[str]) -> None:
        """Remove them when the new model is published.

        Args:
            kept: The new model's files.
            planned: Names that its data files were planned to have; abandoned files are marked with such names.
        """
        found = [*self._names, *self._abandoned(planned)]
        names = [n for n in dict.fromkeys(found) if n not in kept and n != self._manifest and self._plain(n)]
        if not names:
            return
        others = self._other_manifests({n for n in names if n.endswith(".json")})
        if others is None:
            return
        for name in names:
            try:
                if not any(_mentions(text, name) for text in others):
                    self._store.delete(name)
                    continue
            except (WeightliftError, OSError):
                pass  # the save itself has succeeded
            if name.endswith(".json"):
                return  # it stays, and names the rest

    def _abandoned(self, planned: Collection[str]) -> list[str]:
        if self._manifest is None or not planned:
            return []
        numbered = {re.sub(r"\d+", "0", name) for name in planned}
        before = time.time() - ABANDONED_AFTER
        try:
            with os.scandir(self._store.root) as entries:
                return [
                    e.name
                    for e in entries
                    if (name := unmarked(e.name)) is not None
                    and re.sub(r"\d+", "0", name) in numbered
                    and e.stat(follow_symlinks=False).st_ctime < before
                ]
        except OSError:
            return []

    def _plain(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self._store.path(name)).st_mode)
        except (WeightliftError, OSError):
            return False

    def _other_manifests(self, gone: Collection[str]) -> list[bytes] | None:
        """The text of the directory's other JSON files; None when one cannot be read, and so may name anything."""
        texts = []
        try:
            for path in Path(self._store.root).iterdir():
                if path.suffix == ".json" and path.name not in (self._manifest, *gone) and path.is_file():
                    if path.stat().st_size > MAX_JSON:
                        return None
                    texts.append(path.read_bytes())
        except OSError:
            return None
        return texts


def _mentions(text: bytes, name: str) -> bool:
    """Whether a JSON text holds the file's name, however it is escaped."""
    base = name.rpartition("/")[2]
    if not base.isascii() and b"\\" in text:
        try:
            text = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "surrogatepass")
        except ValueError:
            return True
    return base.encode() in _ESCAPED_ASCII.sub(lambda m: bytes([int(m[1], 16)]), text)
