"""Checking a file without loading it, and comparing two."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._chunks import CHUNK, iter_chunks
from weightlift._dtypes import STRING, DType
from weightlift._load import read_arrays
from weightlift._ops import Progress
from weightlift._plan import check_pieces, decoded_sizes, hash_rows
from weightlift._source import Source, open_source
from weightlift._steps import CHECKED_STEPS, Sparse, Zstd
from weightlift.errors import ChecksumError, FormatError, MismatchError, TruncatedError
from weightlift.types import DiffReport, TensorDiff, TensorReport, VerifyReport

__all__ = ["diff_sources", "verify_source", "verify_url"]


def verify_url(
    url: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
    store_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Compare every tensor with its checksum; a file that breaks its format is a problem in the report."""
    try:
        source = open_source(url, format=format, store_options=store_options)
    except (FormatError, MismatchError, TruncatedError) as error:
        return VerifyReport(str(url), format or "unknown", (), (str(error),))
    return verify_source(source, progress=progress)


def verify_source(source: Source, *, progress: Progress | None = None) -> VerifyReport:
    """The same, of an open file."""
    layout, table = source.layout, source.table
    problems = [] if source.damage is None else [source.damage]
    try:
        source.check_whole()
    except ChecksumError as error:
        problems.append(str(error))
    readers = source.readers()
    computed = hash_rows(layout, readers, progress)
    paths = [source.store.path(s) for s in layout.sources]
    reports = []
    for i, name in enumerate(table.names):
        entry = table.entry(i)
        extents = [e for p in entry.pieces for e in p.extents]
        status, detail = "unchecked", ""
        if entry.checksum is not None:
            same = int(computed[i]) == entry.checksum.value
            status = "ok" if same else "corrupt"
            detail = "" if same else f"{entry.checksum.kind} is {computed[i]:08x}, should be {entry.checksum.value:08x}"
        steps = [step for piece in entry.pieces for step in piece.steps]
        if status != "corrupt" and any(isinstance(step, (*CHECKED_STEPS, Sparse, Zstd)) for step in steps):
            try:
                check_pieces(layout, readers, i)
                status = "ok" if any(isinstance(step, CHECKED_STEPS) for step in steps) else status
            except (FormatError, TruncatedError) as error:
                status, detail = "corrupt", error.message
        file, offset = (paths[extents[0].source], extents[0].offset) if extents else (source.paths()[0], 0)
        reports.append(TensorReport(name, status, sum(e.nbytes for e in extents), file, offset, detail))
    return VerifyReport(source.url, layout.format, tuple(reports), tuple(problems), sum(r.nbytes for r in reports))


def diff_sources(
    a: Source, b: Source, *, rtol: float = 0.0, atol: float = 0.0, progress: Progress | None = None
) -> DiffReport:
    """Names, types, shapes and values; NaN equals NaN, and values within ``atol + rtol * |b|`` are equal.

    Two files of one array each are compared whatever the formats call it (npz has to call it something).
    """
    differences: list[TensorDiff] = []
    if _is_one_array(a) and _is_one_array(b):
        rows = [(0, 0)]
    else:
        rows = [(i, b.table.index(n)) for i, n in enumerate(a.table.names) if n in b.table]
        differences += [TensorDiff(n, "missing") for n in a.table.names if n not in b.table]
        differences += [TensorDiff(n, "extra") for n in b.table.names if n not in a.table]
    sizes = decoded_sizes(a.table, np.array([i for i, _ in rows], np.uint32), {}).tolist()
    total, done, equal = sum(sizes), 0, 0
    for batch, nbytes in _batches(rows, sizes):
        same = _same_bytes(a, b, batch) if len(batch) > 1 else [False]
        for (i, j), bytes_equal in zip(batch, same, strict=True):
            found = [] if bytes_equal else _compare(a, b, i, j, rtol, atol)
            differences += found
            equal += not found
        done += nbytes
        if progress is not None:
            progress(done, total)
    return DiffReport(a.url, b.url, tuple(differences), equal)


def _is_one_array(source: Source) -> bool:
    """Whether what was saved is an array, not a dict of one."""
    return len(source.table) == 1 and source.layout.structure == source.table.names[0]


def _batches(rows: list[tuple[int, int]], sizes: list[int]) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Runs of pairs of rows that are read together: many small tensors, or one large."""
    batch: list[tuple[int, int]] = []
    held = 0
    for pair, size in zip(rows, sizes, strict=True):
        if batch and held + size > CHUNK:
            yield batch, held
            batch, held = [], 0
        batch.append(pair)
        held += size
    if batch:
        yield batch, held


def _same_bytes(a: Source, b: Source, batch: list[tuple[int, int]]) -> list[bool]:
    """Which pairs are equal bit for bit, so that nothing more need be asked."""
    left = read_arrays(a, np.array([i for i, _ in batch], np.uint32), {}, verify=False)
    right = read_arrays(b, np.array([j for _, j in batch], np.uint32), {}, verify=False)
    return [
        x.dtype == y.dtype and x.shape == y.shape and x.dtype != object and x.tobytes() == y.tobytes()
        for x, y in zip(left, right, strict=True)
    ]


def _compare(a: Source, b: Source, i: int, j: int, rtol: float, atol: float) -> list[TensorDiff]:
    name = a.table.names[i]
    dtypes, shapes = (a.table.dtype(i), b.table.dtype(j)), (a.table.shapes[i], b.table.shapes[j])
    result = []
    if dtypes[0] != dtypes[1]:
        result.append(TensorDiff(name, "dtype", str(dtypes[0]), str(dtypes[1])))
    if shapes[0] != shapes[1]:
        return [*result, TensorDiff(name, "shape", str(list(shapes[0])), str(list(shapes[1])))]
    if STRING in dtypes or not (dtypes[0].core and dtypes[1].core):
        values = _compare_exact(a, b, i, j)
    else:
        values = _compare_values(a, b, i, j, rtol, atol)
    if values is not None:
        count, max_abs, max_rel = values
        result.append(TensorDiff(name, "values", max_abs=max_abs, max_rel=max_rel, count=count))
    return result


def _compare_exact(a: Source, b: Source, i: int, j: int) -> tuple[int, float | None, float | None] | None:
    """Elements that differ in any bit (strings: in any character): for types without arithmetic here."""
    if a.table.dtype(i) == STRING or b.table.dtype(j) == STRING:
        x = read_arrays(a, np.array([i], np.uint32), {}, verify=False)[0]
        y = read_arrays(b, np.array([j], np.uint32), {}, verify=False)[0]
        count = int(np.count_nonzero(x != y)) if x.dtype == y.dtype else 0
        return (count, None, None) if count else None
    if a.table.dtype(i) != b.table.dtype(j):
        return None
    count = 0
    for x, y in _paired(a, b, i, j):
        item = x.dtype.itemsize
        count += int((_as_bytes(x, item) != _as_bytes(y, item)).any(axis=1).sum())
    return (count, None, None) if count else None


def _as_bytes(x: npt.NDArray[Any], item: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(x).view(np.uint8).reshape(-1, item)


def _compare_values(a: Source, b: Source, i: int, j: int, rtol: float, atol: float) -> tuple[int, float, float] | None:
    count, max_abs, max_rel = 0, 0.0, 0.0
    for x, y in _paired(a, b, i, j):
        if x.dtype == y.dtype and np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            continue
        wide = _wide(a.table.dtype(i), b.table.dtype(j))
        u, v = x.astype(wide), y.astype(wide)
        with np.errstate(all="ignore"):
            gap = np.abs(u - v) if wide.kind in "fc" else np.abs(u.astype(np.float64) - v.astype(np.float64))
            unequal = (u != v) & ~((u != u) & (v != v))
            gap = np.where(unequal, np.where(np.isfinite(gap), gap, np.inf), 0.0)
            unequal &= ~(gap <= atol + rtol * np.abs(v))
            if unequal.any():
                count += int(unequal.sum())
                max_abs = max(max_abs, float(gap[unequal].max()))
                relative = gap[unequal] / np.maximum(np.abs(u[unequal]), np.abs(v[unequal]))
                max_rel = max(max_rel, float(np.nan_to_num(relative, nan=np.inf, posinf=np.inf).max()))
    return (count, max_abs, max_rel) if count else None


def _wide(x: DType, y: DType) -> np.dtype[Any]:
    names = {x.name, y.name}
    if any(n.startswith("complex") for n in names):
        return np.dtype(np.complex128)
    if all(n.startswith(("int", "uint", "bool")) for n in names):
        return np.dtype(np.uint64 if "uint64" in names and not any(n.startswith("int") for n in names) else np.int64)
    return np.dtype(np.float64)


def _paired(a: Source, b: Source, i: int, j: int) -> Any:
    """Chunks of equal length from both, of elements in one order."""
    stored = (i in a.table.strides) == (j in b.table.strides)
    xs, ys = iter_chunks(a, i, stored_order=stored), iter_chunks(b, j, stored_order=stored)
    x: npt.NDArray[Any] = next(xs, np.empty(0))
    y: npt.NDArray[Any] = next(ys, np.empty(0))
    while x.size and y.size:
        n = min(x.size, y.size)
        yield x[:n], y[:n]
        x = x[n:] if x.size > n else next(xs, np.empty(0))
        y = y[n:] if y.size > n else next(ys, np.empty(0))
