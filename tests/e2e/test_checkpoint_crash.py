"""Jobs that are killed: the newest committed step is whole, and the next save works.

``WEIGHTLIFT_KILLS`` sets how often the first test kills (default 25).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl

KILLS = int(os.environ.get("WEIGHTLIFT_KILLS", "25"))

SAVER = """
import sys, numpy as np, weightlift as wl
checkpointer = wl.checkpoint.Checkpointer(sys.argv[1], keep_last=2)
first = (checkpointer.latest() or 0) + 1
fixed = np.full(5 << 20, 7, np.float32)
changing = np.zeros(1 << 20, np.float32)
print("ready", flush=True)
for step in range(first, first + 10_000):
    changing[:] = step
    checkpointer.save(step, {"fixed": fixed, "changing": changing, "small": [np.full(3, step)], "step": step})
    print(step, flush=True)
"""


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def check_newest(folder: Path, at_least: int) -> int:
    """The newest step, found complete; ``at_least`` was committed when the job died."""
    reader = wl.checkpoint.Checkpointer(folder)
    step = reader.latest() or 0
    assert step >= at_least
    for committed in reader.steps():
        assert reader.verify(committed).ok
    if step:
        state = reader.restore()
        assert state["step"] == step
        assert (state["changing"] == step).all() and (state["fixed"] == 7).all() and (state["small"][0] == step).all()
    return step


@pytest.mark.timeout(3600)
def test_killed_at_any_instant(tmp_path: Path) -> None:
    folder, rng, newest, littered = tmp_path / "s", random.Random(0), 0, 0
    for _ in range(KILLS):
        with started(SAVER, str(folder)) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == "ready\n", job.stderr and job.stderr.read()
            time.sleep(rng.random() * 0.25)
            job.kill()
            told = [int(line) for line in job.stdout.read().split()]
        # A save returns before it is committed; the one before it is committed by then, as only one is under way.
        newest = check_newest(folder, max([newest, *(step - 1 for step in told)]))
        littered += any(p.name.startswith((".writing-", ".deleting-")) for p in folder.iterdir())
    assert littered, "no kill has hit a save"
    with wl.checkpoint.Checkpointer(folder, keep_last=2) as checkpointer:
        checkpointer.save(newest + 1, {"a": np.ones(3)}, blocking=True)
        assert checkpointer.steps() == [newest, newest + 1]
    names = sorted(p.name for p in folder.iterdir())
    assert names == [".lock", f"step-{newest:08d}", f"step-{newest + 1:08d}"]


RANK = """
import sys, numpy as np, weightlift as wl
from weightlift.checkpoint import PerRank, Sharded
rank, count = int(sys.argv[2]), 4
checkpointer = wl.checkpoint.Checkpointer(sys.argv[1], keep_last=2, rank=rank, world_size=count, timeout=5)
first = (checkpointer.latest() or 0) + 1
fixed, changing = np.full((2, 1 << 18), 7, np.float32), np.zeros((2, 1 << 16), np.float32)
rows = lambda part: Sharded((2 * count, part.shape[1]), [((2 * rank, 0), part)])
print("ready", flush=True)
sys.stdin.readline()
for step in range(first, first + 10_000):
    changing[:] = step
    state = {"fixed": rows(fixed), "changing": rows(changing), "small": [np.full(3, step)], "step": step}
    checkpointer.save(step, {**state, "own": PerRank([rank, step])})
    print(step, flush=True)
"""


@pytest.mark.timeout(3600)
def test_ranks_killed_at_any_instant(tmp_path: Path) -> None:
    folder, rng, newest, littered = tmp_path / "s", random.Random(0), 0, 0
    for number in range(max(2, KILLS // 2)):
        jobs = [started(RANK, str(folder), str(rank)) for rank in range(4)]
        for job in jobs:
            assert job.stdout is not None and job.stdin is not None
            assert job.stdout.readline() == "ready\n", job.stderr and job.stderr.read()
        for job in jobs:
            assert job.stdin is not None
            job.stdin.write("\n")
            job.stdin.flush()
        time.sleep(rng.random() * 0.5)
        if number % 2:  # one dies, and the others end by themselves
            jobs[rng.randrange(4)].kill()
        else:
            for job in rng.sample(jobs, 4):
                job.kill()
        told: list[int] = []
        for job in jobs:
            out, err = job.communicate(timeout=60)
            assert job.returncode == -signal.SIGKILL or "StorageError" in err, err
            told += [int(step) - 1 for step in out.split()]
        newest = check_newest(folder, max([newest, *told]))
        reader = wl.checkpoint.Checkpointer(folder, rank=3, world_size=4)
        assert newest == 0 or reader.restore()["own"] == [3, newest]
        littered += any(p.name.startswith((".writing-", ".deleting-")) for p in folder.iterdir())
    assert littered, "no kill has hit a save"
    with wl.checkpoint.Checkpointer(folder, keep_last=2) as checkpointer:
        checkpointer.save(newest + 1, {"a": np.ones(3)}, blocking=True)
        assert checkpointer.steps() == [newest, newest + 1]


PREEMPTED = """
import os, signal, sys, time
import numpy as np, weightlift as wl
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("before"))
with wl.checkpoint.Checkpointer(sys.argv[1]) as checkpointer:
    weights, step = np.zeros(1000), 0
    checkpointer.on_preemption(lambda: (step, {"weights": weights, "heard": heard}))
    print("ready", flush=True)
    while True:
        step += 1
        weights[:] = step
        time.sleep(0.01)
        if sys.argv[2] == "save":
            checkpointer.save(step, {"weights": weights, "heard": heard})
        else:
            checkpointer.step_done()
"""


@pytest.mark.parametrize("how", ["save", "step_done"])
def test_preemption(tmp_path: Path, how: str) -> None:
    with started(PREEMPTED, str(tmp_path / "s"), how) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        time.sleep(0.1)
        job.terminate()
        _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM, err
    state = wl.checkpoint.Checkpointer(tmp_path / "s").restore()
    if how == "step_done":  # else the signal may have come when the last state was copied already
        assert state["heard"] == ["before"]
    assert state["weights"][0] > 0 and (state["weights"] == state["weights"][0]).all()


PREEMPTED_RANKS = """
import multiprocessing, os, sys, time
import numpy as np, weightlift as wl
def train(rank, folder, together, ready):
    step, weights = 0, np.zeros(1000)
    with wl.checkpoint.Checkpointer(folder, rank=rank, world_size=3, timeout=30) as checkpointer:
        checkpointer.on_preemption(lambda: (step, {"weights": weights, "step": step}))
        if rank == 1:
            print(os.getpid(), flush=True)
        while True:
            together.wait(30)  # as where gradients are exchanged: none is more than a step ahead
            step += 1
            weights[:] = step
            time.sleep(0.003 * rank)
            checkpointer.step_done()
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    together = context.Barrier(3)
    jobs = [context.Process(target=train, args=(r, sys.argv[1], together, None)) for r in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    print([job.exitcode for job in jobs])
"""


def test_preemption_of_one_rank_stops_all(tmp_path: Path) -> None:
    for _ in range(2):  # the second job is not stopped by what was left of the first
        with started(PREEMPTED_RANKS, str(tmp_path / "s")) as job:
            assert job.stdout is not None
            number = int(job.stdout.readline())
            time.sleep(0.3)
            os.kill(number, signal.SIGTERM)
            out, err = job.communicate(timeout=60)
        assert out == f"{[128 + signal.SIGTERM] * 3}\n", err
        checkpointer = wl.checkpoint.Checkpointer(tmp_path / "s")
        (newest,) = checkpointer.steps()
        state = checkpointer.restore()
        assert (
            state["step"] == newest and (state["weights"] == newest).all() and checkpointer.manifest().world_size == 3
        )
        assert newest > 10
        checkpointer.delete(newest)
        checkpointer.close()


FULL = """
import os, resource, signal, sys
import numpy as np, weightlift as wl
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with wl.checkpoint.Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(1, {"a": np.ones(1000)}, blocking=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        checkpointer.save(2, {"a": np.ones(1 << 20)}, blocking=True)
    except wl.StorageError as error:
        print(error.errno, sorted(os.listdir(sys.argv[1])))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    checkpointer.save(2, {"a": np.ones(1 << 20)}, blocking=True)
    print(checkpointer.steps())
"""


def test_no_room(tmp_path: Path) -> None:
    with started(FULL, str(tmp_path / "s")) as job:
        out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert out.splitlines() == ["27 ['.lock', 'step-00000001']", "[1, 2]"]
