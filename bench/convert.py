"""Claim 6, conversion: between formats at the speed of a raw direct copy of the same bytes, in bounded memory.

Each pair starts from a file in the page cache and ends durable. The roofline copies the source file's bytes with
O_DIRECT writes and an fsync.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import Case, Workspace, arguments, claim, finish, measure, roofline, table
from models import llama

FILES = {"safetensors": "m.safetensors", "npz": "m.npz", "tfjs": "tfjs/model.json", "tfjs shards": "shards/model.json"}
PAIRS = [
    ("safetensors", "npz"),
    ("safetensors", "tfjs"),
    ("npz", "safetensors"),
    ("tfjs", "safetensors"),
    ("tfjs shards", "npz"),
    ("safetensors", "tfjs shards"),
]
QUANTIZED = "safetensors -> tfjs uint8"


def ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    source = Path(params["directory"]) / FILES[params["source"]]
    target = (
        Path(params["directory"])
        / f"out-{params['source']}-{params['target']}{params.get('quantize', '')}".replace(" ", "_")
        / Path(FILES[params["target"]]).name
    )
    shard_size = 4 << 20 if "shards" in params["target"] else None
    return lambda: wl.convert(source, target, shard_size=shard_size, quantize=params.get("quantize")) and None


def numpy_to_npz(params: dict[str, Any]) -> Any:
    """What a script does today: load all, save all, and an fsync."""
    import os

    import numpy as np
    from safetensors.numpy import load_file

    source, target = Path(params["directory"]) / "m.safetensors", Path(params["directory"]) / "script.npz"

    def run() -> None:
        np.savez(target, **load_file(source))
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    return run


def copy(params: dict[str, Any]) -> Any:
    return roofline("roofline_copy", f"{params['directory']}/m.safetensors", f"{params['directory']}/copy", "--fsync")


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 32 << 20)
    cases = [Case(f"{a} -> {b}", "ours", "durable verified", "us", args={"source": a, "target": b}) for a, b in PAIRS]
    cases.append(
        Case(
            QUANTIZED,
            "ours",
            "durable verified",
            "us",
            args={"source": "safetensors", "target": "tfjs", "quantize": "uint8"},
        )
    )
    cases.append(Case("safetensors + np.savez + fsync", "numpy_to_npz", "durable"))
    cases.append(Case("roofline: raw copy", "copy", "durable", "roofline"))
    with Workspace(args) as directory:
        import weightlift as wl

        tensors = llama(args.size)
        nbytes = sum(t.nbytes for t in tensors.values())
        for name, file in FILES.items():
            wl.save(tensors, directory / file, shard_size=4 << 20 if "shards" in name else None)
        del tensors
        rows = measure("convert", cases, {"directory": str(directory)}, args.rounds, warmup=args.warmup)
        for pair in PAIRS:
            out = directory / f"out-{pair[0]}-{pair[1]}".replace(" ", "_") / Path(FILES[pair[1]]).name
            assert wl.diff(directory / "m.safetensors", out).same, pair
    records = table(f"convert, {nbytes / 1e9:.2f} GB", rows, nbytes)
    by = {r.case.name: r for r in rows}
    roof = by["roofline: raw copy"]
    for a, b in PAIRS:
        row = by[f"{a} -> {b}"]
        if not roof.skipped:
            records.append(claim(f"{a} -> {b}, of the raw copy", roof.median / row.median, 0.9))
        records.append(claim(f"{a} -> {b}, peak MiB above the process", row.peak / 2**20, 256, at_most=True))
    finish(args, "convert", records)


if __name__ == "__main__":
    main()
