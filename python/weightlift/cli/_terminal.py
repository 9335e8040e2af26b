"""What standard output and standard error are, and the rich console for the one that is a terminal.

Rule: a terminal gets colours, folding and progress; a pipe gets plain, stable text. rich is imported
only for a terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import lru_cache
from textwrap import wrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "is_terminal", "paint", "say"]


def is_terminal(*, stderr: bool = False) -> bool:
    """Whether a person looks at the stream on a terminal that can move its cursor."""
    stream = sys.stderr if stderr else sys.stdout
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None = None, *, bold: bool = False, stderr: bool = False) -> str:
    """``text`` in a colour, where the stream is a terminal; with NO_COLOR no colour, but bold is none."""
    if not is_terminal(stderr=stderr):
        return text
    if os.environ.get("NO_COLOR"):
        colour = None
    return click.style(text, fg=colour, bold=bold or None) if colour or bold else text


def say(text: str) -> None:
    """Print a line; on a terminal, wrapped between words to its width, with later lines indented."""
    if is_terminal():
        first = len(text) - len(text.lstrip())
        width, indent = shutil.get_terminal_size().columns, " " * (first + 2)
        text = "\n".join(wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))
    click.echo(text)


@lru_cache(maxsize=2)
def console(*, stderr: bool = False) -> Console:
    """The rich console of a terminal; it guesses nothing from the text (no markup, no highlighting)."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
