"""What goes on, on a terminal's standard error: a bar of bytes, or a line of text; nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import click

from weightlift.cli._terminal import console, is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressCallback", "activity", "progress"]

ProgressCallback = Callable[[int, int], None]

_PATIENCE = 0.3
"""Seconds before a bar appears: short work should not flicker."""


class _Bar:
    """Called with (done, total) bytes; draws from the calling thread only, so it costs nothing in between."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begin = monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            if monotonic() - self._begin < _PATIENCE or total <= 0:
                return
            self._bar = self._start(total)
        bar, task = self._bar
        bar.update(task, completed=done, total=total, refresh=True)

    def _start(self, total: int) -> tuple[Progress, TaskID]:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        bar.start()
        return bar, bar.add_task(self._title, total=total)

    def close(self) -> None:
        """Take the bar away again."""
        if self._bar is not None:
            self._bar[0].stop()


@contextmanager
def progress(title: str) -> Iterator[ProgressCallback | None]:
    """A callback for the library's ``progress=``, or None where nobody would see a bar."""
    if not is_terminal(stderr=True):
        yield None
        return
    bar = _Bar(title)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def activity() -> Iterator[Callable[[str], None]]:
    """A function that says what is being done now, in one line that is overwritten and in the end erased."""
    shown = is_terminal(stderr=True)

    def say(text: str) -> None:
        if shown:
            click.echo(f"\r\x1b[2K{text}", err=True, nl=False)

    try:
        yield say
    finally:
        say("")
