"""The checkpointer: snapshots in the caller's thread, writes in its own, and finds steps again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import numpy as np

from weightlift._load import check_only
from weightlift._source import Names, Source
from weightlift._verify import verify_source
from weightlift.checkpoint._commit import save_step
from weightlift.checkpoint._compress import Compression, level_of
from weightlift.checkpoint._directory import directory_at
from weightlift.checkpoint._future import CheckpointFuture
from weightlift.checkpoint._manifest import INDEX, Manifest
from weightlift.checkpoint._parts import State, cut, division
from weightlift.checkpoint._preemption import Preemption
from weightlift.checkpoint._ranks import Ranks
from weightlift.checkpoint._reports import others_sums
from weightlift.checkpoint._restore import Wanted, load_step, open_step
from weightlift.checkpoint._retain import Best, Retention, best_steps
from weightlift.checkpoint._snapshot import Staging
from weightlift.checkpoint._state import take_apart
from weightlift.checkpoint._unchanged import Previous, still_stored
from weightlift.checkpoint._write import Step, Writing, check_storable
from weightlift.errors import (
    FormatError,
    NotFoundError,
    StorageError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.types import VerifyReport

__all__ = ["Checkpointer"]

CHUNK = 64 << 20
"""Bytes: larger tensors are stored in pieces of up to that, so that of what has hardly changed little is written."""

Which = int | Literal["latest", "best"]


@dataclass(frozen=True)
class _Job:
    """What the writer's thread is given: a snapshot, and checksums of what others store."""

    step: Step
    others: Mapping[str, int]


class Checkpointer:
    """Saves training states into a directory, a step at a time, beside the training loop.

    A save copies the state into memory of its own and returns; a thread writes it. A step is committed whole, by one
    rename, once all of it is on the disk: whatever happens, every committed step is complete.

    Args:
        url: A directory, or ``file://`` URL of one; made by the first save. Or what begins the names of objects:
            ``s3://bucket/run``, ``gs://...``, ``az://...``. One checkpointer writes to it at a time.
        keep_last: Keep so many of the newest steps, and delete others once a newer one is committed; None: keep all.
        keep_every: Keep steps that are multiples of this, too.
        keep_best: Keep the best of a metric, too: ``("loss", 3)``, or ``("accuracy", 3, "max")``.
        max_in_flight: Saves that may be under way at once; beyond these ``save`` waits. Each takes memory for a state.
        incremental: Link the shards of tensors that have not changed since the step before, instead of writing them.
        compress: ``"zstd"``, or ``("zstd", level)``: store arrays compressed that become smaller by it, for less space
            and more of the processors' time; needs zstandard.
        bandwidth: Bytes a second to write at most; None: as fast as it goes.
        metadata: Put into each step's manifest; JSON.
        rank: Which this is of the processes that save together, each its part, into one directory; they meet there.
            Rank 0 commits and deletes. All call ``save`` with the same steps.
        world_size: How many processes these are.
        timeout: Seconds to wait for the others until a save fails.
        store_options: Of the URL, as :func:`weightlift.load` takes them.

    Raises:
        UnsupportedFeatureError: No checkpoints can be kept at such a URL, or zstandard is not installed.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> with wl.checkpoint.Checkpointer("run", keep_last=2) as checkpointer:
        ...     for step in range(1, 4):
        ...         _ = checkpointer.save(step, {"w": np.full(3, step), "lr": 0.1}, metrics={"loss": 1 / step})
        >>> checkpointer.steps()
        [2, 3]
        >>> checkpointer.restore()
        {'w': array([3, 3, 3]), 'lr': 0.1}
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        keep_last: int | None = 3,
        keep_every: int | None = None,
        keep_best: tuple[str, int] | tuple[str, int, str] | None = None,
        max_in_flight: int = 1,
        incremental: bool = True,
        compress: Compression = None,
        bandwidth: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        timeout: float = 600.0,
        store_options: Mapping[str, Any] | None = None,
    ) -> None:
        """See the class."""
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, of world_size {world_size}; it must be from 0 to {world_size - 1}")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; it must be positive")
        if bandwidth is not None and bandwidth <= 0:
            raise ValueError(f"bandwidth is {bandwidth}; it must be positive")
        self._retention = Retention(keep_last, keep_every, None if keep_best is None else Best(*keep_best))
        self._incremental, self._bandwidth, self._metadata = incremental, bandwidth, dict(metadata or {})
        self._level = level_of(compress)
        self._directory = directory_at(url, rank, store_options)
        self.ranks = Ranks(self._directory, rank, world_size, timeout)
        """How this process meets the others."""
        self._staging = Staging()
        self._writer = ThreadPoolExecutor(1, "weightlift-checkpoint")
        self._room = threading.BoundedSemaphore(max_in_flight)
        self._futures: list[CheckpointFuture] = []
        self._last: Previous | None = None  # what was committed last, here, unless it was deleted
        self._troubles: list[Exception] = []
        self._preemption: Preemption | None = None
        self._closed = False

    # --- saving -----------------------------------------------------------------------------------
    def save(
        self,
        step: int,
        state: Any,
        *,
        metrics: Mapping[str, float] | None = None,
        blocking: bool = False,
        overwrite: bool = False,
    ) -> CheckpointFuture:
        """Save a state; returns as soon as it is copied, and writes it beside the training loop.

        Args:
            step: Its number, at least 0.
            state: A (nested) dict, list or tuple of arrays, plain values, and objects with a state: models, optimizers,
                schedulers, generators of random numbers, whatever has ``state_dict`` or is registered
                (:func:`register_encoder`, :func:`weightlift.register_adapter`).
            metrics: Numbers to choose steps by.
            blocking: Return when the step is committed, and those that it supersedes are deleted.
            overwrite: Take the place of the newest step, if it has this number.

        Returns:
            How the save is going.

        Raises:
            UnsupportedFeatureError: Something in the state is neither a tensor nor a plain value; says where.
            StorageError: The step is there already, or a newer one (see :meth:`rewind`), or another checkpointer writes
                here.
            WeightliftError: What an earlier save failed of, where nobody has seen it yet.
        """
        begun = time.perf_counter()
        self._check_open()
        self._tell()
        if step < 0:
            raise ValueError(f"step is {step}; it must not be negative")
        self._directory.lock()
        self._check_number(step, overwrite=overwrite)
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        self._room.acquire()
        try:
            self._tell()  # of the save that was waited for
            parts = take_apart(state, self.ranks.rank, self._staging.fetched)
            check_storable(parts)
            others, copied = self._share(parts)
            del parts
            future = CheckpointFuture(step)
            # In a list, out of which the thread takes it: what is called holds its arguments until after the end.
            job = [_Job(Step(step, copied, numbers, self._metadata), others)]
            del copied
            self._writer.submit(self._persist, job, future)
        except BaseException:
            self._room.release()
            raise
        self._futures = [*self._in_flight(), future]
        future.stall_seconds = time.perf_counter() - begun
        if blocking:
            future.result()
            self.wait()
        if self._preemption is not None:
            self._preemption.saved(self)
        return future

    def wait(self) -> None:
        """Wait until nothing is under way, deletions either; raises what failed, where nobody has seen it yet."""
        if not self._closed:
            self._writer.submit(int).result()  # behind all that it has to do
        self._tell()

    def close(self) -> None:
        """Wait for what is under way, and let another checkpointer write here; errors as of ``wait``."""
        if self._closed:
            return
        self._closed = True
        self._writer.shutdown(wait=True)
        self._staging.close()
        self._directory.unlock()
        if self._preemption is not None:
            self._preemption.close()
        self._tell()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.close()
        except WeightliftError as ours:
            if error is None:
                raise
            warnings.warn(f"a save has failed, too: {ours}", stacklevel=2)  # what happened first goes on

    def on_preemption(self, state: Callable[[], tuple[int, Any]], *, signals: tuple[int, ...] | None = None) -> None:
        """Save and exit when the machine is about to be taken away (SIGTERM).

        The signal only sets a mark (``preempted``); the next call of ``step_done`` or ``save``, that is between two
        steps, saves what ``state`` gives, waits for it, and exits with the status that the signal would have had.

        Args:
            state: Gives (step, state), as :meth:`save` takes them.
            signals: Which; default SIGTERM. Handlers that were there are called, too.

        With many ranks all stop after the same step, whichever of them hears the signal, if each calls ``step_done``
        after every step, and none goes ahead of the others by more than one: where they exchange gradients none can.
        """
        if self.world_size > 1:
            self._directory.lock()
        self._preemption = Preemption(state, signals)

    @property
    def preempted(self) -> bool:
        """Whether a signal of :meth:`on_preemption` has come."""
        return self._preemption is not None and self._preemption.requested

    def step_done(self) -> None:
        """Say that a training step has ended: the moment to save and exit, if a signal has come."""
        if self._preemption is not None:
            self._preemption.step_done(self)

    @property
    def world_size(self) -> int:
        """How many processes save together."""
        return self.ranks.world_size

    # --- finding ----------------------------------------------------------------------------------
    def steps(self) -> list[int]:
        """The committed steps, in order."""
        return self._directory.steps()

    def latest(self) -> int | None:
        """The newest committed step."""
        steps = self.steps()
        return steps[-1] if steps else None

    def best(self, metric: str | None = None, mode: str = "min") -> int | None:
        """The committed step with the best metric; without ``metric`` that of ``keep_best``."""
        if metric is None:
            chosen = self._retention.best
            if chosen is None:
                raise ValueError("which metric? Say it here, or keep_best= where the checkpointer is made")
            metric, mode = chosen.metric, chosen.mode
        found = best_steps({s: m.metrics for s, m in self._manifests().items()}, metric, mode)
        return found[0] if found else None

    def manifest(self, step: Which = "latest") -> Manifest:
        """What a step consists of."""
        return self._directory.manifest(self._number(step))

    def restore(
        self,
        step: Which = "latest",
        *,
        into: Any = None,
        names: Names = None,
        strict: bool = True,
        fallback: bool = False,
        framework: str = "numpy",
        verify: bool = True,
    ) -> Any:
        """Load a committed step.

        Args:
            step: A number, ``"latest"`` or ``"best"``.
            into: The state to load into, as it was given to ``save``: models and arrays are filled where they are.
                Default: arrays are made.
            names: Load these tensors only: a glob or several.
            strict: With ``into``: MismatchError where names or shapes differ; False: take what fits, and give a report.
            fallback: Where the step is damaged take the newest one before it that is not, with a warning.
            framework: What arrays are made of, as in :func:`weightlift.load`.
            verify: Compare checksums.

        Returns:
            The state; with ``into`` that object, or a new one where it cannot change (tuples, numbers, JAX arrays).

        Raises:
            NotFoundError: There is no such step.
            FormatError, ChecksumError: It is damaged.
        """
        self._tell()
        wanted = self._number(step)
        older = [s for s in self.steps() if s < wanted] if fallback else []
        load = Wanted(into, names, strict, framework, verify, self.ranks.rank)
        while True:
            try:
                return load_step(self._open(wanted, whole=fallback), load)
            except (FormatError, StorageError) as error:
                if not older or isinstance(error, UnsupportedFeatureError):  # which is no damage
                    raise
                before = older.pop()
                warnings.warn(f"step {wanted} is damaged ({error}); step {before} is taken instead", stacklevel=2)
                wanted = before

    def verify(self, step: Which = "latest", *, progress: Callable[[int, int], object] | None = None) -> VerifyReport:
        """Read a step and compare every checksum; what is damaged is in the report."""
        number = self._number(step)
        index = f"{self._directory.folder(number).url}/{INDEX}"
        try:
            source = open_step(self._directory, number)
        except (FormatError, StorageError) as error:
            return VerifyReport(index, "safetensors", (), (str(error),))
        return verify_source(source, progress=progress)

    def delete(self, step: int) -> None:
        """Delete a committed step; others stay whole. Of many processes rank 0 does so, for all."""
        self._check_open()
        self._last = None
        if self.ranks.rank:
            return
        self._directory.lock()
        self._directory.delete(step)

    def rewind(self, step: int) -> list[int]:
        """Delete the steps after ``step``, to go on from there; which these were."""
        self._directory.folder(step)
        self.wait()
        gone = [newer for newer in self.steps() if newer > step]
        for newer in reversed(gone):
            self.delete(newer)
        if self.ranks.rank:
            self.ranks.wait_for(lambda: not set(gone) & set(self.steps()), f"deleted the steps after {step}")
        return gone

    def gc(self) -> list[str]:
        """Remove what crashes left, and the steps that are not to be kept; the names of what was removed.

        Of many processes rank 0 does so.
        """
        self._check_open()
        if self.ranks.rank:
            return []
        self._directory.lock()
        self.wait()
        return [*self._directory.collect(), *(f"step {step}" for step in self._retain())]

    # --- inside -----------------------------------------------------------------------------------
    def _check_number(self, step: int, *, overwrite: bool) -> None:
        """StorageError for a step that is there, or older than one that is: of two histories "latest" is one."""
        under_way = [f.step for f in self._in_flight()]  # first: what commits in between is among the committed ones
        newest = max([self._directory.newest(), *under_way])
        if step < newest:
            raise StorageError(
                f"step {step} is older than step {newest}, which is here: to go on from an older step delete the newer "
                "ones first, with rewind(), or use another directory",
                path=self._root,
            )
        if step == newest and not overwrite:
            raise StorageError(f"step {step} is saved already; overwrite=True replaces it", path=self._root)

    def _share(self, parts: State) -> tuple[dict[str, int], State]:
        """Checksums of what others store, too; and what this process stores, copied, where that is needed."""
        if self._incremental or self._level is not None:
            parts = cut(parts, CHUNK)
        mine = division(parts, self.ranks.rank, self.ranks.world_size)
        others = {} if len(mine) == len(parts.names) else others_sums(parts, mine)
        chosen = parts.take(mine)
        last = self._last
        seen = {} if last is None else still_stored(chosen, last)
        needless = [lasting or i in seen for i, lasting in enumerate(chosen.lasting)]
        arrays = self._staging.snapshot(chosen.arrays, needless)
        return others, replace(chosen, arrays=arrays, seen=seen)

    def _persist(self, job: list[_Job], future: CheckpointFuture) -> None:
        """On the writer's thread."""
        error: BaseException | None = None
        try:
            future.bytes_written = self._write(job.pop(), future)
        except BaseException as caught:
            self._last, error = None, caught  # the next save copies everything
        finally:
            self._room.release()
            future.end(error)
        if error is None:
            with contextlib.suppress(OSError, WeightliftError):  # it is found, or not, by the next save
                self._last = self._previous()
            if self.ranks.rank == 0:
                self._tidy()

    def _write(self, job: _Job, future: CheckpointFuture) -> int:
        """Write and commit a step; the bytes written."""
        label = f"r{self.ranks.rank:05d}-" if self.ranks.world_size > 1 else ""
        writing = Writing(self._incremental, self._bandwidth, future.report, label, self._level)
        return save_step(self._directory, self.ranks, job.step, self._previous(), writing, job.others)

    def _tidy(self) -> None:
        """Delete what is superseded, once the save has ended; what goes wrong is told as of a save."""
        try:
            self._retain()
        except (OSError, WeightliftError) as error:
            self._troubles.append(error)

    def _previous(self) -> Previous | None:
        """What a save may link to; a damaged step is no help."""
        for step in reversed(self.steps() if self._incremental else []):
            try:
                return Previous(self._directory.folder(step), self._directory.manifest(step))
            except (FormatError, StorageError):
                continue
        return None

    def _retain(self) -> list[int]:
        """Delete what is superseded; the steps."""
        gone = self._retention.superseded({s: m.metrics for s, m in self._manifests().items()})
        for step in gone:
            self._directory.delete(step)
        return gone

    def _manifests(self) -> dict[int, Manifest]:
        """Of all steps that have one; damaged ones are left alone."""
        found = {}
        for step in self.steps():
            try:
                found[step] = self._directory.manifest(step)
            except (FormatError, StorageError):
                continue
        return found

    def _number(self, step: Which) -> int:
        if step == "latest" or step == "best":
            found = self.latest() if step == "latest" else self.best()
            if found is None:
                missing = "there is no committed step" if step == "latest" else "no step has the metric"
                raise NotFoundError(missing, path=self._root)
            return found
        return int(step)

    def _open(self, step: int, *, whole: bool) -> Source:
        """A step; with ``whole``, and where others restore it, too, all of it is checked: all must find the same."""
        if self.ranks.world_size == 1:
            return open_step(self._directory, step)
        source = open_step(self._directory, step, mode="buffered")  # what all read comes from the disk once
        if whole:
            check_only(source, np.arange(len(source.table), dtype=np.uint32))
        return source

    @property
    def _root(self) -> str:
        return self._directory.url

    def _in_flight(self) -> list[CheckpointFuture]:
        """Saves that are under way, or have failed and nobody knows."""
        return [future for future in self._futures if not future.settled()]

    def _tell(self) -> None:
        for future in self._futures:
            error = future.untold()
            if error is not None:
                raise error
        if self._troubles:
            raise self._troubles.pop(0)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the checkpointer is closed")
