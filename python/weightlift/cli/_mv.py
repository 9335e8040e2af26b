"""``weightlift mv``: a model to another place, verified there before it goes here."""

from __future__ import annotations

import click

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._models import database_option, refuse_to_replace, transfer_options
from weightlift.cli._options import target_argument
from weightlift.cli._progress import progress
from weightlift.cli._remote import Remote, remote_options


@click.command("mv")
@click.argument("source", metavar="SRC")
@target_argument
@click.option("--force", is_flag=True, help="Replace DST if there is a model.")
@database_option
@remote_options
def command(source: str, target: str, force: bool, database: str | None, remote: Remote) -> None:
    """Move a model: copy it, read the copy back and compare it, then remove SRC.

    SRC and DST are directories, model.json files, or URLs: localstorage://NAME, indexeddb://NAME, http(s)://...; DST
    also downloads://NAME.
    """
    saves = transfer_options(target, remote, database)
    if not force:
        refuse_to_replace(target, database)
    with progress("moving") as callback:
        info = wl.move_model(
            source,
            target,
            load_options=transfer_options(source, remote, database),
            save_options={**saves, "progress": callback},
        )
    click.echo(f"moved {_text.printable(source)} to {_text.printable(target)}: {_text.size(info.weight_data_bytes)}")
