"""Handlers may be synchronous or not; here the synchronous functions wait for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import TypeVar

from weightlift._stopping import check
from weightlift.errors import WeightliftError

__all__ = ["settle"]

T = TypeVar("T")
_PATIENCE = 0.05
"""Seconds between two looks at whether the call has been stopped."""


def settle(result: T | Awaitable[T]) -> T:
    """What a handler returned; if that is awaitable, it is run to its end in an event loop of its own.

    WeightliftError inside a running event loop, where waiting would block everything else.
    """
    if not isinstance(result, Awaitable):
        return result
    import asyncio  # costs 30 ms, and most handlers are synchronous

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        settled: T = asyncio.run(_wait(result))
        return settled
    if isinstance(result, Coroutine):
        result.close()
    raise WeightliftError("the handler is asynchronous and an event loop is running: use the same function of wl.aio")


async def _wait(awaitable: Awaitable[T]) -> T:
    """What it gives; Stopped soon after the call that waits for it has been stopped."""
    import asyncio

    task = asyncio.ensure_future(awaitable)
    while not (await asyncio.wait({task}, timeout=_PATIENCE))[0]:
        check()  # what this raises ends the loop, which cancels the task
    return task.result()
