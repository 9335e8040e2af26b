"""How a call is told, from another thread, to stop waiting.

A stop holds for the code that runs under it, on its thread, and not for the readers, stores and connections which that
code uses: others may share them. Whatever waits in the core asks :func:`check` at least every 50 ms.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["Stop", "Stopped", "check"]

T = TypeVar("T")


class Stopped(Exception):
    """Ends work that nobody waits for any more."""


class Stop:
    """Stops what runs under it; made inside another one, it is stopped by that one, too."""

    def __init__(self) -> None:
        """Not stopped."""
        self._event = threading.Event()
        self._outer = _CURRENT.get()

    def set(self) -> None:
        """From now on :func:`check` raises; from any thread."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether this one, or one around it, is set."""
        return self._event.is_set() or (self._outer is not None and self._outer.is_set())

    def run(self, function: Callable[..., T], *args: object, **options: object) -> T:
        """Call a function that this stops, on whatever thread this is."""
        token = _CURRENT.set(self)
        try:
            return function(*args, **options)
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[Stop | None] = ContextVar("weightlift_stop", default=None)


def check() -> None:
    """Raise Stopped, if the call on this thread has been stopped. The core calls this, too."""
    current = _CURRENT.get()
    if current is not None and current.is_set():
        raise Stopped
