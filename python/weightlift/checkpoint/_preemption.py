"""Signals that say that the machine is about to be taken away.

A handler that saved by itself would do so in the middle of a training step, with half of the parameters updated. So it
only notes the signal; the training loop saves when it next says that a step has ended.

Of many processes some may hear of it, and at different steps. The first that does says, in the directory, after how
many steps all are to stop: two more than it has done, as no other can be more than one ahead.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightlift.checkpoint._checkpointer import Checkpointer

__all__ = ["Preemption"]


class Preemption:
    """What is done when a signal comes; made and closed on the main thread, as Python has it."""

    def __init__(self, state: Callable[[], tuple[int, Any]], signals: tuple[int, ...] | None) -> None:
        """Install the handlers."""
        self.requested = False
        self._state, self._number, self._leaving = state, int(signal.SIGTERM), False
        self._steps = 0
        self._before = {n: signal.signal(n, self._note) for n in signals or (signal.SIGTERM,)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested, self._number = True, number
        before = self._before.get(number)
        if callable(before):
            before(number, frame)

    def step_done(self, checkpointer: Checkpointer) -> None:
        """Save and exit, if a signal has come, and it is time."""
        if self._now(checkpointer) and not self._leaving:
            self._leaving = True
            step, state = self._state()
            if step not in checkpointer.steps():
                checkpointer.wait()
                if step not in checkpointer.steps():
                    checkpointer.save(step, state, blocking=True)
            checkpointer.close()
            sys.exit(128 + self._number)

    def saved(self, checkpointer: Checkpointer) -> None:
        """A save has begun: wait for it and exit, if a signal has come; many processes agree in ``step_done``."""
        if self.requested and not self._leaving and checkpointer.world_size == 1:
            self._leaving = True
            checkpointer.close()
            sys.exit(128 + self._number)

    def _now(self, checkpointer: Checkpointer) -> bool:
        self._steps += 1
        if checkpointer.world_size == 1:
            return self.requested
        at = checkpointer.ranks.stop_at()
        if self.requested and at is None:
            checkpointer.ranks.ask_to_stop(self._steps + 2)
        return at is not None and self._steps >= at

    def close(self) -> None:
        """Put the handlers back that were there."""
        for number, before in self._before.items():
            with contextlib.suppress(ValueError):  # not on the main thread
                if signal.getsignal(number) == self._note:
                    signal.signal(number, signal.SIG_DFL if before is None else before)
