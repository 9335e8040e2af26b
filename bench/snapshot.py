"""Two ways to have a state stand still while it is saved: a copy in pooled memory, or copy on write by fork.

A fork copies only the page tables, and then each page of which the training loop writes the first byte, as long as the
child lives. Groups: what the loop stands still, and what it costs until a loop that rewrites a part of the state
(all of it, a tenth, nothing) has done so beside the snapshot, less what that takes without one.

What it says: docs/checkpoints.md, "Saving".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from harness import Case, Row, Timed, Workspace, arguments, claim, finish, measure, ratio, table
from models import llama

STALL = "stall"
PARTS = {"all rewritten": 1.0, "a tenth rewritten": 0.1, "nothing rewritten": 0.0}
GROUPS = (STALL, *PARTS)
POOLED, FORK = "pooled copy", "fork"


def rewrite(state: dict[str, Any], part: float) -> Callable[[], float]:
    """What a step does to a part of a state; its seconds."""
    budget, chosen = part * sum(array.nbytes for array in state.values()), []
    for array in state.values():
        if budget >= array.nbytes:
            budget -= array.nbytes
            chosen.append(array)

    def run() -> float:
        begin = time.perf_counter()
        for array in chosen:
            array += 1
        return time.perf_counter() - begin

    return run


def pooled(params: dict[str, Any]) -> Any:
    from weightlift.checkpoint._snapshot import Staging

    state, staging = llama(params["size"]), Staging()
    return compared(state, params, lambda: staging.snapshot(list(state.values())), lambda copies: None)


def forked(params: dict[str, Any]) -> Any:
    def fork() -> tuple[int, int]:
        held, release = os.pipe()
        child = os.fork()
        if child == 0:  # stands for a writer: lives as long as the save takes
            os.close(release)
            os.read(held, 1)
            os._exit(0)
        os.close(held)
        return child, release

    def end(of: tuple[int, int]) -> None:
        child, release = of
        os.close(release)
        os.waitpid(child, 0)

    return compared(llama(params["size"]), params, fork, end)


def compared(
    state: dict[str, Any], params: dict[str, Any], snapshot: Callable[[], Any], end: Callable[[Any], None]
) -> Callable[[], Timed]:
    """The stall; or it and what the step takes longer beside the snapshot."""
    step = rewrite(state, params["part"])

    def run() -> Timed:
        alone, cpu, begin = step(), time.process_time(), time.perf_counter()
        taken = snapshot()
        seconds = time.perf_counter() - begin
        if params["group"] != STALL:
            seconds += max(0.0, step() - alone)
        used = time.process_time() - cpu
        end(taken)
        return Timed(max(seconds, 1e-6), used)

    return run


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 32 << 20, parts=GROUPS)
    groups = [g for g in GROUPS if g in (args.only or GROUPS)]
    cases = [
        Case(name, setup, "", role, group=group, args={"group": group, "part": PARTS.get(group, 0.0)})
        for group in groups
        for name, setup, role in ((POOLED, "pooled", "us"), (FORK, "forked", "peer"))
    ]
    nbytes = sum(t.nbytes for t in llama(args.size).values())
    with Workspace(args):
        rows: list[Row] = measure("snapshot", cases, {"size": args.size}, args.rounds, warmup=args.warmup)
    records = table(f"snapshots of {nbytes / 1e9:.2f} GB, 81 tensors", rows, nbytes)
    if "all rewritten" in groups:
        of = [r for r in rows if r.case.group == "all rewritten"]
        records.append(claim("a full rewrite beside it, x fork", ratio(of, POOLED, FORK), 1))
    finish(args, "snapshot", records)


if __name__ == "__main__":
    main()
