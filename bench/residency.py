"""Claim 2: never the wrong mode. With 0 to 100 % of the file in the page cache, the default read is within 10 % of the
best of mapped, buffered and direct."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from harness import Case, Row, Workspace, arguments, claim, finish, measure, table
from models import llama

SHARES = (0, 25, 50, 75, 100)
MODES = ("auto", "buffered", "direct", "map")


def ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    path, mode = params["path"], params["mode"]
    if mode == "map":
        return lambda: {k: np.array(v) for k, v in wl.load(path, memory="map").items()}
    return lambda: wl.load(path, mode=mode, verify=False)


def cases() -> list[Case]:
    return [
        Case(
            f"{mode} at {share} %",
            "ours",
            "owned",
            "us" if mode == "auto" else "peer",
            group=f"{share} % cached",
            args={"mode": mode, "share": share},
        )
        for share in SHARES
        for mode in MODES
    ]


def set_residency(path: Path, share: int) -> None:
    """Leave the first ``share`` percent of a file in the page cache and nothing else of it."""
    size = path.stat().st_size
    cached = size * share // 100 & ~4095
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, cached, 0, os.POSIX_FADV_DONTNEED)
        at = 0
        while at < cached:
            at += len(os.pread(fd, min(8 << 20, cached - at), at))
        os.posix_fadvise(fd, cached + 4095 & ~4095, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def main() -> None:
    args = arguments(__doc__ or "", 512 << 20, 32 << 20)
    with Workspace(args) as directory:
        import weightlift as wl

        path = directory / "model.safetensors"
        wl.save(llama(args.size), path)
        nbytes = path.stat().st_size

        def before(case: Case) -> None:
            set_residency(path, case.args["share"])

        rows = measure("residency", cases(), {"path": str(path)}, args.rounds, warmup=args.warmup, before=before)
    records = table(
        f"load by residency, {nbytes / 1e9:.2f} GB (each group against the best of the other modes)", rows, nbytes
    )
    for share in SHARES:
        group = {r.case.args["mode"]: r for r in rows if r.case.args["share"] == share}
        best = min((r for m, r in group.items() if m != "auto"), key=_median)
        records.append(
            claim(
                f"{share} % cached: auto, of the best ({best.case.args['mode']})",
                best.median / group["auto"].median,
                0.9,
            )
        )
    finish(args, "residency", records)


def _median(row: Row) -> float:
    return row.median


if __name__ == "__main__":
    main()
