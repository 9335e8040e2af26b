"""What ``Checkpointer.save`` returns: a save that goes on beside the training loop."""

from __future__ import annotations

import threading

__all__ = ["CheckpointFuture"]


class CheckpointFuture:
    """A save on its way to the disk.

    Attributes:
        step: The step that is saved.
        stall_seconds: How long the caller of ``save`` stood still.
        bytes_written: Bytes of the files that were written; less than the state where files were linked.
    """

    def __init__(self, step: int) -> None:
        """Made by the checkpointer."""
        self.step = step
        self.stall_seconds = 0.0
        self.bytes_written = 0
        self._progress = 0.0
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._told = False

    @property
    def progress(self) -> float:
        """From 0 to 1: how much of the data is written."""
        return self._progress

    def done(self) -> bool:
        """Whether the step is committed, or the save has failed."""
        return self._ended.is_set()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why the save failed, once it has ended; None: it did not. TimeoutError after ``timeout`` seconds."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"step {self.step} is not saved after {timeout} s")
        self._told = True
        return self._error

    def result(self, timeout: float | None = None) -> int:
        """Wait until the step is committed, and return it; or raise what made the save fail."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self.step

    # --- for the checkpointer ---------------------------------------------------------------------
    def report(self, done: int, total: int) -> None:
        """Note how far it is."""
        self._progress = done / total if total else 1.0

    def end(self, error: BaseException | None = None) -> None:
        """It has ended."""
        self._error = error
        self._progress = self._progress if error else 1.0
        self._ended.set()

    def settled(self) -> bool:
        """Whether it has ended, and there is no error that nobody has seen."""
        return self.done() and (self._error is None or self._told)

    def untold(self) -> BaseException | None:
        """An error that nobody has seen, which then is seen; None where there is none."""
        if not self.done() or self._told:
            return None
        self._told = True
        return self._error
