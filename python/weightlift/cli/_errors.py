"""Errors as one line on standard error, and what each exit code means."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

import click

from weightlift.cli._terminal import paint
from weightlift.cli._text import printable
from weightlift.errors import (
    AccessError,
    ChangedError,
    ChecksumError,
    NotFoundError,
    TruncatedError,
    UnsafeContentError,
    WeightliftError,
)

__all__ = ["DEBUG", "EXPECTED", "ExitCode", "did_you_mean", "report"]

DEBUG = "WEIGHTLIFT_DEBUG"
"""Environment variable: errors come with their traceback."""

EXPECTED = (WeightliftError, OSError, MemoryError)
"""Errors that are the file's, the storage's or the machine's: no fault of this program."""


class ExitCode(IntEnum):
    """What the command says to the shell."""

    OK = 0
    NEGATIVE = 1
    USAGE = 2
    ERROR = 3
    INTERRUPTED = 130
    BROKEN_PIPE = 141


_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (ChecksumError, "The file is damaged: fetch or write it again; `weightlift verify` lists what is affected."),
    (TruncatedError, "The file is not complete: fetch or write it again."),
    (ChangedError, "Something else is writing the file: run again when it has finished."),
    (UnsafeContentError, "It was refused on purpose: get the file from a source you trust, or convert it there."),
    (AccessError, "Check the permissions of the file and of its directory."),
    (MemoryError, "Free some memory, or work on fewer tensors (--names)."),
)

_URL_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (ChecksumError, "What the server has is damaged; `weightlift verify` lists what is affected."),
    (ChangedError, "The file changed at the server meanwhile: run again."),
    (AccessError, "Give credentials: --token, --user, --netrc or --header."),
    (NotFoundError, "Check the URL."),
)

_ERRNO_HINTS = {
    errno.ENOSPC: "Free some space, or write to another disk; nothing was left behind.",
    errno.EDQUOT: "Free some of your quota, or write to another disk; nothing was left behind.",
    errno.EROFS: "Write to a directory on another file system.",
}


def report(error: BaseException) -> None:
    """Print one red line: what went wrong, where, and what to do next."""
    if os.environ.get(DEBUG):
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    text, hint = " ".join(printable(line) for line in _message(error).splitlines()), _hint(error)
    line = f"Error: {text.rstrip('.')}. {hint}" if hint else f"Error: {text}"
    click.echo(paint(line, "red", stderr=True), err=True)


def _message(error: BaseException) -> str:
    if isinstance(error, WeightliftError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    if isinstance(error, OSError):
        where = f" [file {error.filename}]" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return f"{type(error).__name__}: {error} (a fault of weightlift; {DEBUG}=1 shows where)"


def _hint(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in _ERRNO_HINTS:
        return _ERRNO_HINTS[number]
    remote = isinstance(error, WeightliftError) and error.url is not None
    for kind, hint in _URL_HINTS if remote else _HINTS:
        if isinstance(error, kind):
            return hint
    if isinstance(error, NotFoundError) and error.path is not None:
        return _similar_file(Path(error.path)) or "Check the path."
    return ""


def _similar_file(path: Path) -> str:
    try:
        return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])
    except OSError:
        return ""


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """``"Did you mean 'x' or 'y'?"`` of what is close, or the empty string."""
    close = difflib.get_close_matches(wanted, list(known)[:10_000], n=3)
    return f"Did you mean {' or '.join(repr(printable(name)) for name in close)}?" if close else ""
