"""Saves to stores that take bytes front to back, once: a request's body, a pipe.

Protocol. What lies at the front of a file may depend on what comes after it (checksums in a header, a manifest that
goes first), and nothing can be mended once it is sent. So the payload is gone over twice, as it lies in memory or in
its own files: hashed, then sent behind headers that are already right. Nothing is held but what is on its way. Files
go one after another, or several at a time, the manifest last, or first where the store wants it so. A file whose size
is known only when it is written (a deflated archive) is written to an unnamed temporary file first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from weightlift import _core
from weightlift._intake import scratch_directory
from weightlift._packing import Checksums, PackedFile
from weightlift._publish import Publication
from weightlift._stopping import Stop, Stopped
from weightlift.errors import ChangedError, TransportError
from weightlift.protocols import SendsSideBySide, TakesDocument, WritesAgain

__all__ = ["Sending"]

PART = 8 << 20


class Sending(Publication):
    """One save on its way into a store that ``SendsInOrder``; see the protocol above."""

    def actual_name(self, planned: str) -> str:
        """As the store calls a data file, if it has a say."""
        return self.store.stored_name(planned) if isinstance(self.store, TakesDocument) else planned

    def write_all(self) -> tuple[Checksums, int]:
        """Send all files; returns their checksums and how many bytes were sent."""
        if self.packing.compressed:
            return self._send_compressed()
        checksums = self._hash()
        files = self._sealed(checksums)
        document, first = None, isinstance(self.store, TakesDocument)
        if self.packing.manifest is not None:
            document = self.fmt.manifest(self.packing, checksums, self.actual)
            if first:
                self.store.begin(document)
        self._send_all(files, checksums)
        if document is not None and not first and self.packing.manifest is not None:
            self.put(self.packing.manifest.name, document)
        return checksums, sum(f.nbytes for f in files) + len(document or b"")

    # --- the two passes ---------------------------------------------------------------------------
    def _hash(self) -> Checksums:
        """The checksums of the payload; sources that come from files are verified on the way."""
        if not (self.options.checksums or self.packing.crc32 or self.packing.crc32c or self.job.checks):
            none = np.zeros(len(self.job.specs), np.uint32)
            return Checksums(none, none)
        self.progress = None  # what counts is what was sent
        try:
            return self.write(self.job, [_core.null_writer(f.name) for f in self.packing.files])
        finally:
            self.progress = self.options.progress

    def _sealed(self, checksums: Checksums) -> Sequence[PackedFile]:
        """The files with literals that hold the checksums."""
        patches = self.fmt.seal(self.packing, checksums)
        return [
            replace(file, literals=tuple(_patched(file.literals, patches.get(number, ()))))
            for number, file in enumerate(self.packing.files)
        ]

    def _send_all(self, files: Sequence[PackedFile], checksums: Checksums) -> None:
        """Send the files: one after another, or several at a time where the store takes that."""
        store, numbers = self.store, range(len(files))
        if len(files) == 1 or not isinstance(store, SendsSideBySide):
            for number in numbers:
                self._send(number, files, checksums)
            return
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait  # milliseconds that few pay

        stop, progress, lock = Stop(), self.progress, Lock()
        total, done = sum(file.nbytes for file in files), 0
        self.progress = None  # of each file by itself

        def send(number: int) -> None:
            nonlocal done
            self._send(number, files, checksums)
            with lock:
                done += files[number].nbytes
                if progress is not None:
                    progress(done, total)

        with ThreadPoolExecutor(store.files_at_once, "weightlift-send") as pool:
            try:
                waiting = [pool.submit(stop.run, send, number) for number in numbers]
                wait(waiting, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # ends what others do when one has failed, or at Ctrl-C; nobody hears it otherwise
                pool.shutdown(cancel_futures=True)
                self.progress = progress
        for future in waiting:
            if not future.cancelled() and not isinstance(future.exception(), Stopped):
                future.result()

    def _send(self, number: int, files: Sequence[PackedFile], checksums: Checksums) -> None:
        """Send one file, with its sidecar around it."""
        file = files[number]
        unchecked = {i: [(r, at, n, -1) for r, at, n, _ in runs] for i, runs in self.job.segments.items()}
        job = replace(self.job, segments=unchecked, checks={})
        writer = self.store.create(self.actual[file.name], file.nbytes, durable=self.options.durable)
        writers = [_core.null_writer(f.name) for f in files]
        writers[number] = writer

        def send() -> None:
            sent = self.write(job, writers, files=files, only=number)
            if len(files) == 1 and self.options.checksums and not np.array_equal(sent.crc32c, checksums.crc32c):
                raise ChangedError("the arrays changed while they were being sent", path=self.target.path)
            self.commit([writer], checksums, list(file.literals))

        _persist(writer, send)

    # --- compressed -------------------------------------------------------------------------------
    def _send_compressed(self) -> tuple[Checksums, int]:
        with tempfile.TemporaryFile(dir=scratch_directory(self.store), prefix=".weightlift-") as file:
            checksums = self.compress(_Spool(file))
            (packed,) = self.packing.files

            writer = self.store.create(self.actual[packed.name], packed.nbytes, durable=self.options.durable)

            def send() -> None:
                file.seek(0)
                for at in range(0, packed.nbytes, PART):
                    writer.write_at(at, file.read(PART))
                self.commit([writer], checksums, [])

            _persist(writer, send)
        return checksums, packed.nbytes


class _Spool:
    """What a format compresses into."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write_at(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)

    def truncate(self, nbytes: int) -> None:
        self._file.truncate(nbytes)


def _persist(writer: Any, send: Callable[[], None]) -> None:
    """Write and commit, once more as long as the writer says that this is worth it; it has waited then."""
    try:
        while True:
            try:
                return send()
            except TransportError:
                if not (isinstance(writer, WritesAgain) and writer.again()):
                    raise
    except BaseException:
        writer.abort()
        raise


def _patched(
    literals: Sequence[tuple[int, bytes]], patches: Sequence[tuple[int, bytes]]
) -> Sequence[tuple[int, bytes]]:
    """Literals with the bytes that patches, each inside one of them, put in their place."""
    images = [(offset, bytearray(data)) for offset, data in literals]
    for at, patch in patches:
        offset, image = next((o, i) for o, i in images if o <= at and at + len(patch) <= o + len(i))
        image[at - offset : at - offset + len(patch)] = patch
    return [(offset, bytes(image)) for offset, image in images]
