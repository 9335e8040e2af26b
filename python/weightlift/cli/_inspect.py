"""``weightlift inspect``: what is in a weight file, from its headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import click

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._facts import Facts, tensor_facts
from weightlift.cli._options import each, echo_json, format_option, json_option, names_option, paths_argument
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._table import Column, Table
from weightlift.cli._terminal import is_terminal, say
from weightlift.cli._tree import tree_table

_TERMINAL_ROWS = 200
_METADATA = 200

_SORTS = {
    "file": None,
    "name": lambda tensor: tensor.name,
    "size": lambda tensor: -tensor.nbytes,
    "dtype": lambda tensor: (tensor.dtype, tensor.name),
    "offset": lambda tensor: (tensor.file, -1 if tensor.offset is None else tensor.offset),
}


@click.command("inspect")
@paths_argument
@click.option("--tree", "as_tree", is_flag=True, help="A tree by the dots and slashes of names, with subtotals.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Levels of the tree to show.")
@names_option
@click.option("--sort", type=click.Choice(list(_SORTS)), default="file", help="Order; default: as in the file.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"Rows to show, 0 for all. Default: {_TERMINAL_ROWS} on a terminal, all in a pipe.",
)
@format_option
@json_option
@remote_options
def command(
    paths: Sequence[str],
    as_tree: bool,
    depth: int | None,
    names: Sequence[str],
    sort: str,
    limit: int | None,
    source_format: str | None,
    as_json: bool,
    remote: Remote,
) -> None:
    """List the tensors of weight files: name, dtype, shape, size and place.

    Reads headers only, whatever the size of the file.
    """
    first = True

    def work(path: str) -> ExitCode:
        nonlocal first
        with wl.open(path, format=source_format, **remote.of(path)) as weights:
            tensors = tensor_facts(weights, names)
            key = _SORTS[sort]
            if key is not None:
                tensors.sort(key=key)
            if as_json:
                echo_json(_document(path, weights, tensors))
                return ExitCode.OK
            if not first:
                click.echo()
            first = False
            _show(path, weights, tensors, tree_table(tensors, depth) if as_tree else None, limit)
        return ExitCode.OK

    each(paths, work)


def _show(path: str, weights: wl.Weights, tensors: Sequence[Facts], tree: Table | None, limit: int | None) -> None:
    _show_header(path, weights, tensors)
    if not tensors:
        return
    if limit is None:
        limit = _TERMINAL_ROWS if is_terminal() else 0
    total = len(tree.rows) if tree is not None else len(tensors)
    shown = min(total, limit or total)
    click.echo()
    if tree is not None:
        del tree.rows[shown:]
        tree.show()
    else:
        _tensor_table(tensors, shown).show()
    if shown < total:
        click.echo(f"... {_text.count(total - shown, 'more row')}; --limit 0 shows all")
    click.echo()
    _totals_table(tensors).show()


def _show_header(path: str, weights: wl.Weights, tensors: Sequence[Facts]) -> None:
    nbytes, stored = sum(tensor.nbytes for tensor in tensors), sum(tensor.stored_nbytes for tensor in tensors)
    selected = "" if len(tensors) == len(weights) else f" of {len(weights):,}"
    facts = [
        weights.format,
        f"{len(tensors):,}{selected} {'tensor' if len(tensors) == 1 and not selected else 'tensors'}",
        _text.size(nbytes),
        *([f"stored in {_text.size(stored)}"] if stored != nbytes else []),
        _checksums(tensors),
    ]
    say(f"{_text.printable(path)}: {', '.join(facts)}")
    files = _file_names(tensors)
    if set(files.values()) - {PurePath(path).name}:
        say(f"  {_text.count(len(files), 'file')}: {_text.printable(_pattern(list(files.values()))[0])}")
    for key, value in weights.metadata.items():
        text = _text.printable(f"{key}: {value}")
        say(f"  {text if len(text) <= _METADATA else text[: _METADATA - 1] + '…'}")


def _checksums(tensors: Sequence[Facts]) -> str:
    checked = sum(tensor.checksum is not None for tensor in tensors)
    if checked == len(tensors):
        return "all with checksums" if tensors else "empty"
    return f"{checked:,} with checksums" if checked else "no checksums"


def _tensor_table(tensors: Sequence[Facts], limit: int) -> Table:
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
    files = _file_names(tensors)
    names = list(files.values())
    if len(files) == 1:
        names = [""]
    elif is_terminal():
        names = _pattern(names)[1]
    files = dict(zip(files, map(_text.printable, names), strict=True))
    for tensor in tensors[:limit]:
        table.add(
            _text.printable(tensor.name),
            tensor.dtype,
            _text.shape(tensor.shape),
            _text.size(tensor.nbytes),
            _stored_as(tensor),
            "" if tensor.offset is None else str(tensor.offset),
            files[tensor.file],
        )
    return table


def _file_names(tensors: Sequence[Facts]) -> dict[str, str]:
    """Names by path of the files that the tensors are in, sorted."""
    return {file: PurePath(file).name for file in sorted({tensor.file for tensor in tensors})}


def _pattern(names: Sequence[str]) -> tuple[str, list[str]]:
    """``model-*-of-00004.safetensors``, and what the star stands for in each name."""
    if len(names) == 1:
        return names[0], list(names)
    head = _common_start(names).rstrip("0123456789")
    tail = _common_start([name[len(head) :][::-1] for name in names])[::-1].lstrip("0123456789")
    if len(head) + len(tail) < 8:
        return ", ".join(names), list(names)
    return f"{head}*{tail}", [name[len(head) : len(name) - len(tail)] for name in names]


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _stored_as(tensor: Facts) -> str:
    """How the stored bytes differ from the tensor's own, or nothing."""
    quantized = tensor.stored != tensor.dtype
    resized = tensor.stored_nbytes != tensor.nbytes
    return " ".join([tensor.stored] * quantized + [_text.size(tensor.stored_nbytes)] * resized)


def _totals_table(tensors: Sequence[Facts]) -> Table:
    number: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for tensor in tensors:
        number[tensor.dtype] += 1
        elements[tensor.dtype] += tensor.elements
        nbytes[tensor.dtype] += tensor.nbytes
    right = [Column(title, right=True) for title in ("tensors", "elements", "size")]
    table = Table((Column("dtype"), *right))
    for dtype, _ in nbytes.most_common():
        table.add(dtype, f"{number[dtype]:,}", f"{elements[dtype]:,}", _text.size(nbytes[dtype]))
    if len(nbytes) > 1:
        table.add("total", f"{number.total():,}", f"{elements.total():,}", _text.size(nbytes.total()))
    return table


def _document(path: str, weights: wl.Weights, tensors: Sequence[Facts]) -> dict[str, Any]:
    return {
        "path": path,
        "format": weights.format,
        "files": list(weights.files),
        "nbytes": sum(tensor.nbytes for tensor in tensors),
        "metadata": dict(weights.metadata),
        "structure": weights.structure,
        "tensors": [{name: getattr(tensor, name) for name in Facts.__slots__} for tensor in tensors],
    }
