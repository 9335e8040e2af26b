"""Arrays in the pickle of an npy file: a list or a dict that ``np.save`` was given.

Such a file holds an array of Python objects: of no axes around a dict, of one axis for a list. What is in it comes
back as lists and dicts of tensors, each of which is an extent of the file, because a pickle holds an array's elements
as one string of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightlift._layout import TensorEntry
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._numpy_rows import array_row, nested
from weightlift.formats._numpy_vocabulary import NumpyArray, NumpyVocabulary
from weightlift.formats._pickle import Blob, Pickled, decode_pickle
from weightlift.formats._torch_tree import TableWalk

__all__ = ["ArrayWalk", "check_repeated", "decode_objects"]

_MAX_RATIO = 1032
_ALWAYS = 64 << 20
"""Arrays may be named more than once: bytes that all of them take, times the file's and at least; see _torch_rows."""


class ArrayWalk(TableWalk):
    """The arrays in an object, by name."""

    array = NumpyArray
    leaves = (NumpyArray,)

    def _node(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Blob):
            value = value.data
            if value is None:
                raise UnsupportedFeatureError(f"the pickle holds long bytes at {'.'.join(path) or 'the top'}")
        return super()._node(value, path)

    def _entry(self, value: Any) -> TensorEntry:
        return array_row(value)


def decode_objects(
    data: Pickled, shape: tuple[int, ...], *, where: int, located: bool, skip_unsafe: bool, under: tuple[str, ...] = ()
) -> ArrayWalk:
    """What an array of objects holds.

    Args:
        data: Its pickle, and nothing else.
        shape: As its header says.
        where: Offset of ``data`` in the file.
        located: Arrays are extents of the file; else their bytes are in the table.
        skip_unsafe: Leave out what is code.
        under: Path in front of all names.

    Raises:
        UnsafeContentError: It names code.
        FormatError: It is malformed.
    """
    root, end = decode_pickle(data, NumpyVocabulary(skip_unsafe=skip_unsafe), where=where, located=located)
    if end != len(data):
        raise FormatError(f"{len(data) - end} bytes after the pickle", offset=where + end, end=where + len(data))
    if not isinstance(root, NumpyArray) or root.items is None:
        raise FormatError("the pickle is not of an array of objects, which the header speaks of", offset=where)
    if root.shape != shape:
        raise FormatError(
            f"the pickle is of an array of shape {list(root.shape)}, the header says {list(shape)}", offset=where
        )
    read = getattr(data, "fetched", end)
    return ArrayWalk(nested(root), budget=10 * read + 1000, under=under)


def check_repeated(entries: Mapping[str, TensorEntry], size: int) -> None:
    """UnsafeContentError where naming arrays again and again makes far more of a file's ``size`` bytes."""
    total = sum(entry.nbytes for entry in entries.values())
    limit = max(_MAX_RATIO * size, _ALWAYS)
    if total > limit:
        raise UnsafeContentError(
            f"the arrays take {total} bytes by naming some again and again, in a file of {size}; at most {limit} "
            "are made"
        )
