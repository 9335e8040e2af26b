"""The public functions, awaitable: the work runs in a thread, and cancelling the task cancels the work.

Example:
    >>> import asyncio, numpy as np, weightlift as wl
    >>> async def main():
    ...     await wl.aio.save({"w": np.ones(3)}, "a.safetensors")
    ...     return (await wl.aio.load("a.safetensors"))["w"].sum()
    >>> float(asyncio.run(main()))
    3.0
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from weightlift import _api, _managers, _models
from weightlift._stopping import Stop, check
from weightlift._weights import Weights
from weightlift.types import DiffReport, ModelArtifacts, ModelArtifactsInfo, SaveResult, VerifyReport

__all__ = [
    "convert",
    "copy_model",
    "diff",
    "list_models",
    "load",
    "load_model",
    "move_model",
    "open",
    "remove_model",
    "save",
    "save_model",
    "verify",
]

T = TypeVar("T")
Path = str | os.PathLike[str]


async def _run(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function in a thread; when the task is cancelled, it is stopped and waited for."""
    import asyncio  # tens of milliseconds that only awaiting callers pay

    stop = Stop()
    work = asyncio.ensure_future(asyncio.to_thread(stop.run, function, *args, **options))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        # Buffers and files belong to the thread until it has stopped.
        await asyncio.gather(work, return_exceptions=True)
        raise


async def _watch(function: Callable[..., T], *args: Any, progress: Any = None, **options: Any) -> T:
    """Likewise, for functions that report progress, which is where loops in Python ask whether to stop."""

    def watch(done: int, total: int) -> None:
        check()
        if progress is not None:
            progress(done, total)

    return await _run(function, *args, progress=watch, **options)


async def save(obj: Any, url: Path, **options: Any) -> SaveResult:
    """:func:`weightlift.save`, awaitable; ``progress`` is called in the worker thread.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> asyncio.run(wl.aio.save(np.ones(2), "two.npy")).tensors
        1
    """
    return await _watch(_api.save, obj, url, **options)


async def load(url: Path, **options: Any) -> Any:
    """:func:`weightlift.load`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save(np.ones(2), "two.npy")
        >>> asyncio.run(wl.aio.load("two.npy")).tolist()
        [1.0, 1.0]
    """
    return await _watch(_api.load, url, **options)


async def open(url: Path, **options: Any) -> Weights:
    """:func:`weightlift.open`, awaitable: reads the header in a thread.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save({"w": np.ones(2)}, "w.npz")
        >>> len(asyncio.run(wl.aio.open("w.npz")))
        1
    """
    return await _run(_api.open, url, **options)


async def convert(source: Path, target: Path, **options: Any) -> SaveResult:
    """:func:`weightlift.convert`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save({"w": np.ones(2)}, "w.npz")
        >>> asyncio.run(wl.aio.convert("w.npz", "w.safetensors")).format
        'safetensors'
    """
    return await _watch(_api.convert, source, target, **options)


async def verify(url: Path, **options: Any) -> VerifyReport:
    """:func:`weightlift.verify`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save(np.ones(2), "two.npy")
        >>> asyncio.run(wl.aio.verify("two.npy")).ok
        True
    """
    return await _watch(_api.verify, url, **options)


async def diff(a: Path, b: Path, **options: Any) -> DiffReport:
    """:func:`weightlift.diff`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save(np.ones(2), "two.npy")
        >>> asyncio.run(wl.aio.diff("two.npy", "two.npy")).same
        True
    """
    return await _watch(_api.diff, a, b, **options)


async def save_model(model: Any, url_or_handler: Any, **options: Any) -> Any:
    """:func:`weightlift.save_model`, awaitable: asynchronous handlers are awaited, others run in a thread.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> model = wl.ModelArtifacts(weights={"w": np.ones(2, "f4")})
        >>> asyncio.run(wl.aio.save_model(model, "my-model")).tensors
        1
    """
    run = _watch if isinstance(url_or_handler, (str, os.PathLike)) else _run
    result = await run(_models.begin_save, model, url_or_handler, **options)
    return await result if isinstance(result, Awaitable) else result


async def load_model(
    url_or_handler: Any, *, weight_names: Any = None, strict: bool = True, **options: Any
) -> ModelArtifacts:
    """:func:`weightlift.load_model`, awaitable: asynchronous handlers are awaited, others run in a thread.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.ones(2, "f4")}), "my-model")
        >>> list(asyncio.run(wl.aio.load_model("my-model")).weights)
        ['w']
    """
    given = {"weight_names": weight_names, "strict": strict, **options}
    result = await _run(_models.begin_load, url_or_handler, **given)
    artifacts: ModelArtifacts = await result if isinstance(result, Awaitable) else result
    return _models.finish_load(artifacts, url_or_handler, weight_names, strict=strict)


async def list_models(url: Path | None = None, **options: Any) -> dict[str, ModelArtifactsInfo]:
    """:func:`weightlift.list_models`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.ones(2, "f4")}), "models/a")
        >>> list(asyncio.run(wl.aio.list_models("models")))
        ['models/a']
    """
    return await _run(_managers.list_models, url, **options)


async def copy_model(source: Path, target: Path, **options: Any) -> ModelArtifactsInfo:
    """:func:`weightlift.copy_model`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.ones(2, "f4")}), "my-model")
        >>> asyncio.run(wl.aio.copy_model("my-model", "copy")).weight_data_bytes
        8
    """
    return await _run(_managers.copy_model, source, target, **options)


async def move_model(source: Path, target: Path, **options: Any) -> ModelArtifactsInfo:
    """:func:`weightlift.move_model`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.ones(2, "f4")}), "my-model")
        >>> asyncio.run(wl.aio.move_model("my-model", "elsewhere")).weight_data_bytes
        8
    """
    return await _run(_managers.move_model, source, target, **options)


async def remove_model(url: Path, **options: Any) -> None:
    """:func:`weightlift.remove_model`, awaitable.

    Example:
        >>> import asyncio, numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.ones(2, "f4")}), "my-model")
        >>> asyncio.run(wl.aio.remove_model("my-model"))
    """
    await _run(_managers.remove_model, url, **options)
