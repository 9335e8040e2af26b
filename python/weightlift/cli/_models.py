"""What the commands on whole models share."""

from __future__ import annotations

from typing import Any

import click

import weightlift as wl
from weightlift._urls import scheme_of
from weightlift.cli._remote import Remote

__all__ = ["database_option", "database_options", "refuse_to_replace", "transfer_options"]

DATABASES = ("localstorage", "indexeddb")

database_option = click.option(
    "--database", metavar="FILE", help="localstorage:// and indexeddb://: this file, not that of the user's."
)


def database_options(url: str, database: str | None) -> dict[str, Any]:
    """The options of a URL."""
    return {"database": database} if database is not None and scheme_of(url) in DATABASES else {}


def transfer_options(url: str, remote: Remote, database: str | None) -> dict[str, Any]:
    """The options of one end of a copy."""
    return {**remote.of(url), **database_options(url, database)}


def refuse_to_replace(target: str, database: str | None) -> None:
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
