"""Files that appear whole or not at all.

Protocol. Every data file is written beside its target without a name, hashed on the way, patched with what the
hashes decide, and made durable. Then it is published:

- one file: by one rename;
- one file with a sidecar: sidecar with old and new record, file, sidecar with the new record (``_sidecar``);
- files of which none names the others (MXNet's symbol and parameters): as one file, all durable before the first gets
  its name; a sidecar is that of the first;
- data files and a manifest: a data file whose name is taken gets a new name (``NumbersFiles``: all of them do); all
  are made durable, at the same time, before the first gets its name, and their names by one sync of the directory;
  then the manifest is replaced by one rename (that instant the new model replaces the old); then files under new names
  get their planned names by hard links, and the manifest says so, again by one rename. Killed anywhere, the manifest
  names complete files.
  Data files that only the old manifest named are removed last (``_superseded``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core, _sidecar
from weightlift._checksum import NamedSums
from weightlift._job import Job, SaveOptions, Target, stored_parts
from weightlift._ops import Pipelines, item_sizes
from weightlift._packing import Checksums, PackedFile, Packing, affine_encoding
from weightlift._superseded import Superseded, marked
from weightlift._write_plan import WriteOps
from weightlift.protocols import CommitsTogether, NumbersFiles, SendsInOrder, Store
from weightlift.stores._local import LocalStore
from weightlift.types import SaveResult

__all__ = ["Publication", "put_file"]

Array = npt.NDArray[Any]


def put_file(store: Store, name: str, data: bytes, *, durable: bool) -> None:
    """One small file, whole or not at all."""
    writer = store.create(name, len(data), durable=durable)
    try:
        writer.write_at(0, data)
        writer.commit()
    except BaseException:
        writer.abort()
        raise


class Publication:
    """One save on its way to its names; see the protocol above."""

    def __init__(self, job: Job, packing: Packing, target: Target, structure: Any, options: SaveOptions) -> None:
        self.job, self.packing, self.target, self.options = job, packing, target, options
        self.fmt, self.name, self.structure = target.format, target.name, structure
        self.progress = options.progress
        self.store: Any = target.store
        self.beside: list[str] = []
        if packing.manifest is not None and isinstance(self.store, LocalStore):
            self.store = self.store.trusting(packing.manifest.name)
        self.actual: dict[str, str] = self._actual_names([f.name for f in packing.files])

    def _actual_names(self, planned: Sequence[str]) -> dict[str, str]:
        if isinstance(self.fmt, NumbersFiles) and not isinstance(self.store, SendsInOrder):
            taken = any(self.store.exists(name) for name in planned)
            return dict(self.fmt.other_names(planned, self.store.exists)) if taken else {n: n for n in planned}
        return {name: self.actual_name(name) for name in planned}

    def actual_name(self, planned: str) -> str:
        """The planned name, or a new one when a manifest names files and this one is taken."""
        if self.packing.manifest is None or not self.store.exists(planned):
            return planned
        return marked(planned)

    def run(self, shared: tuple[tuple[str, ...], ...]) -> SaveResult:
        """Write and publish; what was written."""
        superseded = self._superseded()
        checksums, total = self.write_all()
        names = [self.packing.manifest.name] if self.packing.manifest else []
        names += [*(self.actual[f.name] for f in self.packing.files), *self.beside]
        if superseded is not None:
            superseded.remove(names, [f.name for f in self.packing.files])
        specs = self.job.specs
        crc = NamedSums(specs.names, checksums.crc32c) if self.options.checksums else {}
        names.sort(key=lambda name: name != self.name)  # what was asked for comes first
        files = tuple(dict.fromkeys(self.store.path(n) for n in names))
        once = self.packing.stored_once and bool(specs.same)
        return SaveResult(self.target.url, self.fmt.name, files, total, len(specs), crc, shared, once)

    def write_all(self) -> tuple[Checksums, int]:
        """Write all files and give them their names; their tensors' checksums, and how many bytes they have."""
        writers: list[Any] = []
        durable = self.options.durable
        try:
            for file in self.packing.files:
                writers.append(self.store.create(self.actual[file.name], file.nbytes, durable=durable))
            compressed = self.packing.compressed
            checksums = self.compress(writers[0]) if compressed else self.write(self.job, writers)
            patched = [list(f.literals) for f in self.packing.files]
            for number, patches in self.fmt.seal(self.packing, checksums).items():
                for offset, data in patches:
                    writers[number].write_at(offset, data)
                patched[number] += patches
            total = sum(f.nbytes for f in self.packing.files)
            if self.packing.manifest is not None:
                total += self._publish_set(writers, checksums)
                self._put_companion()
            else:
                self.commit(writers, checksums, patched[0])
        except BaseException:
            for writer in writers:
                writer.abort()
            raise
        return checksums, total

    def _superseded(self) -> Superseded | None:
        if not isinstance(self.store, LocalStore):
            return None
        manifest = self.packing.manifest.name if self.packing.manifest else None
        return Superseded(self.store, self.fmt, self.name, manifest=manifest)

    def write(
        self, job: Job, writers: Sequence[Any], *, files: Sequence[PackedFile] | None = None, only: int | None = None
    ) -> Checksums:
        """Literals and payload through the core, hashed in the same pass; ``only``: of the file of this number."""
        specs = job.specs
        pipelines, ops = Pipelines(), WriteOps(self.packing, job.sources)
        for i in {*job.prefix, *specs.encodings} - specs.late:
            encoding = specs.encodings.get(i)
            steps = (*job.prefix.get(i, ()), *(encoding.steps if encoding else ()))
            ops.pipeline[i] = pipelines.add(steps)
            if steps and i in job.segments:
                ops.ratio[i] = (item_sizes(steps[0])[0], item_sizes(steps[-1])[1])
        late = sorted(specs.late)
        for i in late:
            ops.pipeline[i] = pipelines.add_own(specs.encodings[i].steps)
        chosen = np.empty((len(late), 3))
        same = specs.same if self.packing.stored_once else {}
        for i, segments in job.segments.items():
            if i not in same:
                ops.add_segments(i, segments)
        ops.add_literals(self.packing.files if files is None else files)
        crc32c, crc32 = _core.execute_write(
            writers,
            job.readers,
            ops.sources,
            **ops.columns(only)._asdict(),
            pipelines=pipelines.columns,
            tensors=len(specs),
            crc32c=self.options.checksums or self.packing.crc32c,
            crc32=self.packing.crc32,
            names=specs.names,
            progress=self.progress,
            late_ranges=np.array([(ops.pipeline[i], i) for i in late], np.uint32).reshape(-1, 2),
            chosen=chosen,
            **job.checks,
        )
        for i, parameters in zip(late, chosen.tolist(), strict=True):
            specs.encodings[i] = affine_encoding(specs.stored(i).name, *parameters)
        specs.late.clear()
        for row, first in same.items():
            crc32c[row] = crc32c[first]
        return Checksums(crc32c, crc32)

    def commit(self, writers: Sequence[Any], checksums: Checksums, literals: list[tuple[int, bytes]]) -> None:
        """Give files their names, with a sidecar of the first where the format has no room for checksums."""
        alone = isinstance(self.store, SendsInOrder) and not self.store.keeps_sidecars
        if alone or not self.packing.sidecar:
            self._commit_all(writers)
            return
        name = self.packing.files[0].name
        old = _sidecar.existing_records(self.store, name)
        record = self._record(checksums, literals)
        if record is not None:
            self.put(name + _sidecar.SUFFIX, _sidecar.dump([record, *old]))
        self._commit_all(writers)
        if record is not None:
            self.put(name + _sidecar.SUFFIX, _sidecar.dump([record]))
        elif self.store.exists(name + _sidecar.SUFFIX):
            self.store.delete(name + _sidecar.SUFFIX)

    def _commit_all(self, writers: Sequence[Any]) -> None:
        if len(writers) > 1 and isinstance(self.store, CommitsTogether):
            self.store.commit_all(writers)
            return
        for writer in writers:
            writer.commit()

    def _record(self, checksums: Checksums, literals: list[tuple[int, bytes]]) -> dict[str, Any] | None:
        """The sidecar's record, or None when there is nothing to say."""
        specs, file = self.job.specs, self.packing.files[0]
        dtypes = {
            n: d.name for n, d in zip(specs.names, specs.dtypes, strict=True) if d.core and d.numpy.isbuiltin != 1
        }
        structure = self.structure if self.packing.structure is None else self.packing.structure
        if not (self.options.checksums or dtypes or structure or self.options.metadata):
            return None
        return _sidecar.record(
            file.nbytes,
            None if self.packing.compressed else _sidecar.rest_digest(file.nbytes, self.packing.placements, literals),
            [int(c) for c in checksums.crc32c] if self.options.checksums and not self.packing.compressed else None,
            dtypes,
            structure,
            self.options.metadata,
            specs.names if self.packing.listed else (),
        )

    def _publish_set(self, writers: list[Any], checksums: Checksums) -> int:
        self._commit_all(writers)
        assert self.packing.manifest is not None
        name = self.packing.manifest.name
        manifest = self.fmt.manifest(self.packing, checksums, self.actual)
        self.put(name, manifest)
        moved = {planned: actual for planned, actual in self.actual.items() if planned != actual}
        if moved and all(self.store.alias(actual, planned) for planned, actual in moved.items()):
            if self.options.durable:
                self.store.sync()
            self.actual = {f.name: f.name for f in self.packing.files}
            manifest = self.fmt.manifest(self.packing, checksums, self.actual)
            self.put(name, manifest)
            for actual in moved.values():
                self.store.delete(actual)
        return len(manifest)

    def _put_companion(self) -> None:
        companion = self.packing.companion
        if companion is None:
            return
        if self.store.exists(companion.name):
            reader = self.store.open(companion.name)
            if reader.read_at(0, min(len(companion.replaces), reader.size)) != companion.replaces:
                return  # it is somebody else's
        self.put(companion.name, companion.data)
        self.beside = [companion.name]

    def put(self, name: str, data: bytes) -> None:
        """One small file, whole."""
        put_file(self.store, name, data, durable=self.options.durable)

    def compress(self, writer: Any) -> Checksums:
        """The format writes the file itself, in order, from the tensors' stored bytes."""
        at = 0

        def sink(data: bytes) -> None:
            nonlocal at
            writer.write_at(at, data)
            at += len(data)

        progress, specs = self.progress, self.job.specs
        total, done = int(specs.nbytes.sum()), 0

        def payload() -> Iterator[tuple[int, Array]]:
            nonlocal done
            for row in range(len(specs)):
                for part in stored_parts(self.job, row):
                    yield row, part
                    done += part.nbytes
                    if progress is not None:
                        progress(done, total)

        checksums: Checksums = self.fmt.compress(self.packing, payload(), sink)  # type: ignore[attr-defined]
        writer.truncate(at)
        self.packing.files = [replace(self.packing.files[0], nbytes=at)]
        return checksums
