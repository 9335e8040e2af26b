"""The bytes of one weights group: its shards one after another, and where in them each weight lies."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from struct import Struct

import numpy as np
import numpy.typing as npt

from weightlift._json import impostor
from weightlift._layout import U32, U64, Chain, Extent
from weightlift.errors import FormatError, NotFoundError
from weightlift.formats._tfjs_manifest import Weight
from weightlift.protocols import Files, Reader

__all__ = ["DEFAULT_SHARD_SIZE", "Shards", "looks"]

DEFAULT_SHARD_SIZE = 4 << 20
"""What TensorFlow.js's converter cuts at: the largest file that all major browsers cache."""

_LENGTH = Struct("<I")
_WINDOW = 1 << 16
"""Bytes read at once while string lengths are looked for."""

_PROBE = 1 << 12
_REPLACEMENT = b"\xef\xbf\xbd"


class Shards:
    """The shards of group number ``group``, as one run of bytes.

    Where opening a file costs a round trip, and the sizes of the weights say how large shards cut as
    TensorFlow.js's converter cuts them must be, no more than one is opened. ``presumed`` then holds the sizes, which
    are to be compared when the files are opened to be read.

    Args:
        files: Where they are opened, which reads nothing but their sizes.
        names: Their relative names, in order.
        group: From 1, for messages.
        first: Source number of the first one.
        weights: Of the group.
    """

    def __init__(
        self, files: Files, names: Sequence[str], group: int, first: int, weights: Sequence[Weight] = ()
    ) -> None:
        """See the class; NotFoundError names a missing shard."""
        self.names = names
        self._files = files
        self._group = group
        self._first = first
        self._opened: dict[int, Reader] = {}
        presumed = self._presume(weights) if files.remote else None
        self.presumed: Mapping[int, int] = {} if presumed is None else {first + i: n for i, n in enumerate(presumed)}
        self.sizes = self._measure() if presumed is None else presumed
        self._begins = [0, *accumulate(self.sizes)]

    def _measure(self) -> list[int]:
        self._files.prepare(self.names)
        return [self._reader(i).size for i in range(len(self.names))]

    def _presume(self, weights: Sequence[Weight]) -> list[int] | None:
        """The sizes of the shards if they were cut evenly; None if that cannot be told."""
        count = len(self.names)
        if not count or any(not w.item for w in weights):
            return None
        total = sum(w.elements * w.item for w in weights)
        if count == 1:
            return [total]
        for even in (DEFAULT_SHARD_SIZE, 0):
            size = even or self._reader(0).size
            if size and -(-total // size) == count:
                return [size] * (count - 1) + [total - size * (count - 1)]
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return self._begins[-1]

    def _reader(self, i: int) -> Reader:
        reader = self._opened.get(i)
        if reader is None:
            reader = self._opened[i] = self._open(i)
        return reader

    def _open(self, i: int) -> Reader:
        try:
            return self._files.open(self.names[i])
        except NotFoundError as error:
            raise NotFoundError(
                f"weight file {self.names[i]!r} ({i + 1} of {len(self.names)} in group {self._group}) is missing",
                errno=error.errno,
                path=error.path,
                url=error.url,
            ) from None

    def measure(self, weights: Sequence[Weight]) -> list[int]:
        """Stored bytes of each weight; FormatError unless they fill the group exactly.

        Sizes follow from the shapes, except those of strings, whose length prefixes are read.
        """
        sizes: list[int] = []
        at = 0
        for weight in weights:
            size = weight.elements * weight.item if weight.item else self._strings(weight, at, weights)
            sizes.append(size)
            at += size
        if at != self.nbytes:
            raise self._mismatch(at, weights)
        return sizes

    def _strings(self, weight: Weight, begin: int, weights: Sequence[Weight]) -> int:
        """Bytes that the strings of ``weight`` take from byte ``begin`` on."""
        count = weight.elements
        if begin + 4 * count > self.nbytes:
            raise self._mismatch(begin + 4 * count, weights, at_least=True)
        at, window, window_at = begin, b"", begin
        for i in range(count):
            if at + 4 > window_at + len(window):
                if at + 4 > self.nbytes:
                    raise self._mismatch(at + 4 * (count - i), weights, at_least=True)
                window_at, window = at, self._read(at, min(_WINDOW, self.nbytes - at))
            at += 4 + _LENGTH.unpack_from(window, at - window_at)[0]
        if at > self.nbytes:
            raise self._mismatch(at, weights, at_least=True)
        return at - begin

    def _read(self, begin: int, nbytes: int) -> bytes:
        extents = self._extents(begin, nbytes)
        return b"".join(self._reader(e.source - self._first).read_at(e.offset, e.nbytes) for e in extents)

    def locate(self, begin: int, nbytes: int) -> Extent | Chain:
        """Where ``nbytes`` bytes (more than 0) from byte ``begin`` of the group on lie."""
        extents = self._extents(begin, nbytes)
        return extents[0] if len(extents) == 1 else Chain(tuple(extents))

    def locate_many(self, begin: U64, nbytes: U64) -> tuple[U32, U64, npt.NDArray[np.bool_]]:
        """Source and offset of runs that lie in one shard each, and which ones do (0 bytes: none)."""
        begins = np.array(self._begins, np.uint64)
        shard = np.searchsorted(begins, begin, "right") - 1
        inside = nbytes > 0
        inside[inside] = (begin + nbytes)[inside] <= begins[shard[inside] + 1]
        shard[~inside] = 0
        return (shard + self._first).astype(np.uint32), begin - begins[shard], inside

    def _extents(self, begin: int, nbytes: int) -> list[Extent]:
        extents, end = [], begin + nbytes
        i = bisect_right(self._begins, begin) - 1
        while begin < end:
            stop = min(end, self._begins[i + 1])
            if stop > begin:
                extents.append(Extent(self._first + i, begin - self._begins[i], stop - begin))
            begin, i = stop, i + 1
        return extents

    def _mismatch(self, wanted: int, weights: Sequence[Weight], *, at_least: bool = False) -> FormatError:
        """The error for shards that do not hold what the manifest says, with what they look like."""
        sizes = ", ".join(f"{n!r} {s}" for n, s in list(zip(self.names, self.sizes, strict=True))[:10])
        more = ", ..." if len(self.names) > 10 else ""
        least = "at least " if at_least else ""
        message = (
            f"group {self._group}: its {len(weights)} weights take {least}{wanted} bytes, but its {len(self.names)} "
            f"weight files hold {self.nbytes} ({sizes}{more})"
        )
        path = None
        for i, name in enumerate(self.names):
            found = looks(self._reader(i))
            if found:
                message += f"; {name!r} is {found}"
                path = self._reader(i).name
                break
        if path is None and len(self.names) == 1:
            path = self._reader(0).name
        return FormatError(message, path=path)


def looks(reader: Reader) -> str | None:
    """What stands in place of a weight file, if it is something well known."""
    head = reader.read_at(0, min(_PROBE, reader.size))
    found = impostor(head)
    if found is None and head.startswith(b"\x1f\x8b"):
        found = "gzip-compressed; decompress it first"
    if found is None and any(part.count(_REPLACEMENT) >= max(3, len(part) // 64) for part in _probes(reader, head)):
        found = "text-mangled: it is full of UTF-8 replacement characters (EF BF BD), as when binary is read as text"
    return found


def _probes(reader: Reader, head: bytes) -> Iterator[bytes]:
    """The beginning and, as that may be zeros, the middle."""
    yield head
    if reader.size > 2 * _PROBE:
        yield reader.read_at(reader.size // 2, _PROBE)
