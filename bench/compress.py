"""Checkpoints that are compressed by zstd, and plain ones: what a save and a restore take, and what is left of a byte.

Groups: normal values as float32 and bfloat16, and both states of Adam after some steps (means of gradients, of their
squares). Real weights are like them in their mantissas, which no compression makes smaller.

What it says: docs/checkpoints.md, "Saving".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Case, Workspace, arguments, finish, measure, table

SAVE, RESTORE = "save", "restore"
CASES = {"plain": None, "zstd, level 1": ("zstd", 1), "zstd, level 3": ("zstd", 3)}
KINDS = ("float32", "bfloat16", "Adam's means", "Adam's squares")
TENSORS = 8


def state(kind: str, nbytes: int) -> dict[str, Any]:
    """Eight tensors of a kind, together about so many bytes."""
    import ml_dtypes
    import numpy as np

    rng = np.random.default_rng(0)
    count = nbytes // TENSORS // (2 if kind == "bfloat16" else 4)
    made = {}
    for number in range(TENSORS):
        values = rng.standard_normal(count, np.float32) * np.float32(0.02)
        if kind.startswith("Adam"):
            decay = np.float32(0.9 if kind == "Adam's means" else 0.999)
            values = np.zeros(count, np.float32)
            for _ in range(5):
                gradient = rng.standard_normal(count, np.float32) * np.float32(1e-3)
                part = gradient if kind == "Adam's means" else gradient * gradient
                values = decay * values + (1 - decay) * part
        made[f"t{number}"] = values.astype(ml_dtypes.bfloat16) if kind == "bfloat16" else values
    return made


def save(params: dict[str, Any]) -> Callable[[], int]:
    from weightlift.checkpoint import Checkpointer

    values, steps = state(params["kind"], params["size"]), itertools.count()
    checkpointer = Checkpointer(params["folder"], keep_last=1, incremental=False, compress=params["compress"])

    def run() -> int:
        return checkpointer.save(next(steps), values, blocking=True).bytes_written

    run()
    return run


def restore(params: dict[str, Any]) -> Callable[[], Any]:
    from weightlift.checkpoint import Checkpointer

    save(params)
    return Checkpointer(params["folder"]).restore


def main() -> None:
    args = arguments(__doc__ or "", 512 << 20, 8 << 20, parts=KINDS)
    records: list[dict[str, Any]] = []
    with Workspace(args) as folder:
        for kind in args.only or KINDS:
            cases = [
                Case(name, setup, "durable" if setup == SAVE else "owned, verified", "us", group=f"{kind}: {setup}",
                     args={"kind": kind, "compress": how, "folder": str(folder / f"{kind}-{setup}-{number}")})
                for setup in (SAVE, RESTORE)
                for number, (name, how) in enumerate(CASES.items())
            ]  # fmt: skip
            rows = measure("compress", cases, {"size": args.size}, args.rounds, warmup=args.warmup, memory=args.memory)
            records += table(f"{args.size / 1e9:.2f} GB of {kind}", rows, args.size)
            records += [ratio_of(case, args.size) for case in cases[: len(CASES)]]
    finish(args, "compress", records)


def ratio_of(case: Case, nbytes: int) -> dict[str, Any]:
    """Stored bytes of the last step, of those that it holds."""
    stored = sum(path.stat().st_size for path in Path(case.args["folder"]).glob("step-*/data-*"))
    print(f"  {case.name}: {stored / nbytes:.3f} of its bytes")
    return {"case": case.name, "group": case.group, "ratio": stored / nbytes}


if __name__ == "__main__":
    main()
