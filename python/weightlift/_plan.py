"""Plans: a Layout resolved into columns for the core, and the two lanes that Python runs itself.

Planning is pure. The core executes the direct and the fused lane (fixed-size steps) in parallel; the decoded
lane (deflate, strings) and small constants are filled in here, in threads, straight into the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import DTYPES, STRING, DType, array_shape, byte_size
from weightlift._inflate import inflate
from weightlift._layout import (
    U32,
    U64,
    VARIABLE_STEPS,
    AffineDecode,
    AffineEncode,
    Byteswap,
    Cast,
    Deflate,

    Fill,
    Inline,
    Layout,
    Piece,
    Step,
    Strings,
    TensorTable,
)
from weightlift._packing import PackedFile, Packing
from weightlift._strings import decode_strings
from weightlift.errors import FormatError, UnsupportedFeatureError


__all__ = ["NONE", "BufferPool", "OpenFiles", "Pipelines", "Placement", "core_step", "item_sizes", "place", "read_rows"]

NONE = 0xFFFFFFFF
ALIGNMENT = 64
"""Every loaded tensor begins at a multiple of this."""
PAGE = 4096
LARGE = 1 << 20
"""From this size on a tensor is placed so that direct reads need no bounce."""

BufferPool = _core.BufferPool
Array = npt.NDArray[Any]
Progress = Callable[[int, int], object]


class OpenFiles:
    """The readers of one load: each file is opened once, and stays the one that was opened."""

    def __init__(self, store: Any) -> None:
        """``store``: anything with ``open(relative)``."""
        self._store = store
        self._readers: dict[str, Any] = {}

    def open(self, relative: str) -> Any:
        """The reader of a file beside the one that was asked for."""
        reader = self._readers.get(relative)
        if reader is None:
            reader = self._readers[relative] = self._store.open(relative)
        return reader

    def readers(self, sources: Iterable[str]) -> list[Any]:
        """One reader a source, as the core takes them."""
        return [self.open(s) for s in sources]



# --- steps ----------------------------------------------------------------------------------------
def core_step(step: Step) -> _core.Step:
    """A fixed-size step in the core's spelling."""
    if isinstance(step, Byteswap):
        return ("byteswap", step.word, step.item)
    if isinstance(step, Cast):
        if not _core.can_cast(step.source, step.target):
            raise UnsupportedFeatureError(f"there is no conversion from {step.source} to {step.target}")
        return ("cast", step.source, step.target, step.saturate)
    if isinstance(step, AffineDecode):
        return ("affine_decode", step.stored, step.target, step.scale, step.min)
    if isinstance(step, AffineEncode):
        return ("affine_encode", step.stored, step.scale, step.min, step.max)
    raise TypeError(f"{type(step).__name__} is not a fixed-size step")


def item_sizes(step: Step) -> tuple[int, int]:
    """Bytes an element takes before and after a fixed-size step."""
    if isinstance(step, Byteswap):
        return step.item, step.item
    if isinstance(step, Cast):
        return DTYPES[step.source].bits // 8, DTYPES[step.target].bits // 8
    if isinstance(step, AffineDecode):
        return DTYPES[step.stored].bits // 8, DTYPES[step.target].bits // 8
    if isinstance(step, AffineEncode):
        return 4, DTYPES[step.stored].bits // 8
    raise TypeError(f"{type(step).__name__} is not a fixed-size step")


class Pipelines:
    """Distinct chains of steps, numbered in order of first use."""

    def __init__(self) -> None:
        """Empty."""
        self.columns: list[list[_core.Step]] = []
        self._index: dict[tuple[Step, ...], int] = {}

    def add(self, steps: tuple[Step, ...]) -> int:
        """The number of a chain; NONE for the empty one."""
        if not steps:
            return NONE
        found = self._index.get(steps)
        if found is None:
            found = self._index[steps] = len(self.columns)
            self.columns.append([core_step(s) for s in steps])
        return found


# --- where tensors land ---------------------------------------------------------------------------
@dataclass
class Placement:
    """Where each chosen row lands in one arena: byte ``offset`` (a multiple of 64) and the arena's size."""

    offset: U64
    nbytes: int


def place(table: TensorTable, rows: U32, sizes: U64, plain: npt.NDArray[np.bool_]) -> Placement:
    """Lay rows out in one arena, in the order they lie in the files. Pure.

    Where a file's own order is dense and aligned, the arena mirrors it (large reads, no scatter). Otherwise
    tensors are packed at multiples of 64; large ones at their file offset modulo 4096 where that is such a
    multiple, so that direct reads land without a bounce.
    """
    n = len(rows)
    result = np.zeros(n, np.uint64)
    if n == 0:
        return Placement(result, 0)
    source, offset = table.source[rows], table.offset[rows]
    order = np.lexsort((offset, source, ~plain))
    base = 0
    bounds = np.flatnonzero(np.diff(source[order].astype(np.int64)) | np.diff(plain[order].astype(np.int8))) + 1
    for group in np.split(order, bounds):
        off, size = offset[group], sizes[group]
        first = int(off[0]) & ~(PAGE - 1)
        span = int(off[-1] + size[-1]) - first
        if plain[group[0]] and span <= int(size.sum()) * 1.01 + LARGE and not np.any(off % ALIGNMENT):
            result[group] = off - np.uint64(first) + np.uint64(base)
            base += _up(span, PAGE)
            continue
        steps = (size + np.uint64(ALIGNMENT - 1)) & ~np.uint64(ALIGNMENT - 1)
        congruent = (size >= LARGE) & (off % ALIGNMENT == 0) & plain[group[0]]
        steps = steps + np.where(congruent, np.uint64(PAGE), np.uint64(0))
        begin = np.cumsum(steps) - steps + np.uint64(base)
        shift = np.where(congruent, (off - begin) % np.uint64(PAGE), np.uint64(0))
        result[group] = begin + shift
        base = _up(int(begin[-1] + steps[-1]), PAGE)
    return Placement(result, base)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


# --- reading --------------------------------------------------------------------------------------
@dataclass
class _Columns:
    """Read ops, gathered as arrays for many rows at once or one by one."""

    pipelines: Pipelines = field(default_factory=Pipelines)
    blocks: list[tuple[Any, ...]] = field(default_factory=list)
    ops: list[tuple[int, int, int, int, int, int, int]] = field(default_factory=list)

    def many(self, tensor: U32, source: U32, offset: U64, nbytes: U64, buffer: U32, dest: U64) -> None:
        self.blocks.append((source, tensor, offset, nbytes, buffer, dest, np.full(len(tensor), NONE, np.uint32)))

    def one(
        self, tensor: int, source: int, offset: int, nbytes: int, buffer: int, dest: int, steps: tuple[Step, ...] = ()
    ) -> None:
        self.ops.append((source, tensor, offset, nbytes, buffer, dest, self.pipelines.add(steps)))

    def finish(self) -> list[Array]:
        if self.ops:
            self.blocks.append(tuple(np.array(column, np.uint64) for column in zip(*self.ops, strict=True)))
        if not self.blocks:
            return [np.zeros(0, t) for t in _COLUMN_TYPES]
        columns = zip(*self.blocks, strict=True)
        return [np.concatenate(c).astype(t, copy=False) for c, t in zip(columns, _COLUMN_TYPES, strict=True)]


_COLUMN_TYPES = (np.uint32, np.uint32, np.uint64, np.uint64, np.uint32, np.uint64, np.uint32)


@dataclass
class Target:
    """Where one row goes: a byte range of a buffer, as which type.

    ``buffer`` NONE means: hash only. ``dtype`` is the type wanted; the stored one is converted in the pass.
    """

    buffer: int
    dest: int
    dtype: DType


@dataclass
class DecodeJob:
    """One piece for the decoded lane: it fills ``buffer[dest:dest + nbytes]``."""

    row: int
    piece: Piece
    buffer: int
    dest: int
    nbytes: int
    cast: tuple[Step, ...]


def stored_nbytes(piece: Piece) -> int:
    """Stored bytes of a piece."""
    return sum(e.nbytes for e in piece.extents)


def read_rows(
    layout: Layout,
    readers: Sequence[Any],
    rows: U32,
    buffers: Sequence[Any],
    buffer: U32,
    dest: U64,
    dtypes: Mapping[int, DType],
    *,
    verify: bool,
    progress: Progress | None = None,
) -> dict[int, Array]:
    """Read rows of a layout into memory; the whole of a load.

    Args:
        layout: Validated.
        readers: One a source.
        rows: Row numbers.
        buffers: Memory; ``buffer[k]`` (NONE: hash only) and ``dest[k]`` say where row ``rows[k]`` lands.
        buffer: See ``buffers``.
        dest: See ``buffers``.
        dtypes: Type wanted, for rows that are to be converted.
        verify: Compare checksums, where the layout has them.
        progress: Called with (bytes done, bytes total) about 20 times a second.

    Returns:
        String tensors, which have no fixed place in memory, by row.
    """
    table = layout.tensors
    columns, jobs = _Columns(), []  # type: tuple[_Columns, list[DecodeJob]]
    special = np.isin(rows, np.fromiter({*table.pieces, *dtypes}, np.uint32)) if table.pieces or dtypes else None
    direct = np.ones(len(rows), bool) if special is None else ~special
    picked = rows[direct]
    columns.many(picked, table.source[picked], table.offset[picked], table.nbytes[picked], buffer[direct], dest[direct])
    for k in np.flatnonzero(~direct):
        row = int(rows[k])
        jobs += _plan_row(table, row, Target(int(buffer[k]), int(dest[k]), dtypes.get(row, table.dtype(row))), columns)
    ops = columns.finish()
    total = int(ops[3].sum()) + sum(stored_nbytes(j.piece) for j in jobs)
    done = _Counter(progress, total)
    decoded = {job.row for job in jobs}
    checked = np.fromiter((r for r in rows.tolist() if r not in decoded), np.uint32) if decoded else rows
    _core.execute_read(
        readers,
        buffers,
        *ops,
        columns.pipelines.columns,
        *(_checks(table, checked) if verify else (None,) * 4),
        table.names,
        progress=done.core if progress else None,
    )
    return _decode(table, readers, buffers, jobs, verify, done)


def _checks(table: TensorTable, rows: U32) -> tuple[Array, Array, Array, Array]:
    """The core's checksum columns, for these rows alone: kind, initial, expected, verify."""
    chosen = np.zeros(len(table), np.uint8)
    chosen[rows] = 1
    return table.check_kind * chosen, table.check_initial, table.check_value, chosen


def _plan_row(table: TensorTable, row: int, target: Target, columns: _Columns) -> list[DecodeJob]:
    """Ops for a row that is not simply one extent as it is; returns what the decoded lane has to do."""
    entry = table.entry(row)
    cast: tuple[Step, ...] = ()
    if target.dtype != entry.dtype:
        cast = (Cast(entry.dtype.name, target.dtype.name),)
    jobs, whole = [], entry.nbytes if entry.dtype.numpy != np.dtype(object) else 0
    grow = target.dtype.bits / entry.dtype.bits if cast else 1
    for piece in entry.pieces:
        begin, end = piece.region or (0, whole)
        at, size = target.dest + int(begin * grow), int((end - begin) * grow)
        steps = (*piece.steps, *cast)
        if not piece.extents or any(isinstance(s, VARIABLE_STEPS) for s in steps) or not _cuts_between(piece, steps):
            jobs.append(DecodeJob(row, piece, target.buffer, at, size, cast))
            continue
        ratio = item_sizes(steps[-1])[1] / item_sizes(steps[0])[0] if steps else 1
        for extent in piece.extents:
            columns.one(row, extent.source, extent.offset, extent.nbytes, target.buffer, at, steps)
            at += int(extent.nbytes * ratio)
    return jobs


def _cuts_between(piece: Piece, steps: tuple[Step, ...]) -> bool:
    """Whether every extent of a piece holds whole elements (a shard boundary may cut one)."""
    if not steps or len(piece.extents) == 1:
        return True
    item = item_sizes(steps[0])[0]
    return all(e.nbytes % item == 0 for e in piece.extents)


class _Counter:
    """Progress over the core's bytes and then the decoded lane's."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def core(self, done: int, _total: int) -> None:
        self.done = done
        if self.progress is not None:
            self.progress(done, self.total)

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)


def _decode(
    table: TensorTable, readers: Sequence[Any], buffers: Sequence[Any], jobs: list[DecodeJob], verify: bool, done: _Counter
) -> dict[int, Array]:
    """The decoded lane, in parallel over pieces."""
    views = [np.frombuffer(b, np.uint8) if not isinstance(b, np.ndarray) else b.reshape(-1).view(np.uint8) for b in buffers]
    strings: dict[int, Array] = {}

    def run(job: DecodeJob) -> None:
        out = None if job.buffer == NONE else views[job.buffer][job.dest : job.dest + job.nbytes]
        array = _decode_job(table, readers, job, out, verify)
        if array is not None:
            strings[job.row] = array

    if len(jobs) < 2:
        for job in jobs:
            run(job)
            done.add(stored_nbytes(job.piece))
        return strings
    from concurrent.futures import ThreadPoolExecutor  # milliseconds that only this lane pays

    with ThreadPoolExecutor(min(len(jobs), _core.pool_threads()), "weightlift-decode") as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            for job, future in zip(jobs, futures, strict=True):
                future.result()
                done.add(stored_nbytes(job.piece))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return strings


def _decode_job(table: TensorTable, readers: Sequence[Any], job: DecodeJob, out: Array | None, verify: bool) -> Array | None:
    """Fill ``out`` (None: only check) from one piece; returns the array when it is one of strings."""
    piece = job.piece
    where, steps = piece.where, (*piece.steps, *job.cast)
    if isinstance(where, Fill):
        if out is not None:
            out[:] = where.value
        return None
    if steps and isinstance(steps[0], Deflate):
        _inflate_job(table, readers, job, out, steps, verify)
        return None
    stored = np.frombuffer(where.data, np.uint8) if isinstance(where, Inline) else _stored(table, readers, job, verify)
    if steps and isinstance(steps[0], Strings):
        array = np.empty(steps[0].count, object)
        array[:] = decode_strings(memoryview(stored), steps[0].count)
        return array.reshape(table.shapes[job.row])
    if out is None:
        return None
    if not steps:
        out[:] = stored
    else:
        _core.run_pipeline([core_step(s) for s in steps], stored, out)
    return None


def _stored(table: TensorTable, readers: Sequence[Any], job: DecodeJob, verify: bool) -> Array:
    """All stored bytes of a piece, hashed when it is the tensor's only one."""
    extents = job.piece.extents
    stored = np.empty(stored_nbytes(job.piece), np.uint8)
    at, rows = 0, _Columns()
    for extent in extents:
        rows.one(job.row, extent.source, extent.offset, extent.nbytes, 0, at)
        at += extent.nbytes
    check = verify and len(table.pieces[job.row]) == 1
    _core.execute_read(
        readers, [stored], *rows.finish(), [],
        *(_checks(table, np.array([job.row], np.uint32)) if check else (None,) * 4),
        table.names,
    )  # fmt: skip
    return stored


def _inflate_job(
    table: TensorTable, readers: Sequence[Any], job: DecodeJob, out: Array | None, steps: tuple[Step, ...], verify: bool
) -> None:
    deflate = steps[0]
    assert isinstance(deflate, Deflate)
    (extent,) = job.piece.extents
    size = deflate.nbytes - deflate.skip
    raw = out if out is not None and len(steps) == 1 else np.empty(size, np.uint8)
    try:
        inflate(readers[extent.source], extent, deflate, raw, verify=verify)
    except FormatError as error:
        raise error.locate(tensor=table.names[job.row]) from None
    if len(steps) > 1 and out is not None:
        _core.run_pipeline([core_step(s) for s in steps[1:]], raw, out)


# --- arrays over memory ---------------------------------------------------------------------------
def arrays_over(
    base: Any, table: TensorTable, rows: U32, offsets: U64, dtypes: Mapping[int, DType], *, writeable: bool
) -> list[Array]:
    """One array a row, over ``base`` at byte ``offsets``; strided rows in the order they are stored."""
    kinds: dict[DType, int] = {d: i for i, d in enumerate(table.dtypes)}
    index = table.dtype_index[rows].astype(np.uint32)
    shapes = [table.shapes[r] for r in rows] if len(rows) != len(table) else list(table.shapes)
    position = {int(r): k for k, r in enumerate(rows)} if dtypes or table.strides else {}
    for row, dtype in dtypes.items():
        if row in position:
            index[position[row]] = kinds.setdefault(dtype, len(kinds))
    packed = [i for d, i in kinds.items() if d.packed]
    for k in np.flatnonzero(np.isin(index, packed)) if packed else ():
        shapes[k] = array_shape(table.dtypes[index[k]], shapes[k])
    fortran = [position[r] for r in table.strides if r in position]
    types = [np.dtype(np.uint8) if d == STRING else d.numpy for d in kinds]  # strings lie in no row here
    return _core.make_arrays(base, offsets, types, index, shapes, fortran or None, writeable)


def decoded_sizes(table: TensorTable, rows: U32, dtypes: Mapping[int, DType]) -> U64:
    """Bytes each row takes in memory, converted to the type wanted."""
    sizes: U64 = table.nbytes[rows].copy()
    if table.pieces or dtypes:
        for k, row in enumerate(rows.tolist()):
            if row in table.pieces or row in dtypes:
                dtype = dtypes.get(row, table.dtype(row))
                sizes[k] = 0 if dtype.numpy == np.dtype(object) else byte_size(dtype, table.shapes[row])
    return sizes


def plain_rows(table: TensorTable, rows: U32, dtypes: Mapping[int, DType]) -> npt.NDArray[np.bool_]:
    """Which rows are one extent, taken as it is."""
    if not table.pieces and not dtypes:
        return np.ones(len(rows), bool)
    return ~np.isin(rows, np.fromiter({*table.pieces, *dtypes}, np.uint32))




def segment_parts(
    readers: Sequence[Any], segments: Sequence[tuple[int, int, int, int]], steps: tuple[Step, ...], part: int = 16 << 20
) -> Iterator[Array]:
    """Stored runs of files, (reader, offset, nbytes, check) each, converted, about ``part`` bytes at a time.

    Checksums are compared where a run has one and it is the tensor's only run; the memory is reused.
    """
    pipelines = Pipelines()
    number = pipelines.add(steps)
    read, written = (item_sizes(steps[0])[0], item_sizes(steps[-1])[1]) if steps else (1, 1)
    per = max(1, part // read)
    for reader, offset, nbytes, _ in segments:
        count = nbytes // read
        memory = np.empty(min(per, count) * written, np.uint8)
        for begin in range(0, count, per):
            n = min(per, count - begin)
            _core.execute_read(
                readers, [memory],
                np.array([reader], np.uint32), np.array([NONE], np.uint32),
                np.array([offset + begin * read], np.uint64), np.array([n * read], np.uint64),
                np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.array([number], np.uint32), pipelines.columns,
            )  # fmt: skip
            yield memory[: n * written]


# --- checking -------------------------------------------------------------------------------------
def hash_rows(layout: Layout, readers: Sequence[Any], progress: Progress | None = None) -> U32:
    """The checksum of every row's stored bytes, of the kind the table has for it (0 where it has none)."""
    table, columns = layout.tensors, _Columns()
    rows = np.arange(len(table), dtype=np.uint32)
    plain = plain_rows(table, rows, {}) & (table.check_kind > 0)
    picked = rows[plain]
    nowhere = np.full(len(picked), NONE, np.uint32)
    columns.many(picked, table.source[picked], table.offset[picked], table.nbytes[picked], nowhere, np.zeros(len(picked), np.uint64))
    for row, pieces in table.pieces.items():
        for extent in (e for p in pieces for e in p.extents) if table.check_kind[row] else ():
            columns.one(row, extent.source, extent.offset, extent.nbytes, NONE, 0)
    return _core.execute_read(
        readers, [], *columns.finish(), [], table.check_kind, table.check_initial, table.check_value,
        np.zeros(len(table), np.uint8), table.names, progress=progress,
    )  # fmt: skip


def check_pieces(layout: Layout, readers: Sequence[Any], row: int) -> None:
    """Run the decoded lane over one row, keeping nothing; raises what is wrong with it."""
    table = layout.tensors
    jobs = _plan_row(table, row, Target(NONE, 0, table.dtype(row)), _Columns())
    _decode(table, readers, [], jobs, True, _Counter(None, 0))


# --- writing --------------------------------------------------------------------------------------
class WriteOps:
    """The columns of a write plan: a packing's placements over sources, segments and literals.

    Attributes:
        sources: As ``_core.execute_write`` takes them.
        pipeline: Of each tensor.
        ratio: (bytes an element read, bytes written), for tensors in segments that are converted.
    """

    def __init__(self, packing: Packing, sources: Sequence[Any]) -> None:
        """Begin with one source a tensor."""
        self.sources = list(sources)
        self._placed = packing.placements
        self._tensors = len(sources)
        self.pipeline: U32 = np.full(len(sources), NONE, np.uint32)
        self.ratio: dict[int, tuple[int, int]] = {}
        self._segmented: set[int] = set()
        self._rows: list[tuple[int, int, int, int, int, int, int]] = []

    def add_segments(self, tensor: int, segments: Sequence[tuple[int, int, int, int]]) -> None:
        """Take a tensor from stored runs of other files instead."""
        self._segmented.add(tensor)
        read, written = self.ratio.get(tensor, (1, 1))
        placed = self._placed
        spans = [
            (int(placed.start[k]), int(placed.nbytes[k]), int(placed.file[k]), int(placed.offset[k]))
            for k in np.flatnonzero(placed.tensor == tensor)
        ]
        at = 0
        for segment in segments:
            number, size = len(self.sources), segment[2] // read * written
            self.sources.append(segment)
            for start, nbytes, file, offset in spans:
                begin, end = max(start, at), min(start + nbytes, at + size)
                if begin < end:
                    where = offset + begin - start
                    self._rows.append((file, number, where, end - begin, begin - at, int(self.pipeline[tensor]), tensor))
            at += size

    def add_literals(self, files: Sequence[PackedFile]) -> None:
        """The bytes between tensors."""
        for number, file in enumerate(files):
            for offset, data in file.literals:
                if data:
                    self._rows.append((number, len(self.sources), offset, len(data), 0, NONE, NONE))
                    self.sources.append(data)

    def columns(self) -> dict[str, Array]:
        """The plan, sorted by file and offset."""
        placed = self._placed
        keep = ~np.isin(placed.tensor, list(self._segmented)) if self._segmented else np.ones(len(placed.tensor), bool)
        tensor = placed.tensor[keep]
        whole = (
            placed.file[keep], tensor, placed.offset[keep], placed.nbytes[keep], placed.start[keep],
            self.pipeline[tensor], tensor,
        )  # fmt: skip
        extra = np.array(self._rows, np.uint64).reshape(-1, 7).T
        types = (np.uint32, np.uint32, np.uint64, np.uint64, np.uint64, np.uint32, np.uint32)
        columns = [np.concatenate([a, b.astype(t)]).astype(t) for a, b, t in zip(whole, extra, types, strict=True)]
        order = np.lexsort((columns[2], columns[0]))
        names = ("file", "source", "offset", "nbytes", "start", "pipeline", "tensor")
        return {n: np.ascontiguousarray(c[order]) for n, c in zip(names, columns, strict=True)}
