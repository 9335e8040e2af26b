"""One table, two looks: coloured and folded to the width of a terminal, or plain columns in a pipe."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from unicodedata import combining, east_asian_width

import click

from weightlift.cli._terminal import is_terminal, paint

__all__ = ["Column", "Table", "fold"]

_GAP = "  "
_NARROWEST = 16
"""Cells that a column keeps when it is folded."""

_BREAKS = re.compile(r"[^./_\-: ]*[./_\-: ]?")
"""Runs that a long name is best not broken inside."""

_GUIDES = " │├└"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ``right`` for numbers, ``fold`` for long text that may take several lines on a terminal."""

    title: str
    right: bool = False
    fold: bool = False


@dataclass
class Table:
    """Rows of text under columns; columns in which no row has anything are left out.

    ``colours`` gives rows a colour on a terminal.
    """

    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    colours: dict[int, str] = field(default_factory=dict)

    def add(self, *cells: str, colour: str | None = None) -> None:
        """Append a row."""
        if colour is not None:
            self.colours[len(self.rows)] = colour
        self.rows.append(cells)

    def show(self) -> None:
        """Print it."""
        if self.rows:
            click.echo("\n".join(self._lines()))

    def _lines(self) -> Iterator[str]:
        used = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows)]
        titles = [self.columns[i].title for i in used]
        widths = [max(cells(self.columns[i].title), max(cells(row[i]) for row in self.rows)) for i in used]
        if not is_terminal():
            yield self._line(used, titles, widths)
            for row in self.rows:
                yield self._line(used, [row[i] for i in used], widths)
            return
        widths = self._squeezed(used, widths, shutil.get_terminal_size().columns)
        yield paint(self._line(used, titles, widths), bold=True)
        for number, row in enumerate(self.rows):
            parts = [fold(row[i], width) for i, width in zip(used, widths, strict=True)]
            for k in range(max(map(len, parts))):
                line = self._line(used, [part[k] if k < len(part) else "" for part in parts], widths)
                yield paint(line, self.colours.get(number))

    def _line(self, used: Sequence[int], texts: Sequence[str], widths: Sequence[int]) -> str:
        padded = []
        for i, text, width in zip(used, texts, widths, strict=True):
            space = " " * (width - cells(text))
            padded.append(space + text if self.columns[i].right else text + space)
        return _GAP.join(padded).rstrip()

    def _squeezed(self, used: Sequence[int], widths: list[int], available: int) -> list[int]:
        """Take from the widest column that folds until the line fits, or none of them can give more."""
        widths = list(widths)
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - available
        folding = [k for k, i in enumerate(used) if self.columns[i].fold]
        for _ in range(max(0, excess)):
            widest = max(folding, key=lambda k: widths[k], default=None)
            if widest is None or widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
        return widths


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def fold(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` cells, broken after separators where that is possible; later ones are indented."""
    if cells(text) <= width:
        return [text]
    indent = " " * min(len(text) - len(text.lstrip(_GUIDES)) + 2, width // 2)
    lines, line = [], ""
    for run in _BREAKS.findall(text):
        if cells(line + run) > width and line.strip(_GUIDES):
            lines.append(line)
            line = indent
        for c in run:
            if cells(line + c) > width:
                lines.append(line)
                line = indent
            line += c
    return [*lines, line]
