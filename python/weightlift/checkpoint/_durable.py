"""Directories that are there, or have their names, once these functions return, whatever happens to the power."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from weightlift.errors import StorageError, WeightliftError

__all__ = ["exchange", "located", "make_directory", "sync_directory"]


def make_directory(folder: Path) -> None:
    """Make a directory and those above it."""
    if not folder.is_dir():
        make_directory(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def exchange(made: Path, final: Path, aside: Path | None) -> None:
    """Give a complete directory its name; one that has it becomes ``aside`` first, which stays."""
    sync_directory(made)
    if aside is not None:
        final.rename(aside)
    try:
        made.rename(final)
    except OSError:
        if aside is not None:
            aside.rename(final)
        raise
    sync_directory(final.parent)


@contextlib.contextmanager
def located(path: Path, doing: str) -> Iterator[None]:
    """Errors of the system as ours, with the path."""
    try:
        yield
    except OSError as error:
        if isinstance(error, WeightliftError):
            raise
        raise StorageError(f"cannot {doing}: {error.strerror}", errno=error.errno, path=str(path)) from error
