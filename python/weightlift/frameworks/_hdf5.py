"""HDF5 files through h5py, read without trust: nothing outside of the file is opened, nothing absurd is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError, WeightliftError

__all__ = ["child", "datasets", "open_hdf5", "read_array"]

_MAX_RATIO = 1032
"""Deflate cannot make more bytes of one."""
_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)
"""What h5py raises at damage."""


@contextmanager
def open_hdf5(source: Any) -> Iterator[Any]:
    """The root group of an HDF5 file, given by path or as a file object.

    Raises:
        UnsupportedFeatureError: h5py is not installed.
        FormatError: It is damaged, or no HDF5 file.
    """
    try:
        import h5py
    except ImportError as error:
        raise UnsupportedFeatureError("Keras' files need h5py: pip install weightlift[keras]") from error
    try:
        with h5py.File(source, "r") as file:
            yield file
    except WeightliftError:
        raise
    except _ERRORS as error:
        raise FormatError(f"the HDF5 file cannot be read: {error}") from error


def child(group: Any, path: str) -> Any:
    """A group or dataset below a group, by hard links alone; None if there is none.

    Raises:
        UnsafeContentError: A link on the way leads elsewhere, perhaps out of the file.
    """
    import h5py

    for name in path.split("/"):
        if not name:
            continue
        if not isinstance(group, h5py.Group):
            return None
        link = group.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            kind = type(link).__name__
            raise UnsafeContentError(f"{group.name}/{name} is a {kind}: links that lead elsewhere are not followed")
        group = group[name]
    return group


def datasets(group: Any) -> list[Any]:
    """The datasets ``0``, ``1`` ... of a group, in that order.

    Raises:
        FormatError: It holds something else, or one is missing.
    """
    names = list(group)
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise FormatError(f"{group.name}: expected variables 0 to {len(names) - 1}, found {', '.join(names)[:200]}")
    return [child(group, str(i)) for i in range(len(names))]


def read_array(dataset: Any) -> Any:
    """A dataset as an array.

    Raises:
        FormatError: It is no dataset, or says to be larger than the file can hold.
        UnsafeContentError: Its data lies in other files.
        UnsupportedFeatureError: Its elements are no numbers.
    """
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise FormatError(f"{getattr(dataset, 'name', dataset)} is not a dataset")
    if dataset.external or dataset.is_virtual:
        raise UnsafeContentError(f"{dataset.name}: its data lies in other files")
    kind = dataset.dtype
    said = dataset.attrs.get("dtype")
    if kind.kind == "V" and kind.itemsize == 2 and said == "bfloat16":
        import ml_dtypes

        return _content(dataset).view(ml_dtypes.bfloat16)
    if kind.kind not in "fiub":
        raise UnsupportedFeatureError(f"{dataset.name}: elements of {kind} are no numbers")
    return _content(dataset)


def _content(dataset: Any) -> Any:
    stored = int(dataset.id.get_storage_size())
    size = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if size > max(4096, stored * (1 if dataset.chunks is None else _MAX_RATIO)):
        raise FormatError(f"{dataset.name}: {size} bytes by its shape, but {stored} are stored")
    return dataset[()]
