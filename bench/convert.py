"""Claim 6, conversion: between formats at the speed of a raw direct copy of the same bytes, in bounded memory.

Each pair starts from a file in the page cache and ends durable, under new names. The roofline copies the source file's
bytes with O_DIRECT writes and an fsync. Replacing files is measured apart: the file system takes its time to free what
was there, for each file.
"""

from __future__ import annotations

import os
import shutil
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
REPLACED = "safetensors -> tfjs shards, replaced"


def out_of(params: dict[str, Any]) -> Path:
    """The folder of a case's target."""
    kind = params.get("quantize", "") + params.get("old", "")
    return Path(params["directory"]) / f"out-{params['source']}-{params['target']}{kind}".replace(" ", "_")


def ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    source = Path(params["directory"]) / FILES[params["source"]]
    target = out_of(params) / Path(FILES[params["target"]]).name
    shard_size = 4 << 20 if "shards" in params["target"] else None
    return lambda: wl.convert(source, target, shard_size=shard_size, quantize=params.get("quantize")) and None


def numpy_to_npz(params: dict[str, Any]) -> Any:
    """What a script does today: load all, save all, and an fsync."""
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
    target = f"{params['directory']}/copy{params.get('old', '')}"
    return roofline("roofline_copy", f"{params['directory']}/m.safetensors", target, "--fsync")


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
    shards = {"source": "safetensors", "target": "tfjs shards", "old": "-replaced"}
    cases.append(Case(REPLACED, "ours", "durable verified", "us", args=shards))
    cases.append(Case("safetensors + np.savez + fsync", "numpy_to_npz", "durable"))
    cases.append(Case("roofline: raw copy", "copy", "durable", "roofline"))
    cases.append(Case("raw copy, replaced", "copy", "durable", "tool", args={"old": "-replaced"}))
    with Workspace(args) as directory:
        import weightlift as wl

        tensors = llama(args.size)
        nbytes = sum(t.nbytes for t in tensors.values())
        for name, file in FILES.items():
            wl.save(tensors, directory / file, shard_size=4 << 20 if "shards" in name else None)
        del tensors
        params = {"directory": str(directory)}

        def before(case: Case) -> None:
            if "old" not in case.args:
                target = directory / ("copy" if case.setup == "copy" else "script.npz")
                target.unlink(missing_ok=True)
                if case.setup == "ours":
                    shutil.rmtree(out_of({**params, **case.args}), ignore_errors=True)
                os.sync()

        rows = measure("convert", cases, params, args.rounds, warmup=args.warmup, before=before, memory=args.memory)
        for a, b in PAIRS:
            out = out_of({**params, "source": a, "target": b}) / Path(FILES[b]).name
            assert wl.diff(directory / "m.safetensors", out).same, (a, b)
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
