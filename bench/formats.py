"""Every format against its own framework, loading and saving the same tensors; and against safetensors.

Each framework writes its own file, in its own environment (tests/frameworks/setup.sh makes them), and both load that.
Loads end with all arrays in memory of their own. Nobody syncs. We verify what the file has checksums for, and
compute and store ours when saving. Times of the frameworks are their own, without the start of their interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Case, Row, Workspace, arguments, claim, finish, measure, on_request, ratio, table
from models import llama

BENCH = Path(__file__).resolve().parent
PEER = BENCH / "peers" / "formats.py"
REFERENCE = "weightlift, safetensors"
OWN, DECODED, PLAIN = 1.5, 3.0, 0.9


@dataclass(frozen=True)
class Kind:
    """A format: its title, how its framework loads and saves it, that one's environment, and the file's name."""

    title: str
    loads: str
    saves: str
    environment: str | None
    name: str
    format: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    plain: bool = True  # the stored bytes are the arrays'


KINDS = [
    Kind("torch", "torch.load", "torch.save", None, "x.pt"),
    Kind("npz", "np.load", "np.savez", None, "x.npz"),
    Kind("npy of a dict", "np.load(allow_pickle)", "np.save", None, "x.pickle.npy", "npy-pickle"),
    Kind("HDF5", "h5py reads", "h5py writes", None, "x.h5", "hdf5"),
    Kind("Keras .weights.h5", "load_weights", "save_weights", "tensorflow", "x.weights.h5"),
    Kind("Keras .keras", "keras.saving.load_model", "", "tensorflow", "x.keras"),
    Kind("MXNet", "mx.nd.load", "mx.nd.save", "mxnet", "x.params", "mxnet"),
    Kind("TensorFlow", "tf.train.load_checkpoint", "tf.raw_ops.SaveV2", "tensorflow", "x.index", "tensorbundle"),
    Kind("GGUF F32", "GGUFReader", "GGUFWriter", "jax", "x.gguf"),
    Kind("GGUF Q8_0", "GGUFReader, dequantize", "", "jax", "q.gguf", None, (("dequantize", True),), plain=False),
    Kind("Flax", "msgpack_restore", "msgpack_serialize", "jax", "x.msgpack"),
    Kind("ONNX", "onnx.load", "onnx.save", "jax", "x.onnx"),
]


def interpreter(environment: str | None) -> str | None:
    """The Python of a framework's environment; None: it is not installed."""
    if environment is None:
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("WEIGHTLIFT_FRAMEWORKS") or cache / "weightlift" / "frameworks")
    python = folder / environment / "bin" / "python"
    return str(python) if python.is_file() else None


def ours_load(params: dict[str, Any]) -> Any:
    import weightlift as wl

    path, options = params["path"], dict(params["options"])
    return lambda: wl.load(path, format=params["format"], **options)


def ours_save(params: dict[str, Any]) -> Any:
    import weightlift as wl

    tensors, path = llama(params["size"]), f"{params['directory']}/ours-{params['name']}"
    return lambda: wl.save(tensors, path, format=params["format"], durable=False) and None


def theirs(params: dict[str, Any]) -> Any:
    return on_request(*peer(params["python"], params["kind"], params["what"], params["path"], params["size"]))


def peer(python: str, kind: str, what: str, path: str, size: int) -> list[str]:
    """The command that has a framework make, load or save a file."""
    return ["env", f"PYTHONPATH={BENCH}", python, str(PEER), kind, what, path, str(size)]


def cases(kind: Kind, python: str, directory: Path) -> list[Case]:
    here = {"path": str(directory / kind.name)}
    common = {"kind": kind.title, "python": python, "name": kind.name, "format": kind.format, "options": kind.options}
    reference = {**common, "path": str(directory / "reference.safetensors"), "format": None, "options": ()}
    rows = [
        Case(
            f"weightlift, {kind.title}",
            "ours_load",
            "owned verified",
            "us",
            group="load",
            args={**common, **here},
        ),
        Case(REFERENCE, "ours_load", "owned verified", "us", group="load", args=reference),
        Case(kind.loads, "theirs", "owned", group="load", args={**common, **here, "what": "load"}),
    ]
    if kind.saves:
        out = str(directory / f"theirs-{kind.name}")
        rows += [
            Case(f"weightlift, {kind.title}, save", "ours_save", "atomic", "us", group="save", args=common),
            Case(kind.saves, "theirs", "", group="save", args={**common, "path": out, "what": "save"}),
        ]
    return rows


def claims(kind: Kind, rows: list[Row]) -> list[dict[str, Any]]:
    target, mine = OWN if kind.plain else DECODED, f"weightlift, {kind.title}"
    records = [claim(f"{kind.title}, load, x {kind.loads}", ratio(rows, mine, kind.loads), target)]
    if kind.plain:
        records.append(claim(f"{kind.title}, load, of safetensors' rate", ratio(rows, mine, REFERENCE), PLAIN))
    if kind.saves:
        records.append(claim(f"{kind.title}, save, x {kind.saves}", ratio(rows, f"{mine}, save", kind.saves), OWN))
    return records


def main() -> None:
    args = arguments(__doc__ or "", 256 << 20, 16 << 20, parts=[kind.title for kind in KINDS])
    import weightlift as wl

    tensors = llama(args.size)
    nbytes = sum(v.nbytes for v in tensors.values())
    records: list[dict[str, Any]] = []
    with Workspace(args) as directory:
        wl.save(tensors, directory / "reference.safetensors", durable=False)
        for kind in (k for k in KINDS if not args.only or k.title in args.only):
            python = interpreter(kind.environment)
            if python is None:
                print(f"\n{kind.title}: skipped: {kind.environment} is not installed: run tests/frameworks/setup.sh")
                continue
            command = peer(python, kind.title, "make", str(directory / kind.name), args.size)
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                print(f"\n{kind.title}: skipped: {(made.stderr.strip().splitlines() or ['no reason given'])[-1]}")
                continue
            params = {"directory": str(directory), "size": args.size}
            rows = measure(
                "formats", cases(kind, python, directory), params, args.rounds, warmup=args.warmup, memory=args.memory
            )
            records += table(f"{kind.title}, {nbytes / 1e9:.2f} GB, {len(tensors)} tensors", rows, nbytes)
            records += claims(kind, rows)
    finish(args, "formats", records)


if __name__ == "__main__":
    main()
