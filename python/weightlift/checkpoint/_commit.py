"""A step from a snapshot to its commit: alone, as the first of many processes, or as one of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from weightlift.checkpoint._folders import Directory, identity_of
from weightlift.checkpoint._ranks import Ranks
from weightlift.checkpoint._reports import Report, check_agreement, merged_structure
from weightlift.checkpoint._unchanged import Previous
from weightlift.checkpoint._write import Step, Writing, finish_step, write_shards
from weightlift.errors import StorageError, WeightliftError

__all__ = ["save_step"]


def save_step(
    directory: Directory,
    ranks: Ranks,
    step: Step,
    previous: Previous | None,
    writing: Writing,
    others: Mapping[str, int],
) -> int:
    """Write a step and commit it; the bytes that this process has written.

    Args:
        directory: Where to.
        ranks: Which of the processes this is.
        step: The snapshot of its part.
        previous: What may be linked.
        writing: How.
        others: Checksums of what another process stores; see :class:`Report`.
    """
    if ranks.rank:
        return _follow(ranks, step, previous, writing, others)
    folder = directory.begin(step.number)
    try:
        ranks.open(folder)
        written = write_shards(folder, step, previous, writing)
        reports = ranks.gather(folder, Report(0, written, step.state.structure, step.state.tensors, others))
        if len(reports) > 1:
            check_agreement(reports)
            step = replace(step, state=replace(step.state, structure=merged_structure(reports)))
        manifest, nbytes = finish_step(
            folder, step, [report.written for report in reports], world_size=ranks.world_size,
            identity=identity_of(folder),
        )  # fmt: skip
        if directory.moves:
            ranks.close(folder)
        nbytes += directory.commit(folder, manifest)
        if not directory.moves:
            with contextlib.suppress(StorageError):  # it is committed
                ranks.close(folder)
        ranks.committed_as(manifest.identity)
    except BaseException as error:
        ranks.abandon(folder, error)
        raise
    return written.nbytes + nbytes


def _follow(ranks: Ranks, step: Step, previous: Previous | None, writing: Writing, others: Mapping[str, int]) -> int:
    """Write the part of a rank above 0, and wait for the commit."""
    tried: set[str] = set()
    while True:
        folder = ranks.find(step.number, tried)
        tried.add(folder.name)
        try:
            written = write_shards(folder, step, previous, writing)
            ranks.send(folder, Report(ranks.rank, written, step.state.structure, step.state.tensors, others))
        except (OSError, WeightliftError) as error:
            if not folder.exists():
                continue  # rank 0 was started anew
            ranks.send_error(folder, error)
            raise
        if ranks.committed(folder, step.number):
            return written.nbytes
