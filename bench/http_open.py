"""Claim 5, second half: what it costs to list a huge remote file, and to take one tensor or some rows out of it.

The files are 100 GB (all holes: see sparse.py) of 1,000 tensors, in each format. nginx counts requests and bytes.
The peer reads the same headers by fsspec, which is how zarr, pandas and kerchunk read remote files.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wire
from harness import Workspace, arguments, claim, finish
from sparse import write_sparse

FORMATS = {"safetensors": "model.safetensors", "npz": "model.npz", "torch": "model.pt", "tfjs": "model.json"}
MAX_REQUESTS = 3


def list_tensors(url: str) -> int:
    import weightlift as wl

    return len(wl.open(url))


def one_tensor(url: str) -> int:
    import weightlift as wl

    name = "layer.25.bias"
    return int(wl.load(url, names=[name], verify=False)[name].nbytes)


def some_rows(url: str) -> int:
    import weightlift as wl

    return int(wl.open(url, verify=False)["layer.25.weight"][100:110].nbytes)


def fsspec_safetensors(url: str) -> int:
    import fsspec

    with fsspec.open(url) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return len(json.loads(file.read(length)))


def fsspec_zip(url: str) -> int:
    import zipfile

    import fsspec

    with fsspec.open(url) as file, zipfile.ZipFile(file) as archive:
        return len(archive.namelist())


def measured(nginx: wire.Nginx, job: Callable[[str], int], url: str, rounds: int) -> dict[str, Any]:
    """Requests, bytes and milliseconds of a job, each time with new connections if the job makes its own."""
    before = len(nginx.requests())
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        result = job(url)
        times.append(time.perf_counter() - begin)
    asked = nginx.requests()[before:]
    return {
        "requests": len(asked) / rounds,
        "bytes": sum(nbytes for _, nbytes in asked) / rounds,
        "median_s": sorted(times)[rounds // 2],
        "result": result,
    }


def jobs(tensors: int) -> dict[str, dict[str, Callable[[str], int]]]:
    """By format and row."""
    ours = {"list": list_tensors, "one small tensor": one_tensor, f"10 rows of {10_000:,}": some_rows}
    found = {name: {f"weightlift: {what}": job for what, job in ours.items()} for name in FORMATS}
    try:
        import aiohttp  # noqa: F401 - fsspec needs it
        import fsspec  # noqa: F401
    except ImportError as error:
        print(f"  without a peer: {error}")
        return found
    found["safetensors"]["fsspec + struct + json: list"] = fsspec_safetensors
    found["npz"]["fsspec + zipfile: list"] = fsspec_zip
    return found


def main() -> None:
    args = arguments(__doc__ or "", 100_000_000_000, 1_000_000_000)
    wire.without_proxies()
    tensors = 100 if args.quick else 1000
    columns = args.size // tensors // 40_000
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(tensors // 2):
        shapes[f"layer.{i}.weight"] = (10_000, columns * 2)
        shapes[f"layer.{i}.bias"] = (columns,)
    records: list[dict[str, Any]] = []
    with Workspace(args) as directory:
        try:
            with wire.serve(directory / "nginx", log=True) as nginx:
                for format, name in FORMATS.items():
                    records += one_format(nginx, format, name, shapes, args.rounds)
        except wire.Unavailable as error:
            wire.skip(error)
    worst = max(r["requests"] for r in records if "list" in r["case"] and r["case"].startswith("weightlift"))
    single = max(r["requests"] for r in records if "one small" in r["case"])
    records += [
        claim("requests to list the tensors, at worst", worst, MAX_REQUESTS, at_most=True),
        claim("requests for one tensor, at worst", single, MAX_REQUESTS, at_most=True),
    ]
    finish(args, "http_open", records)


def one_format(
    nginx: wire.Nginx, format: str, name: str, shapes: dict[str, tuple[int, ...]], rounds: int
) -> list[dict[str, Any]]:
    """All rows of one format."""
    folder = nginx.files / format
    folder.mkdir()
    files = write_sparse(folder, format, name, shapes)
    total = sum(p.stat().st_size for p in files)
    print(f"\n{format}, {total / 1e9:.0f} GB, {len(shapes)} tensors")
    print(f"  {'case':36} {'requests':>9} {'KiB':>9} {'ms':>8}")
    records = []
    for case, job in jobs(len(shapes))[format].items():
        record = {"case": case, "group": format, **measured(nginx, job, nginx.url(f"{format}/{name}"), rounds)}
        records.append(record)
        print(f"  {case:36} {record['requests']:9.1f} {record['bytes'] / 1024:9.1f} {record['median_s'] * 1e3:8.1f}")
    for path in files:
        Path(path).unlink()
    return records


if __name__ == "__main__":
    main()
