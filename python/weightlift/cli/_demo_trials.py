"""One trial a format: save, load, compare, damage; and the same work by NumPy alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import weightlift as wl
from weightlift.cli._demo_limits import sync_directory, timed, warm
from weightlift.cli._demo_models import Arrays
from weightlift.errors import ChecksumError

__all__ = ["TRIALS", "Outcome", "Trial", "agreement", "flip_bit", "numpy_trial", "run_trial"]


@dataclass(frozen=True)
class Trial:
    """A format with its options.

    Attributes:
        title: Its row in the table.
        target: Where it is saved, relative to the working directory.
        options: Of ``wl.save``.
        quantized: The error that is allowed: none (None), or that of rounding to this type.
        shards: Cut into about so many files.
        reuse: Load what the trial before saved, into arrays that exist already.
    """

    title: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    quantized: str | None = None
    shards: int | None = None
    reuse: bool = False

    def save(self, tensors: Arrays, path: Path, *, durable: bool = True) -> None:
        """Save as the trial says."""
        options = dict(self.options)
        if self.shards is not None:
            total = sum(array.nbytes for array in tensors.values())
            options["shard_size"] = total // (self.shards - 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        wl.save(tensors, path, durable=durable, **options)


TRIALS = (
    Trial("safetensors", "model.safetensors"),
    Trial("  reused arrays", "model.safetensors", reuse=True),
    Trial("  several files", "sharded/model.safetensors", shards=4),
    Trial("npz", "model.npz"),
    Trial("tfjs", "tfjs/model.json"),
    Trial("  4 MiB shards", "tfjs-shards/model.json", {"shard_size": 4 << 20}),
    Trial("  uint8", "tfjs-uint8/model.json", {"dtype": "float32", "quantize": "uint8"}, "uint8"),
    Trial("  float16", "tfjs-float16/model.json", {"dtype": "float32", "quantize": "float16"}, "float16"),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        title: The trial's.
        file_bytes: Size of all files.
        nbytes: Bytes of the loaded arrays.
        save: Seconds; None where nothing was saved.
        load: Seconds.
        equal: ``"equal"`` (every bit), ``"1/2 step"`` (at most, of the quantisation) or what is wrong.
        damage: ``"caught"``, or what happened instead to the flipped bit; empty where none was flipped.
    """

    title: str
    file_bytes: int
    nbytes: int
    save: float | None
    load: float
    equal: str
    damage: str

    @property
    def held(self) -> bool:
        """Everything was as promised."""
        return self.equal in (_EXACT, _HALF) and self.damage in (_CAUGHT, "")


_EXACT, _HALF, _CAUGHT = "equal", "1/2 step", "caught"


def run_trial(trial: Trial, place: Path, tensors: Arrays, rounds: int) -> Outcome:
    """Save, load, compare, and flip a bit (and flip it back)."""
    path = place / trial.target
    save = None if trial.reuse else timed(lambda: trial.save(tensors, path), rounds)
    with wl.open(path) as weights:
        files = [Path(file) for file in weights.files]
    warm(files)
    out = {name: np.ones_like(array) for name, array in tensors.items()} if trial.reuse else None
    loaded = wl.load(path, out=out)
    equal = agreement(tensors, loaded, trial.quantized)
    nbytes = sum(array.nbytes for array in loaded.values())
    del loaded
    load = timed(lambda: wl.load(path, out=out), rounds)
    damage = "" if trial.reuse else _damage(path)
    return Outcome(trial.title, sum(f.stat().st_size for f in files), nbytes, save, load, equal, damage)


def numpy_trial(place: Path, tensors: Arrays, rounds: int) -> Outcome:
    """``np.savez`` (made durable, as ours are) and ``np.load``; bfloat16, which NumPy lacks, goes as uint16."""
    path = place / "numpy.npz"
    plain = {name: array.view(np.uint16) if array.dtype.kind == "V" else array for name, array in tensors.items()}

    def save() -> None:
        with path.open("wb") as file:
            np.savez(file, **plain)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        sync_directory(place)

    def load() -> Arrays:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}

    try:
        saved = timed(save, rounds)
        warm([path])
        equal = agreement(plain, load(), None)
        elapsed = timed(load, rounds)
        total = sum(array.nbytes for array in plain.values())
        return Outcome("NumPy savez, load", path.stat().st_size, total, saved, elapsed, equal, "")
    finally:
        path.unlink(missing_ok=True)


def agreement(expected: Arrays, loaded: Arrays, quantized: str | None) -> str:
    """Whether the loaded arrays are what they must be: the first tensor that is not, by name."""
    if loaded.keys() != expected.keys():
        return "names differ"
    for name, array in expected.items():
        if not _agrees(array, loaded[name], quantized):
            return f"{name} differs"
    return _EXACT if quantized is None else _HALF


def _agrees(expected: npt.NDArray[Any], found: npt.NDArray[Any], quantized: str | None) -> bool:
    if expected.shape != found.shape:
        return False
    if quantized is None:
        return expected.dtype == found.dtype and bool((_bits(expected) == _bits(found)).all())
    wide = expected.astype(np.float32)
    if quantized == "float16":
        return bool((_bits(wide.astype(np.float16).astype(np.float32)) == _bits(found)).all())
    span = float(wide.max()) - float(wide.min())
    half_step = span / np.iinfo(quantized).max / 2
    return float(np.abs(wide - found).max()) <= half_step + 1e-6 * span  # and the rounding of float32


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.view(f"u{array.itemsize}")


def _damage(path: Path) -> str:
    """Flip one bit of the largest tensor, load it, flip it back."""
    name, file, at = flip_bit(path)
    try:
        wl.load(path, names=[name])
    except ChecksumError:
        return _CAUGHT
    except wl.WeightliftError as error:
        return f"{type(error).__name__}"
    finally:
        _flip(file, at)
    return "NOT CAUGHT"


def flip_bit(path: Path) -> tuple[str, Path, int]:
    """Flip a bit in the middle of the largest tensor; returns (tensor, file, byte)."""
    with wl.open(path) as weights:
        view = max(weights.values(), key=lambda v: v.stored_nbytes)
        name, file, at = view.name, Path(view.file), (view.offset or 0) + view.extents[0].nbytes // 2
    _flip(file, at)
    return name, file, at


def _flip(file: Path, at: int) -> None:
    with file.open("r+b", buffering=0) as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 0b0001_0000]))
