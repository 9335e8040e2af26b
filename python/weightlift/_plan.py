"""Plans: a Layout resolved into columns for the core.

Planning is pure. The core executes the direct and the fused lane (fixed-size steps) in parallel; what it cannot,
``_decode`` fills into the same memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._decode import DecodeJob, byte_views, decode, stored_nbytes
from weightlift._dtypes import STRING, DType, array_shape, byte_size
from weightlift._json import impostor
from weightlift._layout import U32, U64, Layout, Piece, TensorTable
from weightlift._ops import NONE, Checks, Counter, Progress, ReadColumns, check_columns, item_sizes
from weightlift._runs import runs_of
from weightlift._steps import VARIABLE_STEPS, Cast, Step, Tiles
from weightlift._stopping import Stop
from weightlift._stored_arrays import ArraysReader, DecodesInto, OpensArrays, StoredArrays
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.protocols import OpensRemotely, Store

__all__ = [
    "OpenFiles",
    "Placement",
    "arrays_over",
    "check_pieces",
    "decoded_sizes",
    "hash_rows",
    "place",
    "plain_rows",
    "read_rows",
]

ALIGNMENT = 64
"""Every loaded tensor begins at a multiple of this."""
PAGE = 4096
OPENED_AT_ONCE = 16
LARGE = 1 << 20
"""From this size on a tensor is placed so that direct reads need no bounce."""

Array = npt.NDArray[Any]
Ranges = Sequence[tuple[int, int]]
"""(offset, nbytes) of each."""


class OpenFiles:
    """The readers of one load: each file is opened once, and stays the one that was opened."""

    def __init__(self, store: Store) -> None:
        """``store``: where they are."""
        self._store = store
        self._readers: dict[str, Any] = {}
        self.remote = isinstance(store, OpensRemotely)

    def open(self, relative: str) -> Any:
        """The reader of a file beside the one that was asked for."""
        reader = self._readers.get(relative)
        if reader is None:
            reader = self._readers[relative] = self._store.open(relative)
        return reader

    def open_arrays(self, stored: StoredArrays) -> ArraysReader:
        """Decoded arrays, from now on in the place of the file that tells of them; see ``OpensArrays``."""
        if not isinstance(self._store, OpensArrays):
            raise UnsupportedFeatureError(
                f"the arrays of {stored.described_by} are read in a local directory only; copy all of it to one"
            )
        reader = self._readers[stored.described_by] = self._store.open_arrays(stored)
        self.remote = True  # as with files that are far away, no more is read than is needed
        return reader

    def prepare(self, names: Sequence[str]) -> None:
        """Open remote files at once; the first error in the order of ``names`` is raised."""
        if len(names) > 1:  # one is opened when it is asked for, by whoever can say what it is
            self._prepare(dict.fromkeys(names))

    def _prepare(self, needed: Mapping[str, Ranges | None]) -> None:
        """As ``prepare``, of files of which no more than these ranges (None: anything) will be read."""
        new = [n for n in needed if n not in self._readers]
        if not self.remote or not new:
            return
        if len(new) == 1:
            self._readers[new[0]] = self._open_for(new[0], needed[new[0]])
            return
        from concurrent.futures import ThreadPoolExecutor, wait

        stop = Stop()
        threads = f"weightlift-open-{id(stop)}"
        with ThreadPoolExecutor(min(OPENED_AT_ONCE, len(new)), threads) as pool:
            try:
                waiting = [(n, pool.submit(stop.run, self._open_for, n, needed[n])) for n in new]
                wait([future for _, future in waiting])
            except BaseException:  # Ctrl-C, which only the main thread hears of
                stop.set()
                pool.shutdown()
                while any(t.name.startswith(threads) for t in threading.enumerate()):
                    time.sleep(0.001)  # for one that the pool does not know, as its start was interrupted
                raise
        self._readers |= {n: future.result() for n, future in waiting}

    def _open_for(self, relative: str, ranges: Ranges | None) -> Any:
        if ranges is None or not isinstance(self._store, OpensRemotely):
            return self._store.open(relative)
        return self._store.open_for(relative, ranges)

    def readers(
        self,
        sources: Sequence[str],
        expected: Mapping[int, int] | None = None,
        needed: Mapping[int, Ranges] | None = None,
    ) -> list[Any]:
        """One reader a source, as the core takes them.

        Args:
            sources: Relative names.
            expected: Sizes, in bytes, of those that the layout took for granted; FormatError for another size.
            needed: What will be read, as (offset, nbytes) by source number; default all. Files that are not in it
                stay unopened.
        """
        chosen = range(len(sources)) if needed is None else sorted(needed)
        self._prepare({sources[i]: None if needed is None else needed[i] for i in chosen})
        result: list[Any] = [_core.MemoryReader(b"", "not opened")] * len(sources)
        for i in chosen:
            reader = self.open(sources[i])
            if expected and reader.size != expected.get(i, reader.size):
                raise _wrong_size(reader, sources[i], expected[i])
            holding = getattr(reader, "holding", None)  # of LendsReader: isinstance takes as long as opening the file
            if holding is not None:
                reader = holding([(0, reader.size)] if needed is None else needed[i])
            result[i] = reader
        return result


def _wrong_size(reader: Any, name: str, expected: int) -> FormatError:
    found = impostor(reader.read_at(0, min(PAGE, reader.size)))
    return FormatError(
        f"weight file {name!r} has {reader.size} bytes, and should have {expected}"
        + (f": it is {found}" if found else ""),
        path=reader.name,
    )


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
    kind = source[order].astype(np.int64) * 2 + plain[order]
    bounds = np.flatnonzero(np.diff(kind)) + 1
    for group in np.split(order, bounds):
        off, size = offset[group], sizes[group]
        first = int(off[0]) & ~(PAGE - 1)
        span = int((off + size).max()) - first  # not the last one's end: that may be empty, or share bytes
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
class Target:
    """Where one row goes: a byte range of a buffer, as which type.

    ``buffer`` NONE means: hash only. ``dtype`` is the type wanted; the stored one is converted in the pass.
    """

    buffer: int
    dest: int
    dtype: DType


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
    columns, jobs = ReadColumns(), []  # type: tuple[ReadColumns, list[DecodeJob]]
    direct = np.ones(len(rows), bool)
    if table.pieces or dtypes:
        direct = ~np.isin(rows, np.fromiter({*table.pieces, *dtypes}, np.uint32))
    special, whole = ~direct, np.zeros(len(rows), bool)
    able = {kind for kind in set(map(type, readers)) if issubclass(kind, DecodesInto)}  # not of each of many files
    decoding = [number for number, reader in enumerate(readers) if type(reader) in able] if able else []
    if decoding:
        whole = np.isin(table.source[rows], decoding) & direct & (buffer != NONE)
        direct &= ~whole
    picked = rows[direct]
    columns.many(picked, table.source[picked], table.offset[picked], table.nbytes[picked], buffer[direct], dest[direct])
    for k in np.flatnonzero(special):
        row = int(rows[k])
        jobs += _plan_row(table, row, Target(int(buffer[k]), int(dest[k]), dtypes.get(row, table.dtype(row))), columns)
    ops = columns.finish()
    total = int(ops.nbytes.sum() + table.nbytes[rows[whole]].sum()) + sum(stored_nbytes(j.piece) for j in jobs)
    done = Counter(progress, total)
    decoded = {job.row for job in jobs}
    checked = np.fromiter((r for r in rows.tolist() if r not in decoded), np.uint32) if decoded else rows
    _core.execute_read(
        readers,
        buffers,
        *ops,
        columns.pipelines.columns,
        *(check_columns(table, checked) if verify else Checks()),
        table.names,
        progress=done.core if progress else None,
    )
    _decode_whole(table, readers, rows[whole], buffers, buffer[whole], dest[whole], done)
    return decode(table, readers, buffers, jobs, verify, done)


def _decode_whole(
    table: TensorTable, readers: Sequence[Any], rows: U32, buffers: Sequence[Any], buffer: U32, dest: U64, done: Counter
) -> None:
    """Rows of readers that decode arrays where they will live."""
    if not len(rows):
        return
    views = byte_views(buffers)
    targets: dict[int, list[tuple[int, Array]]] = {}
    for row, number, at in zip(rows.tolist(), buffer.tolist(), dest.tolist(), strict=True):
        memory = views[number][at : at + int(table.nbytes[row])]
        targets.setdefault(int(table.source[row]), []).append((int(table.offset[row]), memory))
    for source, mine in targets.items():
        readers[source].decode_into(mine, done.add)


def _plan_row(table: TensorTable, row: int, target: Target, columns: ReadColumns) -> list[DecodeJob]:
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
        boxes = steps[0] if len(steps) == 1 else None
        runs = runs_of(boxes, piece.extents) if isinstance(boxes, Tiles) and target.buffer != NONE else None
        if runs is not None:
            mine, buffer = (np.full(len(runs.dest), number, np.uint32) for number in (row, target.buffer))
            columns.many(mine, runs.source, runs.offset, runs.nbytes, buffer, runs.dest + np.uint64(at))
            continue
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


# --- arrays over memory ---------------------------------------------------------------------------
def arrays_over(
    base: Any, table: TensorTable, rows: U32, offsets: U64, dtypes: Mapping[int, DType], *, writeable: bool
) -> list[Array]:
    """One array a row, over ``base`` at byte ``offsets``; strided rows in the order they are stored."""
    kinds: dict[DType, int] = {d: i for i, d in enumerate(table.dtypes)}
    index = table.dtype_index[rows].astype(np.uint32)
    in_order = len(rows) == len(table) and not np.any(rows[:-1] >= rows[1:])
    shapes = list(table.shapes) if in_order else [table.shapes[r] for r in rows]
    position = {int(r): k for k, r in enumerate(rows)} if dtypes or table.strides else {}
    for row, dtype in dtypes.items():
        if row in position:
            index[position[row]] = kinds.setdefault(dtype, len(kinds))
    packed = [i for d, i in kinds.items() if d.packed]
    for k in np.flatnonzero(np.isin(index, packed)) if packed else ():
        shapes[k] = array_shape(table.dtypes[index[k]], shapes[k])
    fortran = [position[r] for r in table.strides if r in position]
    types = [np.dtype(np.uint8) if d == STRING else d.numpy for d in kinds]  # strings lie in no row here
    shown = {at: shapes[at] for at in fortran}
    for at in fortran:
        shapes[at] = table.axes(int(rows[at]))
    arrays = _core.make_arrays(base, offsets, types, index, shapes, fortran or None, writeable)
    for at, shape in shown.items():
        arrays[at] = arrays[at].reshape(shape)  # a view: axes that are one as they are stored are split
    return arrays


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


# --- checking -------------------------------------------------------------------------------------
def hash_rows(layout: Layout, readers: Sequence[Any], progress: Progress | None = None) -> U32:
    """The checksum of every row's stored bytes, of the kind the table has for it (0 where it has none)."""
    table, columns = layout.tensors, ReadColumns()
    rows = np.arange(len(table), dtype=np.uint32)
    plain = plain_rows(table, rows, {}) & (table.check_kind > 0)
    picked = rows[plain]
    nowhere = np.full(len(picked), NONE, np.uint32)
    columns.many(
        picked,
        table.source[picked],
        table.offset[picked],
        table.nbytes[picked],
        nowhere,
        np.zeros(len(picked), np.uint64),
    )
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
    jobs = _plan_row(table, row, Target(NONE, 0, table.dtype(row)), ReadColumns())
    decode(table, readers, [], jobs, True, Counter(None, 0))
