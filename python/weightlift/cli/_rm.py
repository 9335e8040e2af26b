"""``weightlift rm``: remove models."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

import weightlift as wl
from weightlift.cli._errors import ExitCode
from weightlift.cli._models import database_option, transfer_options
from weightlift.cli._options import each
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._text import printable


@click.command("rm")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@database_option
@remote_options
def command(urls: Sequence[str], yes: bool, database: str | None, remote: Remote) -> None:
    """Remove models with their weight files; asks first.

    Without a terminal to ask on, --yes is needed.
    """
    if not yes and not has_terminal():
        raise click.UsageError("there is no terminal to ask on; --yes removes without asking")

    def work(url: str) -> ExitCode:
        if not yes and not click.confirm(f"Remove {printable(url)}?", err=True):
            return ExitCode.NEGATIVE
        wl.remove_model(url, **transfer_options(url, remote, database))
        click.echo(f"removed {printable(url)}")
        return ExitCode.OK

    each(urls, work)


def has_terminal() -> bool:
    """Whether a person can answer."""
    return sys.stdin is not None and sys.stdin.isatty()
