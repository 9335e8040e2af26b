"""Quantisation in a save: the ranges of tensors, the smallest type that is good enough, and what is lost.

All of it in bounded memory: values go by in tiles that stay in cache, there and back through the core's kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._chunks import iter_chunks, value_bounds
from weightlift._dtypes import DTYPES, byte_size
from weightlift._job import Job
from weightlift._ops import core_steps
from weightlift._packing import LATE, Encoding, TensorSpecs, affine_encoding, tolerance_of
from weightlift._source import Row
from weightlift._steps import AffineDecode, AffineEncode, Cast, Step
from weightlift.errors import UnsupportedFeatureError
from weightlift.types import TensorQuantization

__all__ = ["settle_quantization"]

Values = npt.NDArray[np.float32]
Bounds = tuple[float, float]

TILE = 1 << 16
"""Elements a tile: in the caches with its copy, and large enough that the work outweighs the calls."""

_HALF = Encoding(DTYPES["float16"], (Cast("float32", "float16"),), "float16")
_FLOAT32 = DTYPES["float32"]


def settle_quantization(
    job: Job, rows: Mapping[int, Row], wanted: Mapping[int, str], *, report: bool, late: bool = False
) -> tuple[TensorQuantization, ...]:
    """Give the rows of ``wanted`` their encodings; returns what is lost, for those where it was measured.

    Args:
        job: Its specs are edited.
        rows: Tensors of open files, by row.
        wanted: ``"uint8"``, ``"uint16"`` or ``"auto:TOLERANCE"``, by row, as the format's ``encode`` gave them.
        report: Measure every quantised tensor, not only those of ``auto``.
        late: Leave the ranges of arrays that are not measured to the write itself, where it can find them.

    Raises:
        UnsupportedFeatureError: NaN or infinite values where the type has none.
    """
    measured: dict[int, TensorQuantization] = {}
    for i, kind in wanted.items():
        values = _Values(job, rows, i)
        tolerance = tolerance_of(kind)
        if tolerance is not None:
            measured[i] = _choose(job.specs, i, values, tolerance)
            continue
        if late and not report and values.in_memory():
            _set(job.specs, i, affine_encoding(kind, *LATE))
            job.specs.late.add(i)
            continue
        bounds = values.bounds()
        _set_affine(job.specs, i, kind, bounds)
        if report and bounds is not None:
            measured[i] = _measured(job.specs, i, values, values.largest(bounds))
    for i, encoding in job.specs.encodings.items() if report else ():
        if encoding == _HALF and i not in measured:
            values = _Values(job, rows, i)
            bounds = values.bounds()
            measured[i] = _measured(job.specs, i, values, 0.0 if bounds is None else values.largest(bounds))
    return tuple(measured[i] for i in sorted(measured))


# --- values ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Values:
    """The float32 values of a row, wherever they are."""

    job: Job
    rows: Mapping[int, Row]
    row: int

    def in_memory(self) -> bool:
        """Whether they are an array in C order, and there are some."""
        if self.row in self.rows or self.job.prefix.get(self.row):
            return False
        array = self.job.sources[self.row]
        return bool(array.flags.c_contiguous and array.size)

    def tiles(self) -> Iterator[Values]:
        """Contiguous, flat, up to ``TILE`` elements each; valid until the next."""
        for chunk in self._chunks():
            for begin in range(0, chunk.size, TILE):
                yield chunk[begin : begin + TILE]

    def _chunks(self) -> Iterator[Values]:
        row = self.rows.get(self.row)
        if row is not None:
            chunks = iter_chunks(row.source, row.number, _FLOAT32, stored_order=True)
            yield from (np.ascontiguousarray(chunk) for chunk in chunks)
            return
        array = np.ascontiguousarray(self.job.sources[self.row]).reshape(-1)
        prefix = core_steps(self.job.prefix.get(self.row, ()))
        if not prefix:
            yield array
            return
        scratch = np.empty(TILE, np.float32)
        for begin in range(0, array.size, TILE):
            part = array[begin : begin + TILE]
            _core.run_pipeline(prefix, part, scratch[: part.size])
            yield scratch[: part.size]

    def bounds(self) -> Bounds | None:
        """Smallest and largest value, (nan, nan) where there is a NaN; None for a tensor without elements."""
        row = self.rows.get(self.row)
        if row is not None:
            return value_bounds(row.source, row.number, _FLOAT32)
        if not self.job.prefix.get(self.row):
            array = np.ascontiguousarray(self.job.sources[self.row])
            return _core.min_max(array) if array.size else None
        found: Bounds | None = None
        for tile in self.tiles():
            low, high = _core.min_max(tile)
            if low != low:
                return low, high
            found = (low, high) if found is None else (min(low, found[0]), max(high, found[1]))
        return found

    def largest(self, bounds: Bounds) -> float:
        """The largest absolute value of the finite ones, given the bounds of all."""
        if np.isfinite(bounds).all():
            return max(-bounds[0], bounds[1])
        return max(float(np.abs(t[np.isfinite(t)]).max(initial=0)) for t in self.tiles())


# --- types ----------------------------------------------------------------------------------------
def _affine(kind: str, bounds: Bounds) -> Encoding:
    return affine_encoding(kind, *_core.choose_affine(*bounds, (1 << DTYPES[kind].bits) - 1))


def _set(specs: TensorSpecs, i: int, encoding: Encoding) -> None:
    specs.encodings[i] = encoding
    specs.nbytes[i] = byte_size(encoding.stored, specs.shapes[i])


def _set_affine(specs: TensorSpecs, i: int, kind: str, bounds: Bounds | None) -> None:
    """Quantise row ``i`` over the range of its values; an empty row stays as it is."""
    if bounds is None:
        return
    if not np.isfinite(bounds).all():
        raise UnsupportedFeatureError(
            f"the values run from {bounds[0]} to {bounds[1]}: NaN and infinities cannot be quantised to {kind}; "
            "float16 has them",
            tensor=specs.names[i],
        )
    _set(specs, i, _affine(kind, bounds))


def _choose(specs: TensorSpecs, i: int, values: _Values, tolerance: float) -> TensorQuantization:
    """Quantise row ``i`` to the smallest type whose error is within the tolerance."""
    bounds = values.bounds()
    if bounds is None:
        return _result(specs, i, _Loss(), 0.0)
    largest = values.largest(bounds)
    limit = tolerance * largest
    finite = bool(np.isfinite(bounds).all())
    candidates = [_affine(kind, bounds) for kind in ("uint8", "uint16")] if finite else []
    for encoding in (*candidates, _HALF):
        loss = _measure(values, encoding, limit)
        if loss is not None:
            _set(specs, i, encoding)
            return _result(specs, i, loss, largest)
    return _result(specs, i, _Loss(), largest)


# --- errors ---------------------------------------------------------------------------------------
@dataclass
class _Loss:
    """What has been lost in the values seen so far."""

    max_abs: float = 0.0
    overflow: int = 0
    _scratch: Values = field(default_factory=lambda: np.empty(TILE, np.float32))

    def add(self, tile: Values, there_and_back: Any) -> None:
        """Take in a tile of values."""
        back = self._scratch[: tile.size]
        _core.run_pipeline(there_and_back, tile, back, 1)
        with np.errstate(invalid="ignore"):
            np.subtract(back, tile, out=back)
        low, high = _core.min_max(back, 1)
        if not np.isfinite((low, high)).all():
            finite = np.isfinite(tile)
            self.overflow += int(np.isinf(back[finite]).sum())
            low, high = float(back[finite].min(initial=0)), float(back[finite].max(initial=0))
        self.max_abs = max(self.max_abs, -low, high)


def _measure(values: _Values, encoding: Encoding, limit: float = np.inf) -> _Loss | None:
    """What an encoding loses; None as soon as it is more than ``limit``."""
    (step,) = encoding.steps
    back: Step = Cast("float16", "float32")
    if isinstance(step, AffineEncode):
        back = AffineDecode(step.stored, "float32", step.scale, step.min)
    there_and_back = core_steps((step, back))
    loss = _Loss()
    for tile in values.tiles():
        loss.add(tile, there_and_back)
        if loss.max_abs > limit:
            return None
    return loss


def _measured(specs: TensorSpecs, i: int, values: _Values, largest: float) -> TensorQuantization:
    return _result(specs, i, _measure(values, specs.encodings[i]) or _Loss(), largest)


def _result(specs: TensorSpecs, i: int, loss: _Loss, largest: float) -> TensorQuantization:
    return TensorQuantization(
        name=specs.names[i],
        dtype=specs.stored(i).name,
        max_abs=loss.max_abs,
        max_rel=loss.max_abs / largest if largest else 0.0,
        overflow=loss.overflow,
        nbytes=byte_size(_FLOAT32, specs.shapes[i]),
        stored_nbytes=int(specs.nbytes[i]),
    )
