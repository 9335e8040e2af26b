"""Arrays of a local directory as one file of their elements: tensorstore reads them, we say what it opens.

The chunks of Zarr arrays lie in an OCDBT database, or in a directory for each array, and are compressed. Decoded, an
array is as good as a file: so this lends plans a reader of all arrays, one after another, of which what is asked for is
read, and nothing else.

What tensorstore is to open is never taken from the files. Names that they hold lead nowhere but into the directory:
tensorstore refuses keys with ``..``, and links out of it are refused before it looks at them.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._stored_arrays import ArrayPlace, StoredArrays
from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError

__all__ = ["open_arrays"]

Bytes = npt.NDArray[np.uint8]

_ALIGNMENT = 64
_AT_ONCE = 8
"""Arrays that are decoded at the same time, each by several threads of tensorstore."""
_FAILURES = (ArithmeticError, LookupError, OSError, RuntimeError, ValueError)
"""What tensorstore's errors are in Python, by their status."""


def open_arrays(root: str, check: Callable[[str], object], stored: StoredArrays) -> ArrayFile:
    """The arrays below the directory ``root``; ``check`` refuses a relative name that is a link out of it.

    Raises:
        UnsupportedFeatureError: tensorstore is not installed.
        UnsafeContentError: A link leads out of the directory.
        FormatError: tensorstore cannot read an array, or a chunk is not there.
    """
    try:
        import tensorstore
    except ImportError as error:
        raise UnsupportedFeatureError(
            "its arrays are read through tensorstore, which is not installed: pip install 'weightlift[orbax]'"
        ) from error
    with _failing(root):
        nbytes = _size_of(root, check)
    base = {"driver": "file", "path": os.path.realpath(root) + "/"}
    keys = {"driver": "ocdbt", "base": base} if stored.database else base
    with _failing(root):
        known = frozenset(tensorstore.KvStore.open(keys).result().list().result())
        specs = [_spec(stored.driver, keys, name) for name in stored.names]
        opening = [tensorstore.open(spec, read=True, open=True) for spec in specs]
    arrays = {}
    for name, future in zip(stored.names, opening, strict=True):
        with _failing(root, name):
            arrays[name] = future.result()
            if stored.complete:
                _check_chunks(name, arrays[name], known)
    return ArrayFile(root, arrays, nbytes)


def _spec(driver: str, keys: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What tensorstore opens for one array."""
    return {"driver": driver, "kvstore": {**keys, "path": f"{keys.get('path', '')}{name}/"}}


def _size_of(root: str, check: Callable[[str], object]) -> int:
    """Bytes of all files below a directory, whose links ``check`` has seen."""
    total = 0
    for path in Path(root).rglob("*"):
        if path.is_symlink():
            check(path.relative_to(root).as_posix())
        if path.is_file():
            total += path.stat().st_size
    return total


@contextmanager
def _failing(path: str, name: str | None = None) -> Iterator[None]:
    """Tell tensorstore's errors as ours."""
    try:
        yield
    except WeightliftError as error:
        raise error.locate(path=path, tensor=name) from None
    except _FAILURES as error:
        reason = str(error).partition(" [tensorstore_spec=")[0][:500]  # which is all that we asked it to open
        raise FormatError(f"tensorstore cannot read it: {reason}", path=path, tensor=name) from error


def _check_chunks(name: str, array: Any, known: frozenset[bytes]) -> None:
    """FormatError unless all chunks of an array are stored: for one that is not, tensorstore has zeros."""
    shape, chunk = array.shape, array.chunk_layout.write_chunk.shape or ()  # none without axes
    grid = [-(-n // max(1, size)) for n, size in zip(shape, chunk, strict=True)]
    expected = prod(grid)
    at: Sequence[int] | None = None
    if expected <= len(known):  # else some are missing, and there may be too many to look for
        at = next((at for at in np.ndindex(*grid) if not known.intersection(_keys(name, at))), None)
        if at is None:
            return
    found = f"{expected} were saved, of which {len(known)} or fewer are there"
    what = found if at is None else f"one is at {list(at)} of {grid}"
    raise FormatError(f"chunks of the array are missing: {what}; the checkpoint is not whole", tensor=name)


def _keys(name: str, at: Sequence[int]) -> Iterator[bytes]:
    """The keys that a chunk may have, in Zarr's versions 2 and 3."""
    numbers = [str(i) for i in at]
    for key in {
        ".".join(numbers or "0"),
        "/".join(numbers or "0"),
        "/".join(("c", *numbers)),
        ".".join(("c", *numbers)),
    }:
        yield f"{name}/{key}".encode()


class ArrayFile:
    """A :class:`~weightlift._stored_arrays.ArraysReader`, with arrays at multiples of 64.

    Attributes:
        name: The directory.
        size: Where the last array ends, in bytes.
        stored: Bytes of the files that all is decoded from.
        arrays: Where each is, by name.
    """

    def __init__(self, name: str, arrays: Mapping[str, Any], stored: int) -> None:
        """``arrays``: open arrays of tensorstore."""
        self.name = name
        self.stored = stored
        self._opened = list(arrays.values())
        self._starts: list[int] = []
        self.arrays: dict[str, ArrayPlace] = {}
        self.size = 0
        for key, array in arrays.items():
            dtype = np.dtype(array.dtype.numpy_dtype)
            start = -(-self.size // _ALIGNMENT) * _ALIGNMENT
            self.arrays[key] = ArrayPlace(dtype, tuple(array.shape), start)
            self._starts.append(start)
            self.size = start + prod(array.shape) * dtype.itemsize
        self._places = list(self.arrays.items())

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """As of any file."""
        result = bytearray(nbytes)
        Lent(self, [(offset, nbytes)]).fill(offset, memoryview(result))
        return bytes(result)

    def holding(self, ranges: Sequence[tuple[int, int]]) -> LentReader:
        """What plans read from: decodes what is in these ranges when it is touched, once."""
        return LentReader(self, ranges)

    def decode_into(self, targets: Sequence[tuple[int, Bytes]], done: Callable[[int], None]) -> None:
        """Whole arrays by tensorstore's own copies of chunks, some arrays at a time; others as they are read."""
        import tensorstore

        started: deque[tuple[str, int, Any]] = deque()
        try:
            for offset, memory in targets:
                number = bisect_right(self._starts, offset) - 1
                name, place = self._places[number]
                array = memory.view(place.dtype) if len(memory) % place.dtype.itemsize == 0 else memory
                if (offset, array.size) != (place.offset, prod(place.shape)) or not array.flags.aligned:
                    Lent(self, [(offset, len(memory))]).fill(offset, memory.data)
                    done(len(memory))
                    continue
                with _failing(self.name, name):
                    target = tensorstore.array(array.reshape(place.shape), copy=False, write=True)
                    started.append((name, len(memory), target.write(self._opened[number])))
                if len(started) >= _AT_ONCE:
                    self._finish(started, done)
            while started:
                self._finish(started, done)
        finally:  # whatever happened: nobody writes to the memory once this has returned
            for _, _, future in started:
                while not future.commit.done():
                    time.sleep(0.001)

    def _finish(self, started: deque[tuple[str, int, Any]], done: Callable[[int], None]) -> None:
        """Wait for the array that was started first."""
        name, nbytes, future = started[0]
        with _failing(self.name, name):
            future.result()
        started.popleft()
        done(nbytes)

    def parts(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The arrays that bytes ``begin`` to ``end`` lie in: number, and which bytes of the file, each."""
        number = max(0, bisect_right(self._starts, begin) - 1)
        while number < len(self._starts) and self._starts[number] < end:
            _, place = self._places[number]
            first = max(begin, place.offset)
            last = min(end, place.offset + prod(place.shape) * place.dtype.itemsize)
            if first < last:
                yield number, first, last
            number += 1

    def decode(self, number: int, begin: int, end: int) -> tuple[int, np.ndarray[Any, Any]]:
        """The bytes of the rows of an array that hold ``begin`` to ``end``, and where these begin."""
        name, place = self._places[number]
        array = self._opened[number]
        start = place.offset
        with _failing(self.name, name):
            if place.shape:
                row = prod(place.shape[1:]) * place.dtype.itemsize
                first = (begin - place.offset) // row
                array = array[first : -(-(end - place.offset) // row)]
                start += first * row
            found = np.ascontiguousarray(array.read().result(), place.dtype)
        return start, found.reshape(-1).view(np.uint8)


class LentReader(_core.FunctionReader):
    """What plans read from: of the core, for what it reads in parts; whole arrays are decoded into their place."""

    def __init__(self, file: ArrayFile, ranges: Sequence[tuple[int, int]]) -> None:
        """``ranges``: (offset, nbytes) of what will be read."""
        super().__init__(Lent(file, ranges).fill, file.size, file.name)
        self.decode_into = file.decode_into


class Lent:
    """Ranges of a file of arrays for one read: what is decoded is kept until all of it was handed out."""

    def __init__(self, file: ArrayFile, ranges: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._parts = sorted({(b, e, k) for at, n in ranges for k, b, e in file.parts(at, at + n)})
        self._begins = [begin for begin, _, _ in self._parts]
        self._locks = [threading.Lock() for _ in self._parts]
        self._held: dict[int, tuple[int, np.ndarray[Any, Any], int]] = {}

    def fill(self, offset: int, view: memoryview) -> None:
        """Bytes from ``offset`` on; between arrays they are zeros."""
        out = np.frombuffer(view, np.uint8)
        at, end = offset, offset + len(out)
        number = max(0, bisect_right(self._begins, offset) - 1)
        while number < len(self._parts) and self._begins[number] < end:
            begin, last = max(at, self._begins[number]), min(end, self._parts[number][1])
            if begin < last:
                out[at - offset : begin - offset] = 0
                self._copy(number, begin, out[begin - offset : last - offset])
                at = last
            number += 1
        out[at - offset :] = 0

    def _copy(self, number: int, offset: int, out: np.ndarray[Any, Any]) -> None:
        """Part of one range, which is decoded on its first touch and forgotten after its last."""
        begin, end, array = self._parts[number]
        with self._locks[number]:
            if number not in self._held:
                self._held[number] = (*self._file.decode(array, begin, end), end - begin)
            start, found, left = self._held.pop(number)
            if left > len(out):
                self._held[number] = start, found, left - len(out)
        out[:] = found[offset - start : offset - start + len(out)]
