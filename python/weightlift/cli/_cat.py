"""``weightlift cat``: what one tensor holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import numpy as np

import weightlift as wl
from weightlift._statistics import Array, Histogram, Statistics, is_number, pieces, summarize
from weightlift.cli import _text
from weightlift.cli._errors import did_you_mean
from weightlift.cli._options import echo_json, format_option, json_option
from weightlift.cli._progress import progress
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._terminal import say
from weightlift.errors import MismatchError

_FIRST = 8
_BAR = 40


@click.command("cat")
@click.argument("path", metavar="PATH")
@click.argument("name", metavar="NAME")
@click.option("--values", is_flag=True, help="Print all values instead, a line for each row of the last axis.")
@format_option
@json_option
@remote_options
def command(path: str, name: str, values: bool, source_format: str | None, as_json: bool, remote: Remote) -> None:
    """Show the tensor NAME of PATH: statistics, a histogram and its first values.

    A big tensor is read in pieces: memory use does not grow with it.
    """
    with wl.open(path, format=source_format, **remote.of(path)) as weights:
        if name not in weights:
            hint = did_you_mean(name, weights) or "`weightlift inspect` lists the tensors."
            raise MismatchError(f"no such tensor; {hint}", path=path, tensor=name)
        view = weights[name]
        if values:
            _print_values(view, as_json)
            return
        with progress(f"reading {_text.printable(name)}") as callback:
            statistics, histogram = summarize(view.row, progress=callback)
        if as_json:
            echo_json(_document(view, statistics, histogram))
        else:
            _show(view, statistics, histogram)


def _rows(view: wl.TensorView) -> Iterator[Array]:
    """The rows of the last axis, in C order; of fewer than two axes, each element."""
    length = view.shape[-1] if view.ndim > 1 else 1
    rest: Array | None = None
    for piece in pieces(view.row):
        joined = piece if rest is None else np.concatenate((rest, piece))
        whole = joined.size // length * length
        yield from joined[:whole].reshape(-1, length)
        rest = joined[whole:].copy()


def _first(view: wl.TensorView) -> list[Any]:
    """The first values."""
    return list(next(pieces(view.row), np.empty(0))[:_FIRST])


def _show(view: wl.TensorView, statistics: Statistics | None, histogram: Histogram | None) -> None:
    facts = [str(view.dtype), _text.shape(view.shape), _text.size(view.nbytes)]
    if str(view.stored) != str(view.dtype):
        facts.append(f"stored as {view.stored}")
    facts.append(view.checksum or "no checksum")
    say(f"{_text.printable(view.name)}: {', '.join(facts)}")
    if statistics is not None and statistics.elements:
        _show_statistics(statistics)
    if histogram is not None:
        click.echo()
        _show_histogram(histogram)
    first = _first(view)
    if first:
        more = " ..." if statistics is None or statistics.elements > len(first) else ""
        click.echo()
        say(f"values: {'  '.join(_text.value(x) for x in first)}{more}")


def _show_statistics(statistics: Statistics) -> None:
    lines: list[tuple[str, str]] = []
    if statistics.finite:
        which = "|x| " if isinstance(statistics.mean, complex) else ""
        lines += [
            (f"{which}min", _text.value(statistics.minimum)),
            (f"{which}max", _text.value(statistics.maximum)),
            ("mean", _text.value(statistics.mean)),
            ("std", _text.value(statistics.std)),
        ]
    lines.append(("elements", f"{statistics.elements:,}"))
    for title, number in (
        ("zeros", statistics.zeros),
        ("NaN", statistics.nans),
        ("+inf", statistics.positive_infinities),
        ("-inf", statistics.negative_infinities),
    ):
        share = f"  {100 * number / statistics.elements:.3g} %" if number else ""
        lines.append((title, f"{number:,}{share}"))
    for title, text in lines:
        click.echo(f"  {title:<10}{text}")


def _show_histogram(histogram: Histogram) -> None:
    edges = [f"{edge:.4g}" for edge in histogram.edges]
    width = max(map(len, edges))
    top = int(histogram.counts.max())
    for i, count in enumerate(histogram.counts.tolist()):
        bar = "#" * max(round(_BAR * count / top), bool(count))
        click.echo(f"  {edges[i]:>{width}} .. {edges[i + 1]:>{width}}  {bar:<{_BAR}}  {count:,}".rstrip())


def _print_values(view: wl.TensorView, as_json: bool) -> None:
    if as_json:
        echo_json({**_head(view), "values": [_plain(x) for piece in pieces(view.row) for x in piece]})
        return
    for row in _rows(view):
        click.echo(" ".join(_text.value(x, exact=True) for x in row))


def _head(view: wl.TensorView) -> dict[str, Any]:
    return {
        "name": view.name,
        "dtype": str(view.dtype),
        "shape": list(view.shape),
        "nbytes": view.nbytes,
        "stored": str(view.stored),
        "checksum": view.checksum,
    }


def _document(view: wl.TensorView, statistics: Statistics | None, histogram: Histogram | None) -> dict[str, Any]:
    document = _head(view)
    if statistics is not None:
        document["statistics"] = {
            name: _plain(getattr(statistics, name))
            for name in (
                "elements", "zeros", "nans", "positive_infinities", "negative_infinities",
                "finite", "minimum", "maximum", "mean", "std",
            )
        }  # fmt: skip
    if histogram is not None:
        document["histogram"] = {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()}
    document["first"] = [_plain(x) for x in _first(view)]
    return document


def _plain(value: Any) -> Any:
    """A value as JSON can have it."""
    if isinstance(value, np.generic):
        if value.dtype.kind in "biufcSU":
            value = value.item()
        else:
            value = float(value) if is_number(value.dtype) else str(value)
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value
