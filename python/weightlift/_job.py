"""What a save is made of: the tensors, where their bytes come from, where they go, and what was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._load import DTypes
from weightlift._ops import Progress, core_steps
from weightlift._packing import TensorSpecs
from weightlift._steps import Step
from weightlift._write_plan import segment_parts
from weightlift.protocols import Format, Store
from weightlift.types import TensorQuantization

__all__ = ["Job", "SaveOptions", "Target", "stored_parts"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SaveOptions:
    """What the caller asked for."""

    format: str | None = None
    dtype: DTypes = None
    quantize: Mapping[str, Any] | str | None = None
    compression: str | None = None
    shard_size: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    checksums: bool = True
    progress: Progress | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    quantization_report: bool = False
    shards: Sequence[int] | None = None


@dataclass
class Job:
    """A packing together with where its bytes come from.

    Attributes:
        sources: As ``_core.execute_write`` takes them, one a tensor.
        segments: Rows that are stored runs of other files instead: (reader, offset, nbytes, check or -1) in order.
        prefix: Steps from a source's elements to the spec's dtype, by row.
        readers: What extent sources read from.
        checks: ``source_*`` arguments of ``_core.execute_write``.
        quantization: What quantisation loses, where that was measured.
    """

    specs: TensorSpecs
    sources: list[Any]
    segments: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    prefix: dict[int, tuple[Step, ...]] = field(default_factory=dict)
    readers: Sequence[Any] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)
    quantization: tuple[TensorQuantization, ...] = ()


@dataclass(frozen=True)
class Target:
    """The file to write: in which store, under which name, in which format, and what the caller called it."""

    store: Store
    name: str
    format: Format
    url: str

    @property
    def path(self) -> str:
        """The file, as messages call it."""
        return self.store.path(self.name)


def stored_parts(job: Job, row: int) -> Iterator[Array]:
    """The stored bytes of a row, in order, in contiguous arrays; each is valid until the next."""
    encoding = job.specs.encodings.get(row)
    steps = (*job.prefix.get(row, ()), *(encoding.steps if encoding else ()))
    if row in job.segments:
        yield from segment_parts(job.readers, job.segments[row], steps)
        return
    source = job.sources[row]
    array = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.ascontiguousarray(source)
    if steps:
        result = np.empty(int(job.specs.nbytes[row]), np.uint8)
        _core.run_pipeline(core_steps(steps), array, result)
        array = result
    yield array.reshape(-1).view(np.uint8)
