"""Many processes that write one step: they meet in its directory, and need nothing else to talk.

Rank 0 makes ``.writing-STEP-RANDOM`` and puts ``job.json`` into it. Every other rank looks for that, writes its shards
there, and then its report, ``rank-00001.json``. Once all reports are there rank 0 writes the index and the manifest,
and commits. The others see the step under its name, or why it was given up (``abandoned.json``), or nothing any more:
then rank 0 was started anew, and they write their part again, into the directory that it makes.

Each rank holds a lock of its own (``.lock``, ``.lock-00001`` ...), so that a process of a job that was thought dead
cannot take part in the next; and by which one sees that another has died.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from weightlift import _json
from weightlift.checkpoint._folders import JOB, Directory, Folder, identity_of
from weightlift.checkpoint._manifest import MAX_BYTES
from weightlift.checkpoint._reports import Report
from weightlift.errors import FormatError, StorageError

__all__ = ["Ranks"]

_ABANDONED, _STOP, _NEWEST = "abandoned.json", ".stop.json", ".newest.json"
_OURS = re.compile(r"job\.json|abandoned\.json|rank-\d{5}\.json")
_LIMIT = 1 << 20
_LOCK_EVERY = 1.0
T = TypeVar("T")


class Ranks:
    """One of the processes that write steps together.

    Args:
        directory: Of the steps; locked for this rank.
        rank: Which process, from 0.
        world_size: How many there are.
        timeout: Seconds to wait for the others.
    """

    def __init__(self, directory: Directory, rank: int, world_size: int, timeout: float) -> None:
        """See the class."""
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self._directory = directory
        directory.hidden += [_STOP, _NEWEST]
        self._seen: set[int] = set()
        self._writer: str | None = None
        self._looked = 0.0

    # --- rank 0 -----------------------------------------------------------------------------------
    def open(self, folder: Folder) -> None:
        """Tell the others that a step is being written."""
        if self.world_size > 1:
            self._put(folder, JOB, {"world_size": str(self.world_size), "writer": self._directory.token})

    def gather(self, folder: Folder, own: Report) -> list[Report]:
        """The reports of all ranks, in order; StorageError names those that do not come, or what went wrong there."""
        reports = {own.rank: own}

        def look() -> list[Report] | None:
            for rank in range(self.world_size):
                if rank not in reports and folder.has(_name(rank)):
                    reports[rank] = self._report(folder, rank)
                    self._seen.add(rank)
            return [reports[rank] for rank in range(self.world_size)] if len(reports) == self.world_size else None

        def late() -> str:
            missing = ", ".join(str(rank) for rank in range(self.world_size) if rank not in reports)
            return (
                f"{len(reports)} of {self.world_size} ranks have written their part, and after {self.timeout:g} s not "
                f"rank {missing}: nothing is committed. See what these ranks say; timeout= says how long to wait"
            )

        return self._wait(look, late, lambda: [r for r in range(self.world_size) if r not in reports], self.timeout)

    def close(self, folder: Folder) -> None:
        """Remove what the ranks have told each other: it is no part of the step."""
        if self.world_size > 1:
            folder.remove([name for name in folder.sizes() if _OURS.fullmatch(name)])

    def committed_as(self, identity: str) -> None:
        """Say that a save is committed: to those that look when the step is deleted again."""
        if self.world_size > 1:
            with contextlib.suppress(OSError, StorageError):  # it is committed whether this can be said or not
                self._put(self._directory.shared, _NEWEST, {"identity": identity})

    def abandon(self, folder: Folder, error: BaseException) -> None:
        """Tell the others that the step will not be; the directory is removed with the next one, or the next lock."""
        if self.world_size == 1:
            self._directory.abandon(folder)
            return
        self._directory.abandon_later(folder)
        with contextlib.suppress(OSError, StorageError):  # what has gone wrong is told here in any case
            self._put(folder, _ABANDONED, {"reason": str(error)[:2000]})

    def _report(self, folder: Folder, rank: int) -> Report:
        try:
            data = folder.read(_name(rank), MAX_BYTES)
            raw = _json.loads(data, what="the report", max_bytes=MAX_BYTES)
            if isinstance(raw, dict) and "error" in raw:
                raise StorageError(f"rank {rank} could not write its part: {str(raw['error'])[:2000]}", path=folder.url)
            return Report.from_json(data)
        except FormatError as broken:
            raise broken.locate(path=f"{folder.url}/{_name(rank)}") from None

    # --- the others -------------------------------------------------------------------------------
    def find(self, step: int, tried: set[str]) -> Folder:
        """The directory in which rank 0 has the step written; not one of those that were ``tried``."""

        def look() -> Folder | None:
            writer = self._directory.writer()
            if writer is not None:
                self._writer = writer
                self._seen.add(0)
            for folder in self._directory.writing(step):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if folder.name not in tried and self._is_open(folder, step):
                        return folder
            return None

        def late() -> str:
            return f"rank 0 has not begun to write step {step} within {self.timeout:g} s"

        folder = self._wait(look, late, lambda: [0], self.timeout, lambda: self._given_up(step))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self._directory.writer() == _object(folder, JOB)["writer"]:  # and not what a crash left
                self._seen.add(0)
        return folder

    def _given_up(self, step: int) -> str | None:
        """Why rank 0, which has ended, had given up a step."""
        for folder in self._directory.writing(step):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if _object(folder, JOB)["writer"] == self._writer:
                    return self._abandoned(folder)
        return None

    def _is_open(self, folder: Folder, step: int) -> bool:
        """Whether rank 0 waits there for this rank's part; StorageError when it is our rank 0, and does not."""
        job = _object(folder, JOB)
        reason = self._abandoned(folder)
        if reason is None and job["world_size"] == str(self.world_size):
            return True  # what a crash left, too: rank 0 removes that, which is noticed
        if job["writer"] != self._directory.writer():
            return False  # of a job that has ended
        if reason is not None:
            raise StorageError(f"rank 0 has given up step {step}: {reason}", path=folder.url)
        raise StorageError(
            f"rank {self.rank} was told that there are {self.world_size} processes, rank 0 that there are "
            f"{job['world_size']}",
            path=folder.url,
        )

    def send(self, folder: Folder, report: Report) -> None:
        """Say that this rank's part is on the disk."""
        folder.put(_name(self.rank), report.to_json(), durable=False)

    def send_error(self, folder: Folder, error: BaseException) -> None:
        """Say that this rank cannot write its part."""
        with contextlib.suppress(OSError, StorageError):  # then rank 0 sees that nothing comes
            self._put(folder, _name(self.rank), {"error": f"{type(error).__name__}: {error}"})

    def committed(self, folder: Folder, step: int) -> bool:
        """Wait for rank 0: True once the step is committed, False when its directory is gone.

        StorageError when rank 0 gives it up, has died, or says nothing for twice the time that it waits itself.
        """
        identity = identity_of(folder)

        def look() -> bool | None:
            reason = self._abandoned(folder)
            if reason is not None:
                raise StorageError(f"rank 0 has given up step {step}: {reason}", path=folder.url)
            became = self._directory.became(folder, step)
            if became is not False:
                return became
            with contextlib.suppress(FileNotFoundError):
                return _object(self._directory.shared, _NEWEST)["identity"] == identity
            return False

        def late() -> str:
            return f"rank 0 has not committed step {step} within {2 * self.timeout:g} s"

        return self._wait(look, late, lambda: [0], 2 * self.timeout)

    def wait_for(self, seen: Callable[[], bool], what: str) -> None:
        """Wait until rank 0 has done something that can be seen; StorageError when it does not."""
        self._wait(lambda: seen() or None, lambda: f"rank 0 has not {what} within {self.timeout:g} s", lambda: [0],
                   self.timeout)  # fmt: skip

    def _abandoned(self, folder: Folder) -> str | None:
        try:
            return _object(folder, _ABANDONED)["reason"]
        except (FileNotFoundError, NotADirectoryError):
            return None

    # --- when all are to stop ---------------------------------------------------------------------
    def ask_to_stop(self, steps: int) -> None:
        """Say after how many steps all ranks are to stop; the first that says it is heard, once rank 0 is there."""
        writer = self._directory.writer()
        if writer is not None and self.stop_at() is None:
            self._directory.shared.put_new(_STOP, _text({"writer": writer, "steps": str(steps)}))

    def stop_at(self) -> int | None:
        """After how many steps a rank has said that all are to stop; None: nobody has."""
        try:
            said = _object(self._directory.shared, _STOP)
        except FileNotFoundError:
            return None
        ours = said["writer"] and said["writer"] == self._directory.writer()
        return int(said["steps"]) if ours and said["steps"].isdecimal() else None

    # --- both -------------------------------------------------------------------------------------
    def _wait(
        self,
        look: Callable[[], T | None],
        late: Callable[[], str],
        awaited: Callable[[], list[int]],
        seconds: float,
        reason: Callable[[], str | None] = lambda: None,
    ) -> T:
        """What ``look`` finds; StorageError with the message of ``late`` after ``seconds``, or when one has died.

        ``reason``: what that one had said before, if it had.
        """
        pause, seldom = self._directory.pauses
        end = time.monotonic() + seconds
        while True:
            found = look()
            if found is not None:
                return found
            now = time.monotonic()
            if now >= end:
                raise StorageError(late(), path=self._directory.url)
            dead = self._dead(awaited(), now)
            if dead is not None and look() is None:
                said = reason()
                raise StorageError(
                    f"rank {dead} has ended or died in the middle of a save: {said or 'nothing is committed'}",
                    path=self._directory.url,
                )
            time.sleep(min(pause, end - now))
            pause = min(seldom, pause * 1.5)

    def _dead(self, ranks: list[int], now: float) -> int | None:
        """One of these ranks that had its lock before, and has it no longer."""
        if now - self._looked < _LOCK_EVERY:
            return None
        self._looked = now
        for rank in ranks:
            lost = self._directory.lost(rank)
            if lost is False:
                self._seen.add(rank)
            elif lost and rank in self._seen:
                self._seen.discard(rank)
                return rank
        return None

    @staticmethod
    def _put(folder: Folder, name: str, document: dict[str, str]) -> None:
        folder.put(name, _text(document), durable=False)


def _text(document: dict[str, str]) -> bytes:
    return json.dumps(document).encode()


def _name(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def _object(folder: Folder, name: str) -> dict[str, str]:
    """A small file of JSON: text by key, "" for keys that it has not; FormatError for anything but an object."""
    raw = _json.loads(folder.read(name, _LIMIT), what="what the ranks tell each other", max_bytes=_LIMIT)
    if not isinstance(raw, dict):
        raise FormatError("not an object", path=f"{folder.url}/{name}")
    return defaultdict(str, {key: str(value)[:2000] for key, value in raw.items()})
