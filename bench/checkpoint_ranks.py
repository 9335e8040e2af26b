"""Claim 4, of many processes: one checkpoint that all save together, and load again.

Each process has its rows of every tensor (DTensor, as under FSDP). Groups, for 1, 2 and 4 processes:

- save: from the call on all until the checkpoint would survive a power cut.
- load: into the tensors that are there, each process its rows, from the page cache.
- planning: what WeightliftWriter adds to the planning of torch.distributed.checkpoint, as a part of that (a ratio, in
  the column of times as if it were seconds).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from harness import (
    ROOT,
    Case,
    Row,
    Skip,
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

SAVE, LOAD, PLANNING = "save", "load", "planning"
GROUPS = (SAVE, LOAD, PLANNING)
COUNTS = (1, 2, 4)
OURS, PLUG_IN, OWN = "weightlift", "DCP with WeightliftWriter", "DCP with its own writer"
SYSTEMS = {OURS: "checkpointer", PLUG_IN: "plug-in", OWN: "own"}


def processes(params: dict[str, Any]) -> Any:
    if importlib.util.find_spec("torch") is None:
        raise Skip("PyTorch is not installed")
    folder = Path(params["directory"]) / f"{params['system']}-{params['figure']}-{params['count']}"
    program = ROOT / "bench" / "peers" / "ranks_job.py"
    command = [params["system"], params["figure"], str(folder), str(params["size"]), str(params["count"])]
    return on_request(sys.executable, str(program), *command)


def write_in_plain_cpp(params: dict[str, Any]) -> Any:
    path, nbytes = f"{params['directory']}/roof", str(params["nbytes"] & ~4095)
    return roofline("roofline_write", path, nbytes, "--direct", "--fsync", "--threads", "2")


def group_of(figure: str, count: int) -> str:
    return f"{figure}, {count} process{'es' if count > 1 else ''}"


def cases(groups: tuple[str, ...], counts: tuple[int, ...]) -> list[Case]:
    found = []
    for figure in groups:
        for count in counts:
            group, args = group_of(figure, count), {"figure": figure, "count": count}
            for name, system in SYSTEMS.items() if figure != PLANNING else [(PLUG_IN, "plug-in")]:
                says = "durable verified" if system != "own" else "durable"
                says = says if figure == SAVE else "in place verified" if system != "own" else "in place"
                role = "peer" if system == "own" else "us"
                found.append(Case(name, "processes", says, role, group=group, args={"system": system, **args}))
            if figure == SAVE:
                found.append(Case("roofline: write", "write_in_plain_cpp", "durable", "roofline", group=group))
    return found


def claims(rows: dict[str, list[Row]], groups: tuple[str, ...], counts: tuple[int, ...]) -> list[dict[str, Any]]:
    records = []
    for count in counts:
        for figure in (SAVE, LOAD):
            if figure in groups:
                for name in (OURS, PLUG_IN):
                    of = rows[group_of(figure, count)]
                    least = 2 if figure == SAVE else 1
                    records.append(claim(f"{group_of(figure, count)}: {name} x {OWN}", ratio(of, name, OWN), least))
        if SAVE in groups:
            of = rows[group_of(SAVE, count)]
            records.append(claim(f"{group_of(SAVE, count)}: of the disk", ratio(of, OURS, "roofline: write"), 0.95))
        if PLANNING in groups:
            (row,) = rows[group_of(PLANNING, count)]
            part = None if row.skipped else row.median
            records.append(claim(f"{group_of(PLANNING, count)}: of DCP's own", part, 0.1, at_most=True))
    return records


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 32 << 20, parts=GROUPS)
    groups = tuple(g for g in GROUPS if g in (args.only or GROUPS))
    counts = COUNTS[1:2] if args.quick else COUNTS
    nbytes = sum(t.nbytes for t in llama(args.size).values())
    with Workspace(args) as directory:
        params = {"directory": str(directory), "size": args.size, "nbytes": nbytes}
        rows = measure(
            "checkpoint_ranks", cases(groups, counts), params, args.rounds, warmup=args.warmup, memory=args.memory
        )
    records = table(f"checkpoints of {nbytes / 1e9:.2f} GB, spread over processes", rows, nbytes)
    records += claims({r.case.group: [x for x in rows if x.case.group == r.case.group] for r in rows}, groups, counts)
    finish(args, "checkpoint_ranks", records)


if __name__ == "__main__":
    main()
