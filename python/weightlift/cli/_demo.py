"""``weightlift demo``: save, load, compare and damage weights in every format, here and now, and time it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import click
import numpy as np
from click.exceptions import Exit

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._demo_limits import Limits, measure_limits
from weightlift.cli._demo_models import Arrays, checkpoint, forward, mlp
from weightlift.cli._demo_trials import TRIALS, Outcome, Trial, agreement, flip_bit, numpy_trial, run_trial
from weightlift.cli._errors import ExitCode
from weightlift.cli._progress import activity
from weightlift.cli._table import Column, Table
from weightlift.cli._terminal import paint, say
from weightlift.errors import ChecksumError, QuotaError

_DEFAULT_BYTES = 256 << 20
_QUICK_BYTES = 16 << 20


@click.command("demo")
@click.option("--size", "nbytes", type=_text.SIZE, help="Of the checkpoint. Default: 256MiB; with --quick 16MiB.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, writable=True),
    help="Where to work. Default: the directory for temporary files.",
)
@click.option("--keep", is_flag=True, help="Leave the files there.")
@click.option("--quick", is_flag=True, help="Small and only once: some seconds.")
def command(nbytes: int | None, directory: str | None, keep: bool, quick: bool) -> None:
    """Show that saving and loading works on this machine, and how fast it is.

    Saves and loads the deep-learning book's multilayer perceptron and a checkpoint of realistic size in every
    format, compares every bit, flips one and shows that it is caught. Exit code 0 only if all of it held.
    """
    begin = perf_counter()
    nbytes = nbytes or (_QUICK_BYTES if quick else _DEFAULT_BYTES)
    rounds = 1 if quick else 3
    with _workplace(directory, keep, nbytes) as place:
        held = [_structures(place), _perceptron(place)]
        with activity() as now:
            now("making a checkpoint ...")
            tensors = checkpoint(nbytes)
            now("measuring this machine ...")
            limits = measure_limits(place, nbytes, rounds)
            now("NumPy ...")
            baseline = numpy_trial(place, tensors, rounds)
            outcomes = []
            for trial in _tidily(place, keep):
                now(f"{trial.title.strip()} ...")
                outcomes.append(run_trial(trial, place, tensors, rounds))
        _introduce(tensors, limits)
        _results(outcomes, baseline, limits).show()
        held += [outcome.held for outcome in (baseline, *outcomes)]
        held.append(_damage(place, tensors))
        if keep:
            click.echo(f"\nThe files are in {place}")
    _conclude(outcomes, baseline, all(held), perf_counter() - begin)


# --- where it works -------------------------------------------------------------------------------
@contextmanager
def _workplace(directory: str | None, keep: bool, nbytes: int) -> Iterator[Path]:
    """A new directory with enough room, removed at the end, however that comes."""
    place = Path(tempfile.mkdtemp(prefix="weightlift-demo-", dir=directory))
    try:
        needed = nbytes * (9 if keep else 3) + (16 << 20)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise QuotaError(
                f"the demo needs {_text.size(needed)} of disk and there are {_text.size(free)}; "
                "use --size for less, or --dir for another disk",
                path=str(place),
            )
        yield place
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def _tidily(place: Path, keep: bool) -> Iterator[Trial]:
    """The trials, one after another; the files of each go when no later one needs them."""
    for i, trial in enumerate(TRIALS):
        yield trial
        if not keep and all(later.target != trial.target for later in TRIALS[i + 1 :]):
            path = place / trial.target
            if path.parent == place:
                for file in place.glob(f"{path.name}*"):
                    file.unlink()
            else:
                shutil.rmtree(path.parent)


# --- the steps ------------------------------------------------------------------------------------
def _structures(place: Path) -> bool:
    """One tensor, a list and a dict come back as what they were."""
    x, y = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    ok = True
    for obj in (x, [x, y], {"x": x, "y": y}):
        wl.save(obj, place / "x.safetensors")
        back = wl.load(place / "x.safetensors")
        ok &= type(back) is type(obj) and repr(back) == repr(obj)
    (place / "x.safetensors").unlink()
    click.echo(f"One tensor, a list and a dict {'come back' if ok else 'do NOT come back'} as they were saved.")
    return ok


def _perceptron(place: Path) -> bool:
    """The book's model in every format: same parameters, same outputs."""
    tensors = mlp()
    x = np.random.default_rng(1).standard_normal((2, 20), np.float32)
    y = forward(tensors, x)
    wrong: list[str] = []
    gap = 0.0
    formats = [trial for trial in TRIALS if not trial.reuse]
    for trial in formats:
        path = place / "mlp" / trial.target
        trial.save(tensors, path, durable=False)
        clone = wl.load(path)
        error = float(np.abs(forward(clone, x) - y).max())
        outcome = Outcome(trial.title, 0, 0, None, 0.0, agreement(tensors, clone, trial.quantized), "")
        if not outcome.held or (trial.quantized is None and error != 0.0):
            wrong.append(f"{trial.title}: {outcome.equal}")
        gap = max(gap, error)
    shutil.rmtree(place / "mlp")
    exact = sum(trial.quantized is None for trial in formats)
    parameters = sum(array.size for array in tensors.values())
    say(
        f"The book's MLP, Linear(20, 256), ReLU, Linear(256, 10), {len(tensors)} tensors, {parameters:,} parameters: "
        f"saved and loaded in {len(formats)} formats; {exact} give the very same outputs, "
        f"{len(formats) - exact} quantised ones within {gap:.1g}."
    )
    for text in wrong:
        say(f"  WRONG: {text}")
    return not wrong


def _introduce(tensors: Arrays, limits: Limits) -> None:
    total = sum(array.nbytes for array in tensors.values())
    cores = _text.count(limits.threads, "core")
    say(
        f"A checkpoint of {_text.count(len(tensors), 'tensor')}, {_text.size(total)} of random float32 and bfloat16, "
        f"on {cores} that copy memory at {limits.memcpy / 1e9:.2f} GB/s:"
    )
    say(
        "  rates in GB/s of tensors; saves are checksummed and durable (fsync), loads verified, from the page cache; "
        "limit: the load against a plain read loop into memory that exists already."
    )
    click.echo()


def _results(outcomes: Sequence[Outcome], baseline: Outcome, limits: Limits) -> Table:
    table = Table(
        (
            Column("format"),
            Column("files", right=True),
            Column("save", right=True),
            Column("xNumPy", right=True),
            Column("load", right=True),
            Column("xNumPy", right=True),
            Column("limit", right=True),
            Column("values"),
            Column("flip"),
        )
    )
    for o in (*outcomes, baseline):
        table.add(
            o.title,
            "" if o.save is None else _text.size(o.file_bytes),
            "" if o.save is None else f"{o.nbytes / o.save / 1e9:.2f}",
            "" if o.save is None or baseline.save is None else f"{baseline.save / o.save:.1f}",
            f"{o.nbytes / o.load / 1e9:.2f}",
            f"{baseline.load / o.load:.1f}",
            f"{100 * o.nbytes / o.load / limits.read:.0f} %",
            o.equal,
            o.damage,
            colour=None if o.held else "red",
        )
    table.add("plain write, read", "", f"{limits.write / 1e9:.2f}", "", f"{limits.read / 1e9:.2f}", "", "", "", "")
    return table


def _damage(place: Path, tensors: Arrays) -> bool:
    """Flip a bit in a copy; show what a load and a verify say, and that the original is still whole."""
    original, copy = place / "original.safetensors", place / "damaged.safetensors"
    wl.save(tensors, original, durable=False)
    shutil.copyfile(original, copy)
    name, _, at = flip_bit(copy)
    click.echo()
    say(f"One bit of {name} flipped in a copy, at byte {at:,}:")
    caught = False
    try:
        wl.load(copy)
        click.echo("  wl.load    returned it: NOT CAUGHT")
    except ChecksumError as error:
        caught = True
        say(f"  wl.load    ChecksumError: {error}")
    report = wl.verify(copy)
    fine = sum(tensor.status == "ok" for tensor in report.tensors)
    say(f"  wl.verify  corrupt: {', '.join(report.corrupt) or 'NOTHING'}; {fine} others are ok")
    whole = wl.verify(original).ok
    click.echo(f"  wl.verify  the original is {'ok' if whole else 'NOT ok'}")
    for path in (original, copy):
        path.unlink()
    return caught and report.corrupt == (name,) and whole


def _conclude(outcomes: Sequence[Outcome], baseline: Outcome, held: bool, elapsed: float) -> None:
    saves = [baseline.save / o.save for o in outcomes if o.save is not None and baseline.save is not None]
    loads = [baseline.load / o.load for o in outcomes]
    caught = sum(o.damage != "" for o in outcomes)
    click.echo()
    if not held:
        click.echo(paint("NOT everything held: see above.", "red"))
        raise Exit(ExitCode.NEGATIVE)
    say(
        f"All held in {_text.seconds(elapsed)}: {len(saves)} formats saved and loaded, every value checked, "
        f"{caught + 1} of {caught + 1} flipped bits caught; "
        f"safetensors against NumPy's npz: saves {saves[0]:.1f} x as fast, loads {loads[0]:.1f} x "
        f"({loads[1]:.1f} x into existing arrays)."
    )
