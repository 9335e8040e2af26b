"""Peak memory: a load takes its tensors and little more; a save and a conversion take almost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import Case, Workspace, arguments, claim, finish, measure, table
from models import llama, mixed

KINDS = ("safetensors", "npz", "json")


def ours_load(params: dict[str, Any]) -> Any:
    import weightlift as wl

    path = params["path"]
    return lambda: wl.load(path)


def ours_save(params: dict[str, Any]) -> Any:
    import weightlift as wl

    tensors = llama(params["size"])
    return lambda: wl.save(tensors, Path(params["directory"]) / "saved.safetensors") and None


def ours_convert(params: dict[str, Any]) -> Any:
    import weightlift as wl

    return lambda: (
        wl.convert(Path(params["directory"]) / "llama.safetensors", Path(params["directory"]) / "converted.npz")
        and None
    )


def safetensors_load(params: dict[str, Any]) -> Any:
    from safetensors.numpy import load_file

    return lambda: load_file(params["path"])


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 64 << 20)
    records: list[dict[str, Any]] = []
    with Workspace(args) as directory:
        import weightlift as wl

        cases, sizes = [], {}
        for model, make in (("llama", llama), ("mixed", mixed)):
            tensors = make(args.size)
            for kind in KINDS:
                path = directory / (f"{model}.{kind}" if kind != "json" else f"{model}/model.json")
                if kind == "json" and model == "mixed":
                    continue  # TensorFlow.js holds no float64
                wl.save(tensors, path)
                name = f"load {model} {kind}"
                sizes[name] = sum(t.nbytes for t in tensors.values())
                cases.append(Case(name, "ours_load", "owned verified", "us", args={"path": str(path)}))
        cases += [
            Case("save llama", "ours_save", "durable verified", "us"),
            Case("convert llama to npz", "ours_convert", "durable verified", "us"),
            Case(
                "safetensors.numpy load llama",
                "safetensors_load",
                "owned",
                args={"path": str(directory / "llama.safetensors")},
            ),
        ]
        rows = measure("memory", cases, {"directory": str(directory), "size": args.size}, min(args.rounds, 3), warmup=0)
    records += table("peak memory above the idle process", rows, args.size)
    for row in rows:
        if row.case.name in sizes:
            limit = 1.02 * sizes[row.case.name] + (64 << 20)
            records.append(
                claim(f"{row.case.name}: peak, of 1.02 x tensors + 64 MiB", row.peak / limit, 1.0, at_most=True)
            )
        elif row.case.role == "us":
            records.append(claim(f"{row.case.name}: peak MiB", row.peak / 2**20, 256, at_most=True))
    finish(args, "memory", records)


if __name__ == "__main__":
    main()
