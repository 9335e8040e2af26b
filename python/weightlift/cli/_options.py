"""Arguments and options that several commands share, and the loop over several paths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, TypeVar

import click
from click.exceptions import Exit

from weightlift._urls import scheme_of
from weightlift.cli._errors import EXPECTED, ExitCode, report
from weightlift.errors import WeightliftError

__all__ = ["each", "echo_json", "format_option", "json_option", "names_option", "paths_argument", "target_argument"]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text, a line a document.")
format_option = click.option(
    "--format", "source_format", metavar="FORMAT", help="Of the file; default: its content tells."
)
names_option = click.option(
    "--names", metavar="GLOB", multiple=True, help="Only tensors whose names match; may be given several times."
)
paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True)


def _lasting(context: click.Context, parameter: click.Parameter, url: str) -> str:
    """UsageError for what would be gone when the command ends."""
    if scheme_of(url) == "memory":
        raise click.UsageError(f"{url} would end with this command: memory:// is the memory of one process")
    return url


target_argument = click.argument("target", metavar="DST", callback=_lasting)


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
    """Print a document as one line of JSON; what JSON has no number for (NaN, infinities) becomes text."""
    try:
        text = json.dumps(document, default=str, allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(document), default=str, allow_nan=False)
    click.echo(text)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
