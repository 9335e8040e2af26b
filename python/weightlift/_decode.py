"""The decoded lane: pieces whose size changes (deflate, views, strings), constants, and pieces cut in mid-element.

They are few or small next to what the core's lanes carry, and run in threads over pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import from_name
from weightlift._inflate import inflate, inflate_parts, whole_items
from weightlift._layout import Fill, Inline, Piece, TensorTable
from weightlift._ops import NONE, Checks, Counter, ReadColumns, check_columns, core_steps, item_sizes
from weightlift._sparse import places_of, split_parts, whole_array
from weightlift._steps import Blocks, Chunks, Deflate, Sparse, Step, Strided, Strings, Tiles, VarintStrings, Zstd
from weightlift._strings import decode_strings, decode_varint_strings
from weightlift._unchunk import place_chunks
from weightlift._zstd import place_frames
from weightlift.errors import FormatError

__all__ = ["DecodeJob", "byte_views", "decode", "stored_nbytes"]

Array = npt.NDArray[Any]


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


def decode(
    table: TensorTable,
    readers: Sequence[Any],
    buffers: Sequence[Any],
    jobs: list[DecodeJob],
    verify: bool,
    done: Counter,
) -> dict[int, Array]:
    """The decoded lane, in parallel over pieces."""
    views = byte_views(buffers)
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


def byte_views(buffers: Sequence[Any]) -> list[Array]:
    """The bytes of buffers and of contiguous arrays."""
    return [
        np.frombuffer(b, np.uint8) if not isinstance(b, np.ndarray) else b.reshape(-1).view(np.uint8) for b in buffers
    ]


def _decode_job(
    table: TensorTable, readers: Sequence[Any], job: DecodeJob, out: Array | None, verify: bool
) -> Array | None:
    """Fill ``out`` (None: only check) from one piece; returns the array when it is one of strings."""
    piece = job.piece
    where, steps = piece.where, (*piece.steps, *job.cast)
    if isinstance(where, Fill):
        if out is not None:
            out[:] = where.value
        return None
    if any(isinstance(step, (Strided, Tiles)) for step in steps):
        _view_job(table, readers, job, out, steps, verify)
        return None
    if steps and isinstance(steps[0], Deflate):
        _inflate_job(table, readers, job, out, steps, verify)
        return None
    stored = np.frombuffer(where.data, np.uint8) if isinstance(where, Inline) else _stored(table, readers, job, verify)
    if steps and isinstance(steps[0], (Strings, VarintStrings)):
        return _decode_strings(table, readers, job, stored, steps[0], verify)
    if steps and isinstance(steps[0], Zstd):
        zstd, steps = steps[0], steps[1:]
        stored = _frames_job(table, readers, job, zstd, stored, None if steps else out, verify)
        if not steps:
            return None
    if steps and isinstance(steps[0], Chunks):
        chunks, steps = steps[0], steps[1:]
        try:
            stored = place_chunks(chunks, stored, None if steps else out, verify=verify)
        except FormatError as error:
            raise error.locate(tensor=table.names[job.row]) from None
    if steps and isinstance(steps[0], Sparse):
        try:
            _sparse_job(steps[0], stored, out, steps[1:])
        except FormatError as error:
            first = piece.extents[0]
            place = {"offset": first.offset, "end": piece.extents[-1].offset + piece.extents[-1].nbytes}
            raise error.locate(path=readers[first.source].name, tensor=table.names[job.row], **place) from None
        return None
    if out is None:
        return None
    if steps and isinstance(steps[0], Blocks):
        _blocks_job(steps[0], steps[1:], stored, out)
    elif not steps:
        out[:] = stored
    else:
        _core.run_pipeline(core_steps(steps), stored, out)
    return None


def _decode_strings(
    table: TensorTable,
    readers: Sequence[Any],
    job: DecodeJob,
    stored: Array,
    step: Strings | VarintStrings,
    verify: bool,
) -> Array:
    """The array of the strings that are stored; errors name the tensor and where it lies."""
    array = np.empty(step.count, object)
    try:
        if isinstance(step, Strings):
            array[:] = decode_strings(stored.data, step.count)
        else:
            array[:] = decode_varint_strings(stored.data, step.count, step.crc32c if verify else None)
    except FormatError as error:
        for extent in job.piece.extents[:1]:
            error.offset = None  # it counts from the tensor's first byte
            end = extent.offset + extent.nbytes
            error.locate(path=readers[extent.source].name, tensor=table.names[job.row], offset=extent.offset, end=end)
        raise
    return array.reshape(table.shapes[job.row])


def _stored(table: TensorTable, readers: Sequence[Any], job: DecodeJob, verify: bool) -> Array:
    """All stored bytes of a piece, hashed when it is the tensor's only one."""
    extents = job.piece.extents
    stored = np.empty(stored_nbytes(job.piece), np.uint8)
    at, rows = 0, ReadColumns()
    for extent in extents:
        rows.one(job.row, extent.source, extent.offset, extent.nbytes, 0, at)
        at += extent.nbytes
    check = verify and len(table.pieces[job.row]) == 1
    _core.execute_read(
        readers, [stored], *rows.finish(), [],
        *(check_columns(table, np.array([job.row], np.uint32)) if check else Checks()),
        table.names,
    )  # fmt: skip
    return stored


def _inflate_job(
    table: TensorTable, readers: Sequence[Any], job: DecodeJob, out: Array | None, steps: tuple[Step, ...], verify: bool
) -> None:
    deflate = steps[0]
    assert isinstance(deflate, Deflate)
    (extent,) = job.piece.extents
    reader, name = readers[extent.source], table.names[job.row]
    if out is not None and len(steps) == 1:
        inflate(reader, extent, deflate, out, verify=verify, tensor=name)
        return
    parts = inflate_parts(reader, extent, deflate, verify=verify, tensor=name)
    if out is None:
        for _ in parts:
            pass
        return
    in_core, at = core_steps(steps[1:]), 0
    read, made = item_sizes(steps[1])[0], item_sizes(steps[-1])[1]
    for part in whole_items((np.frombuffer(p, np.uint8) for p in parts), read):
        nbytes = len(part) // read * made
        _core.run_pipeline(in_core, part, out[at : at + nbytes])
        at += nbytes


def _view_job(
    table: TensorTable, readers: Sequence[Any], job: DecodeJob, out: Array | None, steps: tuple[Step, ...], verify: bool
) -> None:
    """Fetch all that a view lies over, or the tiles it is made of, and copy its elements out."""
    at = next(i for i, step in enumerate(steps) if isinstance(step, (Strided, Tiles)))
    view, before, after = steps[at], steps[:at], steps[at + 1 :]
    assert isinstance(view, (Strided, Tiles))
    if before and isinstance(before[0], Deflate):
        (extent,) = job.piece.extents
        stored = np.empty(before[0].nbytes - before[0].skip, np.uint8)
        inflate(readers[extent.source], extent, before[0], stored, verify=verify, tensor=table.names[job.row])
        before = before[1:]
    else:
        stored = _stored(table, readers, job, verify)
    if before and isinstance(before[0], Zstd):
        stored, before = _frames_job(table, readers, job, before[0], stored, None, verify), before[1:]
    if out is None:
        return
    if before:
        native = np.empty(len(stored), np.uint8)
        _core.run_pipeline(core_steps(before), stored, native)
        stored = native
    array = view_of(view, stored) if isinstance(view, Strided) else _joined(view, stored)
    if after:
        _core.run_pipeline(core_steps(after), array, out)
    else:
        out[:] = array.reshape(-1).view(np.uint8)


def _frames_job(
    table: TensorTable,
    readers: Sequence[Any],
    job: DecodeJob,
    step: Zstd,
    stored: Array,
    out: Array | None,
    verify: bool,
) -> Array:
    """What compressed parts make up; errors name the tensor and where it lies."""
    try:
        return place_frames(step, stored, out, verify=verify)
    except FormatError as error:
        first, last = job.piece.extents[0], job.piece.extents[-1]
        place = {} if first.source != last.source else {"offset": first.offset, "end": last.offset + last.nbytes}
        raise error.locate(path=readers[first.source].name, tensor=table.names[job.row], **place) from None


def _blocks_job(step: Blocks, after: tuple[Step, ...], stored: Array, out: Array) -> None:
    """Compute the values of blocks, and convert them if that is asked for."""
    from weightlift._ggml import BLOCKS, dequantize_blocks  # for those who have such files

    block = BLOCKS[step.kind]
    values = out if not after else np.empty(len(stored) // block.nbytes * block.elements * 4, np.uint8)
    aligned = values.ctypes.data % 4 == 0
    target = values.view(np.float32) if aligned else np.empty(len(values) // 4, np.float32)
    dequantize_blocks(step.kind, stored, target, big=step.big)
    if not aligned:
        values[:] = target.view(np.uint8)
    if after:
        _core.run_pipeline(core_steps(after), values, out)


def _sparse_job(sparse: Sparse, stored: Array, out: Array | None, after: tuple[Step, ...]) -> None:
    """Put the stored elements into zeros; what is wrong with their places is found even if nothing is kept."""
    parts = split_parts(sparse, stored)
    if out is None:
        places_of(sparse, parts)
    elif after:
        array = whole_array(sparse, parts)
        _core.run_pipeline(core_steps(after), array.reshape(-1).view(np.uint8), out)
    else:
        whole_array(sparse, parts, out.view(parts["data"].dtype))


def view_of(view: Strided, stored: Array) -> Array:
    """The array that a view shows of native bytes; NumPy refuses one that reaches out of them."""
    array: Array = np.ndarray(view.shape, from_name(view.dtype).numpy, stored, view.offset, view.strides)
    array = np.ascontiguousarray(array)
    if view.conj:
        array = np.conjugate(array)
    return np.negative(array) if view.neg else array


def _joined(tiles: Tiles, stored: Array) -> Array:
    """The array that boxes of native elements make up."""
    elements = stored.view(from_name(tiles.dtype).numpy)
    array: Array = np.empty(tiles.shape, elements.dtype)
    at = 0
    for begin, size in tiles.boxes:
        count = prod(size)
        place = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
        array[place] = elements[at : at + count].reshape(size)
        at += count
    return array
