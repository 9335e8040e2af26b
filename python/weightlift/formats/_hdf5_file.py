"""HDF5 structures through h5py, over ``read_at``.

h5py's C code asks for bytes by address; it gets them here, out of a cache of blocks, and nothing else: it is given no
path and opens no file. What it may ask for is bounded, in one read and altogether. An error on the way (the network,
a budget) cannot be raised through C code: zeros are handed over, and the error is raised when h5py returns.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.protocols import Reader, SupportsPreload

__all__ = ["DAMAGE", "Hdf5File", "open_hdf5"]

DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError, AttributeError)
"""What h5py raises at damage."""

_BLOCK = 4096
_MOST_BLOCKS = 1 << 14
"""Blocks kept: 64 MiB."""

_MOST_AT_ONCE = 64 << 20
"""Bytes of one read; the largest is a heap that holds a text, such as a model's configuration."""

_MOST_ALTOGETHER = 1 << 30
"""Bytes of structure that are read of one file."""

_MOST_TEXT = 256 << 20
"""Bytes that the strings of one attribute can take: each element may name the largest text in the file again."""


class _Bytes(io.RawIOBase):
    """Part of a file as h5py reads it."""

    def __init__(self, reader: Reader, begin: int, size: int) -> None:
        self.reader, self.begin, self.size = reader, begin, size
        self.error: BaseException | None = None
        self.limit = _MOST_AT_ONCE
        self.largest = 0
        self._left = _MOST_ALTOGETHER
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, out: Any) -> int:
        """Fill ``out``; zeros from the first error on, and beyond the end."""
        view = memoryview(out)
        found = b""
        if self.error is None:
            try:
                found = self._read(self._at, len(view))
            except BaseException as error:  # which C code between here and the caller would not survive
                self.error = error
        view[: len(found)] = found
        view[len(found) :] = bytes(len(view) - len(found))
        self._at += len(view)
        return len(view)

    def _read(self, at: int, nbytes: int) -> bytes:
        self.largest = max(self.largest, nbytes)
        if nbytes > self.limit:
            raise FormatError(f"{nbytes} bytes of HDF5 structure in one piece; at most {self.limit} are read here")
        end = min(at + nbytes, self.size)
        if at >= end:
            return b""
        if end - at > _BLOCK:
            return self._fetch(at, end - at)
        first, last = at // _BLOCK, (end - 1) // _BLOCK
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[at - first * _BLOCK : end - first * _BLOCK]

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            at = number * _BLOCK
            block = self._fetch(at, min(_BLOCK, self.size - at))
            self._keep(number, block)
        return block

    def _keep(self, number: int, block: bytes) -> None:
        self._blocks[number] = block
        if len(self._blocks) > _MOST_BLOCKS:
            self._blocks.popitem(last=False)

    def _fetch(self, at: int, nbytes: int) -> bytes:
        self._left -= nbytes
        if self._left < 0:
            raise FormatError(f"more than {_MOST_ALTOGETHER} bytes of HDF5 structure; the file is refused")
        return self.reader.read_at(self.begin + at, nbytes)

    def preload(self, addresses: Iterable[int]) -> None:
        """Fetch the blocks in which structures begin, at once, where each read costs a round trip."""
        if not isinstance(self.reader, SupportsPreload):
            return
        last = max(0, self.size - 1) // _BLOCK
        numbers = {min(at // _BLOCK + k, last) for at in addresses if 0 <= at < self.size for k in (0, 1)}
        wanted = sorted(numbers - self._blocks.keys())[: _MOST_BLOCKS // 2]
        if not wanted:
            return
        spans = [(number * _BLOCK, min(_BLOCK, self.size - number * _BLOCK)) for number in wanted]
        self.reader.preload([(self.begin + at, nbytes) for at, nbytes in spans])
        for number, (at, nbytes) in zip(wanted, spans, strict=True):
            self._keep(number, self._fetch(at, nbytes))


class Hdf5File:
    """An open HDF5 file that may be damaged or hostile.

    Attributes:
        h5py: The module.
        root: The root group.
        base: Where addresses count from: the bytes of a user block.
        begin: Where the HDF5 file begins in its reader's file.
        size: Its bytes.
        remote: Whether each read costs a round trip.
    """

    def __init__(self, h5py: Any, file: Any, source: _Bytes) -> None:
        """Use ``open_hdf5``."""
        self.h5py = h5py
        self.root = file
        self.begin, self.size = source.begin, source.size
        self.base = int(file.userblock_size)
        self.remote = isinstance(source.reader, SupportsPreload)
        self._source = source

    def preload(self, addresses: Iterable[int]) -> None:
        """Says which structures will be opened next, by their addresses in the HDF5 file."""
        self._source.preload([self.base + at for at in addresses])
        self.check()

    def check(self) -> None:
        """Raise the error that h5py could not be told of."""
        if self._source.error is not None:
            raise self._source.error

    @contextmanager
    def strings(self, count: int) -> Iterator[None]:
        """While ``count`` strings are read: none may be longer than their share of what is allowed to all."""
        source = self._source
        share = max(_BLOCK, _MOST_TEXT // max(1, count))
        if min(source.largest, source.limit) > share or count > _MOST_TEXT // _BLOCK:
            raise FormatError(f"{count} strings, each of which may have {source.largest} bytes: refused")
        before, source.limit = source.limit, min(source.limit, share)
        try:
            yield
        finally:
            source.limit = before
        self.check()

    def attribute(self, holder: Any, name: str) -> Any:
        """An attribute of a group or dataset; None if there is none.

        Raises:
            FormatError: It cannot be read, or is larger than any should be.
        """
        h5py = self.h5py
        if not h5py.h5a.exists(holder.id, name.encode()):
            return None
        found = h5py.h5a.open(holder.id, name.encode())
        count = int(found.get_space().get_simple_extent_npoints())
        if count == 0:
            return []
        stored = int(found.get_storage_size())
        if stored > _MOST_AT_ONCE:
            raise FormatError(f"attribute {name!r} has {stored} bytes; at most {_MOST_AT_ONCE} are read")
        kind = found.get_type()
        if kind.get_class() in (h5py.h5t.STRING, h5py.h5t.VLEN) and count * kind.get_size() > stored:
            raise FormatError(f"attribute {name!r} says to have {count} elements, but has {stored} bytes")
        if not kind.detect_class(h5py.h5t.VLEN) and kind.get_class() != h5py.h5t.STRING:
            return holder.attrs[name]
        with self.strings(count):
            return holder.attrs[name]


@contextmanager
def open_hdf5(reader: Reader, begin: int = 0, size: int | None = None) -> Iterator[Hdf5File]:
    """The HDF5 file that lies in ``size`` bytes of a file from ``begin`` on.

    Raises:
        UnsupportedFeatureError: h5py is not installed.
        FormatError: It is damaged, or no HDF5 file.
        WeightliftError: What reading raised.
    """
    try:
        import h5py
    except ImportError as error:
        raise UnsupportedFeatureError("HDF5 files need h5py: pip install weightlift[keras]") from error
    source = _Bytes(reader, begin, reader.size - begin if size is None else size)
    try:
        with h5py.File(source, "r") as file:
            opened = Hdf5File(h5py, file, source)
            opened.check()
            yield opened
            opened.check()
    except WeightliftError:
        raise
    except DAMAGE as error:
        if source.error is not None:
            raise source.error from None
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(f"the HDF5 structure cannot be read: {said}", offset=begin, end=begin + source.size) from None
