"""What of a state is as it was in the step before: it is linked, not written, and where that is likely not even copied.

Shards are cut so that what changes at different times lies apart: an array of ``Folder.shard`` bytes or more is a file
of its own, smaller ones share files of up to that size, in the order of the state. A shard whose arrays are all as
they were is linked. A linked file never holds an array that the step has in another file: readers that go by files, as
some of safetensors' do, would take the old values.

Whether an array is as it was, its checksums tell, of a copy, beside the training. But a shard that the last save has
linked holds what is frozen, most likely still. Its arrays are compared where they are, while the training waits, which
takes less time than a copy does; and only where they have changed are they copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._job import SaveOptions, Target
from weightlift._packing import Checksums, PackOptions
from weightlift._plan import OpenFiles
from weightlift._publish import Publication
from weightlift._save import describe
from weightlift.checkpoint._folders import Folder
from weightlift.checkpoint._manifest import Manifest, StoredTensor
from weightlift.checkpoint._parts import State
from weightlift.errors import StorageError, WeightliftError
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.formats._safetensors_file import File, read_file, read_head
from weightlift.stores._local import LocalStore

__all__ = ["Previous", "checksums_of", "copied_late", "grouped", "head_of", "link_unchanged", "still_stored"]

Array = npt.NDArray[Any]
_MOST_SHARDS = 2000
_WORTH_COMPARING = 1 << 20
"""Bytes of an array, in the mean of a shard, from which comparing stalls the training for less time than copying: for
each array something is done in Python (with 100,000 arrays of 4 KiB the stall is twice as long)."""


@dataclass(frozen=True)
class Previous:
    """The last committed step, whose shards may be linked."""

    folder: Folder
    manifest: Manifest

    def held(self) -> dict[str, list[str]]:
        """What is in each shard, sorted."""
        found: dict[str, list[str]] = {}
        for name, tensor in self.manifest.tensors.items():
            found.setdefault(tensor.file, []).append(name)
        return {file: sorted(names) for file, names in found.items()}


def grouped(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The rows of each shard."""
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


def checksums_of(state: State) -> Checksums:
    """CRC-32C and CRC-32 of each array's bytes, in parallel; of those that have been seen, what they were then."""
    rows = [i for i in range(len(state.names)) if i not in state.seen]
    taken = state if len(rows) == len(state.names) else state.take(rows)
    job = describe(list(taken.names), taken.arrays, SAFETENSORS)
    packing = SAFETENSORS.pack(job.specs, "x.safetensors", PackOptions())
    packing.crc32 = True
    target = Target(LocalStore("."), "x.safetensors", SAFETENSORS, "x.safetensors")
    sums = Publication(job, packing, target, None, SaveOptions()).write(job, [_core.null_writer("x")])
    if not state.seen:
        return sums
    both = np.zeros((len(state.names), 2), np.uint32)
    both[rows, 0], both[rows, 1] = sums.crc32c, sums.crc32
    for row, pair in state.seen.items():
        both[row] = pair
    return Checksums(both[:, 0], both[:, 1])


def _described(state: State, sums: Checksums) -> list[StoredTensor]:
    """What a manifest says of each array, but for its place."""
    specs = describe(list(state.names), state.arrays, SAFETENSORS).specs
    columns = (specs.dtypes, specs.shapes, specs.nbytes.tolist(), sums.crc32c.tolist(), sums.crc32.tolist())
    return [StoredTensor(d.name, tuple(n), "", 0, nbytes, a, b) for d, n, nbytes, a, b in zip(*columns, strict=True)]


# --- instead of a copy ----------------------------------------------------------------------------
def still_stored(state: State, previous: Previous) -> dict[int, tuple[int, int]]:
    """The rows whose values need no copy, as they are in shards of ``previous``; CRC-32C and CRC-32 of each.

    Only those are compared that the save of ``previous`` has found unchanged, too, and that are large.
    """
    manifest, sizes = previous.manifest, [a.nbytes for a in state.arrays]
    large = [
        group
        for group in grouped(sizes, previous.folder.shard)
        if sum(sizes[i] for i in group) >= _WORTH_COMPARING * len(group)
    ]
    held = previous.held() if large else {}
    candidates = []
    for group in large:
        names = [state.names[i] for i in group]
        old = manifest.tensors.get(names[0])
        if (
            old is not None
            and manifest.files[old.file].since < manifest.step
            and held[old.file] == sorted(names)
            and not any(state.lasting[i] for i in group)
        ):
            candidates.append(group)
    rows = [i for group in candidates for i in group]
    if not rows:
        return {}
    taken = state.take(rows)
    now = dict(zip(rows, _described(taken, checksums_of(taken)), strict=True))
    same = [g for g in candidates if all(now[i].same_values(manifest.tensors[state.names[i]]) for i in g)]
    return {i: (now[i].crc32c, now[i].crc32 or 0) for group in same for i in group}


def copied_late(state: State, rows: Iterable[int]) -> State:
    """``state`` with copies of those of these rows that have none, though their shards cannot be linked after all.

    Raises:
        StorageError: The training has changed one of them meanwhile.
    """
    late = [i for i in rows if i in state.seen]
    if not late:
        return state
    arrays = list(state.arrays)
    for i in late:
        arrays[i] = np.array(arrays[i], order="C")
    made = replace(state.with_arrays(arrays), seen={i: pair for i, pair in state.seen.items() if i not in late})
    sums = checksums_of(made.take(late))
    for i, *now in zip(late, sums.crc32c.tolist(), sums.crc32.tolist(), strict=True):
        if tuple(now) != state.seen[i]:
            raise StorageError(
                "it was as in the step before, whose shard cannot be linked, and the training has changed it since; "
                "save again",
                tensor=state.names[i],
            )
    return made


# --- instead of writing ---------------------------------------------------------------------------
def link_unchanged(
    folder: Folder, state: State, sums: Checksums, groups: Sequence[list[int]], previous: Previous
) -> tuple[dict[str, File], list[list[int]]]:
    """Link the shards whose arrays are as they were; these, and the groups that are to be written."""
    held = previous.held()
    now = dict(zip(state.names, _described(state, sums), strict=True))
    same: dict[str, list[int]] = {}
    for group in groups:
        names = [state.names[i] for i in group]
        old = previous.manifest.tensors.get(names[0])
        if (
            old is not None
            and held[old.file] == sorted(names)
            and all(now[n].same_values(previous.manifest.tensors[n]) for n in names)
        ):
            same[old.file] = group
    heads = _heads_of(previous, {file: [state.names[i] for i in group] for file, group in same.items()})
    taken = folder.take(previous.folder, list(heads))
    linked = {file: head for file, head in heads.items() if file in taken}
    gone = {id(same[file]) for file in linked}
    return linked, [group for group in groups if id(group) not in gone]


def _heads_of(previous: Previous, files: Mapping[str, Sequence[str]]) -> dict[str, File]:
    """The headers of those of these shards that are as they were written, but for their values, which are not read."""
    opened = OpenFiles(previous.folder.store)
    with contextlib.suppress(WeightliftError):  # told below, file by file
        opened.prepare(list(files))
    found = {file: _whole(previous, opened, file, names) for file, names in files.items()}
    return {file: head for file, head in found.items() if head is not None}


def _whole(previous: Previous, files: OpenFiles, file: str, names: Sequence[str]) -> File | None:
    """A shard's header, if it and the size are those that it was written with."""
    try:
        head = head_of(files, file)
    except WeightliftError:
        return None
    wanted = {name: previous.manifest.tensors[name].crc32c for name in names}
    same = dict(zip(head.table.names, head.table.check_value.tolist(), strict=True)) == wanted
    return head if same and head.checksum is not None and head.damaged is None else None


def head_of(files: OpenFiles, name: str) -> File:
    """What the header of a shard says."""
    reader = files.open(name)
    try:
        return read_file(reader, read_head(reader))
    except WeightliftError as error:
        raise error.locate(path=reader.name) from None
