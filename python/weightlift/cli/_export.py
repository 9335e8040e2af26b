"""``weightlift export``: models into a dump, for a browser to take over."""

from __future__ import annotations

import click

import weightlift as wl
from weightlift.cli._models import DATABASES, database_option
from weightlift.cli._text import printable, size


@click.command("export")
@click.argument("scheme", metavar="SCHEME", type=click.Choice(DATABASES))
@click.argument("dump", metavar="DUMP")
@database_option
def command(scheme: str, dump: str, database: str | None) -> None:
    """Write all models of localstorage or indexeddb into a JSON dump, for a browser to take over."""
    for url, info in wl.export_browser_dump(scheme, dump, database=database).items():
        click.echo(f"exported {printable(url)}: {size(info.weight_data_bytes)}")
