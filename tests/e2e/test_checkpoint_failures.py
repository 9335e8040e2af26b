"""Calls of the system that fail, one after the other: the newest step is whole, the error is told, the next save works.

And disks that do not answer: the loop goes on, with as many saves under way as are allowed, committed in their order.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from tests.e2e.io_support import run_recorded

SAVES = """
import ctypes, json, os, sys
import numpy as np, weightlift as wl
shim, root = ctypes.CDLL(None), sys.argv[1]
fixed, told, committed = np.full(3000, 7.0), [], 0

def state(step):
    return {"fixed": fixed, "changing": np.full(2000, step, np.float32), "step": step}

def whole(reader):
    for step in reader.steps():
        assert reader.verify(step).ok, step
        found = reader.restore(step)
        assert found["step"] == step and (found["changing"] == step).all() and (found["fixed"] == 7).all()

with wl.checkpoint.Checkpointer(root, keep_last=2) as checkpointer:
    step = 1
    checkpointer.save(step, state(step), blocking=True)
    for after in range(1, 1000):
        before = checkpointer.latest()
        step = before + (0 if REPLACED else 1)
        shim.io_fail(CALL.encode(), after, ERROR)
        try:
            checkpointer.save(step, state(step), overwrite=REPLACED).result()
            checkpointer.wait()  # what it deletes, too
            error = None
        except wl.StorageError as caught:
            error = caught
        failed = shim.io_failed()
        shim.io_fail(b"", 0, 0)
        told.append(None if error is None else error.errno)
        whole(checkpointer)
        assert checkpointer.latest() >= before
        step = checkpointer.latest() + 1
        checkpointer.save(step, state(step), blocking=True)
        whole(checkpointer)
        assert checkpointer.latest() == step
        if not failed:
            break
    checkpointer.gc()  # of deletions that failed half way
print(json.dumps([told, sorted(name.split("-")[0] for name in os.listdir(root))]))
"""


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("write", errno.EIO), ("write", errno.ENOSPC), ("write", errno.EDQUOT), ("sync", errno.EIO),
        ("rename", errno.EIO), ("link", errno.EIO), ("mkdir", errno.EROFS), ("open", errno.EMFILE),
        ("allocate", errno.ENOSPC),
    ],
)  # fmt: skip
def test_every_call_that_fails_is_told(tmp_path: Path, call: str, error: int, replaced: bool) -> None:
    program = f"CALL, ERROR, REPLACED = {call!r}, {error}, {replaced}\n{SAVES}"
    told, names = json.loads(run_recorded(program, tmp_path / "s", tmp_path))
    assert told[-1] is None and set(told) <= {error, None}
    assert error in told or call == "allocate"  # which only asks for blocks that lie together: the writes would fail
    assert names == [".lock", "step", "step"]


HELD = """
import ctypes, sys, threading
import numpy as np, weightlift as wl
shim = ctypes.CDLL(None)
weights = np.zeros(1 << 20, np.float32)
with wl.checkpoint.Checkpointer(sys.argv[1], keep_last=None, max_in_flight=LIMIT) as checkpointer:
    checkpointer.save(0, {"w": weights}, blocking=True)
    shim.io_hold(1)
    futures = []
    for step in range(1, LIMIT + 1):
        weights += 1
        futures.append(checkpointer.save(step, {"w": weights}))  # returns, though nothing gets to the disk
    late = threading.Thread(target=lambda: futures.append(checkpointer.save(LIMIT + 1, {"w": weights})))
    late.start()
    late.join(0.3)
    waiting = late.is_alive() and not any(future.done() for future in futures) and checkpointer.steps() == [0]
    shim.io_hold(0)
    assert waiting
    late.join(60)
    for future in futures:
        future.result(60)
        assert (checkpointer.restore(future.step)["w"] == min(future.step, LIMIT)).all()
"""


@pytest.mark.parametrize("limit", [1, 3])
def test_a_disk_that_does_not_answer(tmp_path: Path, limit: int) -> None:
    run_recorded(f"LIMIT = {limit}\n{HELD}", tmp_path / "s", tmp_path)
    renames = [line.split() for line in (tmp_path / "log").read_text().splitlines() if line.startswith("rename")]
    committed = [words[4] for words in renames if words[4].startswith("step-")]
    assert committed == [f"step-{step:08d}" for step in range(limit + 2)]
