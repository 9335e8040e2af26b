"""Arguments and options that several commands share, and the loop over several paths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.exceptions import Exit

from weightlift.cli._errors import EXPECTED, ExitCode, report
from weightlift.errors import WeightliftError

__all__ = ["each", "echo_json", "json_option", "names_option", "paths_argument"]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text, one line a PATH.")
names_option = click.option(
    "--names", metavar="GLOB", multiple=True, help="Only tensors whose names match; may be given several times."
)
paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True)


def each(paths: Iterable[str], work: Callable[[str], ExitCode]) -> None:
    """Do ``work`` for every path, though one fails; exit with the highest code."""
    worst = ExitCode.OK
    for path in paths:
        try:
            worst = max(worst, work(path))
        except EXPECTED as error:
            if isinstance(error, BrokenPipeError) and not isinstance(error, WeightliftError):
                raise
            report(error)
            worst = ExitCode.ERROR
    if worst is not ExitCode.OK:
        raise Exit(worst)


def echo_json(document: object) -> None:
    """Print a document as one line of JSON."""
    click.echo(json.dumps(document, default=str))
