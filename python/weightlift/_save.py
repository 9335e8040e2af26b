"""Saving: arrays to specs, specs to a packing, a packing to files that appear whole or not at all.

Protocol. Every data file is written beside its target without a name, hashed on the way, patched with what the
hashes decide, and made durable. Then it is published:

- one file: by one rename;
- one file with a sidecar: sidecar with old and new record, file, sidecar with the new record (``_sidecar``);
- data files and a manifest: a data file whose name is taken gets a new name; all are made durable, at the same time,
  before the first gets its name, and their names by one sync of the directory; then the manifest is replaced by one
  rename (that instant the new model replaces the old); then files under new names get their planned names by
  hard links, and the manifest says so, again by one rename. Killed anywhere, the manifest names complete files.
  Data files that only the old manifest named are removed last (``_superseded``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from weightlift import _core, _sidecar
from weightlift._arrays import as_array, check_strings
from weightlift._checksum import NamedSums
from weightlift._chunks import value_bounds
from weightlift._dtypes import DTYPES, STRING, DType, byte_size, from_numpy
from weightlift._intake import Intake, scratch_directory
from weightlift._layout import U32, U64, AffineEncode, Byteswap, Cast, Step
from weightlift._load import DTypes, dtype_chooser, read_arrays
from weightlift._ops import Pipelines, Progress, core_steps, item_sizes
from weightlift._packing import Checksums, Encoding, Packing, PackOptions, TensorSpecs
from weightlift._source import Row, refuse_options
from weightlift._strings import encode_strings
from weightlift._superseded import Superseded, marked
from weightlift._tree import flatten
from weightlift._urls import as_text, is_file, local_path
from weightlift._weights import TensorView
from weightlift._write_plan import WriteOps, segment_parts
from weightlift.errors import UnsupportedFeatureError, WeightliftError
from weightlift.formats import by_name, by_suffix
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.protocols import CommitsTogether, Format, KeepsEncodings, Store
from weightlift.stores import at_url
from weightlift.stores._local import LocalStore
from weightlift.types import SaveResult

__all__ = ["Job", "SaveOptions", "Target", "resolve_target", "save_leaves", "save_object", "stored_parts"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SaveOptions:
    """What the caller asked for."""

    format: str | None = None
    dtype: DTypes = None
    quantize: Mapping[str, Any] | str | None = None
    compression: str | None = None
    shard_size: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    checksums: bool = True
    progress: Progress | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """A packing together with where its bytes come from.

    Attributes:
        sources: As ``_core.execute_write`` takes them, one a tensor.
        segments: Rows that are stored runs of other files instead: (reader, offset, nbytes, check or -1) in order.
        prefix: Steps from a source's elements to the spec's dtype, by row.
        readers: What extent sources read from.
        checks: ``source_*`` arguments of ``_core.execute_write``.
    """

    specs: TensorSpecs
    sources: list[Any]
    segments: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    prefix: dict[int, tuple[Step, ...]] = field(default_factory=dict)
    readers: Sequence[Any] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """The file to write: in which store, under which name, in which format, and what the caller called it."""

    store: Store
    name: str
    format: Format
    url: str

    @property
    def path(self) -> str:
        """The file, as messages call it."""
        return self.store.path(self.name)


def resolve_target(
    url: str | os.PathLike[str], format: str | None, store_options: Mapping[str, Any] | None = None
) -> Target:
    """The file to write and its format: as asked, by suffix, else safetensors."""
    fmt = by_name(format) if format is not None else None
    if not is_file(url):
        store, name = at_url(as_text(url), store_options or {})
        if not name:
            fmt = fmt or SAFETENSORS
            name = f"model{fmt.suffixes[-1]}"
        return Target(store, name, fmt or by_suffix(name) or SAFETENSORS, as_text(url))
    refuse_options(url, store_options)
    path = local_path(url)
    if path.is_dir() or str(url).endswith("/"):
        fmt = fmt or SAFETENSORS
        path = path / f"model{fmt.suffixes[-1]}"
    fmt = fmt or by_suffix(path.name) or SAFETENSORS
    if fmt.name == "tfjs" and not path.suffix:
        path = path / "model.json"
    return Target(LocalStore(path.parent, path.name), path.name, fmt, str(url))


def save_object(
    obj: Any,
    url: str | os.PathLike[str],
    options: SaveOptions,
    store_options: Mapping[str, Any] | None = None,
) -> SaveResult:
    """Save an array, a list, a tuple or a (nested) dict."""
    names, leaves, structure = flatten(obj)
    return save_leaves(names, leaves, structure, resolve_target(url, options.format, store_options), options)


def save_leaves(
    names: list[str],
    leaves: Sequence[Any],
    structure: Any,
    target: Target,
    options: SaveOptions,
    *,
    verify: bool = True,
) -> SaveResult:
    """Save arrays, and tensors of open files (``Row``, ``TensorView``), which stream from there.

    ``verify``: compare the checksums of the latter.
    """
    arrays: list[Array | Row] = list(leaves)
    if not all_arrays(arrays):
        arrays = [_leaf(leaf, name, verify) for name, leaf in zip(names, leaves, strict=True)]
    job = _job(names, arrays)
    rows = {} if all_arrays(arrays) else {i: a for i, a in enumerate(arrays) if type(a) is Row}
    if options.dtype is not None:
        convert(job, options.dtype)
    raw = _encode(job, target.format, options, rows)
    with Intake(scratch_directory(target.store), verify=verify) as intake:
        intake.fill(job, rows, raw)
        return publish(job, target, structure, options, shared=_shared(names, arrays))


def all_arrays(leaves: Sequence[Any]) -> TypeGuard[list[Array]]:
    """Whether all are NumPy arrays, and of no subclass."""
    return set(map(type, leaves)) <= {np.ndarray}


def _leaf(leaf: Any, name: str, verify: bool) -> Array | Row:
    """What is to be stored under ``name``; strings of open files are read, as they have no fixed size."""
    row = leaf.row if isinstance(leaf, TensorView) else leaf
    if not isinstance(row, Row):
        return as_array(leaf, name)
    if row.dtype == STRING:
        return read_arrays(row.source, np.array([row.number], np.uint32), {}, verify=verify)[0]
    return row


# --- specs ----------------------------------------------------------------------------------------
def _job(names: list[str], arrays: Sequence[Array | Row]) -> Job:
    found, index, sizes, shapes = _describe(arrays)
    kinds = [d if isinstance(d, DType) else STRING if d == np.dtype(object) else from_numpy(d) for d in found]
    swapped = [isinstance(d, np.dtype) and not d.isnative and kinds[k].core for k, d in enumerate(found)]
    numbers = index.tolist()
    specs = TensorSpecs(names, list(map(kinds.__getitem__, numbers)), shapes, sizes)
    job = Job(specs, list(arrays))
    if STRING in kinds:
        specs.strings = frozenset(i for i, k in enumerate(numbers) if kinds[k] is STRING)
    for i in specs.strings:
        check_strings(job.sources[i], names[i])
        job.sources[i] = encode_strings(job.sources[i])
        sizes[i] = len(job.sources[i])
    for i in np.flatnonzero(np.array(swapped, bool)[index]).tolist() if any(swapped) else ():
        dtype = specs.dtypes[i]
        job.prefix[i] = (Byteswap(dtype.word, dtype.bits // 8),)
    return job


def _describe(arrays: Sequence[Array | Row]) -> tuple[Sequence[np.dtype[Any] | DType], U32, U64, list[tuple[int, ...]]]:
    """The distinct dtypes, and of each array the number of its dtype, its bytes and its shape."""
    if all_arrays(arrays):
        return _core.describe_arrays(arrays)  # one look at each, of a hundred thousand
    numbers: dict[Any, int] = {}
    index = np.array([numbers.setdefault(a.dtype, len(numbers)) for a in arrays], np.uint32)
    sizes = np.array([a.nbytes for a in arrays], np.uint64)
    return list(numbers), index, sizes, [a.shape for a in arrays]


def convert(job: Job, dtype: DTypes) -> None:
    """Let rows be stored as another type, as ``dtype=`` asks."""
    choose, specs = dtype_chooser(dtype), job.specs
    for i, have in enumerate(specs.dtypes):
        want = choose(specs.names[i], have)
        if want is not None and want != have:
            if not _core.can_cast(have.name, want.name):
                raise UnsupportedFeatureError(f"there is no conversion from {have} to {want}", tensor=specs.names[i])
            job.prefix[i] = (*job.prefix.get(i, ()), Cast(have.name, want.name))
            specs.dtypes[i] = want
            specs.nbytes[i] = byte_size(want, specs.shapes[i])


def _encode(job: Job, fmt: Format, options: SaveOptions, rows: Mapping[int, Row]) -> set[int]:
    """The format settles how tensors are stored; ranges of quantised ones are found here.

    Returns:
        The rows of open files whose stored bytes are taken as they are, because the format has the same encoding.
    """
    specs = job.specs
    kept = _keep(specs, fmt, rows) if isinstance(fmt, KeepsEncodings) else {}
    affine = fmt.encode(specs, options.quantize)
    for i, stored in affine.items():
        if i in rows:
            bounds = value_bounds(rows[i].source, rows[i].number, DTYPES["float32"])
        else:
            bounds = _bounds(job.sources[i], job.prefix.get(i, ()))
        set_affine(specs, i, DTYPES[stored], bounds)
    return {i for i, encoding in kept.items() if specs.encodings.get(i) is encoding}


def _keep(specs: TensorSpecs, fmt: Any, rows: Mapping[int, Row]) -> dict[int, Encoding]:
    """Give rows of the format's own files the encoding that they have there, unless they are converted."""
    kept: dict[int, Encoding] = {}
    for i, row in rows.items():
        entry = row.entry
        if row.source.format.name == fmt.name and specs.dtypes[i] == entry.dtype:
            encoding = fmt.keep(entry)
            if encoding is not None:
                specs.encodings[i] = kept[i] = encoding
                specs.nbytes[i] = byte_size(encoding.stored, entry.shape)
    return kept


def _bounds(array: Array, steps: tuple[Step, ...]) -> tuple[float, float] | None:
    """Smallest and largest value of what ``steps`` make of an array."""
    array = np.ascontiguousarray(array)
    if steps:
        values = np.empty(array.shape, np.float32)
        _core.run_pipeline(core_steps(steps), array, values)
        array = values
    return _core.min_max(array) if array.size else None


def set_affine(specs: TensorSpecs, i: int, stored: DType, bounds: tuple[float, float] | None) -> None:
    """Quantise row ``i`` over the range of its values; an empty row stays as it is."""
    if bounds is None:
        return
    if not np.isfinite(bounds).all():
        raise UnsupportedFeatureError(
            f"the values run from {bounds[0]} to {bounds[1]}: NaN and infinities cannot be quantised to {stored}",
            tensor=specs.names[i],
        )
    scale, low, high = _core.choose_affine(*bounds, (1 << stored.bits) - 1)
    step = AffineEncode(stored.name, scale, low, high)
    specs.encodings[i] = Encoding(stored, (step,), stored.name, scale, low)
    specs.nbytes[i] = byte_size(stored, specs.shapes[i])


def stored_parts(job: Job, row: int) -> Iterator[Array]:
    """The stored bytes of a row, in order, in contiguous arrays; each is valid until the next."""
    encoding = job.specs.encodings.get(row)
    steps = (*job.prefix.get(row, ()), *(encoding.steps if encoding else ()))
    if row in job.segments:
        yield from segment_parts(job.readers, job.segments[row], steps)
        return
    source = job.sources[row]
    array = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.ascontiguousarray(source)
    if steps:
        result = np.empty(int(job.specs.nbytes[row]), np.uint8)
        _core.run_pipeline(core_steps(steps), array, result)
        array = result
    yield array.reshape(-1).view(np.uint8)


def _shared(names: Sequence[str], arrays: Sequence[Array | Row]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that are one and the same memory."""
    index = range(len(arrays)) if all_arrays(arrays) else [i for i, a in enumerate(arrays) if not isinstance(a, Row)]
    held: list[Any] = [arrays[i] for i in index]
    return tuple(tuple(names[index[k]] for k in group) for group in _core.shared_memory(held))


# --- writing --------------------------------------------------------------------------------------
def publish(
    job: Job, target: Target, structure: Any, options: SaveOptions, *, shared: tuple[tuple[str, ...], ...] = ()
) -> SaveResult:
    """Pack, write and publish."""
    packing = target.format.pack(
        job.specs,
        target.name,
        PackOptions(
            options.shard_size, options.compression, options.metadata, structure, options.checksums, options.extra
        ),
    )
    try:
        return _Publication(job, packing, target, structure, options).run(shared)
    except WeightliftError as error:
        raise error.locate(path=target.path) from None


class _Publication:
    """One save on its way to its names; see the protocol above."""

    def __init__(self, job: Job, packing: Packing, target: Target, structure: Any, options: SaveOptions) -> None:
        self.job, self.packing, self.target, self.options = job, packing, target, options
        self.fmt, self.name, self.structure = target.format, target.name, structure
        self.store: Any = target.store
        if packing.manifest is not None and isinstance(self.store, LocalStore):
            self.store = self.store.trusting(packing.manifest.name)
        self.actual: dict[str, str] = {f.name: self._free_name(f.name) for f in packing.files}

    def _free_name(self, planned: str) -> str:
        """The planned name, or a new one when a manifest names files and this one is taken."""
        if self.packing.manifest is None or not self.store.exists(planned):
            return planned
        return marked(planned)

    def run(self, shared: tuple[tuple[str, ...], ...]) -> SaveResult:
        writers: list[Any] = []
        durable = self.options.durable
        try:
            for file in self.packing.files:
                writers.append(self.store.create(self.actual[file.name], file.nbytes, durable=durable))
            compressed = self.packing.compressed
            checksums = self._write_compressed(writers[0]) if compressed else self._write(writers)
            patched = [list(f.literals) for f in self.packing.files]
            for number, patches in self.fmt.seal(self.packing, checksums).items():
                for offset, data in patches:
                    writers[number].write_at(offset, data)
                patched[number] += patches
            superseded = self._superseded()
            total = self._publish(writers, checksums, patched)
        except BaseException:
            for writer in writers:
                writer.abort()
            raise
        names = [self.packing.manifest.name] if self.packing.manifest else []
        names += [self.actual[f.name] for f in self.packing.files]
        if superseded is not None:
            superseded.remove(names, [f.name for f in self.packing.files])
        specs = self.job.specs
        crc = NamedSums(specs.names, checksums.crc32c) if self.options.checksums else {}
        files = tuple(dict.fromkeys(self.store.path(n) for n in names))
        return SaveResult(self.target.url, self.fmt.name, files, total, len(specs), crc, shared)

    def _superseded(self) -> Superseded | None:
        if not isinstance(self.store, LocalStore):
            return None
        manifest = self.packing.manifest.name if self.packing.manifest else None
        return Superseded(self.store, self.fmt, self.name, manifest=manifest)

    def _write(self, writers: list[Any]) -> Checksums:
        """Literals and payload through the core, hashed in the same pass."""
        job, specs = self.job, self.job.specs
        pipelines, ops = Pipelines(), WriteOps(self.packing, job.sources)
        for i in {*job.prefix, *specs.encodings}:
            encoding = specs.encodings.get(i)
            steps = (*job.prefix.get(i, ()), *(encoding.steps if encoding else ()))
            ops.pipeline[i] = pipelines.add(steps)
            if steps and i in job.segments:
                ops.ratio[i] = (item_sizes(steps[0])[0], item_sizes(steps[-1])[1])
        for i, segments in job.segments.items():
            ops.add_segments(i, segments)
        ops.add_literals(self.packing.files)
        crc32c, crc32 = _core.execute_write(
            writers,
            job.readers,
            ops.sources,
            **ops.columns()._asdict(),
            pipelines=pipelines.columns,
            tensors=len(specs),
            crc32c=self.options.checksums,
            crc32=self.packing.crc32,
            names=specs.names,
            progress=self.options.progress,
            **job.checks,
        )
        return Checksums(crc32c, crc32)

    def _publish(self, writers: list[Any], checksums: Checksums, patched: list[list[tuple[int, bytes]]]) -> int:
        total = sum(f.nbytes for f in self.packing.files)
        if self.packing.manifest is not None:
            return total + self._publish_set(writers, checksums)
        old = _sidecar.existing_records(self.store, self.name) if self.packing.sidecar else []
        record = self._record(checksums, patched[0]) if self.packing.sidecar else None
        if record is not None:
            self._put(self.name + _sidecar.SUFFIX, _sidecar.dump([record, *old]))
        writers[0].commit()
        if record is not None:
            self._put(self.name + _sidecar.SUFFIX, _sidecar.dump([record]))
        elif self.packing.sidecar and self.store.exists(self.name + _sidecar.SUFFIX):
            self.store.delete(self.name + _sidecar.SUFFIX)
        return total

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
        )

    def _publish_set(self, writers: list[Any], checksums: Checksums) -> int:
        if isinstance(self.store, CommitsTogether):
            self.store.commit_all(writers)
        else:
            for writer in writers:
                writer.commit()
        assert self.packing.manifest is not None
        name = self.packing.manifest.name
        manifest = self.fmt.manifest(self.packing, checksums, self.actual)
        self._put(name, manifest)
        moved = {planned: actual for planned, actual in self.actual.items() if planned != actual}
        if moved and all(self.store.alias(actual, planned) for planned, actual in moved.items()):
            if self.options.durable:
                self.store.sync()
            self.actual = {f.name: f.name for f in self.packing.files}
            manifest = self.fmt.manifest(self.packing, checksums, self.actual)
            self._put(name, manifest)
            for actual in moved.values():
                self.store.delete(actual)
        return len(manifest)

    def _put(self, name: str, data: bytes) -> None:
        """One small file, whole."""
        writer = self.store.create(name, len(data), durable=self.options.durable)
        try:
            writer.write_at(0, data)
            writer.commit()
        except BaseException:
            writer.abort()
            raise

    def _write_compressed(self, writer: Any) -> Checksums:
        """The format writes the file itself, in order, from the tensors' stored bytes."""
        at = 0

        def sink(data: bytes) -> None:
            nonlocal at
            writer.write_at(at, data)
            at += len(data)

        progress, specs = self.options.progress, self.job.specs
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
