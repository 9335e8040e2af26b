"""Arrays whose zeros are not stored: from their parts to the whole array, every place checked before it is written.

``row_sparse``: ``data[i]`` is row ``indices[i]`` of the array, whose first axis it is. ``csr``: the elements of row
``i`` of a matrix are ``data[indptr[i]:indptr[i + 1]]``, in the columns ``indices`` of the same range.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import from_name
from weightlift._steps import Sparse
from weightlift.errors import FormatError

__all__ = ["places_of", "split_parts", "whole_array"]

Array = npt.NDArray[Any]


def split_parts(sparse: Sparse, stored: Array) -> dict[str, Array]:
    """The parts that stored bytes hold, by name; data in the shape that its rows have."""
    parts: dict[str, Array] = {}
    at = 0
    for name, kind, count in sparse.parts:
        dtype = from_name(kind).numpy
        part = stored[at : at + count * dtype.itemsize]
        at += len(part)
        parts[name] = np.frombuffer(part.tobytes(), dtype)  # a copy, which is aligned
    if sparse.kind == "row_sparse":
        parts["data"] = parts["data"].reshape(len(parts["indices"]), *sparse.shape[1:])
    return parts


def whole_array(sparse: Sparse, parts: Mapping[str, Array], out: Array | None = None) -> Array:
    """The array that the parts stand for.

    Args:
        sparse: Kind and shape.
        parts: As ``split_parts`` gives them.
        out: Memory for it, of as many elements; default new.

    Raises:
        FormatError: A row or a column is outside of the array, or is there twice.
    """
    places = places_of(sparse, parts)
    array = np.empty(prod(sparse.shape), parts["data"].dtype) if out is None else out
    array[...] = np.zeros((), array.dtype)
    target = array.reshape(sparse.shape) if sparse.kind == "row_sparse" else array
    target[places] = parts["data"]
    return array.reshape(sparse.shape)


def places_of(sparse: Sparse, parts: Mapping[str, Array]) -> Array:
    """Where the stored elements go: rows, or numbers of elements; the errors are those of ``whole_array``."""
    indices = parts["indices"]
    if sparse.kind == "row_sparse":
        _check_rows(indices, sparse.shape[0])
        return indices
    rows, columns = sparse.shape
    row_of = _rows_of(parts["indptr"], len(parts["data"]), rows)
    _check_range("column", indices, columns)
    places: Array = row_of * columns + indices
    if np.any(places[1:] <= places[:-1]) and len(np.unique(places)) != len(places):
        raise FormatError("malformed csr array: two elements have one place")
    return places


def _check_range(what: str, indices: Array, length: int) -> None:
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= length):
        wrong = int(indices[(indices < 0) | (indices >= length)][0])
        raise FormatError(f"malformed sparse array: {what} {wrong} of {length}")


def _check_rows(indices: Array, rows: int) -> None:
    _check_range("row", indices, rows)
    if np.any(indices[1:] <= indices[:-1]):
        at = int(np.flatnonzero(indices[1:] <= indices[:-1])[0])
        raise FormatError(
            f"malformed row_sparse array: rows must ascend, and row {indices[at + 1]} follows row {indices[at]}"
        )


def _rows_of(indptr: Array, count: int, rows: int) -> Array:
    """The row of each of ``count`` elements."""
    if len(indptr) == 0 and count == 0:
        return np.zeros(0, np.int64)
    if len(indptr) != rows + 1 or indptr[0] != 0 or indptr[-1] != count or np.any(indptr[1:] < indptr[:-1]):
        raise FormatError(
            f"malformed csr array: the beginnings of its rows must ascend from 0 to {count}, in {rows + 1} numbers; "
            f"found {len(indptr)}: {indptr[:8].tolist()}{' ...' if len(indptr) > 8 else ''}"
        )
    return np.repeat(np.arange(rows, dtype=np.int64), np.diff(indptr))
