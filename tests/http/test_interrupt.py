"""Ctrl-C and cancellation end whatever waits for a server, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.http import faults
from tests.http.fault_server import FaultServer
from tests.http.support import model, model_bytes

import weightlift as wl

PATH = "/m.safetensors"
PATIENT = {"timeout": 300, "connect_timeout": 300}
"""Waits far longer than any test runs: only the interrupt ends it."""

SCRIPT = """
import sys, time, threading, numpy as np, weightlift as wl
url, options, what = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
try:
    if what == "save":
        wl.save({"w": np.ones(8_000_000, np.float32)}, url, **options)
    elif what == "rows":
        weights = wl.open(url, **options)
        weights["w0"][...]
    else:
        getattr(wl, what)(url, **options)
except KeyboardInterrupt:
    left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    print("interrupted", left, flush=True)
"""

STALLS = {
    "before the head": faults.silence,
    "in the head": faults.stall_at(100),
    "in a part": faults.where(lambda r: r.range is not None and r.range[0] > 0, faults.stall_at(1000)),
    "between attempts": faults.retry_after_seconds(503, 300),
    "in many parts": faults.where(lambda r: r.range is not None and r.range[0] > 0, faults.silence),
}


def interrupted(server: FaultServer, what: str, cwd: Path, stall: str, path: str = PATH, **options: Any) -> None:
    """Run the script until it waits for the server, then interrupt it."""
    options = {**PATIENT, **options}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url(path), repr(options), what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    try:
        if stall == "between attempts":
            server.wait_until(lambda: server.body_bytes_so_far > 0)
        else:
            server.wait_until(lambda: server.stalled >= (2 if "many" in stall else 1))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert output == "interrupted []\n", errors
    assert process.returncode == 0, errors
    if what != "save":  # the end of what is not read is not seen
        server.wait_until(lambda: server.open_connections == 0)


@pytest.mark.parametrize("what", ["load", "verify", "rows"])
@pytest.mark.parametrize("stall", STALLS)
def test_ctrl_c_ends_a_stalled_download(server: FaultServer, tmp_path: Path, what: str, stall: str) -> None:
    data = model_bytes(model(3_000_000), tmp_path)
    (tmp_path / "m.safetensors").unlink()
    server.files[PATH] = data
    server.fault = STALLS[stall]
    interrupted(server, what, tmp_path, stall, part_bytes=256 << 10)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_ctrl_c_ends_a_stalled_download_into_the_cache(server: FaultServer, tmp_path: Path) -> None:
    data = model_bytes(model(3_000_000), tmp_path)
    server.files[PATH] = data
    server.fault = STALLS["in a part"]
    cache = tmp_path / "cache"
    interrupted(server, "load", tmp_path, "in a part", cache=str(cache), part_bytes=256 << 10)
    server.fault = None
    assert set(wl.load(server.url(PATH), cache=cache)) == set(model(3_000_000))


def stalled_shards(server: FaultServer, folder: Path) -> str:
    """A model in several files of which none answers; the path of its index."""
    wl.save(model(3_000_000), folder / "s.safetensors", shard_size=1_000_000)
    for file in folder.glob("s*"):
        server.files[f"/{file.name}"] = file.read_bytes()
        file.unlink()
    (index,) = (name for name in server.files if name.endswith(".json"))
    server.fault = faults.where(lambda r: r.path != index, faults.silence)
    return index


def test_ctrl_c_ends_the_opening_of_many_files(server: FaultServer, tmp_path: Path) -> None:
    interrupted(server, "load", tmp_path, "many files", stalled_shards(server, tmp_path))


def test_ctrl_c_ends_an_upload_that_nobody_reads(server: FaultServer, tmp_path: Path) -> None:
    server.fault = lambda request, answer: faults.silence(request, replace(answer, take=100_000))
    interrupted(server, "save", tmp_path, "in the body")
    assert not server.stored and [p.name for p in tmp_path.iterdir()] == ["home"]


AWAITED = {
    "load": lambda url, **options: wl.aio.load(url, **options),
    "open": lambda url, **options: wl.aio.open(url, **options),
    "load_model": lambda url, **options: wl.aio.load_model(url, **options),
    "save": lambda url, **options: wl.aio.save({"w": np.ones(8_000_000, np.float32)}, url, **options),
    "save_model": lambda url, **options: wl.aio.save_model(MODEL, url, **options),
}
MODEL = wl.ModelArtifacts(weights={"w": np.ones(8, np.float32)})


def given_up(server: FaultServer, awaitable: Awaitable[Any], stall: str) -> None:
    """Cancel a task when it waits for the server; no thread goes on with it."""

    def waits() -> bool:
        if stall == "between attempts":
            return server.body_bytes_so_far > 0
        return server.stalled >= (2 if "many" in stall else 1)

    async def give_up() -> None:
        task = asyncio.ensure_future(awaitable)
        while not waits():
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(give_up(), 60))
    if stall != "in the body":  # the end of what is not read is not seen
        server.wait_until(lambda: server.open_connections == 0)


@pytest.mark.parametrize("stall", STALLS)
def test_a_cancelled_task_is_not_waited_for(server: FaultServer, tmp_path: Path, stall: str) -> None:
    """A task that is given up on stops its download; the event loop goes on meanwhile."""
    server.files[PATH] = model_bytes(model(3_000_000), tmp_path)
    server.fault = STALLS[stall]
    given_up(server, wl.aio.load(server.url(PATH), **PATIENT, part_bytes=256 << 10), stall)


@pytest.mark.parametrize("what", AWAITED)
@pytest.mark.parametrize("stall", ["before the head", "between attempts"])
def test_a_cancelled_task_of_any_kind_stops(server: FaultServer, what: str, stall: str) -> None:
    server.fault = STALLS[stall]
    given_up(server, AWAITED[what](server.url(PATH), **PATIENT), stall)


def test_a_cancelled_upload_that_nobody_reads_stops(server: FaultServer) -> None:
    server.fault = lambda request, answer: faults.silence(request, replace(answer, take=100_000))
    given_up(server, AWAITED["save"](server.url(PATH), **PATIENT), "in the body")
    assert not server.stored


def test_a_cancelled_task_that_opens_many_files_stops(server: FaultServer, tmp_path: Path) -> None:
    given_up(server, wl.aio.load(server.url(stalled_shards(server, tmp_path)), **PATIENT), "many files")


def test_a_cancelled_task_whose_converter_hangs_stops(server: FaultServer, tmp_path: Path) -> None:
    """A converter that waits for another service, for ever, is cancelled with the task."""
    weights = {f"w{i}": np.ones(1000, np.float32) for i in range(3)}
    wl.save(weights, tmp_path / "model.json", shard_size=4000)
    server.files["/model.json"] = (tmp_path / "model.json").read_bytes()
    asked, ended = threading.Event(), threading.Event()

    async def hang(name: str) -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return name

    async def give_up() -> None:
        task = asyncio.ensure_future(wl.aio.load_model(server.url("/model.json"), weight_url_converter=hang, **PATIENT))
        while not asked.is_set():
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(give_up(), 60))
    assert ended.is_set()
    assert {r.path for r in server.requests} == {"/model.json"}


def test_progress_may_stop_a_download(server: FaultServer, tmp_path: Path) -> None:
    server.files[PATH] = model_bytes(model(3_000_000), tmp_path)
    server.fault = faults.paced(2e6)
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 200_000:
            raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        wl.load(server.url(PATH), progress=progress, part_bytes=256 << 10, connections=1)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert server.body_bytes_sent < 3_000_000


def test_readers_that_are_dropped_close_their_connections(server: FaultServer, tmp_path: Path) -> None:
    server.files[PATH] = model_bytes(model(300_000), tmp_path)
    weights = wl.open(server.url(PATH))
    assert np.asarray(weights["w0"][...]).size
    del weights
    import gc

    gc.collect()
    server.wait_until(lambda: server.open_connections == 0)
