"""Tensors of open files on their way into a save, in bounded memory.

Tensors that are plain runs of bytes (or need only element-wise steps) stream through the core's write engine,
block by block, from their own files. What cannot (deflated or cut in mid-element) streams first into an unnamed
temporary file beside the target, and from there like the others. Both in bounded memory. Tensors in Fortran order are
turned on the way into that file.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlift import _core
from weightlift._dtypes import byte_size
from weightlift._layout import KINDS, TensorEntry
from weightlift._ops import item_sizes
from weightlift._plan import read_rows
from weightlift._source import Row, Source
from weightlift._steps import VARIABLE_STEPS, Byteswap, Step
from weightlift._stream import TensorStream, tensor_stream
from weightlift._transpose import fits, gather, scatter, scatters, write_all
from weightlift.errors import StorageError
from weightlift.protocols import Store
from weightlift.stores._local import LocalStore

if TYPE_CHECKING:
    from weightlift._job import Job

__all__ = ["Intake", "scratch_directory"]


def scratch_directory(store: Store) -> Path:
    """Where temporary files of a save go: beside the target, or where the system has them if that is not local."""
    return Path(store.root if isinstance(store, LocalStore) else tempfile.gettempdir()).absolute()


class Intake:
    """Gives rows of open files to a job as its sources; a context, because some are decoded into a temporary file.

    Args:
        directory: Where the target will be; the temporary file goes to the nearest directory that exists.
        verify: Compare the rows' checksums while they stream.
    """

    def __init__(self, directory: Path, *, verify: bool) -> None:
        """See the class."""
        self._spill = _Spill(directory, verify=verify)
        self._verify = verify
        self._readers: list[Any] = []
        self._opened: dict[int, tuple[int, Sequence[Any]]] = {}
        self._checks = _Checks()

    def __enter__(self) -> Intake:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """The temporary file is gone."""
        self._spill.close()

    def fill(self, job: Job, rows: Mapping[int, Row], raw: Collection[int]) -> None:
        """Let ``job`` take ``rows`` from their files; of those in ``raw`` the stored bytes as they are."""
        self._open(rows.values())
        for i, row in rows.items():
            entry, (first, readers) = row.entry, self._opened[id(row.source)]
            steps = () if i in raw else _streamable(entry)
            if steps is None:
                self._spill.add(job, i, row, readers)
                continue
            check = self._checks.add(entry) if self._verify else -1
            extents = [extent for piece in entry.pieces for extent in piece.extents]
            job.segments[i] = [(first + e.source, e.offset, e.nbytes, check) for e in extents]
            job.prefix[i] = (*steps, *job.prefix.get(i, ()))
            job.sources[i] = b""
        self._spill.finish(job, self._readers)
        job.readers = self._readers
        job.checks = self._checks.columns()

    def _open(self, rows: Iterable[Row]) -> None:
        """Note the readers of the rows' files, each once: of remote ones only what the rows lie in."""
        sources: dict[int, tuple[Source, list[int]]] = {}
        for row in rows:
            sources.setdefault(id(row.source), (row.source, []))[1].append(row.number)
        for key, (source, numbers) in sources.items():
            if self._verify:
                source.refuse_damaged()
            readers = source.readers(np.array(numbers, np.uint32))
            self._opened[key] = len(self._readers), readers
            self._readers += readers


def _streamable(entry: TensorEntry) -> tuple[Step, ...] | None:
    """The steps of a tensor that the write engine can take from its extents; None where it cannot."""
    if len(entry.pieces) != 1 or entry.strides is not None:
        return None
    piece = entry.pieces[0]
    if not piece.extents or any(isinstance(s, VARIABLE_STEPS) for s in piece.steps):
        return None
    item = item_sizes(piece.steps[0])[0] if piece.steps else entry.dtype.numpy.itemsize
    if len(piece.extents) > 1 and any(e.nbytes % item for e in piece.extents):
        return None
    return piece.steps


class _Checks:
    """Checksums of source tensors, compared while they stream."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def add(self, entry: TensorEntry) -> int:
        if entry.checksum is None:
            return -1
        self.rows.append((KINDS.index(entry.checksum.kind), entry.checksum.initial, entry.checksum.value))
        return len(self.rows) - 1

    def columns(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        kind, initial, value = zip(*self.rows, strict=True)
        return {
            "source_kind": np.array(kind, np.uint8),
            "source_initial": np.array(initial, np.uint32),
            "source_expected": np.array(value, np.uint32),
            "source_verify": np.ones(len(kind), np.uint8),
        }


@dataclass(frozen=True)
class _Spilled:
    """A tensor's place in the temporary file; ``stream`` None: it is decoded whole; ``turn``: from Fortran order."""

    number: int
    row: Row
    readers: Sequence[Any]
    stream: TensorStream | None
    offset: int
    nbytes: int
    turn: bool


class _Spill:
    """Tensors in an unnamed file beside the target, decoded but for steps that the write engine can do."""

    def __init__(self, directory: Path, *, verify: bool) -> None:
        self._directory = next(d for d in (directory, *directory.parents) if d.is_dir())
        self._verify = verify
        self._rows: list[_Spilled] = []
        self._size = 0
        self._file: Any = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, job: Job, i: int, row: Row, readers: Sequence[Any]) -> None:
        """Note a row, of whose source these are the readers, for ``finish``."""
        nbytes = byte_size(row.dtype, row.shape)
        if nbytes == 0:
            job.sources[i] = b""
            return
        entry = row.entry
        stream = tensor_stream(entry, readers, row.source.table.names[row.number], verify=self._verify)
        if stream is not None and entry.strides is not None and not all(isinstance(s, Byteswap) for s in stream.steps):
            stream = None
        nbytes = nbytes if stream is None else stream.nbytes
        turn = stream is not None and entry.strides is not None and fits(row.axes, row.dtype.numpy.itemsize)
        self._rows.append(_Spilled(i, row, readers, stream, self._size, nbytes, turn))
        self._size += -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE

    def finish(self, job: Job, readers: list[Any]) -> None:
        """Write what was noted, one tensor at a time; ``readers`` gets one of the file."""
        if not self._size:
            return
        self._file = self._temporary(self._size)
        for spilled in self._rows:
            if spilled.stream is None:
                self._decode(spilled)
            else:
                if spilled.turn:
                    self._turn(spilled, spilled.stream)
                else:
                    _write_parts(self._file.fileno(), spilled.stream.parts, spilled.offset)
                job.prefix[spilled.number] = (*spilled.stream.steps, *job.prefix.get(spilled.number, ()))
            if spilled.row.entry.strides is None or spilled.turn:
                job.segments[spilled.number] = [(len(readers), spilled.offset, spilled.nbytes, -1)]
                job.sources[spilled.number] = b""
            else:
                job.sources[spilled.number] = self._view(spilled.row, spilled.offset)
        readers.append(_reader(self._file))

    def _temporary(self, size: int) -> Any:
        """An unnamed file with room for ``size`` bytes."""
        try:
            file = tempfile.TemporaryFile(dir=self._directory, prefix=".weightlift-")  # noqa: SIM115 (see close)
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise StorageError(
                f"no room for {size} bytes of decoded tensors beside the target: {error.strerror}",
                errno=error.errno,
                path=str(self._directory),
            ) from error
        return file

    def _turn(self, spilled: _Spilled, stream: TensorStream) -> None:
        """Write a tensor that comes in Fortran order in C order."""
        shape, item = spilled.row.axes, spilled.row.dtype.numpy.itemsize
        if scatters(shape):
            scatter(stream.parts, shape, item, self._file.fileno(), spilled.offset)
            return
        with self._temporary(stream.nbytes) as stored:
            _write_parts(stored.fileno(), stream.parts, 0)
            gather(_reader(stored), shape, item, self._file.fileno(), spilled.offset)

    def _decode(self, spilled: _Spilled) -> None:
        source, one = spilled.row.source, np.array([spilled.row.number], np.uint32)
        with mmap.mmap(self._file.fileno(), self._size) as mapping:
            window = np.frombuffer(mapping, np.uint8, spilled.nbytes, spilled.offset)
            read_rows(
                source.layout, spilled.readers, one, [window], np.zeros(1, np.uint32), np.zeros(1, np.uint64), {},
                verify=self._verify,
            )  # fmt: skip
            del window

    def _view(self, row: Row, offset: int) -> Any:
        stored = np.memmap(self._file, row.dtype.numpy, "r", offset, row.axes or (1,), "F")
        return stored.reshape(row.shape)  # a view: axes that are one as they are stored are split


def _reader(file: Any) -> Any:
    """A temporary file as the core reads it."""
    return _core.FileReader(f"/proc/self/fd/{file.fileno()}")


def _write_parts(fd: int, parts: Iterable[Any], offset: int) -> None:
    for part in parts:
        offset += write_all(fd, part, offset)
