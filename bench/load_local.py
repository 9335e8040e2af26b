"""Claim 1: warm load to NumPy, against the peers and the speed of light.

Views: every tensor opened and touched once. Owned: writable, 64-byte aligned, checksum verified (the peers verify
nothing). Reused: into memory that was there before. All read the same file in the page cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from harness import Case, Skip, Workspace, arguments, claim, finish, measure, ratio, roofline, table
from models import llama

CASES = [
    Case("weightlift.open, all touched", "ours_views", "view", "us", group="views"),
    Case("safetensors.torch load_file (mmap), touched", "safetensors_torch", "view", needs="torch", group="views"),
    Case("torch.load(mmap=True), touched", "torch_mmap", "view", needs="torch", group="views"),
    Case("np.memmap, touched", "memmap", "view", group="views"),
    Case("weightlift.load", "ours_load", "owned verified", "us", group="owned, fresh memory"),
    Case("weightlift.load(verify=False)", "ours_unverified", "owned", "us", group="owned, fresh memory"),
    Case("safetensors.numpy.load_file", "safetensors_numpy", "owned", group="owned, fresh memory"),
    Case("torch.load", "torch_load", "owned", needs="torch", group="owned, fresh memory"),
    Case("np.fromfile", "fromfile", "owned", group="owned, fresh memory"),
    Case("tensorizer", "tensorizer_load", "owned", needs="tensorizer", group="owned, fresh memory"),
    Case("roofline: 2 x pread, huge pages", "roofline_fresh", "owned", "roofline", group="owned, fresh memory"),
    Case("weightlift.load(out=)", "ours_out", "owned verified", "us", group="reused memory"),
    Case("weightlift.load(memory=BufferPool)", "ours_pool", "owned verified", "us", group="reused memory"),
    Case("np.readinto", "readinto", "owned", group="reused memory"),
    Case("roofline: 2 x pread, reused", "roofline_hot", "owned", "roofline", group="reused memory"),
]


def touch(arrays: Any) -> int:
    """One byte of every tensor."""
    total = 0
    for array in arrays:
        total += int(array.reshape(-1).view(np.uint8)[0])
    return total


def ours_views(params: dict[str, Any]) -> Any:
    import weightlift as wl

    def run() -> Any:
        weights = wl.open(params["path"])
        arrays = weights.arrays()
        touch(arrays.values())
        return arrays

    return run


def ours_load(params: dict[str, Any]) -> Any:
    import weightlift as wl

    return lambda: wl.load(params["path"])


def ours_unverified(params: dict[str, Any]) -> Any:
    import weightlift as wl

    return lambda: wl.load(params["path"], verify=False)


def ours_out(params: dict[str, Any]) -> Any:
    import weightlift as wl

    out = wl.load(params["path"])
    return lambda: wl.load(params["path"], out=out) and None


def ours_pool(params: dict[str, Any]) -> Any:
    import weightlift as wl

    pool = wl.BufferPool(params["size"] * 2)
    return lambda: wl.load(params["path"], memory=pool)


def safetensors_numpy(params: dict[str, Any]) -> Any:
    from safetensors.numpy import load_file

    return lambda: load_file(params["path"])


def safetensors_torch(params: dict[str, Any]) -> Any:
    from safetensors.torch import load_file

    def run() -> Any:
        tensors = load_file(params["path"])
        touch(t.numpy() for t in tensors.values())
        return tensors

    return run


def _torch_file(params: dict[str, Any]) -> str:
    path = Path(params["path"]).with_suffix(".pt")
    if not path.exists():
        raise Skip("torch is not installed: no .pt file was made")
    return str(path)


def torch_load(params: dict[str, Any]) -> Any:
    import torch

    path = _torch_file(params)
    return lambda: torch.load(path, weights_only=True)


def torch_mmap(params: dict[str, Any]) -> Any:
    import torch

    path = _torch_file(params)

    def run() -> Any:
        tensors = torch.load(path, mmap=True, weights_only=True)
        touch(t.numpy() for t in tensors.values())
        return tensors

    return run


def memmap(params: dict[str, Any]) -> Any:
    return lambda: touch([np.memmap(params["path"], np.uint8, "r")])


def fromfile(params: dict[str, Any]) -> Any:
    return lambda: np.fromfile(params["path"], np.uint8)


def readinto(params: dict[str, Any]) -> Any:
    memory = np.empty(Path(params["path"]).stat().st_size, np.uint8)

    def run() -> None:
        with open(params["path"], "rb", buffering=0) as file:
            view = memoryview(memory)
            while view and (n := file.readinto(view)):
                view = view[n:]

    return run


def tensorizer_load(params: dict[str, Any]) -> Any:
    from tensorizer import TensorDeserializer

    path = Path(params["path"]).with_suffix(".tensors")
    if not path.exists():
        raise Skip("tensorizer is not installed: no .tensors file was made")
    return lambda: dict(TensorDeserializer(str(path), device="cpu", lazy_load=False).items())


def roofline_fresh(params: dict[str, Any]) -> Any:
    return roofline("roofline_read", params["path"], "--mode", "owned-huge", "--threads", "2")


def roofline_hot(params: dict[str, Any]) -> Any:
    return roofline("roofline_read", params["path"], "--mode", "hot", "--threads", "2")


def make_files(directory: Path, size: int) -> Path:
    """The model for everyone: ours, and the same tensors in the peers' own formats where they are installed."""
    import weightlift as wl

    tensors = llama(size)
    path = directory / "model.safetensors"
    wl.save(tensors, path)
    try:
        import torch

        torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, path.with_suffix(".pt"))
        from tensorizer import TensorSerializer

        serializer = TensorSerializer(str(path.with_suffix(".tensors")))
        serializer.write_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
        serializer.close()
    except ImportError as error:
        print(f"  without a peer: {error}")
    return path


def check(path: Path, size: int) -> None:
    """What we load is what was saved: outside the timing."""
    import weightlift as wl

    loaded = wl.load(path)
    for name, array in llama(size).items():
        mine = loaded[name]
        assert np.array_equal(array, mine) and mine.flags.writeable and mine.ctypes.data % 64 == 0, name


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 32 << 20)
    with Workspace(args) as directory:
        path = make_files(directory, args.size)
        check(path, args.size)
        nbytes = path.stat().st_size
        rows = measure(
            "load_local",
            CASES,
            {"path": str(path), "size": args.size},
            args.rounds,
            warmup=args.warmup,
            memory=args.memory,
        )
    records = table(f"warm load, {nbytes / 1e9:.2f} GB, 81 tensors", rows, nbytes)
    views = next(r for r in rows if r.case.setup == "ours_views")
    owned = [r for r in rows if r.case.group.startswith("owned") and r.case.role == "peer" and not r.skipped]
    best = min(owned, key=lambda r: r.median).case.name if owned else ""
    records += [
        claim("views of 81 tensors, ms", views.median * 1e3, 2.0, at_most=True),
        claim(
            "owned verified, of the roofline", ratio(rows, "weightlift.load", "roofline: 2 x pread, huge pages"), 0.85
        ),
        claim(
            "owned verified, x safetensors.numpy", ratio(rows, "weightlift.load", "safetensors.numpy.load_file"), 3.2
        ),
        claim(f"owned verified, x best unverified peer ({best})", ratio(rows, "weightlift.load", best), 1.4),
        claim(
            "into out=, of the hot roofline", ratio(rows, "weightlift.load(out=)", "roofline: 2 x pread, reused"), 0.8
        ),
        claim(
            "pooled, of the hot roofline",
            ratio(rows, "weightlift.load(memory=BufferPool)", "roofline: 2 x pread, reused"),
            0.8,
        ),
    ]
    finish(args, "load_local", records)


if __name__ == "__main__":
    main()
