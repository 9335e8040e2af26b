"""One table, two looks: folded to the width of a terminal, or plain columns in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

from weightlift.cli._terminal import console, is_terminal

__all__ = ["Column", "Table"]

_RICH_ROWS = 2_000
"""Beyond this a terminal gets plain columns too: rich lays out some thousand rows a second."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ``right`` for numbers, ``fold`` for long text that may take several lines on a terminal."""

    title: str
    right: bool = False
    fold: bool = False
    style: str | None = None


@dataclass
class Table:
    """Rows of text under columns.

    Columns in which no row has anything are left out. ``row_styles`` gives rows a colour on a terminal.
    """

    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    row_styles: dict[int, str] = field(default_factory=dict)

    def add(self, *cells: str, style: str | None = None) -> None:
        """Append a row."""
        if style is not None:
            self.row_styles[len(self.rows)] = style
        self.rows.append(cells)

    def show(self) -> None:
        """Print it."""
        if not self.rows:
            return
        used = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows)]
        if is_terminal() and len(self.rows) <= _RICH_ROWS:
            self._show_rich(used)
        else:
            click.echo("\n".join(self._plain(used)))

    def _show_rich(self, used: Sequence[int]) -> None:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False)
        for i in used:
            column = self.columns[i]
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                style=column.style,
                overflow="fold",
                no_wrap=not column.fold,
                # what may fold gives way first, down to a width that can still be read
                min_width=min(12, max(len(row[i]) for row in self.rows)) if column.fold else None,
            )
        for number, row in enumerate(self.rows):
            table.add_row(*(Text(row[i]) for i in used), style=self.row_styles.get(number))
        console().print(table)

    def _plain(self, used: Sequence[int]) -> Iterable[str]:
        titles = [column.title for column in self.columns]
        widths = [max(len(titles[i]), max(len(row[i]) for row in self.rows)) for i in used]
        rights = [self.columns[i].right for i in used]
        for cells in (titles, *self.rows):
            line = "  ".join(
                cells[i].rjust(width) if right else cells[i].ljust(width)
                for i, width, right in zip(used, widths, rights, strict=True)
            )
            yield line.rstrip()
