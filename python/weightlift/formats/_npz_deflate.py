"""Writing a deflated npz in parallel, in bounded memory, to a sink that only appends.

Each member's bytes (npy header, then data) are cut into chunks of a mebibyte. A chunk is deflated on its own
thread with the 32 KiB before it as dictionary and ends on a byte boundary (a sync flush), so that the chunks one
after another are one deflate stream; CRC-32 values are combined likewise. Sizes and CRC-32 of a member are known
only after its data: they follow it in a data descriptor and stand in the directory.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlift._checksum import crc32, crc32_combine, crc32c, crc32c_combine
from weightlift._packing import Checksums, TensorSpecs
from weightlift.errors import FormatError
from weightlift.formats._npy_header import build_header
from weightlift.formats._zip import DEFLATED, FLAG_DESCRIPTOR
from weightlift.formats._zip_write import NewMember, encode_name, end_records

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["NewArchive", "archive_bound", "write_archive"]

_CHUNK = 1 << 20
_DICTIONARY = 1 << 15
_LEVEL = 6


@dataclass(frozen=True)
class NewArchive:
    """What an archive will hold: names as bytes with their flags, npy headers, and data sizes."""

    names: list[tuple[bytes, int]]
    headers: list[bytes]
    nbytes: list[int]

    @classmethod
    def of(cls, specs: TensorSpecs) -> NewArchive:
        """The archive of all rows of ``specs``."""
        return cls(
            [encode_name(name + ".npy") for name in specs.names],
            [build_header(dtype, shape) for dtype, shape in zip(specs.dtypes, specs.shapes, strict=True)],
            [int(n) for n in specs.nbytes],
        )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Part of a member: up to a dictionary's worth of bytes before it, and its own."""

    before: bytes
    data: bytes
    header_size: int  # so many of its bytes are npy header
    last: bool


@dataclass(frozen=True, slots=True)
class _Deflated:
    """A deflated chunk, with size and checksums of the tensor's bytes in it (the npy header left out)."""

    stream: bytes
    nbytes: int
    crc32c: int
    crc32: int
    last: bool


def write_archive(
    archive: NewArchive,
    payload: Iterable[tuple[int, Any]],
    sink: Callable[[bytes], object],
    *,
    threads: int = 0,
) -> Checksums:
    """Deflate every tensor and write the whole archive.

    Args:
        archive: What ``pack`` made of the specs.
        payload: (row, contiguous array or bytes) in row order: a tensor's stored bytes whole or in consecutive
            parts. A buffer may be reused when the next item is asked for; tensors of no bytes may be left out.
        sink: Takes the file's bytes in order.
        threads: How many deflate; 0: as many as this process may use.

    Returns:
        CRC-32C and CRC-32 of each tensor's stored bytes, without the npy header.

    Raises:
        FormatError: The payload is not what the specs promised.

    At most four chunks a thread are held in memory.
    """
    from concurrent.futures import ThreadPoolExecutor  # costs milliseconds that only this function needs

    threads = threads or _usable_cpus()
    count = len(archive.names)
    checksums = Checksums(np.zeros(count, np.uint32), np.zeros(count, np.uint32))
    directory = bytearray()
    at = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="weightlift-deflate") as pool:
        chunks = _deflated_in_order(pool, _chunks(archive, payload), 4 * threads)
        try:
            for row in range(count):
                member, following = _write_member(archive, row, at, chunks, sink, checksums)
                directory += member.entry()
                at = following
            next(chunks, None)  # lets the source see that nothing is left over
        finally:
            chunks.close()
    sink(bytes(directory) + end_records(count, at, len(directory)))
    return checksums


def archive_bound(archive: NewArchive) -> int:
    """No archive of ``write_archive`` is larger."""
    count = len(archive.names)
    total = 22 + 56 + 20
    for (raw_name, _), header, nbytes in zip(archive.names, archive.headers, archive.nbytes, strict=True):
        # Local header, descriptor and entry, each with its ZIP64 form, and the name twice.
        total += _stream_bound(len(header) + nbytes) + (30 + 20) + 24 + (46 + 28) + 2 * len(raw_name)
    return total if count else 22


def _stream_bound(size: int) -> int:
    """Bytes that ``size`` bytes can take at most: stored blocks of at least 16 KiB, and a flush a chunk."""
    return size + size // 1024 + 64 * (size // _CHUNK + 1)


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_member(
    archive: NewArchive,
    row: int,
    at: int,
    chunks: Iterator[_Deflated],
    sink: Callable[[bytes], object],
    checksums: Checksums,
) -> tuple[NewMember, int]:
    """Write one member at ``at``; returns its directory entry's content and where the next one begins."""
    (raw_name, flags), header, nbytes = archive.names[row], archive.headers[row], archive.nbytes[row]
    size = len(header) + nbytes
    planned = NewMember(raw_name, flags | FLAG_DESCRIPTOR, DEFLATED, 0, _stream_bound(size), size, at)
    local = planned.local_header()
    sink(local)
    stored = data_crc32c = data_crc32 = 0
    for chunk in chunks:
        sink(chunk.stream)
        stored += len(chunk.stream)
        data_crc32c = crc32c_combine(data_crc32c, chunk.crc32c, chunk.nbytes)
        data_crc32 = crc32_combine(data_crc32, chunk.crc32, chunk.nbytes)
        if chunk.last:
            break
    checksums.crc32c[row], checksums.crc32[row] = data_crc32c, data_crc32
    member = replace(planned, crc32=crc32_combine(crc32(header), data_crc32, nbytes), stored_size=stored)
    descriptor = member.descriptor(planned.wide)
    sink(descriptor)
    return member, at + len(local) + stored + len(descriptor)


def _deflated_in_order(
    pool: ThreadPoolExecutor, chunks: Iterator[_Chunk], depth: int
) -> Generator[_Deflated, None, None]:
    """Deflate up to ``depth`` chunks at a time."""
    running: deque[Future[_Deflated]] = deque()
    try:
        for chunk in chunks:
            running.append(pool.submit(_deflate, chunk))
            if len(running) >= depth:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _deflate(chunk: _Chunk) -> _Deflated:
    if chunk.before:
        coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=chunk.before)
    else:
        coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = coder.compress(chunk.data) + coder.flush(zlib.Z_FINISH if chunk.last else zlib.Z_SYNC_FLUSH)
    data = memoryview(chunk.data)[chunk.header_size :]
    return _Deflated(stream, len(data), crc32c(data), crc32(data), chunk.last)


# --- cutting the payload ---------------------------------------------------------------------------
def _chunks(archive: NewArchive, payload: Iterable[tuple[int, Any]]) -> Iterator[_Chunk]:
    """The members' bytes in chunks, copied out of the caller's buffers."""
    source = _Source(payload)
    for row, (header, left) in enumerate(zip(archive.headers, archive.nbytes, strict=True)):
        before, held, header_size = b"", bytearray(header), len(header)
        while True:
            while left and len(held) < _CHUNK:
                part = source.take(row, min(left, _CHUNK - len(held)))
                held += part
                left -= len(part)
            data = bytes(held)
            yield _Chunk(before, data, header_size, left == 0)
            if left == 0:
                break
            before, held, header_size = data[-_DICTIONARY:], bytearray(), 0
    source.finish()


class _Source:
    """The caller's payload as a stream of bytes a row."""

    def __init__(self, payload: Iterable[tuple[int, Any]]) -> None:
        self._items = iter(payload)
        self._row = -1
        self._left = memoryview(b"")

    def take(self, row: int, most: int) -> memoryview:
        """One to ``most`` bytes of ``row``."""
        if not self._advance() or self._row != row:
            raise FormatError(f"the payload has too few bytes for tensor number {row}")
        part, self._left = self._left[:most], self._left[most:]
        return part

    def finish(self) -> None:
        """FormatError if there are bytes that no tensor asked for."""
        if self._advance():
            raise FormatError(f"the payload has too many bytes for tensor number {self._row}")

    def _advance(self) -> bool:
        while not self._left:
            item = next(self._items, None)
            if item is None:
                return False
            self._row, buffer = item
            # NumPy's own view, because not every element type has a buffer format.
            array = buffer if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.uint8)
            self._left = array.reshape(-1).view(np.uint8).data
        return True
