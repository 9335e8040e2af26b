"""``weightlift check-tfjs``: will TensorFlow.js load it?"""

from __future__ import annotations

from collections.abc import Sequence

import click

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._options import each, echo_json, json_option, paths_argument
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._terminal import paint, say

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command("check-tfjs")
@paths_argument
@click.option("--strict", is_flag=True, help="A warning is a failure too.")
@json_option
@remote_options
def command(paths: Sequence[str], strict: bool, as_json: bool, remote: Remote) -> None:
    """Say whether TensorFlow.js loads a model, what is in the way, and what to do about each.

    Exit code 0: it loads; 1: it does not, or is not the model that was meant (or, with --strict, there are warnings).
    """

    def work(path: str) -> ExitCode:
        report = wl.check_tfjs(path, **remote.of(path))
        good = report.loads and not (strict and any(p.severity == "warning" for p in report.problems))
        if as_json:
            echo_json(_document(path, report))
        else:
            _show(path, report)
        return ExitCode.OK if good else ExitCode.NEGATIVE

    each(paths, work)


def _show(path: str, report: wl.TfjsReport) -> None:
    verdict = f"loads with {report.loader}" if report.loads else f"does NOT load with {report.loader}"
    counts = {s: sum(p.severity == s for p in report.problems) for s in _COLOURS}
    told = ", ".join(_text.count(n, severity) for severity, n in counts.items() if n)
    say(f"{_text.printable(path)}: {verdict}{f' ({told})' if told else ''}")
    for problem in report.problems:
        severity = paint(problem.severity, _COLOURS[problem.severity])
        click.echo(f"  {severity}  {_text.printable(problem.where)}: {_text.printable(problem.what)}")
        if problem.fix:
            click.echo(f"         {_text.printable(problem.fix)}")
    kinds = ", ".join(f"{_text.printable(k)} {_text.size(n)} ({count:,})" for k, (count, n) in report.dtypes.items())
    click.echo(f"  {_text.count(report.tensors, 'weight')}, {_text.size(report.nbytes)}{f': {kinds}' if kinds else ''}")
    smaller = {k: n for k, n in report.savings.items() if n < report.nbytes}
    if smaller:
        sizes = ", ".join(f"{kind} {_text.size(n)}" for kind, n in smaller.items())
        click.echo(f"  quantised they would take: {sizes}")
    if report.parts:
        what = "operations" if report.kind == "graph-model" else "layers"
        listed = ", ".join(f"{_text.printable(k)} {n:,}" for k, n in list(report.parts.items())[:12])
        click.echo(f"  {what}: {listed}{', ...' if len(report.parts) > 12 else ''}")


def _document(path: str, report: wl.TfjsReport) -> dict[str, object]:
    return {
        "path": path,
        "loads": report.loads,
        "kind": report.kind,
        "loader": report.loader,
        "problems": [vars(p) for p in report.problems],
        "tensors": report.tensors,
        "nbytes": report.nbytes,
        "dtypes": {k: {"tensors": count, "nbytes": n} for k, (count, n) in report.dtypes.items()},
        "savings": dict(report.savings),
        "parts": dict(report.parts),
    }
