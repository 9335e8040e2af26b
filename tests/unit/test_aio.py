"""The awaitable functions: same results, and cancelling stops the work and leaves nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl


def test_same_results(tmp_path: Path) -> None:
    async def story() -> None:
        tensors = {"w": np.arange(6.0).reshape(2, 3)}
        await wl.aio.save(tensors, tmp_path / "a.npz")
        assert np.array_equal((await wl.aio.load(tmp_path / "a.npz"))["w"], tensors["w"])
        await wl.aio.convert(tmp_path / "a.npz", tmp_path / "a.safetensors")
        assert (await wl.aio.verify(tmp_path / "a.safetensors")).ok
        assert (await wl.aio.diff(tmp_path / "a.npz", tmp_path / "a.safetensors")).same
        assert (await wl.aio.open(tmp_path / "a.npz"))["w"].shape == (2, 3)
        with pytest.raises(wl.NotFoundError):
            await wl.aio.load(tmp_path / "none.npz")

    asyncio.run(story())


def test_cancel_stops_the_work(tmp_path: Path) -> None:
    tensors = {f"w{i}": np.ones((1024, 1024), np.float32) for i in range(64)}

    async def story() -> None:
        task = asyncio.create_task(wl.aio.save(tensors, tmp_path / "big.safetensors"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert not list(tmp_path.iterdir())
