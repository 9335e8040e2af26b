"""What the commands on whole models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

import weightlift as wl
from weightlift._urls import scheme_of
from weightlift.cli import _text
from weightlift.cli._options import target_argument
from weightlift.cli._progress import progress
from weightlift.cli._remote import Remote, remote_options

__all__ = ["database_option", "database_options", "transfer_command", "transfer_options"]

DATABASES = ("localstorage", "indexeddb")

_PLACES = (
    "SRC and DST are directories, model.json files, or URLs: localstorage://NAME, indexeddb://NAME, http(s)://...; DST "
    "also downloads://NAME."
)

database_option = click.option(
    "--database", metavar="FILE", help="localstorage:// and indexeddb://: this file, not that of the user's."
)


def database_options(url: str, database: str | None) -> dict[str, Any]:
    """The options of a URL."""
    return {"database": database} if database is not None and scheme_of(url) in DATABASES else {}


def transfer_options(url: str, remote: Remote, database: str | None) -> dict[str, Any]:
    """The options of a URL, wherever it leads."""
    return {**remote.of(url), **database_options(url, database)}


def _refuse_to_replace(target: str, database: str | None) -> None:
    """UsageError if there is a model, whole or damaged; servers decide for themselves, and downloads get a new name."""
    if scheme_of(target) in ("http", "https", "downloads"):
        return
    try:
        wl.load_model(target, **database_options(target, database))
    except (wl.NotFoundError, wl.RoutingError):
        return
    except wl.WeightliftError:
        pass
    raise click.UsageError(f"{target} exists; --force replaces it")


def transfer_command(
    name: str, words: tuple[str, str], transfer: Callable[..., wl.ModelArtifactsInfo], text: str
) -> click.Command:
    """A command that brings a model from SRC to DST.

    Args:
        name: Of the command.
        words: What it is doing, and what it has done.
        transfer: ``copy_model`` or ``move_model``.
        text: Its help.
    """

    @click.command(name, help=f"{text}\n\n{_PLACES}")
    @click.argument("source", metavar="SRC")
    @target_argument
    @click.option("--force", is_flag=True, help="Replace DST if there is a model.")
    @database_option
    @remote_options
    def command(source: str, target: str, force: bool, database: str | None, remote: Remote) -> None:
        loads, saves = (transfer_options(url, remote, database) for url in (source, target))
        if not force:
            _refuse_to_replace(target, database)
        with progress(words[0]) as callback:
            info = transfer(source, target, load_options=loads, save_options={**saves, "progress": callback})
        size = _text.size(info.weight_data_bytes)
        click.echo(f"{words[1]} {_text.printable(source)} to {_text.printable(target)}: {size}")

    return command
