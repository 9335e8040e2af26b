"""What the files have in common that h5py is given in place of real ones: a place to read or write at."""

from __future__ import annotations

import io

__all__ = ["Positioned"]


class Positioned(io.RawIOBase):
    """A file of ``size`` bytes with a position."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position; it may be beyond the end."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at
