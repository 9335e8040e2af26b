"""Claim 3: save, against the peers and the speed of light.

Durable: the data is on the disk, renamed, and the directory is synced, for everyone (peers get an fsync of file and
directory). Page cache: nobody syncs. We compute and store a checksum of every tensor in both.

The speed of light writes from memory aligned for the device. Arrays are not (malloc gives them addresses of 16 bytes
and any phase), so whoever writes them past the page cache copies them first: a second program does that and no more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Case, Row, Workspace, arguments, claim, finish, measure, ratio, roofline, table
from models import llama

DURABLE, CACHE = "durable", "page cache"
ROOF = "roofline: 2 x O_DIRECT 8 MiB"
CASES = [
    Case("weightlift.save", "ours", "durable atomic verified", "us", group=DURABLE, args={"durable": True}),
    Case("safetensors.numpy + fsync", "safetensors_save", "durable atomic", group=DURABLE, args={"durable": True}),
    Case("torch.save + fsync", "torch_save", "durable", group=DURABLE, args={"durable": True}),
    Case("torch DCP (fsync)", "dcp_save", "durable", group=DURABLE, args={"durable": True}),
    Case("np.savez + fsync", "savez", "durable", group=DURABLE, args={"durable": True}),
    Case("ndarray.tofile + fsync", "tofile", "durable", group=DURABLE, args={"durable": True}),
    Case(ROOF, "roofline_direct", "durable", "roofline", group=DURABLE),
    Case("roofline: the same, of memory as arrays have it", "roofline_bounce", "durable", "roofline", group=DURABLE),
    Case("weightlift.save(durable=False)", "ours", "atomic verified", "us", group=CACHE, args={"durable": False}),
    Case("safetensors.numpy", "safetensors_save", "atomic", group=CACHE, args={"durable": False}),
    Case("torch.save", "torch_save", "", group=CACHE, args={"durable": False}),
    Case("np.savez", "savez", "", group=CACHE, args={"durable": False}),
    Case("roofline: buffered", "roofline_buffered", "", "roofline", group=CACHE),
]


def sync(path: Path) -> None:
    """What a careful peer's user would add."""
    for target in (path, path.parent):
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def saver(params: dict[str, Any], name: str, save: Callable[[str], object]) -> Callable[[], None]:
    path = Path(params["directory"]) / name

    def run() -> None:
        save(str(path))
        if params["durable"]:
            sync(path)

    return run


def ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    tensors, path = llama(params["size"]), Path(params["directory"]) / f"ours-{params['durable']}.safetensors"
    return lambda: wl.save(tensors, path, durable=params["durable"]) and None


def safetensors_save(params: dict[str, Any]) -> Any:
    from safetensors.numpy import save_file

    tensors = llama(params["size"])
    return saver(params, "peer.safetensors", lambda path: save_file(tensors, path))


def torch_save(params: dict[str, Any]) -> Any:
    import torch

    tensors = {k: torch.from_numpy(v) for k, v in llama(params["size"]).items()}
    return saver(params, "peer.pt", lambda path: torch.save(tensors, path))


def dcp_save(params: dict[str, Any]) -> Any:
    import torch
    import torch.distributed.checkpoint as dcp

    tensors = {k: torch.from_numpy(v) for k, v in llama(params["size"]).items()}
    path = str(Path(params["directory"]) / "dcp")
    return lambda: (
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path, sync_files=True, overwrite=True), no_dist=True)
        and None
    )


def savez(params: dict[str, Any]) -> Any:
    tensors = llama(params["size"])
    return saver(params, "peer.npz", lambda path: np.savez(path, **tensors))


def tofile(params: dict[str, Any]) -> Any:
    flat = np.concatenate([v.reshape(-1) for v in llama(params["size"]).values()])
    return saver(params, "peer.bin", flat.tofile)


def roofline_direct(params: dict[str, Any]) -> Any:
    return roofline(
        "roofline_write",
        f"{params['directory']}/roof",
        str(params["nbytes"] & ~4095),
        "--direct",
        "--fsync",
        "--threads",
        "2",
    )


def roofline_bounce(params: dict[str, Any]) -> Any:
    return roofline(
        "roofline_write",
        f"{params['directory']}/roofc",
        str(params["nbytes"] & ~4095),
        "--direct",
        "--fsync",
        "--bounce",
        "--threads",
        "2",
    )


def roofline_buffered(params: dict[str, Any]) -> Any:
    return roofline("roofline_write", f"{params['directory']}/roofb", str(params["nbytes"] & ~4095), "--threads", "2")


def limits(rows: list[Row]) -> list[dict[str, Any]]:
    """Print what the roofline, which copies and hashes nothing, reaches against each durable peer."""
    if ratio(rows, ROOF, ROOF) is None:
        return []
    print("  what the machine allows: the roofline itself is")
    records = []
    for row in rows:
        if row.case.group == DURABLE and row.case.role == "peer" and not row.skipped:
            most = ratio(rows, ROOF, row.case.name)
            print(f"    {most:5.2f} x {row.case.name}")
            records.append({"limit": f"x {row.case.name}", "value": most})
    return records


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 32 << 20)
    nbytes = sum(v.nbytes for v in llama(args.size).values())
    with Workspace(args) as directory:
        params = {"directory": str(directory), "size": args.size, "nbytes": nbytes}
        rows = measure("save_local", CASES, params, args.rounds, warmup=args.warmup, memory=args.memory)
    records = table(f"save, {nbytes / 1e9:.2f} GB, 81 tensors", rows, nbytes)
    durable = [r for r in rows if r.case.group == DURABLE and r.case.role == "peer" and not r.skipped]
    best = min(durable, key=lambda r: r.median).case.name if durable else ""
    mine = next(r for r in rows if r.case.name == "weightlift.save")
    cpu = sorted(mine.cpu)[len(mine.cpu) // 2] / (nbytes / 2**30)
    records += [
        claim(
            "durable, of the direct-write roofline",
            ratio(rows, "weightlift.save", ROOF),
            0.95,
        ),
        claim(
            "durable, of the same that copies arrays first",
            ratio(rows, "weightlift.save", "roofline: the same, of memory as arrays have it"),
            0.95,
        ),
        claim("durable, CPU s/GiB", cpu, 0.25, at_most=True),
        claim(f"durable, x best durable peer ({best})", ratio(rows, "weightlift.save", best), 1.4),
        claim("durable, x safetensors + fsync", ratio(rows, "weightlift.save", "safetensors.numpy + fsync"), 2.0),
        claim("durable, x torch.save + fsync", ratio(rows, "weightlift.save", "torch.save + fsync"), 2.0),
        claim("durable, x DCP", ratio(rows, "weightlift.save", "torch DCP (fsync)"), 2.0),
        claim("page cache, x safetensors", ratio(rows, "weightlift.save(durable=False)", "safetensors.numpy"), 1.2),
    ]
    records += limits(rows)
    finish(args, "save_local", records)


if __name__ == "__main__":
    main()
