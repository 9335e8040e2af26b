"""A file that is written into memory first: its store takes it when it is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from weightlift import _core
from weightlift.errors import StorageError

__all__ = ["BufferWriter"]


class BufferWriter(_core.FunctionWriter):
    """Memory that is filled in any order, and handed on by ``commit``."""

    def __init__(self, nbytes: int, url: str, publish: Callable[[Any], None]) -> None:
        """``nbytes`` is the final size; ``publish`` takes the finished array, which is read-only."""
        try:
            self._data = np.zeros(nbytes, np.uint8)
        except MemoryError:
            raise StorageError(f"there is no memory for {nbytes} bytes", url=url) from None
        view = self._data.data

        def fill(offset: int, data: memoryview) -> None:
            end = offset + len(data)
            if end > len(view):
                raise StorageError(f"bytes {offset}-{end} do not fit a file of {len(view)}", url=url)
            view[offset:end] = data

        super().__init__(fill, url)
        self._publish: Callable[[Any], None] | None = publish
        self._size = nbytes

    def truncate(self, size: int) -> None:
        """Make ``size``, no more than it was created with, the final size."""
        self._size = size

    def commit(self) -> None:
        """Publish; once."""
        if self._publish is None:
            raise StorageError("the file was committed or aborted before", url=self.name)
        publish, self._publish = self._publish, None
        data = self._data[: self._size]
        data.flags.writeable = False
        publish(data)

    def abort(self) -> None:
        """Forget it."""
        self._publish = None
