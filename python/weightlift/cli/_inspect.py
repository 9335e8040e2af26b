"""``weightlift inspect``: what is in a weight file, from its headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import prod
from os.path import commonprefix
from pathlib import PurePath
from typing import Any

import click

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._options import each, echo_json, json_option, names_option, paths_argument
from weightlift.cli._table import Column, Table
from weightlift.cli._terminal import is_terminal
from weightlift.cli._tree import tree_table

_TERMINAL_ROWS = 200
_METADATA = 200

_SORTS = {
    "file": None,
    "name": lambda view: view.name,
    "size": lambda view: -view.nbytes,
    "dtype": lambda view: (str(view.dtype), view.name),
    "offset": lambda view: (view.file or "", -1 if view.offset is None else view.offset),
}


@click.command("inspect")
@paths_argument
@click.option("--tree", "as_tree", is_flag=True, help="A tree by the dots and slashes of names, with subtotals.")
@click.option("--depth", type=click.IntRange(1), help="Levels of the tree to show.")
@names_option
@click.option("--sort", type=click.Choice(list(_SORTS)), default="file", help="Order; default: as in the file.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"Rows to show, 0 for all. Default: {_TERMINAL_ROWS} on a terminal, all in a pipe.",
)
@json_option
def command(
    paths: Sequence[str],
    as_tree: bool,
    depth: int | None,
    names: Sequence[str],
    sort: str,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the tensors of weight files: name, dtype, shape, size and place.

    Reads headers only, whatever the size of the file.
    """
    first = True

    def work(path: str) -> ExitCode:
        nonlocal first
        with wl.open(path) as weights:
            views = [v for n, v in weights.items() if not names or any(fnmatchcase(n, glob) for glob in names)]
            key = _SORTS[sort]
            if key is not None:
                views.sort(key=key)
            if as_json:
                echo_json(_document(path, weights, views))
                return ExitCode.OK
            if not first:
                click.echo()
            first = False
            _show(path, weights, views, tree_table(views, depth) if as_tree else None, limit)
        return ExitCode.OK

    each(paths, work)


def _show(path: str, weights: wl.Weights, views: Sequence[wl.TensorView], tree: Table | None, limit: int | None) -> None:
    _show_header(path, weights, views)
    if not views:
        return
    if limit is None:
        limit = _TERMINAL_ROWS if is_terminal() else 0
    total = len(tree.rows) if tree is not None else len(views)
    shown = min(total, limit or total)
    click.echo()
    if tree is not None:
        del tree.rows[shown:]
        tree.show()
    else:
        _tensor_table(views, shown).show()
    if shown < total:
        click.echo(f"... {_text.count(total - shown, 'more row')}; --limit 0 shows all")
    click.echo()
    _totals_table(views).show()


def _show_header(path: str, weights: wl.Weights, views: Sequence[wl.TensorView]) -> None:
    nbytes, stored = sum(view.nbytes for view in views), sum(view.stored_nbytes for view in views)
    selected = "" if len(views) == len(weights) else f" of {len(weights):,}"
    facts = [
        weights.format,
        f"{len(views):,}{selected} {'tensor' if len(views) == 1 and not selected else 'tensors'}",
        _text.exact(nbytes),
        *([f"stored in {_text.size(stored)}"] if stored != nbytes else []),
        _checksums(views),
    ]
    click.echo(f"{_text.printable(path)}: {', '.join(facts)}")
    files = {PurePath(view.file).name for view in views}
    if files - {PurePath(path).name}:
        click.echo(f"  {_text.count(len(files), 'file')}: {_text.printable(_pattern(sorted(files))[0])}")
    for key, value in weights.metadata.items():
        text = _text.printable(f"{key}: {value}")
        click.echo(f"  {text if len(text) <= _METADATA else text[: _METADATA - 1] + '…'}")


def _checksums(views: Sequence[wl.TensorView]) -> str:
    checked = sum(view.checksum is not None for view in views)
    if checked == len(views):
        return "all with checksums" if views else "empty"
    return f"{checked:,} with checksums" if checked else "no checksums"


def _tensor_table(views: Sequence[wl.TensorView], limit: int) -> Table:
    table = Table(
        (
            Column("name", fold=True),
            Column("dtype"),
            Column("shape"),
            Column("size", right=True),
            Column("stored as"),
            Column("offset", right=True),
            Column("file"),
        )
    )
    names = sorted({PurePath(view.file).name for view in views})
    short = _pattern(names)[1] if is_terminal() else names
    files = dict(zip(names, map(_text.printable, short), strict=True)) if len(names) > 1 else {names[0]: ""}
    for view in views[:limit]:
        table.add(
            _text.printable(view.name),
            str(view.dtype),
            _text.shape(view.shape),
            _text.size(view.nbytes),
            _stored_as(view),
            "" if view.offset is None else str(view.offset),
            files[PurePath(view.file).name],
        )
    return table


def _pattern(names: Sequence[str]) -> tuple[str, list[str]]:
    """``model-*-of-00004.safetensors``, and what the star stands for in each name."""
    if len(names) == 1:
        return names[0], list(names)
    head = commonprefix(names).rstrip("0123456789")
    tail = commonprefix([name[len(head) :][::-1] for name in names])[::-1].lstrip("0123456789")
    if len(head) + len(tail) < 8:
        return ", ".join(names), list(names)
    return f"{head}*{tail}", [name[len(head) : len(name) - len(tail)] for name in names]


def _stored_as(view: wl.TensorView) -> str:
    """How the stored bytes differ from the tensor's own, or nothing."""
    quantized = str(view.stored) != str(view.dtype)
    resized = view.stored_nbytes != view.nbytes
    return " ".join([str(view.stored)] * quantized + [_text.size(view.stored_nbytes)] * resized)


def _totals_table(views: Sequence[wl.TensorView]) -> Table:
    tensors: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for view in views:
        name = str(view.dtype)
        tensors[name] += 1
        elements[name] += prod(view.shape)
        nbytes[name] += view.nbytes
    table = Table(
        (
            Column("dtype"),
            Column("tensors", right=True),
            Column("elements", right=True),
            Column("size", right=True),
        )
    )
    for name, _ in nbytes.most_common():
        table.add(name, f"{tensors[name]:,}", f"{elements[name]:,}", _text.size(nbytes[name]))
    if len(nbytes) > 1:
        table.add("total", f"{tensors.total():,}", f"{elements.total():,}", _text.size(nbytes.total()))
    return table


def _document(path: str, weights: wl.Weights, views: Sequence[wl.TensorView]) -> dict[str, Any]:
    return {
        "path": path,
        "format": weights.format,
        "files": list(weights.files),
        "nbytes": sum(view.nbytes for view in views),
        "metadata": dict(weights.metadata),
        "structure": weights.structure,
        "tensors": [
            {
                "name": view.name,
                "dtype": str(view.dtype),
                "shape": list(view.shape),
                "nbytes": view.nbytes,
                "file": view.file,
                "offset": view.offset,
                "stored": str(view.stored),
                "stored_nbytes": view.stored_nbytes,
                "checksum": view.checksum,
            }
            for view in views
        ],
    }
