"""HDF5 structures through h5py, over ``read_at``.

h5py's C code asks for bytes by address; it gets them here, out of a cache of blocks, and nothing else: it is given no
path and opens no file. What it may ask for is bounded, in one read and altogether. An error on the way (the network,
a budget) cannot be raised through C code: zeros are handed over, and the error is raised when h5py returns.

Where each read costs a round trip, structures are fetched in rounds: h5py goes through the file with the blocks that
are there, zeros stand for the others, and those are fetched together for the next round, with what they refer to
(``_hdf5_hints``). What a round finds counts only if nothing was missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._hdf5_hints import addresses
from weightlift.formats._hdf5_positioned import Positioned
from weightlift.protocols import Reader, SupportsPreload

__all__ = ["DAMAGE", "Hdf5File", "read_hdf5"]

Found = TypeVar("Found")

DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError, AttributeError)
"""What h5py raises at damage."""

_BLOCK = 4096
_MOST_BLOCKS = 1 << 14
"""Blocks kept: 64 MiB."""

_ROUND = 1 << 20
"""Larger reads than this are not put off to the next round."""

_MOST_ROUNDS = 40
_MOST_AT_ONCE = 64 << 20
"""Bytes of one read; the largest is a heap that holds a text, such as a model's configuration."""

_MOST_ALTOGETHER = 1 << 30
"""Bytes of structure that are read of one file."""

_MOST_TEXT = 256 << 20
"""Bytes that the strings of one attribute can take: each element may name the largest text in the file again."""


class _Bytes(Positioned):
    """Part of a file as h5py reads it."""

    def __init__(self, reader: Reader, begin: int, size: int) -> None:
        super().__init__(size)
        self.reader, self.begin = reader, begin
        self.error: BaseException | None = None
        self.limit = _MOST_AT_ONCE
        self.largest = 0
        self._left = _MOST_ALTOGETHER
        self.gathering = False
        self._missing: set[int] = set()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

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
        if end - at > (_ROUND if self.gathering else _BLOCK):
            return self._fetch(at, end - at)
        first, last = at // _BLOCK, (end - 1) // _BLOCK
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[at - first * _BLOCK : end - first * _BLOCK]

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            at = number * _BLOCK
            nbytes = min(_BLOCK, self.size - at)
            if self.gathering:
                self._missing.update((number, min(number + 1, (self.size - 1) // _BLOCK)))
                return bytes(nbytes)
            block = self._fetch(at, nbytes)
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

    def fetch_missing(self) -> bool:
        """Fetch the blocks that a round missed, at once; whether there were any, and room for them."""
        missing, self._missing = self._missing - self._blocks.keys(), set()
        if not missing:
            return False
        last = max(0, self.size - 1) // _BLOCK
        for _ in range(_MOST_ROUNDS):
            if len(missing) + len(self._blocks) > _MOST_BLOCKS:
                return False
            self._fetch_blocks(sorted(missing))
            seen = {b for number in missing for b in (number - 1, number)}
            runs = (self._blocks.get(n, b"") + self._blocks.get(n + 1, b"") for n in seen)
            near = {at // _BLOCK for run in runs for at in addresses(run) if at < self.size}
            missing = {min(n + k, last) for n in near for k in (0, 1)} - self._blocks.keys()
            if not missing:
                break
        return True

    def _fetch_blocks(self, wanted: Sequence[int]) -> None:
        spans = [(number * _BLOCK, min(_BLOCK, self.size - number * _BLOCK)) for number in wanted]
        if isinstance(self.reader, SupportsPreload):
            self.reader.preload([(self.begin + at, nbytes) for at, nbytes in spans])
        for number, (at, nbytes) in zip(wanted, spans, strict=True):
            self._keep(number, self._fetch(at, nbytes))

    @property
    def missed(self) -> bool:
        """Whether zeros stood for something in this round."""
        return bool(self._missing)


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
        """Use ``read_hdf5``."""
        self.h5py = h5py
        self.root = file
        self.begin, self.size = source.begin, source.size
        self.base = int(file.userblock_size)
        self.remote = isinstance(source.reader, SupportsPreload)
        self._source = source

    @property
    def guessing(self) -> bool:
        """Whether something was missing in this round, so that what is found and raised means nothing."""
        return self._source.missed

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
        try:
            return self._attribute(holder, name)
        except (FormatError, *DAMAGE):
            if self.guessing:
                return None
            raise

    def _attribute(self, holder: Any, name: str) -> Any:
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


def read_hdf5(reader: Reader, begin: int, size: int, look: Callable[[Hdf5File], Found]) -> Found:
    """What ``look`` finds in the HDF5 file that lies in ``size`` bytes of a file from ``begin`` on.

    Raises:
        UnsupportedFeatureError: h5py is not installed.
        FormatError: It is damaged, or no HDF5 file.
        WeightliftError: What reading raised.
    """
    source = _Bytes(reader, begin, size)
    for _ in range(_MOST_ROUNDS if isinstance(reader, SupportsPreload) else 0):
        source.gathering = True
        try:
            with _open(source) as file:
                found = look(file)
        except WeightliftError:
            if not source.missed or source.error is not None:
                raise
        else:
            if not source.missed:
                return found
        if not source.fetch_missing():
            break
    source.gathering = False
    with _open(source) as file:
        return look(file)


@contextmanager
def _open(source: _Bytes) -> Iterator[Hdf5File]:
    try:
        import h5py
    except ImportError as error:
        raise UnsupportedFeatureError("HDF5 files need h5py: pip install weightlift[keras]") from error
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
        raise FormatError(
            f"the HDF5 file cannot be read: {said}", offset=source.begin, end=source.begin + source.size
        ) from None
