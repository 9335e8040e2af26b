"""Claims 1 and 7: 20,000 and 100,000 tensors of 4 KiB: what a tensor costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from harness import Case, Workspace, arguments, claim, finish, measure, ratio, table
from models import many

VIEWS, LOAD, SAVE = "open, all touched", "load", "save (page cache)"
CASES = [
    Case("weightlift.open", "ours_views", "view", "us", group=VIEWS),
    Case("safetensors.torch load_file (mmap)", "safetensors_torch", "view", group=VIEWS),
    Case("weightlift.load", "ours_load", "owned verified", "us", group=LOAD),
    Case("safetensors.numpy.load_file", "safetensors_load", "owned", group=LOAD),
    Case("torch.load", "torch_load", "owned", group=LOAD),
    Case("np.load (npz)", "npz_load", "owned", group=LOAD),
    Case("weightlift.save(durable=False)", "ours_save", "atomic verified", "us", group=SAVE),
    Case("safetensors.numpy.save_file", "safetensors_save", "atomic", group=SAVE),
    Case("torch.save", "torch_save", "", group=SAVE),
    Case("np.savez", "npz_save", "", group=SAVE),
]


def _tensors(params: dict[str, Any]) -> Any:
    return many(params["count"])


def ours_views(params: dict[str, Any]) -> Any:
    import weightlift as wl

    def run() -> Any:
        return sum(array.item(0) for array in wl.open(params["path"]).arrays().values())

    return run


def ours_load(params: dict[str, Any]) -> Any:
    import weightlift as wl

    return lambda: wl.load(params["path"])


def ours_save(params: dict[str, Any]) -> Any:
    import weightlift as wl

    tensors = _tensors(params)
    return lambda: wl.save(tensors, params["path"] + ".ours.safetensors", durable=False) and None


def safetensors_load(params: dict[str, Any]) -> Any:
    from safetensors.numpy import load_file

    return lambda: load_file(params["path"])


def safetensors_torch(params: dict[str, Any]) -> Any:
    from safetensors.torch import load_file

    return lambda: sum(t.numpy().item(0) for t in load_file(params["path"]).values())


def safetensors_save(params: dict[str, Any]) -> Any:
    from safetensors.numpy import save_file

    tensors = _tensors(params)
    return lambda: save_file(tensors, params["path"] + ".peer.safetensors")


def torch_load(params: dict[str, Any]) -> Any:
    import torch

    path = params["path"] + ".pt"
    torch.save({k: torch.from_numpy(v) for k, v in _tensors(params).items()}, path)
    return lambda: torch.load(path, weights_only=True)


def torch_save(params: dict[str, Any]) -> Any:
    import torch

    tensors = {k: torch.from_numpy(v) for k, v in _tensors(params).items()}
    return lambda: torch.save(tensors, params["path"] + ".save.pt")


def npz_load(params: dict[str, Any]) -> Any:
    path = params["path"] + ".npz"
    np.savez(path, **_tensors(params))

    def run() -> Any:
        with np.load(path) as archive:
            return {k: archive[k] for k in archive.files}

    return run


def npz_save(params: dict[str, Any]) -> Any:
    tensors = _tensors(params)
    return lambda: np.savez(params["path"] + ".save.npz", **tensors)


def main() -> None:
    args = arguments(__doc__ or "", 0, 0, parts=["20000", "100000"])
    records: list[dict[str, Any]] = []
    for count in (2_000,) if args.quick else map(int, args.only or (20_000, 100_000)):
        with Workspace(args) as directory:
            import weightlift as wl

            path = Path(directory) / "many.safetensors"
            wl.save(many(count), path)
            assert all(
                np.array_equal(a, b)
                for a, b in zip(wl.load(path).values(), wl.load(path, verify=False).values(), strict=True)
            )
            params = {"path": str(path), "count": count}
            rows = measure("many_tensors", CASES, params, args.rounds, warmup=args.warmup, memory=args.memory)
        records += table(f"{count} tensors of 4 KiB", rows, count * 4096)
        by = {r.case.name: r for r in rows}
        records.append(
            claim(
                f"{count}: open and touch, us a tensor", by["weightlift.open"].median / count * 1e6, 2.0, at_most=True
            )
        )
        records.append(
            claim(f"{count}: load, x safetensors", ratio(rows, "weightlift.load", "safetensors.numpy.load_file"), 2.0)
        )
        records.append(
            claim(
                f"{count}: save, x safetensors",
                ratio(rows, "weightlift.save(durable=False)", "safetensors.numpy.save_file"),
                2.0,
            )
        )
        for ours, theirs in (
            ("weightlift.load", "torch.load"), ("weightlift.load", "np.load (npz)"),
            ("weightlift.save(durable=False)", "torch.save"), ("weightlift.save(durable=False)", "np.savez"),
        ):  # fmt: skip
            if not by[theirs].skipped:
                records.append(claim(f"{count}: {ours}, x {theirs}", ratio(rows, ours, theirs), 10.0))
    finish(args, "many_tensors", records)


if __name__ == "__main__":
    main()
