"""Files of MXNet, put together number by number as its own writer does: nothing here knows our code."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

CODES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8")
GPU = struct.pack("<ii", 2, 3)
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
NONE = struct.pack("<Iii", V2, 0, 0)
"""An array that was never given values."""


def shape_of(dims: Sequence[int]) -> bytes:
    return struct.pack(f"<i{len(dims)}q", len(dims), *dims)


def code_of(dtype: npt.DTypeLike) -> int:
    name = np.dtype(dtype).name
    return 12 if name == "bfloat16" else [np.dtype(c).name for c in CODES].index(name)


def dense(array: npt.NDArray[np.generic], version: int = 3) -> bytes:
    """A record of one of the four versions, saved on a GPU."""
    rest = GPU + struct.pack("<i", code_of(array.dtype)) + array.tobytes()
    if version == 0:
        return struct.pack(f"<{1 + array.ndim}I", array.ndim, *array.shape) + rest
    start = struct.pack("<I", (V1, V2, V3)[version - 1]) + (struct.pack("<i", 0) if version > 1 else b"")
    return start + shape_of(array.shape) + rest


def sparse(
    kind: int,
    shape: Sequence[int],
    data: npt.NDArray[np.generic],
    *indices: Sequence[int],
    early: bool = False,
) -> bytes:
    """A record of version 2: 1 is row_sparse (indices), 2 is csr (indptr, indices).

    ``early``: as MXNet 1.9 writes one that is still being computed.
    """
    arrays = [np.array(i, np.int64) for i in indices]
    head = struct.pack("<Ii", V2, kind) + shape_of((0, *data.shape[1:]) if early else data.shape) + shape_of(shape)
    head += GPU + struct.pack("<i", code_of(data.dtype))
    for length in [len(a) for a in arrays]:
        head += struct.pack("<i", 6) + shape_of([length])
    return head + data.tobytes() + b"".join(a.tobytes() for a in arrays)


def listed(records: Sequence[bytes], names: Sequence[bytes] = (), *, count: int | None = None) -> bytes:
    """A file."""
    tail = struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(n)) + n for n in names)
    return struct.pack("<QQQ", 0x112, 0, len(records) if count is None else count) + b"".join(records) + tail


def named(records: Mapping[str, bytes]) -> bytes:
    """A file of a dict."""
    return listed(list(records.values()), [n.encode() for n in records])
