"""The files of one step: new shards, links to those of the step before, the index, the manifest.

Shards are cut so that what changes at different times lies apart: a tensor of ``SHARD`` bytes or more is a file of its
own, smaller ones share files of up to that size, in the order of the state. A shard whose tensors are all as they were
is linked. A linked file never holds a tensor that the step has in another file: readers that go by files, as some of
safetensors' do, would take the old values.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._checksum import crc32c
from weightlift._job import SaveOptions, Target
from weightlift._packing import Checksums, PackOptions
from weightlift._plan import OpenFiles
from weightlift._publish import Publication, put_file
from weightlift._save import describe, save_leaves
from weightlift._source import open_source
from weightlift.checkpoint._manifest import INDEX, MANIFEST, Manifest, StoredFile, StoredTensor
from weightlift.checkpoint._state import State
from weightlift.errors import WeightliftError
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.formats._safetensors_index import INDEX_SUFFIX
from weightlift.stores._local import LocalStore

__all__ = ["Previous", "Step", "check_storable", "write_step"]

Array = npt.NDArray[Any]
SHARD = 16 << 20
"""Bytes: what is written anew, at most, because a small tensor beside it changed."""

_PLAIN_SHARD = 1 << 30
"""Bytes of a shard where nothing is ever linked."""

_MOST_SHARDS = 2000

_BATCH_SECONDS = 0.25
"""How much is written at a time under a limit of bandwidth."""


@dataclass(frozen=True)
class Step:
    """What is to be written."""

    number: int
    state: State
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Previous:
    """The last committed step, whose shards may be linked."""

    folder: Path
    manifest: Manifest


def check_storable(state: State) -> None:
    """Refuse what no shard can hold, before anything is copied; UnsupportedFeatureError names the tensors."""
    SAFETENSORS.encode(describe(list(state.names), state.arrays, SAFETENSORS).specs, None)


def write_step(
    folder: Path,
    step: Step,
    previous: Previous | None,
    *,
    incremental: bool,
    bandwidth: float | None,
    progress: Callable[[int, int], object],
) -> tuple[Manifest, int]:
    """Write all files of a step into ``folder``, durably, the manifest last; it, and the bytes written.

    Args:
        folder: Where; not yet seen by readers.
        step: The snapshot.
        previous: What may be linked; None: nothing.
        incremental: Cut shards small, and note the checksums by which the next save tells what has changed.
        bandwidth: Bytes a second, at most.
        progress: Called with (bytes done, bytes in all).
    """
    state = step.state
    sums = checksums_of(state) if incremental else None
    groups = _grouped([a.nbytes for a in state.arrays], SHARD if incremental else _PLAIN_SHARD)
    linked: dict[str, StoredFile] = {}
    if previous is not None and sums is not None:
        linked, groups = _link(folder, state, sums, groups, previous)
    written = _write_shards(folder, step, groups, bandwidth, progress)
    store = LocalStore(folder, INDEX)
    index = SAFETENSORS.index_of(OpenFiles(store), sorted({*linked, *written}), state.names, state.structure)
    put_file(store, INDEX, index, durable=True)
    manifest = _manifest(folder, step, crc32c(index), sums, linked)
    text = manifest.to_json()
    put_file(store, MANIFEST, text, durable=True)
    return manifest, len(index) + len(text) + sum((folder / name).stat().st_size for name in written)


def checksums_of(state: State) -> Checksums:
    """CRC-32C and CRC-32 of each tensor's bytes, in parallel."""
    job = describe(list(state.names), state.arrays, SAFETENSORS)
    packing = SAFETENSORS.pack(job.specs, "x.safetensors", PackOptions())
    packing.crc32 = True
    target = Target(LocalStore("."), "x.safetensors", SAFETENSORS, "x.safetensors")
    return Publication(job, packing, target, None, SaveOptions()).write(job, [_core.null_writer("x")])


def _grouped(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The numbers of the tensors of each shard."""
    most = max(most, sum(sizes) // _MOST_SHARDS)
    groups: list[list[int]] = []
    small: list[int] = []
    room = 0
    for number, nbytes in enumerate(sizes):
        if nbytes >= most:
            groups.append([number])
        elif small and nbytes <= room:
            small.append(number)
            room -= nbytes
        else:
            small, room = [number], most - nbytes
            groups.append(small)
    return groups


def _link(
    folder: Path, state: State, sums: Checksums, groups: Sequence[list[int]], previous: Previous
) -> tuple[dict[str, StoredFile], list[list[int]]]:
    """Link the shards whose tensors are as they were; these, and the groups that are to be written."""
    held: dict[str, list[str]] = {}
    for name, tensor in previous.manifest.tensors.items():
        held.setdefault(tensor.file, []).append(name)
    now = dict(zip(state.names, _described(state, sums), strict=True))
    linked: dict[str, StoredFile] = {}
    left = []
    for group in groups:
        names = [state.names[i] for i in group]
        old = previous.manifest.tensors.get(names[0])
        same = (
            old is not None
            and sorted(held[old.file]) == sorted(names)
            and all(now[n].same_values(previous.manifest.tensors[n]) for n in names)
        )
        if (
            same
            and old is not None
            and _whole(previous, old.file, names)
            and _linked(previous.folder, folder, old.file)
        ):
            linked[old.file] = previous.manifest.files[old.file]
        else:
            left.append(group)
    return linked, left


def _whole(previous: Previous, file: str, names: Sequence[str]) -> bool:
    """Whether a shard has the header and the size that it was written with; its values are not read."""
    try:
        table = open_source(previous.folder / file).table
    except WeightliftError:
        return False
    wanted = {name: previous.manifest.tensors[name].crc32c for name in names}
    return dict(zip(table.names, table.check_value.tolist(), strict=True)) == wanted


def _linked(source: Path, target: Path, file: str) -> bool:
    """False where the file system has no links, or the file has as many as it may."""
    try:
        os.link(source / file, target / file, follow_symlinks=False)
    except OSError:
        return False
    return True


def _described(state: State, sums: Checksums) -> list[StoredTensor]:
    """What a manifest says of each tensor, but for its place."""
    specs = describe(list(state.names), state.arrays, SAFETENSORS).specs
    columns = (specs.dtypes, specs.shapes, specs.nbytes.tolist(), sums.crc32c.tolist(), sums.crc32.tolist())
    return [StoredTensor(d.name, tuple(n), "", 0, nbytes, a, b) for d, n, nbytes, a, b in zip(*columns, strict=True)]


def _write_shards(
    folder: Path,
    step: Step,
    groups: Sequence[list[int]],
    bandwidth: float | None,
    progress: Callable[[int, int], object],
) -> list[str]:
    """Write the shards of these groups; their names."""
    arrays = step.state.arrays
    sizes = [sum(arrays[i].nbytes for i in group) for group in groups]
    total, done, names = sum(sizes), 0, []
    begun = time.monotonic()
    for number, batch in enumerate(_batches(groups, sizes, None if bandwidth is None else bandwidth * _BATCH_SECONDS)):
        nbytes = sum(arrays[i].nbytes for group in batch for i in group)

        def report(part: int, _: int, before: int = done, most: int = nbytes) -> None:
            progress(before + min(part, most), total)  # headers are counted, too

        names += _write_batch(folder, step, batch, f"data-{step.number:08d}-{number:04d}{INDEX_SUFFIX}", report)
        done += nbytes
        progress(done, total)
        if bandwidth is not None:
            time.sleep(max(0.0, begun + done / bandwidth - time.monotonic()))
    return names


def _write_batch(
    folder: Path, step: Step, batch: Sequence[list[int]], index: str, progress: Callable[[int, int], object]
) -> list[str]:
    """Write some shards, all at a time; their names."""
    rows = [i for group in batch for i in group]
    starts = np.cumsum([0, *(len(group) for group in batch)])[:-1].tolist()
    names, arrays = [step.state.names[i] for i in rows], [step.state.arrays[i] for i in rows]
    options = SaveOptions(shards=tuple(starts), progress=progress)
    result = save_leaves(names, arrays, None, Target(LocalStore(folder), index, SAFETENSORS, str(folder)), options)
    (folder / index).unlink()  # the step has one of all its shards
    return [name for name in (Path(path).name for path in result.files) if name != index]


def _batches(groups: Sequence[list[int]], sizes: Sequence[int], most: float | None) -> list[list[list[int]]]:
    """Groups that are written at a time: all of them, or so many bytes."""
    if most is None:
        return [list(groups)] if groups else []
    batches: list[list[list[int]]] = []
    room = 0.0
    for group, nbytes in zip(groups, sizes, strict=True):
        if not batches or nbytes > room:
            batches.append([])
            room = most
        batches[-1].append(group)
        room -= nbytes
    return batches


def _manifest(
    folder: Path, step: Step, index_crc32c: int, sums: Checksums | None, linked: Mapping[str, StoredFile]
) -> Manifest:
    """What lies in the folder, as it is read there."""
    source = open_source(folder / INDEX)
    table, files = source.table, source.layout.sources
    crc32 = {} if sums is None else dict(zip(step.state.names, sums.crc32.tolist(), strict=True))
    tensors = {}
    for row in range(len(table)):
        name = table.names[row]
        tensors[name] = StoredTensor(
            table.dtype(row).name, tuple(table.shapes[row]), files[int(table.source[row])], int(table.offset[row]),
            int(table.nbytes[row]), int(table.check_value[row]), crc32.get(name),
        )  # fmt: skip
    stored = {name: linked.get(name) or StoredFile((folder / name).stat().st_size, step.number) for name in files}
    return Manifest(
        step.number, time.time(), index_crc32c, stored, {n: tensors[n] for n in step.state.names}, step.metrics,
        step.metadata,
    )  # fmt: skip
