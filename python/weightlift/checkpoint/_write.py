"""The files of one step: new shards, links to those of the step before, the index, the manifest.

What is linked, and what is written, see ``_unchanged``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._checksum import crc32c
from weightlift._dtypes import from_numpy
from weightlift._job import SaveOptions, Target
from weightlift._packing import Checksums
from weightlift._plan import OpenFiles
from weightlift._save import describe, save_leaves
from weightlift.checkpoint._compress import BATCH, compressed
from weightlift.checkpoint._folders import Folder
from weightlift.checkpoint._manifest import INDEX, Manifest, StoredFile, StoredTensor, encoded_of
from weightlift.checkpoint._parts import Part, State, pieces_of
from weightlift.checkpoint._unchanged import Previous, checksums_of, copied_late, grouped, head_of, link_unchanged
from weightlift.errors import MismatchError
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.formats._safetensors_encoded import Encoded
from weightlift.formats._safetensors_file import File
from weightlift.formats._safetensors_index import INDEX_SUFFIX

__all__ = ["Step", "Writing", "Written", "check_storable", "finish_step", "write_shards"]

Array = npt.NDArray[Any]
_PLAIN_SHARD = 1 << 30
"""Bytes of a shard where nothing is ever linked."""

_BATCH_SECONDS = 0.25
"""How much is written at a time under a limit of bandwidth."""


@dataclass(frozen=True)
class Step:
    """What is to be written: the part of this process of ``state``, and what is said of the whole."""

    number: int
    state: State
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Writing:
    """How shards are written.

    Attributes:
        incremental: Cut shards small, and note the checksums by which the next save tells what has changed.
        bandwidth: Bytes a second, at most.
        progress: Called with (bytes done, bytes in all).
        label: Part of the names of the shards: which process writes them, where several do.
        level: Of zstd, by which arrays are compressed; None: they are stored as they are.
    """

    incremental: bool
    bandwidth: float | None
    progress: Callable[[int, int], object]
    label: str = ""
    level: int | None = None


@dataclass(frozen=True)
class Written:
    """Shards of a step that one process has written or linked.

    Attributes:
        files: By name.
        sums: What each shard's header has as its checksums; None: nothing.
        tensors: What is stored in them, by name, in the order of the state.
        parts: Of these, what are pieces.
        nbytes: Bytes of the files that were written.
    """

    files: Mapping[str, StoredFile]
    sums: Mapping[str, str | None]
    tensors: Mapping[str, StoredTensor]
    parts: Mapping[str, Part]
    nbytes: int


def check_storable(state: State) -> None:
    """Refuse what no shard can hold, before anything is copied; UnsupportedFeatureError names the tensors."""
    SAFETENSORS.encode(describe(list(state.names), state.arrays, SAFETENSORS).specs, None)


def write_shards(folder: Folder, step: Step, previous: Previous | None, writing: Writing) -> Written:
    """Write or link the shards of a state into ``folder``, durably.

    Args:
        folder: Where; not yet seen by readers.
        step: The snapshot.
        previous: What may be linked; None: nothing.
        writing: How.
    """
    state = step.state
    sums = checksums_of(state) if writing.incremental or writing.level is not None else None
    groups = grouped([a.nbytes for a in state.arrays], folder.shard if writing.incremental else _PLAIN_SHARD)
    linked: dict[str, File] = {}
    if previous is not None and sums is not None:
        linked, groups = link_unchanged(folder, state, sums, groups, previous)
    step = replace(step, state=copied_late(state, [i for group in groups for i in group]))
    taken = [] if previous is None else list(previous.manifest.files)
    names, packed = _write_groups(folder, step, groups, writing, taken)
    files, sizes = OpenFiles(folder.store), folder.sizes()
    files.prepare(names)
    heads = {**linked, **{name: head_of(files, name) for name in names}}
    stored = {n: previous.manifest.files[n] for n in linked} if previous is not None else {}
    stored |= {name: StoredFile(sizes[name], step.number) for name in names}
    parts = {n: part for n, part in zip(state.names, state.parts, strict=True) if part is not None}
    encoded = {} if sums is None else _encoded(state, packed, sums)
    if previous is not None:
        encoded |= {n: t.encoded for n, t in previous.manifest.tensors.items() if t.encoded and t.file in linked}
    return Written(
        stored, {name: head.checksum for name, head in heads.items()}, _tensors(state, heads, sums, encoded), parts,
        sum(stored[name].nbytes for name in names),
    )  # fmt: skip


def finish_step(
    folder: Folder, step: Step, written: Sequence[Written], *, world_size: int = 1, identity: str = ""
) -> tuple[Manifest, int]:
    """Write the index of shards that are there; the manifest, which makes them a step, and the bytes of the index.

    Args:
        folder: Where.
        step: ``state.structure`` is that of the whole.
        written: By each process.
        world_size: How many these are.
        identity: Of this save, by which the processes know it.
    """
    tensors: dict[str, StoredTensor] = {}
    for one in written:
        for name, tensor in one.tensors.items():
            if tensors.setdefault(name, tensor) is not tensor:
                raise MismatchError(
                    f"two processes have stored it, in {tensors[name].file} and {tensor.file}: of boxes that several "
                    "have one gives replica=0. States of meshes that do not tell of replicas are "
                    "saved by torch.distributed.checkpoint with weightlift.checkpoint.dcp",
                    tensor=name,
                )
    if len(written) > 1:
        tensors = _in_order(tensors, written, step.state.tensors)
    files = {name: file for one in written for name, file in one.files.items()}
    sums = {name: text for one in written for name, text in one.sums.items()}
    pieces = pieces_of(item for one in written for item in one.parts.items())
    index = SAFETENSORS.index_of(
        {name: tensor.file for name, tensor in tensors.items()}, sums, sum(t.nbytes for t in tensors.values()),
        step.state.structure, pieces, encoded_of(tensors),
    )  # fmt: skip
    manifest = Manifest(
        step.number, time.time(), crc32c(index), files, tensors, step.metrics, step.metadata, world_size, pieces,
        identity,
    )  # fmt: skip
    folder.put(INDEX, index)
    return manifest, len(index)


def _in_order(
    tensors: Mapping[str, StoredTensor], written: Sequence[Written], names: Sequence[str]
) -> dict[str, StoredTensor]:
    """What several processes have stored, in the order of the state, not of the processes."""
    places = {name: place for place, name in enumerate(names)}
    whole = {piece: part.tensor for one in written for piece, part in one.parts.items()}
    return dict(sorted(tensors.items(), key=lambda item: places.get(whole.get(item[0], item[0]), len(places))))


# --- what is written ------------------------------------------------------------------------------
def _write_groups(
    folder: Folder, step: Step, groups: Sequence[list[int]], writing: Writing, taken: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Write the shards of these groups; their names, and the rows that were compressed.

    ``taken``: names that links may have, of any process; some are of this step's number where it is overwritten.
    """
    arrays, bandwidth = step.state.arrays, writing.bandwidth
    sizes = [sum(arrays[i].nbytes for i in group) for group in groups]
    total, done, written = sum(sizes), 0, 0
    names: list[str] = []
    packed: list[int] = []
    begun = time.monotonic()
    stems = (f"data-{step.number:08d}-{writing.label}{number:04d}" for number in itertools.count())
    free = (stem for stem in stems if not any(name.startswith(stem) for name in taken))
    limits = [bandwidth * _BATCH_SECONDS] if bandwidth is not None else []
    limits += [BATCH] if writing.level is not None else []
    for batch, stem in zip(_batches(groups, sizes, min(limits, default=None)), free, strict=False):
        rows = [i for group in batch for i in group]
        small = {} if writing.level is None else compressed({i: arrays[i] for i in rows}, writing.level)
        packed += small
        nbytes = sum(arrays[i].nbytes for group in batch for i in group)

        def report(part: int, _: int, before: int = done, most: int = nbytes) -> None:
            writing.progress(before + min(part, most), total)  # headers are counted, too

        names += _write_batch(folder, step, batch, small, stem + INDEX_SUFFIX, report)
        done += nbytes
        written += sum(small.get(i, arrays[i]).nbytes for i in rows)
        writing.progress(done, total)
        if bandwidth is not None:
            time.sleep(max(0.0, begun + written / bandwidth - time.monotonic()))
    return names, packed


def _write_batch(
    folder: Folder,
    step: Step,
    batch: Sequence[list[int]],
    small: Mapping[int, Array],
    index: str,
    progress: Callable[[int, int], object],
) -> list[str]:
    """Write some shards, all at a time, with what is in ``small`` in the place of these rows; their names."""
    rows = [i for group in batch for i in group]
    starts = np.cumsum([0, *(len(group) for group in batch)])[:-1].tolist()
    names, arrays = [step.state.names[i] for i in rows], [small.get(i, step.state.arrays[i]) for i in rows]
    options = SaveOptions(shards=tuple(starts), progress=progress)
    result = save_leaves(names, arrays, None, Target(folder.store, index, SAFETENSORS, folder.url), options)
    folder.remove([index])  # the step has one of all its shards
    return [name for name in (PurePosixPath(path).name for path in result.files) if name != index]


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


def _encoded(state: State, rows: Sequence[int], sums: Checksums) -> dict[str, Encoded]:
    """What is said of the rows that were compressed."""
    return {
        state.names[i]: Encoded(
            from_numpy(state.arrays[i].dtype).name, state.arrays[i].shape, state.arrays[i].itemsize,
            int(sums.crc32c[i]), int(sums.crc32[i]),
        )
        for i in rows
    }  # fmt: skip


def _tensors(
    state: State, heads: Mapping[str, File], sums: Checksums | None, encoded: Mapping[str, Encoded]
) -> dict[str, StoredTensor]:
    """Where the arrays of a state lie, as the headers of the shards say, in the order of the state."""
    crc32 = {} if sums is None else dict(zip(state.names, sums.crc32.tolist(), strict=True))
    found: dict[str, StoredTensor] = {}
    for file, head in heads.items():
        table = head.table
        columns = (table.names, table.shapes, table.offset.tolist(), table.nbytes.tolist(), table.check_value.tolist())
        for row, (name, shape, offset, nbytes, value) in enumerate(zip(*columns, strict=True)):
            kind = table.dtype(row).name
            inside = encoded.get(name)  # it has the checksums of the values
            other = crc32.get(name) if inside is None else None
            found[name] = StoredTensor(kind, tuple(shape), file, offset, nbytes, value, other, inside)
    return {name: found[name] for name in state.names}
