"""``weightlift diff``: what differs between two weight files, whatever their formats."""

from __future__ import annotations

from dataclasses import asdict

import click
from click.exceptions import Exit

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._options import echo_json, json_option
from weightlift.cli._progress import progress
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._table import Column, Table

_COLOURS = {"missing": "red", "extra": "green", "dtype": "yellow", "shape": "yellow", "values": "yellow"}
_ORDER = tuple(_COLOURS)


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--rtol", type=click.FloatRange(0), metavar="X", default=0.0, help="Relative tolerance. Default: 0, exact."
)
@click.option(
    "--atol", type=click.FloatRange(0), metavar="X", default=0.0, help="Absolute tolerance. Default: 0, exact."
)
@json_option
@remote_options
def command(a: str, b: str, rtol: float, atol: float, as_json: bool, remote: Remote) -> None:
    """Compare the tensors of A and B: missing, extra, dtype, shape, values.

    Exit code 0: the same; 1: different.
    """
    with progress("comparing") as callback:
        report = wl.diff(a, b, rtol=rtol, atol=atol, progress=callback, **remote.of(a, b))
    if as_json:
        differences = [asdict(difference) for difference in report.differences]
        echo_json({"a": a, "b": b, "same": report.same, "equal": report.equal, "differences": differences})
    else:
        show_diff(report)
    if not report.same:
        raise Exit(ExitCode.NEGATIVE)


def show_diff(report: wl.DiffReport) -> None:
    """Print a report."""
    if report.same:
        click.echo(f"same: {_text.count(report.equal, 'tensor')} equal")
        return
    table = Table(
        (
            Column("tensor", fold=True),
            Column("difference"),
            Column("A", fold=True),
            Column("B", fold=True),
            Column("differ", right=True),
            Column("max abs", right=True),
            Column("max rel", right=True),
        )
    )
    for d in sorted(report.differences, key=lambda d: _ORDER.index(d.kind)):
        table.add(
            _text.printable(d.name),
            d.kind,
            _text.printable(d.a),
            _text.printable(d.b),
            "" if d.count is None else f"{d.count:,}",
            "" if d.max_abs is None else f"{d.max_abs:.3g}",
            "" if d.max_rel is None else f"{d.max_rel:.3g}",
            colour=_COLOURS[d.kind],
        )
    table.show()
    kinds = [d.kind for d in report.differences]
    found = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in _ORDER if kind in kinds)
    click.echo(f"different: {found}; {report.equal:,} equal")
