"""``weightlift import``: the models of a browser, from a dump of its storage."""

from __future__ import annotations

import click

import weightlift as wl
from weightlift.cli._models import database_option
from weightlift.cli._text import printable, size


@click.command("import")
@click.argument("dump", metavar="DUMP")
@click.option("--force", is_flag=True, help="Replace models of the same names.")
@database_option
def command(dump: str, force: bool, database: str | None) -> None:
    """Take the models of a browser over, from a JSON dump of its localStorage or IndexedDB.

    All models of the dump are imported, or none. The documentation has the JavaScript that makes a dump.
    """
    for url, info in wl.import_browser_dump(dump, database=database, replace=force).items():
        click.echo(f"imported {printable(url)}: {size(info.weight_data_bytes)}")
