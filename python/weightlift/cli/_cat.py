"""``weightlift cat``: what one tensor holds."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

import click
import numpy as np

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import did_you_mean
from weightlift.cli._options import echo_json
from weightlift.cli._progress import ProgressCallback, progress
from weightlift.cli._statistics import Array, Histogram, Statistics, as_numbers
from weightlift.errors import MismatchError

_PIECE = 16 << 20
_FIRST = 8
_BAR = 40


@click.command("cat")
@click.argument("path", metavar="PATH")
@click.argument("name", metavar="NAME")
@click.option("--values", is_flag=True, help="Print all values instead, a line for each row of the last axis.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def command(path: str, name: str, values: bool, as_json: bool) -> None:
    """Show the tensor NAME of PATH: statistics, a histogram and its first values.

    A big tensor is read in pieces: memory use does not grow with it.
    """
    with wl.open(path) as weights, wl.open(path, memory="arena") as spans:
        if name not in weights:
            hint = did_you_mean(name, weights) or "`weightlift inspect` lists the tensors."
            raise MismatchError(f"no such tensor; {hint}", path=path, tensor=name)
        tensor = _Tensor(weights[name], spans[name])
        if values:
            _print_values(tensor, as_json)
            return
        with progress(f"reading {_text.printable(name)}") as callback:
            statistics, histogram = _summary(tensor, callback)
        if as_json:
            echo_json(_document(tensor, statistics, histogram))
        else:
            _show(tensor, statistics, histogram)


class _Tensor:
    """A tensor that can be gone through in pieces, more than once."""

    def __init__(self, view: wl.TensorView, spans: wl.TensorView) -> None:
        """``view`` maps what can be mapped; ``spans`` reads rows into memory of their own."""
        self.view = view
        self.dtype = str(view.dtype)
        self._spans = spans
        self._whole: Array = view[...]

    def pieces(self) -> Iterator[Array]:
        """Flat arrays of about ``_PIECE`` bytes, all elements once; in C order if the tensor is stored so."""
        whole = self._whole
        mapped = not whole.flags.writeable and whole.flags.c_contiguous
        row = whole.nbytes // max(1, len(whole)) if whole.ndim else whole.nbytes
        if mapped and row <= _PIECE < whole.nbytes:
            # Reading rows, unlike touching the mapping, keeps no more than one piece in memory.
            step = _PIECE // row
            for begin in range(0, len(whole), step):
                yield self._spans[begin : begin + step].reshape(-1)
            return
        flat = whole.ravel(order="K")
        step = max(1, _PIECE // max(1, whole.itemsize))
        for begin in range(0, flat.size, step):
            yield flat[begin : begin + step]

    def rows(self) -> Iterator[Array]:
        """The rows of the last axis, in C order; of fewer than two axes, each element."""
        whole = self._whole
        if whole.ndim < 2:
            yield from whole.reshape(-1, 1)
        else:
            for index in np.ndindex(whole.shape[:-1]):
                yield whole[index]

    def first(self) -> list[Any]:
        """The first values, in C order."""
        return list(_elements(np.asarray(self._whole.flat[:_FIRST]), self.dtype))[:_FIRST]


def _summary(tensor: _Tensor, callback: ProgressCallback | None) -> tuple[Statistics | None, Histogram | None]:
    """Statistics in one pass, a histogram of their range in a second."""
    statistics, done, total = Statistics(), 0, 2 * tensor.view.nbytes
    histogram: Histogram | None = None

    def numbers() -> Iterator[Array | None]:
        nonlocal done
        for piece in tensor.pieces():
            yield as_numbers(piece, tensor.dtype)
            done += piece.nbytes
            if callback is not None:
                callback(done, total)

    for piece in numbers():
        if piece is None:
            return None, None
        statistics.add(piece)
    low, high = statistics.minimum, statistics.maximum
    if statistics.finite > 1 and low < high:
        histogram = Histogram(low, high)
        for piece in numbers():
            if piece is not None:
                histogram.add(piece)
    return statistics, histogram


def _show(tensor: _Tensor, statistics: Statistics | None, histogram: Histogram | None) -> None:
    view = tensor.view
    facts = [tensor.dtype, _text.shape(view.shape), _text.size(view.nbytes)]
    if str(view.stored) != tensor.dtype:
        facts.append(f"stored as {view.stored}")
    facts.append(view.checksum or "no checksum")
    click.echo(f"{_text.printable(view.name)}: {', '.join(facts)}")
    if statistics is not None and statistics.elements:
        _show_statistics(statistics)
    if histogram is not None:
        click.echo()
        _show_histogram(histogram)
    first = tensor.first()
    if first:
        more = " ..." if statistics is None or statistics.elements > len(first) else ""
        click.echo(f"\nvalues: {'  '.join(_text.value(x) for x in first)}{more}")


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
        click.echo(f"  {title:<9}{text}")


def _show_histogram(histogram: Histogram) -> None:
    edges = [f"{edge:.4g}" for edge in histogram.edges]
    width = max(map(len, edges))
    top = int(histogram.counts.max())
    for i, count in enumerate(histogram.counts.tolist()):
        bar = "#" * max(round(_BAR * count / top), bool(count))
        click.echo(f"  {edges[i]:>{width}} .. {edges[i + 1]:>{width}}  {bar:<{_BAR}}  {count:,}".rstrip())


def _print_values(tensor: _Tensor, as_json: bool) -> None:
    if as_json:
        values = [_plain(x) for row in tensor.rows() for x in _elements(row, tensor.dtype)]
        echo_json({**_head(tensor.view), "values": values})
        return
    for row in tensor.rows():
        click.echo(" ".join(_text.value(x, exact=True) for x in _elements(row, tensor.dtype)))


def _elements(row: Array, dtype: str) -> Array:
    """Elements as they are to be printed: packed types unpacked, all else as NumPy has it."""
    numbers = as_numbers(row, dtype) if row.dtype.kind == "u" else None
    return row if numbers is None else numbers


def _head(view: wl.TensorView) -> dict[str, Any]:
    return {
        "name": view.name,
        "dtype": str(view.dtype),
        "shape": list(view.shape),
        "nbytes": view.nbytes,
        "stored": str(view.stored),
        "checksum": view.checksum,
    }


def _document(tensor: _Tensor, statistics: Statistics | None, histogram: Histogram | None) -> dict[str, Any]:
    document = _head(tensor.view)
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
    document["first"] = [_plain(x) for x in tensor.first()]
    return document


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no number for (NaN, infinities) as text."""
    if isinstance(value, np.generic):
        value = value.item() if value.dtype.kind in "biufcSU" else float(value) if value.dtype.kind == "V" else str(value)
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value
