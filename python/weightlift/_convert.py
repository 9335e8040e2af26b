"""Conversion in bounded memory: a save whose bytes come from other files.

Tensors that are plain runs of bytes (or need only element-wise steps) stream through the core's write engine,
block by block, from the source's files. What cannot stream (deflated or cut in mid-element, strings) is decoded
first, into an unnamed temporary file beside the target.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


from weightlift._chunks import value_bounds
from weightlift._dtypes import DTYPES, STRING, byte_size
from weightlift._layout import KINDS, VARIABLE_STEPS, Step, TensorEntry
from weightlift._load import Names, Rename, read_arrays, refuse_objects, rename_keys
from weightlift._plan import item_sizes, read_rows
from weightlift._save import Job, SaveOptions, convert, publish, resolve_target, set_affine
from weightlift._source import Source, choose_rows
from weightlift._packing import TensorSpecs
from weightlift._strings import encode_strings
from weightlift.errors import ChecksumError
from weightlift.types import SaveResult

__all__ = ["convert_source"]


def convert_source(
    source: Source, target: str | os.PathLike[str], options: SaveOptions, *, names: Names = None, rename: Rename = None, verify: bool = True
) -> SaveResult:
    """Write the chosen tensors of a source in another format; structure and metadata go along."""
    layout, table = source.layout, source.table
    if verify and layout.damaged:
        raise ChecksumError(f"the tensor table does not match its checksum: {layout.damaged}", path=source.paths()[0])
    path, fmt = resolve_target(target, options.format)
    rows = choose_rows(table, names).tolist()
    if names is None:
        refuse_objects(source)
        rows = rows if layout.order is None else layout.order.tolist()
    new_names = list(rename_keys({table.names[r]: r for r in rows}, rename))
    entries = [table.entry(r) for r in rows]
    specs = TensorSpecs(
        new_names,
        [e.dtype for e in entries],
        [e.shape for e in entries],
        np.array([0 if e.dtype == STRING else e.nbytes for e in entries], np.uint64),
        strings=frozenset(i for i, e in enumerate(entries) if e.dtype == STRING),
    )
    readers = source.readers()
    job = Job(specs, [None] * len(rows), readers=readers)
    checks = _Checks()
    with _Spill(path.absolute().parent) as spill:
        for i, (row, entry) in enumerate(zip(rows, entries, strict=True)):
            steps = _streamable(entry)
            if steps is None:
                spill.add(source, job, i, row, entry, verify)
            else:
                check = checks.add(entry) if verify else -1
                job.segments[i] = [(e.source, e.offset, e.nbytes, check) for p in entry.pieces for e in p.extents]
                job.prefix[i] = steps
                job.sources[i] = b""
        spill.finish(source, job, verify)
        if options.dtype is not None:
            convert(job, options.dtype)
        for i, stored in fmt.encode(specs, options.quantize).items():
            bounds = value_bounds(source, rows[i], DTYPES["float32"])
            set_affine(specs, i, DTYPES[stored], bounds)
        job.checks = checks.columns()
        structure = layout.structure if names is None and rename is None else None
        return publish(job, fmt, path, structure, options, url=str(target))


def _streamable(entry: TensorEntry) -> tuple[Step, ...] | None:
    """The steps of a tensor that the write engine can take from its extents; None where it cannot."""
    if len(entry.pieces) != 1 or entry.strides is not None or entry.dtype == STRING:
        return None
    piece = entry.pieces[0]
    if not piece.extents or any(isinstance(s, VARIABLE_STEPS) for s in piece.steps):
        return None
    item = item_sizes(piece.steps[0])[0] if piece.steps else entry.dtype.numpy.itemsize
    if len(piece.extents) > 1 and any(e.nbytes % item for e in piece.extents):
        return None
    return piece.steps


class _Checks:
    """Checksums of source tensors, compared while they stream."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def add(self, entry: TensorEntry) -> int:
        if entry.checksum is None:
            return -1
        self.rows.append((KINDS.index(entry.checksum.kind), entry.checksum.initial, entry.checksum.value))
        return len(self.rows) - 1

    def columns(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        kind, initial, value = zip(*self.rows, strict=True)
        return {
            "source_kind": np.array(kind, np.uint8),
            "source_initial": np.array(initial, np.uint32),
            "source_expected": np.array(value, np.uint32),
            "source_verify": np.ones(len(kind), np.uint8),
        }


class _Spill:
    """Decoded tensors in an unnamed file beside the target."""

    def __init__(self, directory: Path) -> None:
        self._directory = next(d for d in (directory, *directory.parents) if d.is_dir())
        self._rows: list[tuple[int, int, int, int]] = []
        self._size = 0
        self._file: Any = None

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, source: Source, job: Job, i: int, row: int, entry: TensorEntry, verify: bool) -> None:
        """Strings are small and stay in memory; the rest is noted for ``finish``."""
        if entry.dtype == STRING:
            array = read_arrays(source, np.array([row], np.uint32), {}, verify=verify)[0]
            job.sources[i] = encode_strings(array)
            job.specs.nbytes[i] = len(job.sources[i])
            return
        size = byte_size(entry.dtype, entry.shape)
        if size == 0:
            job.sources[i] = b""
            return
        self._rows.append((i, row, self._size, size))
        self._size += -(-size // mmap.PAGESIZE) * mmap.PAGESIZE

    def finish(self, source: Source, job: Job, verify: bool) -> None:
        """Decode what was noted, one tensor at a time, dropping each from memory once it is in the file."""
        if not self._size:
            return
        self._file = tempfile.TemporaryFile(dir=self._directory, prefix=".weightlift-")
        os.posix_fallocate(self._file.fileno(), 0, self._size)
        none = np.zeros(1, np.uint32)
        with mmap.mmap(self._file.fileno(), self._size) as mapping:
            for i, row, offset, size in self._rows:
                window = np.frombuffer(mapping, np.uint8, size, offset)
                one = np.array([row], np.uint32)
                read_rows(source.layout, source.readers(), one, [window], none, np.zeros(1, np.uint64), {}, verify=verify)
                job.sources[i] = self._view(source, row, offset)
                del window
                mapping.madvise(mmap.MADV_DONTNEED, offset, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        del none

    def _view(self, source: Source, row: int, offset: int) -> Any:
        entry = source.table.entry(row)
        shape = entry.shape
        order: Any = "F" if entry.strides is not None else "C"
        return np.memmap(self._file, entry.dtype.numpy, "r", offset, shape or (1,), order).reshape(shape, order=order)


