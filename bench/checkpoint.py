"""Claim 4: a training loop barely notices its checkpoints, and they come back at the speed of a load.

Each system saves the state of a training step (NumPy arrays, PyTorch's tensors over them, JAX's copies) durably: the
data is on the disk when the save has ended, for everyone. Groups:

- stall: how long the loop stands still. Whoever saves in its own time stalls for all of it.
- durable: from the call until the checkpoint would survive a power cut.
- step beside a save: how long a step of a loop takes (products of matrices, on one thread) while the save goes on
  beside it. Row "no save": the same loop alone; the median, and the 99th percentile.
- unchanged: a save where nine tenths of the state are as they were, against one where nothing is: until it is durable,
  and how long the loop stands still.
- restore: the newest checkpoint into fresh memory, from the page cache.

``--apart``: one system at a time is in memory (``--size 4294967296 --apart`` needs 16 GiB; all at once 50).
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from harness import (
    ROOT,
    Case,
    Row,
    Skip,
    Timed,
    Workspace,
    arguments,
    claim,
    finish,
    measure,
    on_request,
    ratio,
    roofline,
    table,
)
from models import llama
from wire import free_ports

FRAMEWORKS = Path(
    os.environ.get("WEIGHTLIFT_FRAMEWORKS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weightlift" / "frameworks"
)
STALL, DURABLE, BESIDE, UNCHANGED, RESTORE = "stall", "durable", "step beside a save", "unchanged", "restore"
GROUPS = (STALL, DURABLE, BESIDE, UNCHANGED, RESTORE)
ALONE = "no save"
UNVERIFIED = "weightlift, verify=False"
P99 = "the 99th percentile"


class Running(Protocol):
    """A save that goes on beside the loop."""

    def done(self) -> bool:
        """Whether it is durable."""

    def result(self) -> object:
        """Wait for that."""


class Ended:
    """What a save in the loop's own time leaves."""

    def done(self) -> bool:
        return True

    def result(self) -> None:
        return None


def timed(save: Callable[[int], Running], figure: str, first: int = 1) -> Callable[[], Timed]:
    """A run that saves once, waits until all is durable, and gives one figure of it."""
    steps = itertools.count(first)

    def run() -> Timed:
        cpu, begin = time.process_time(), time.perf_counter()
        running = save(next(steps))
        stalled = time.perf_counter() - begin
        taken = loop(running.done) if figure in (BESIDE, P99) else []
        running.result()
        durable, used = time.perf_counter() - begin, time.process_time() - cpu
        return Timed({STALL: stalled, DURABLE: durable}.get(figure) or of_steps(taken, figure), used)

    return run


def of_steps(taken: list[float], figure: str) -> float:
    """Seconds of a step: the median, or of the slowest in a hundred."""
    if not taken:
        raise Skip("the save ends before a step does")
    return statistics.median(taken) if figure == BESIDE else sorted(taken)[len(taken) * 99 // 100]


def loop(ended: Callable[[], bool]) -> list[float]:
    """Seconds of each training step until ``ended``; some 5 ms, on one thread (see ``main``)."""
    import numpy as np

    a = np.random.default_rng(3).standard_normal((512, 512)).astype(np.float32)
    taken = []
    while not ended():
        begin = time.perf_counter()
        for _ in range(2):
            a @ a
        taken.append(time.perf_counter() - begin)
    return taken


# --- who saves ------------------------------------------------------------------------------------
def alone(params: dict[str, Any]) -> Any:
    def run() -> Timed:
        cpu, until = time.process_time(), time.perf_counter() + params["size"] / GIB_PER_SECOND
        return Timed(of_steps(loop(lambda: time.perf_counter() > until), params["figure"]), time.process_time() - cpu)

    return run


GIB_PER_SECOND = 1 << 30


def checkpointer(params: dict[str, Any], **options: Any) -> Any:
    import weightlift as wl

    folder = Path(params["directory"]) / f"ours-{params['figure']}".replace(" ", "-")
    return wl.checkpoint.Checkpointer(folder, keep_last=1, **options)


def ours(params: dict[str, Any]) -> Any:
    state, to = {"model": llama(params["size"])}, checkpointer(params, incremental=False)
    return timed(lambda step: to.save(step, state), params["figure"], (to.latest() or 0) + 1)


def ours_unchanged(params: dict[str, Any]) -> Any:
    """``changed``: which part of the state has other values at each save."""
    own = f"{params['changed']}-{params['figure']}"
    tensors, to = llama(params["size"]), checkpointer(params | {"figure": own}, incremental=True)
    budget, chosen = params["changed"] * sum(t.nbytes for t in tensors.values()), []
    for tensor in reversed(tensors.values()):
        if budget >= tensor.nbytes:
            budget -= tensor.nbytes
            chosen.append(tensor)

    def save(step: int) -> Any:
        return to.save(step, {"model": tensors})

    first = (to.latest() or 0) + 1
    inner = timed(save, params["figure"], first + 1)
    to.save(first, {"model": tensors}).result()

    def run() -> Timed:
        for tensor in chosen:
            tensor += 1
        return inner()

    return run


def as_torch(params: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in llama(params["size"]).items()}


def durably(save: Callable[[str], object], path: Path) -> Callable[[int], Running]:
    """A save as a careful user of a library that does not sync has it: beside the old file, synced, renamed."""

    def run(step: int) -> Running:
        new = path.with_name(f"{path.name}.new")
        save(str(new))
        for target in (new, path.parent):
            fd = os.open(target, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            if target == new:
                new.replace(path)
        return Ended()

    return run


def torch_save(params: dict[str, Any]) -> Any:
    import torch

    tensors = as_torch(params)
    return timed(durably(lambda path: torch.save(tensors, path), Path(params["directory"]) / "t.pt"), params["figure"])


def safetensors_save(params: dict[str, Any]) -> Any:
    from safetensors.numpy import save_file

    tensors, path = llama(params["size"]), Path(params["directory"]) / "s.safetensors"
    return timed(durably(lambda new: save_file(tensors, new), path), params["figure"])


def dcp(params: dict[str, Any]) -> Any:
    """``way``: "sync", or how ``async_save`` goes on ("thread", "process")."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    tensors, way = as_torch(params), params["way"]
    path = f"{params['directory']}/dcp-{way}-{params['figure']}".replace(" ", "-")

    def writer() -> Any:
        return checkpoint.FileSystemWriter(path, sync_files=True, overwrite=True)

    if way == "sync":

        def save(step: int) -> Running:
            checkpoint.save(tensors, storage_writer=writer(), no_dist=True)
            return Ended()
    else:
        (port,) = free_ports(1)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1")
        dist.init_process_group("gloo")
        kind = AsyncCheckpointerType.THREAD if way == "thread" else AsyncCheckpointerType.PROCESS

        def save(step: int) -> Running:
            found: Any = checkpoint.async_save(tensors, storage_writer=writer(), async_checkpointer_type=kind)
            return found

    return timed(save, params["figure"])


def orbax(params: dict[str, Any]) -> Any:
    python = FRAMEWORKS / "jax" / "bin" / "python"
    if not python.exists():
        raise Skip("JAX is not installed: run tests/frameworks/setup.sh")
    if params["figure"] not in (STALL, DURABLE):
        raise Skip("the loop would have to run in JAX's environment")
    program = ROOT / "bench" / "peers" / "orbax_checkpoint.py"
    folder = f"{params['directory']}/orbax-{params['figure']}"
    return on_request(str(python), str(program), params["figure"], folder, str(params["size"]))


def restore_ours(params: dict[str, Any]) -> Any:
    to = checkpointer(params | {"figure": RESTORE})
    if not stored(params, "weightlift"):
        to.save(1, {"model": llama(params["size"])}).result()
    return lambda: to.restore(verify=params.get("verify", True))


def restore_torch(params: dict[str, Any]) -> Any:
    import torch

    path = f"{params['directory']}/restore.pt"
    torch.save(as_torch(params), path)
    return lambda: torch.load(path, weights_only=True)


def restore_dcp(params: dict[str, Any]) -> Any:
    import torch.distributed.checkpoint as checkpoint

    path, tensors = f"{params['directory']}/restore-dcp", as_torch(params)
    checkpoint.save(tensors, checkpoint_id=path, no_dist=True)
    return lambda: checkpoint.load(tensors, checkpoint_id=path, no_dist=True)


def copy_in_plain_cpp(params: dict[str, Any]) -> Any:
    return roofline("roofline_memcpy", "--bytes", str(params["nbytes"]))


def write_in_plain_cpp(params: dict[str, Any]) -> Any:
    path, nbytes = f"{params['directory']}/roof", str(params["nbytes"] & ~4095)
    return roofline("roofline_write", path, nbytes, "--direct", "--fsync", "--threads", "2")


def read_in_plain_cpp(params: dict[str, Any]) -> Any:
    """The very files that the first row restores: how pages lie in the cache depends on how a file was written."""
    if not stored(params, "weightlift"):
        restore_ours(params)
    return roofline("roofline_read", *map(str, sorted(stored(params, "weightlift"))), "--threads", "2")


def stored(params: dict[str, Any], name: str) -> list[Path]:
    """The files that a row of the last group reads."""
    directory = Path(params["directory"])
    patterns = {"torch.load": "restore.pt", "DCP load": "restore-dcp/*"}
    return list(directory.glob(patterns.get(name, f"ours-{RESTORE}/step-*/*.safetensors")))


# --- the table ------------------------------------------------------------------------------------
SYSTEMS = [
    ("weightlift", "ours", "durable verified", "us", {}),
    ("torch.save + fsync", "torch_save", "durable", "peer", {}),
    ("safetensors + fsync", "safetensors_save", "durable", "peer", {}),
    ("DCP save", "dcp", "durable", "peer", {"way": "sync"}),
    ("DCP async_save, thread", "dcp", "durable", "peer", {"way": "thread"}),
    ("DCP async_save, process", "dcp", "durable", "peer", {"way": "process"}),
    ("Orbax, async", "orbax", "durable", "peer", {}),
]  # fmt: skip
ASYNCHRONOUS = ("weightlift", "DCP async_save, thread", "DCP async_save, process", "Orbax, async")


def cases(groups: tuple[str, ...]) -> list[Case]:
    """The rows of these groups."""
    found = []
    for group in groups:
        if group in (STALL, DURABLE):  # a save in the loop's own time stalls for all of it: one row says both
            found += [Case(name, setup, says, role, group=group, args={"figure": group, **args})
                      for name, setup, says, role, args in SYSTEMS
                      if group == DURABLE or name in ASYNCHRONOUS]  # fmt: skip
        if group == BESIDE:
            for figure, words in ((BESIDE, ""), (P99, f", {P99}")):
                found.append(Case(ALONE + words, "alone", "", "roofline", group=group, args={"figure": figure}))
                found += [Case(name + words, setup, says, role, group=group, args={"figure": figure, **args})
                          for name, setup, says, role, args in SYSTEMS if name in ASYNCHRONOUS]  # fmt: skip
        if group == UNCHANGED:
            for figure, words in ((DURABLE, ""), (STALL, f", {STALL}")):
                found += [Case(f"{round(changed * 100)} % changed{words}", "ours_unchanged", "durable verified", "us",
                               group=group, args={"figure": figure, "changed": changed})
                          for changed in (1.0, 0.1, 0.0)]  # fmt: skip
        if group == RESTORE:
            found += [
                Case("weightlift", "restore_ours", "owned verified", "us", group=group),
                Case(UNVERIFIED, "restore_ours", "owned", "us", group=group, args={"verify": False}),
                Case("torch.load", "restore_torch", "owned", group=group),
                Case("DCP load", "restore_dcp", "in place", group=group),
                Case("roofline: read", "read_in_plain_cpp", "owned", "roofline", group=group),
            ]
        if group == STALL:
            found.append(Case("roofline: copy", "copy_in_plain_cpp", "", "roofline", group=group))
        if group == DURABLE:
            found.append(Case("roofline: write", "write_in_plain_cpp", "durable", "roofline", group=group))
    return found


def claims(rows: dict[str, list[Row]]) -> list[dict[str, Any]]:
    """Claim 4."""
    records = []
    if STALL in rows:
        stalls = rows[STALL]
        records.append(
            claim("stall, of a copy", inverse(ratio(stalls, "weightlift", "roofline: copy")), 1.3, at_most=True)
        )
        for way in ("thread", "process"):
            peer = f"DCP async_save, {way}"
            records.append(claim(f"stall, sooner than {peer}", ratio(stalls, "weightlift", peer), 6))
    if DURABLE in rows:
        records.append(claim("durable, of the disk", ratio(rows[DURABLE], "weightlift", "roofline: write"), 0.95))
    if BESIDE in rows:
        for words in ("", f", {P99}"):
            slower = inverse(ratio(rows[BESIDE], "weightlift" + words, ALONE + words))
            records.append(claim(f"a step beside a save{words}, of one alone", slower, 1.05, at_most=True))
    if UNCHANGED in rows:
        part = inverse(ratio(rows[UNCHANGED], "10 % changed", "100 % changed"))
        records.append(claim("nine tenths unchanged, of the full save", part, 0.2, at_most=True))
    if RESTORE in rows:
        for name in ("weightlift", UNVERIFIED):  # the roofline verifies nothing
            part = ratio(rows[RESTORE], name, "roofline: read")
            records.append(claim(f"restore{name.removeprefix('weightlift')}, of the roofline", part, 0.9))
    return records


def inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value


def main() -> None:
    for library in ("OPENBLAS", "MKL", "OMP"):  # the loop is to leave the other core to the save
        os.environ[f"{library}_NUM_THREADS"] = "1"
    apart = "--apart" in sys.argv
    if apart:
        sys.argv.remove("--apart")
    args = arguments(__doc__ or "", 1 << 30, 32 << 20, parts=GROUPS)
    groups = tuple(g for g in GROUPS if g in (args.only or GROUPS))
    nbytes = sum(t.nbytes for t in llama(args.size).values())
    with Workspace(args) as directory:
        params = {"directory": str(directory), "size": args.size, "nbytes": nbytes}

        def before(case: Case) -> None:
            if case.group == RESTORE:  # from the page cache: ours are written past it, and a kernel may shrink it
                for path in stored(params, case.name):
                    path.read_bytes()

        rows = measure(
            "checkpoint", cases(groups), params, args.rounds,
            warmup=args.warmup, before=before, memory=args.memory, apart=apart,
        )  # fmt: skip
    records = table(f"checkpoints of {nbytes / 1e9:.2f} GB, 81 tensors", rows, nbytes)
    records += claims({group: [r for r in rows if r.case.group == group] for group in groups})
    finish(args, "checkpoint", records)


if __name__ == "__main__":
    main()
