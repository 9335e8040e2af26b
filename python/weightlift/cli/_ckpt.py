"""``weightlift ckpt``: training checkpoints of a directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from click.exceptions import Exit

import weightlift as wl
from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint._directory import directory_at
from weightlift.checkpoint._folders import Directory
from weightlift.checkpoint._manifest import INDEX
from weightlift.cli import _text
from weightlift.cli._diff import show_diff
from weightlift.cli._errors import ExitCode
from weightlift.cli._options import echo_json, json_option, names_option
from weightlift.cli._progress import progress
from weightlift.cli._table import Column, Table
from weightlift.cli._verify import document, show_report
from weightlift.errors import FormatError, NotFoundError, StorageError

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def _step(context: click.Context, parameter: click.Parameter, value: str) -> Any:
    """The number of a step, or ``"latest"``."""
    text = value.removeprefix("step-")
    if value != "latest" and not text.isdecimal():
        raise click.BadParameter(f"{value!r} is no step: give a number, or latest", context, parameter)
    return value if value == "latest" else int(text)


folder_argument = click.argument("folder", metavar="DIR")
step_argument = click.argument("step", metavar="[STEP]", callback=_step, default="latest")


@click.group("ckpt")
def command() -> None:
    """Training checkpoints: list, look at, verify, compare, clean up, export the steps of a directory.

    STEP is a number; default: the latest.
    """


def _index(folder: str, step: Any) -> tuple[int, str]:
    """The number of a step, and the file that stands for its tensors."""
    number = Checkpointer(folder).manifest(step).step if step == "latest" else step
    return number, f"{directory_at(folder).folder(number).url}/{INDEX}"


def _existing(folder: str) -> Directory:
    """A directory that is there; NotFoundError."""
    directory = directory_at(folder)
    if not directory.exists():
        raise NotFoundError("no such directory", path=folder)
    return directory


# --- ls -------------------------------------------------------------------------------------------
@command.command("ls")
@folder_argument
@json_option
def ls(folder: str, as_json: bool) -> None:
    """List the steps: age, size, what deleting each would free, metrics, state."""
    directory = _existing(folder)
    rows = [_facts(directory, step) for step in directory.steps()]
    busy = directory.locked_by()
    rest = [{"name": name, "state": "being written" if busy else "litter"} for name in directory.litter()]
    if as_json:
        for row in [*rows, *rest]:
            echo_json(row)
        return
    right = [Column(title, right=True) for title in ("age", "size", "unique", "tensors", "ranks")]
    table = Table((Column("step", right=True), *right, Column("metrics", fold=True), Column("state")))
    for row in rows:
        whole = row["state"] == "committed"
        table.add(
            str(row["step"]),
            _age(row["created"]) if whole else "",
            _text.size(row["nbytes"]),
            _text.size(row["unique_nbytes"]),
            f"{row['tensors']:,}" if whole else "",
            str(row["world_size"]) if whole else "",
            ", ".join(f"{_text.printable(n)} {v:.6g}" for n, v in row["metrics"].items()),
            _text.printable(row["state"]),
            colour=None if whole else "red",
        )
    for row in rest:
        table.add("", "", "", "", "", "", row["name"], row["state"], colour="yellow")
    table.show()


def _facts(directory: Directory, step: int) -> dict[str, Any]:
    """What ``ls`` says of a step; its shards' values are not read."""
    row: dict[str, Any] = {"step": step, "nbytes": 0, "unique_nbytes": 0, "metrics": {}, "state": "committed"}
    try:
        sizes = directory.folder(step).sizes()
        row |= {"nbytes": sum(sizes.values()), "unique_nbytes": directory.unique_bytes(step)}
        manifest = directory.manifest(step)
    except (FormatError, StorageError) as error:
        return row | {"state": f"damaged: {error.message}"}
    wrong = next((name for name, file in manifest.files.items() if sizes.get(name) != file.nbytes), None)
    if wrong is not None:
        row["state"] = f"damaged: {wrong} is {'gone' if wrong not in sizes else 'of another size'}"
        return row
    return row | {
        "created": manifest.created, "tensors": manifest.tensor_count, "world_size": manifest.world_size,
        "metrics": dict(manifest.metrics),
    }  # fmt: skip


def _age(created: float) -> str:
    seconds = max(0.0, time.time() - created)
    return next((f"{seconds / size:.0f} {unit}" for size, unit in _UNITS if seconds >= size), f"{seconds:.0f} s")


# --- one step -------------------------------------------------------------------------------------
@command.command("show")
@folder_argument
@step_argument
@json_option
def show(folder: str, step: Any, as_json: bool) -> None:
    """What a step consists of: its tensors, their shards, and which step wrote each."""
    manifest = Checkpointer(folder).manifest(step)
    rows: list[dict[str, Any]] = [
        {"name": name, "dtype": t.values.dtype, "shape": list(t.values.shape), "nbytes": t.nbytes, "file": t.file,
         "offset": t.offset, "since": manifest.files[t.file].since}
        for name, t in manifest.tensors.items()
    ]  # fmt: skip
    if as_json:
        echo_json({
            "step": manifest.step, "created": manifest.created, "world_size": manifest.world_size,
            "metrics": dict(manifest.metrics), "metadata": dict(manifest.metadata), "tensors": rows,
        })  # fmt: skip
        return
    click.echo(
        f"step {manifest.step}: {_text.count(manifest.tensor_count, 'tensor')}, {_text.size(manifest.nbytes)} in "
        f"{_text.count(len(manifest.files), 'shard')}, {_age(manifest.created)} old"
    )
    right = [Column("size", right=True), Column("since step", right=True)]
    table = Table((Column("tensor", fold=True), Column("dtype"), Column("shape"), *right, Column("shard", fold=True)))
    for row in rows:
        table.add(
            _text.printable(row["name"]), row["dtype"], _text.shape(row["shape"]), _text.size(row["nbytes"]),
            str(row["since"]), _text.printable(row["file"]),
        )  # fmt: skip
    table.show()


@command.command("verify")
@folder_argument
@step_argument
@click.option("--all", "every", is_flag=True, help="Every committed step.")
@json_option
def verify(folder: str, step: Any, every: bool, as_json: bool) -> None:
    """Read a step and compare every checksum. Exit code 1: something is damaged."""
    checkpointer, good = Checkpointer(folder), True
    for number in checkpointer.steps() if every else [step]:
        begin = perf_counter()
        with progress(f"verifying step {number}") as callback:
            report = checkpointer.verify(number, progress=callback)
        good = good and report.ok
        if as_json:
            echo_json(document(report.url, report, report.ok))
        else:
            show_report(report.url, report, perf_counter() - begin)
    if not good:
        raise Exit(ExitCode.NEGATIVE)


@command.command("diff")
@folder_argument
@click.argument("a", metavar="STEP", callback=_step)
@click.argument("b", metavar="[STEP]", callback=_step, default="latest")
def diff(folder: str, a: Any, b: Any) -> None:
    """Compare the tensors of two steps. Exit code 1: they differ."""
    with progress("comparing") as callback:
        report = wl.diff(_index(folder, a)[1], _index(folder, b)[1], progress=callback)
    show_diff(report)
    if not report.same:
        raise Exit(ExitCode.NEGATIVE)


# --- what changes something -----------------------------------------------------------------------
@command.command("gc")
@folder_argument
@click.option("--keep-last", type=click.IntRange(1), metavar="N", help="Delete all but the newest N steps, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(folder: str, keep_last: int | None, dry_run: bool) -> None:
    """Remove what crashes left. Not while a job is writing here: its checkpointer does it itself."""
    directory = _existing(folder)
    if dry_run:
        steps = directory.steps()
        old = steps[:-keep_last] if keep_last else []
        gone = [*directory.litter(), *(f"step {step}" for step in old)]
    else:
        with Checkpointer(folder, keep_last=keep_last) as checkpointer:
            gone = checkpointer.gc()
    for name in gone:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
    if not gone:
        click.echo("nothing to remove")


@command.command("export")
@folder_argument
@click.argument("target", metavar="DST")
@click.option("--step", callback=_step, default="latest", help="Default: latest.")
@click.option("--prefix", metavar="NAME", help="Only what lies under NAME in the state, without it in the names.")
@names_option
@click.option("--dtype", metavar="DTYPE", help="For floating-point tensors.")
@click.option("--force", is_flag=True, help="Overwrite DST.")
def export(
    folder: str, target: str, step: Any, prefix: str | None, names: Sequence[str], dtype: str | None, force: bool
) -> None:
    """Write the tensors of a step as one file of any format, for inference: --prefix model leaves the optimizer out."""
    if not force and Path(target).exists():
        raise click.UsageError(f"{target} exists; --force overwrites it")
    number, index = _index(folder, step)
    dotted = None if prefix is None else f"{prefix.removesuffix('.')}."
    chosen = [f"{dotted}*"] if dotted else list(names)
    with progress(f"exporting step {number}") as callback:
        result = wl.convert(
            index, target, names=chosen or None, rename=None if dotted is None else {dotted: ""}, dtype=dtype,
            progress=callback,
        )  # fmt: skip
    click.echo(f"{target}: {_text.count(result.tensors, 'tensor')}, {_text.size(result.nbytes)}, of step {number}")
