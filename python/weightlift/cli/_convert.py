"""``weightlift convert``: the same tensors in another format, dtype, quantisation or sharding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import click

import weightlift as wl
from weightlift._packing import tolerance_of
from weightlift._urls import is_file, local_path
from weightlift.cli import _text
from weightlift.cli._options import names_option, target_argument
from weightlift.cli._progress import progress
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._table import Column, Table

_QUANTIZATIONS = ("uint8", "uint16", "float16")


class _Dtype(click.ParamType[tuple[str, str]]):
    """``float16`` or ``int32=GLOB``: (dtype, glob or the empty string)."""

    name = "dtype"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        kind, _, glob = str(value).partition("=")
        return kind, glob


class _Quantize(click.ParamType[tuple[str, str]]):
    """``uint8``, ``auto:1e-3`` or either with ``=GLOB``: (quantisation, glob or the empty string)."""

    name = "quantisation"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        kind, _, glob = str(value).partition("=")
        try:
            known = kind in _QUANTIZATIONS or tolerance_of(kind) is not None
        except wl.FormatError as error:
            self.fail(str(error), param, ctx)
        if not known:
            self.fail(f"{kind!r} is none of {', '.join(_QUANTIZATIONS)}, auto:TOLERANCE", param, ctx)
        return kind, glob


class _Kind(click.ParamType[tuple[str, str]]):
    """``GLOB=KIND``: (glob, kind)."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        glob, mark, kind = str(value).rpartition("=")
        if not mark:
            self.fail(f"{value!r} is not GLOB=KIND", param, ctx)
        return glob, kind


@click.command("convert")
@click.argument("source", metavar="SRC")
@target_argument
@click.option(
    "--to", "to_format", metavar="FORMAT", help="safetensors, npy, npz, tfjs or torch; default: DST's suffix tells."
)
@click.option("--from", "source_format", metavar="FORMAT", help="Of SRC; default: its content tells.")
@click.option(
    "--dtype",
    "dtypes",
    type=_Dtype(),
    metavar="DTYPE[=GLOB]",
    multiple=True,
    help="Cast floating-point tensors, or tensors of any type whose names match, e.g. to bfloat16; "
    "may be given several times.",
)
@click.option(
    "--quantize",
    "quantize",
    type=_Quantize(),
    metavar="KIND[=GLOB]",
    multiple=True,
    help="Quantise float32 tensors, all or those whose names match, to uint8, uint16 or float16 (tfjs), or with "
    "auto:1e-3 to the smallest type whose error is at most 1e-3 of the largest value; "
    "may be given several times. Add --dtype float32 to include other floats.",
)
@click.option(
    "--conventions",
    metavar="A->B",
    help="What framework A saved as B has it, kernels turned and parameters renamed: torch, keras, tensorflow, tfjs, "
    "mxnet, flax. Quote the arrow.",
)
@click.option(
    "--kind",
    "kinds",
    type=_Kind(),
    metavar="GLOB=KIND",
    multiple=True,
    help="With --conventions: what layers are where their tensors do not tell, e.g. 'stem=Conv2d'; keep and skip take "
    "tensors as they are, or leave them out; may be given several times.",
)
@click.option("--report", is_flag=True, help="Measure and print what quantisation loses; auto:... always does.")
@click.option("--shard-size", type=_text.SIZE, help="Split into files of at most this size, e.g. 4MiB.")
@names_option
@click.option("--compression", type=click.Choice(["deflate"]), help="Compress (npz).")
@click.option("--no-checksums", is_flag=True, help="Store no CRC-32C checksums.")
@click.option("--no-verify", is_flag=True, help="Do not check SRC against its checksums: to salvage a damaged file.")
@click.option("--no-sync", is_flag=True, help="Do not wait until the data is on the disk.")
@click.option(
    "--include-optimizer", is_flag=True, help="Of a .keras or .h5 file: the training configuration and its state, too."
)
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@remote_options
def command(
    source: str,
    target: str,
    to_format: str | None,
    source_format: str | None,
    dtypes: Sequence[tuple[str, str]],
    quantize: Sequence[tuple[str, str]],
    conventions: str | None,
    kinds: Sequence[tuple[str, str]],
    report: bool,
    shard_size: int | None,
    names: Sequence[str],
    compression: str | None,
    no_checksums: bool,
    no_verify: bool,
    no_sync: bool,
    include_optimizer: bool,
    force: bool,
    remote: Remote,
) -> None:
    """Write the weights of SRC to DST, streaming: memory use does not grow with the file.

    DST appears whole at the end or not at all.
    """
    if kinds and conventions is None:
        raise click.UsageError("--kind is about --conventions")
    if not force and is_file(target):
        _refuse_to_replace(target)
    begin = perf_counter()
    with _listed_problems(), progress("converting") as callback:
        result = wl.convert(
            source,
            target,
            format=to_format,
            names=list(names) or None,
            dtype={glob: kind for kind, glob in dtypes} or None,
            quantize=_quantize_map(quantize),
            conventions=conventions,
            kinds=_kinds_map(kinds),
            quantization_report=report,
            shard_size=shard_size,
            compression=compression,
            checksums=not no_checksums,
            verify=not no_verify,
            durable=not no_sync,
            progress=callback,
            source_format=source_format,
            include_optimizer=include_optimizer,
            **remote.of(source, target),
        )
    elapsed = perf_counter() - begin
    files = f" in {_text.count(len(result.files), 'file')}" if len(result.files) > 1 else ""
    click.echo(
        f"{_text.printable(result.files[0])}: {result.format}, {_text.count(result.tensors, 'tensor')}, "
        f"{_text.size(result.nbytes)}{files}, {_text.pace(result.nbytes, elapsed)}"
    )
    _show_quantization(result.quantization)


@contextmanager
def _listed_problems() -> Iterator[None]:
    """Layers without a rule as a table, and the error without the list."""
    try:
        yield
    except wl.ConventionsError as error:
        table = Table((Column("layer", fold=True), Column("tensors", fold=True), Column("what it can be", fold=True)))
        for problem in error.problems:
            table.add(*map(_text.printable, problem))
        table.show()
        short = (
            f"there is no certain rule for {_text.count(len(error.problems), 'layer')}; say what each is with --kind"
        )
        raise wl.ConventionsError(short, problems=error.problems) from error


def _kinds_map(choices: Sequence[tuple[str, str]]) -> dict[str, list[str]] | None:
    """As ``wl.convert`` takes it."""
    kinds: dict[str, list[str]] = {}
    for glob, kind in choices:
        kinds.setdefault(glob, []).append(kind)
    return kinds or None


def _show_quantization(reports: Sequence[wl.TensorQuantization]) -> None:
    """A line a tensor: what it is stored as and what that loses."""
    columns = ("stored", "size", "largest error", "of the largest value", "overflow")
    table = Table((Column("tensor", fold=True), *(Column(title, right=title != "stored") for title in columns)))
    for r in reports:
        table.add(
            _text.printable(r.name),
            r.dtype,
            _text.size(r.stored_nbytes),
            f"{r.max_abs:.3g}",
            f"{r.max_rel:.2e}",
            f"{r.overflow:,}" if r.overflow else "",
            colour="yellow" if r.overflow else None,
        )
    table.show()
    if reports:
        before, after = sum(r.nbytes for r in reports), sum(r.stored_nbytes for r in reports)
        click.echo(
            f"{_text.count(len(reports), 'tensor')}: {_text.size(before)} as float32, {_text.size(after)} as stored"
        )


def _quantize_map(choices: Sequence[tuple[str, str]]) -> dict[str, bool | list[str]] | None:
    """As ``wl.convert`` takes it: globs by quantisation, True for all other tensors."""
    globs: dict[str, bool | list[str]] = {}
    for kind, glob in choices:
        known = globs.setdefault(kind, [] if glob else True)
        if isinstance(known, bool) == bool(glob):
            raise click.UsageError(f"--quantize {kind} is given both with and without a GLOB")
        if isinstance(known, list):
            known.append(glob)
    return globs or None


def _refuse_to_replace(target: str) -> None:
    """A usage error where there is something already; an existing empty directory is fine."""
    path = local_path(target)
    if path.is_dir():
        taken = next(path.iterdir(), None)
    else:
        taken = next((p for p in (path, path.with_name(f"{path.name}.index.json")) if p.exists()), None)
    if taken is not None:
        raise click.UsageError(f"{_text.printable(str(taken))} exists; --force replaces it")
