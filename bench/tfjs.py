"""Claim: a sharded, uint8-quantised TensorFlow.js model is saved 10 x as fast as by its converter and by TensorFlow.js.

It is loaded 8 x as fast, in at most 1.1 x the memory of the decoded weights. The converter's rows are its own
write_weights and read_weights, which need no TensorFlow. TensorFlow.js runs in Node.js and times itself, start and
imports aside; it cannot quantise, so its save is the plain one, of four times the bytes. Nobody else waits for the disk
or hashes: our rows say which do. Files are in the page cache. All overwrite what their round before left.

The rooflines do the same job in plain C++, without checksums or exact rounding: what this machine allows. How many
times as fast they are as the peers bounds what can be claimed here, and is printed.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from harness import ROOT, Case, Skip, Timed, Workspace, arguments, claim, finish, measure, ratio, roofline, table
from models import llama

SHARD = 4 << 20
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
MODULES = Path(os.environ.get("WEIGHTLIFT_NODE") or CACHE / "weightlift" / "node") / "node_modules"


def save_ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    tensors, out = llama(params["size"]), Path(params["directory"]) / params["name"] / "model.json"
    options = {k: params[k] for k in ("quantize", "durable", "checksums") if k in params}
    return lambda: wl.save(tensors, out, shard_size=SHARD, **options) and None


def load_ours(params: dict[str, Any]) -> Any:
    import weightlift as wl

    source = Path(params["directory"]) / "uint8" / "model.json"
    return lambda: wl.load(source, verify=params["verify"])


def converter(module: str) -> Any:
    """A module of the converter, with a shell in place of the package and of TensorFlow, which it does not need."""
    spec = importlib.util.find_spec("tensorflowjs")
    if spec is None:
        raise Skip("tensorflowjs is not installed: pip install --no-deps tensorflowjs==4.22.0")
    shell, tensorflow = types.ModuleType("tensorflowjs"), types.ModuleType("tensorflow")
    shell.__path__ = list(spec.submodule_search_locations or ())
    files = types.SimpleNamespace(GFile=open, exists=os.path.exists, makedirs=os.makedirs)
    tensorflow.io = types.SimpleNamespace(gfile=files)  # type: ignore[attr-defined]
    sys.modules |= {"tensorflowjs": shell, "tensorflow": tensorflow}
    return importlib.import_module(f"tensorflowjs.{module}")


def save_converter(params: dict[str, Any]) -> Any:
    write = converter("write_weights").write_weights
    out = Path(params["directory"]) / params["name"]
    out.mkdir(exist_ok=True)
    group = [{"name": n, "data": t} for n, t in llama(params["size"]).items()]
    kinds = {params["quantize"]: True} if "quantize" in params else None
    return lambda: write([group], str(out), SHARD, quantization_dtype_map=kinds) and None


def load_converter(params: dict[str, Any]) -> Any:
    read = converter("read_weights").read_weights
    folder = Path(params["directory"]) / "uint8"
    manifest = json.loads((folder / "model.json").read_text())["weightsManifest"]
    return lambda: read(manifest, str(folder), flatten=True)


def node(params: dict[str, Any]) -> Any:
    program = shutil.which("node")
    if program is None or not (MODULES / "@tensorflow" / "tfjs").is_dir():
        raise Skip("TensorFlow.js is not installed: run tests/interop/setup_node.sh")
    directory = Path(params["directory"])
    out = directory / "node"
    out.mkdir(exist_ok=True)
    model = directory / ("plain" if params["verb"] == "save" else "uint8") / "model.json"
    command = [program, str(ROOT / "bench" / "tfjs_node.js"), params["verb"], str(model), str(out)]

    def run() -> Timed:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "NODE_PATH": str(MODULES)}
        )
        report = json.loads(done.stdout.strip().splitlines()[-1])
        return Timed(report["seconds"], report["cpu_s"])

    return run


def in_plain_cpp(params: dict[str, Any]) -> Any:
    folder = Path(params["directory"]) / f"roofline-{params['verb']}"
    folder.mkdir()
    return roofline("roofline_quantize", params["verb"], str(folder), str(params["size"]))


SAVES = [
    Case("weightlift, uint8", "save_ours", "checksums", "us", group="save",
         args={"name": "a", "quantize": "uint8", "durable": False}),
    Case("weightlift, uint8, durable", "save_ours", "checksums durable", "us", group="save",
         args={"name": "b", "quantize": "uint8"}),
    Case("weightlift, auto:1e-2, durable", "save_ours", "checksums durable measured", "us", group="save",
         args={"name": "c", "quantize": "auto:1e-2"}),
    Case("weightlift, plain", "save_ours", "checksums", "us", group="save", args={"name": "d", "durable": False}),
    Case("converter, uint8", "save_converter", "", group="save", args={"name": "e", "quantize": "uint8"}),
    Case("converter, plain", "save_converter", "", group="save", args={"name": "f"}),
    Case("TensorFlow.js, plain", "node", "", group="save", args={"verb": "save"}),
    Case("roofline, uint8", "in_plain_cpp", "", "roofline", group="save", args={"verb": "save"}),
]  # fmt: skip
LOADS = [
    Case("weightlift, load uint8", "load_ours", "owned verified", "us", group="load", args={"verify": True}),
    Case("weightlift, load uint8, verify=False", "load_ours", "owned", "us", group="load", args={"verify": False}),
    Case("converter, load uint8", "load_converter", "owned", group="load"),
    Case("TensorFlow.js, load uint8", "node", "owned", group="load", args={"verb": "load"}),
    Case("roofline, load uint8", "in_plain_cpp", "owned", "roofline", group="load", args={"verb": "load"}),
]
BOUNDS = [
    ("roofline, uint8", "converter, uint8", "TensorFlow.js, plain"),
    ("roofline, load uint8", "converter, load uint8", "TensorFlow.js, load uint8"),
]


def main() -> None:
    args = arguments(__doc__ or "", 500_000_000, 32 << 20)
    with Workspace(args) as directory:
        import weightlift as wl

        tensors = llama(args.size)
        nbytes = sum(t.nbytes for t in tensors.values())
        wl.save(tensors, directory / "uint8" / "model.json", quantize="uint8", shard_size=SHARD)
        wl.save(tensors, directory / "plain" / "model.json", shard_size=SHARD)
        del tensors
        params = {"directory": str(directory), "size": args.size}
        rows = measure("tfjs", [*SAVES, *LOADS], params, args.rounds, warmup=args.warmup, memory=args.memory)
    records = table(f"TensorFlow.js, {nbytes / 1e9:.2f} GB as float32, shards of 4 MiB", rows, nbytes)
    peak = next(r for r in rows if r.case.name == "weightlift, load uint8").peak
    records += [
        claim("save uint8, of the converter's", ratio(rows, "weightlift, uint8", "converter, uint8"), 10),
        claim("save uint8, of TensorFlow.js' plain", ratio(rows, "weightlift, uint8", "TensorFlow.js, plain"), 10),
        claim("load uint8, of the converter's", ratio(rows, "weightlift, load uint8", "converter, load uint8"), 8),
        claim("load uint8, of TensorFlow.js'", ratio(rows, "weightlift, load uint8", "TensorFlow.js, load uint8"), 8),
        claim("load uint8, peak memory, of the decoded weights", peak / nbytes, 1.1, at_most=True),
    ]
    for bound, *peers in BOUNDS:
        for peer in peers:
            value = ratio(rows, bound, peer)
            if value is not None:
                print(f"  bound: {bound!r} is {value:.2f} x as fast as {peer!r}")
                records.append({"bound": bound, "peer": peer, "value": value})
    finish(args, "tfjs", records)


if __name__ == "__main__":
    main()
