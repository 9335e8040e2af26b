"""``weightlift verify``: is every byte what it was when it was written?"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import click

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._options import each, echo_json, format_option, json_option, paths_argument
from weightlift.cli._progress import progress
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._table import Column, Table
from weightlift.cli._terminal import say

_COLOURS = {"corrupt": "red", "unchecked": "yellow"}
_MAX_ROWS = 50


@click.command("verify")
@paths_argument
@click.option("--strict", is_flag=True, help="A tensor without a checksum is a failure too.")
@format_option
@json_option
@remote_options
def command(paths: Sequence[str], strict: bool, source_format: str | None, as_json: bool, remote: Remote) -> None:
    """Check weight files against their checksums, without loading them.

    Exit code 0: all match; 1: something is corrupt (or, with --strict, carries no checksum).
    """

    def work(path: str) -> ExitCode:
        begin = perf_counter()
        with progress(f"verifying {_text.printable(path)}") as callback:
            report = wl.verify(path, format=source_format, progress=callback, **remote.of(path))
        good = report.ok and not (strict and report.unchecked)
        if as_json:
            echo_json(document(path, report, good))
        else:
            show_report(path, report, perf_counter() - begin)
        return ExitCode.OK if good else ExitCode.NEGATIVE

    each(paths, work)


def show_report(path: str, report: wl.VerifyReport, elapsed: float) -> None:
    """Print a report; ``elapsed`` seconds."""
    if report.problems and not report.tensors:
        say(f"{_text.printable(path)}: BROKEN: {_text.printable('; '.join(report.problems))}")
        return
    counts = {status: sum(t.status == status for t in report.tensors) for status in ("ok", "corrupt", "unchecked")}
    if not report.ok:
        verdict = "CORRUPT"
    elif counts["unchecked"]:
        verdict = "ok as far as can be told" if counts["ok"] else "no checksums to check against"
    else:
        verdict = "ok"
    found = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n) or "no tensors"
    say(
        f"{_text.printable(path)}: {verdict} ({report.format}; {found}; "
        f"{_text.size(report.nbytes)} in {_text.pace(report.nbytes, elapsed)})"
    )
    for problem in report.problems:
        say(f"  {_text.printable(problem)}")
    if report.ok and not counts["ok"]:
        return  # a list of all tensors would say nothing more
    table = Table(
        (
            Column("tensor", fold=True),
            Column("status"),
            Column("size", right=True),
            Column("file", fold=True),
            Column("offset", right=True),
            Column("detail", fold=True),
        )
    )
    bad = sorted((t for t in report.tensors if t.status != "ok"), key=lambda t: t.status != "corrupt")
    for t in bad[:_MAX_ROWS]:
        table.add(
            _text.printable(t.name),
            t.status,
            _text.size(t.nbytes),
            _text.printable(t.file),
            str(t.offset),
            _text.printable(t.detail),
            colour=_COLOURS[t.status],
        )
    table.show()
    if len(bad) > _MAX_ROWS:
        click.echo(f"... {len(bad) - _MAX_ROWS:,} more; --json lists all")


def document(path: str, report: wl.VerifyReport, good: bool) -> dict[str, object]:
    """A report as JSON has it."""
    return {
        "path": path,
        "format": report.format,
        "ok": good,
        "nbytes": report.nbytes,
        "problems": list(report.problems),
        "tensors": [
            {
                "name": t.name,
                "status": t.status,
                "nbytes": t.nbytes,
                "file": t.file,
                "offset": t.offset,
                "detail": t.detail,
            }
            for t in report.tensors
        ],
    }
