"""Makes the files in ``torch/``: ``python -m tests.golden.make_torch`` (PyTorch 2.13.0 made those that are here)."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "torch"


def described(value: Any) -> Any:
    """An object as JSON: containers, type, shape and bytes of arrays, and plain values."""
    if isinstance(value, dict):
        return {"dict": [[key, described(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [described(item) for item in value]}
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "hex": value.tobytes().hex()}
    return {type(value).__name__: repr(value)}


def ours() -> bytes:
    """What we write; it has no clock in it."""
    tied = np.arange(4, dtype="f4")
    state = {
        "model": {"a": tied, "b": tied, "c": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)},
        "small": np.array([1, 2], "u2"),
        "empty": np.zeros((0, 3), "i8"),
        "epoch": 3,
        "others": [0.5, "é", None, True, (b"\0\xff", 1j, float("inf")), {1}, -(1 << 70)],
    }
    with TemporaryDirectory() as folder:
        wl.save(state, Path(folder) / "x.pt", metadata={"note": "é"}, durable=False)
        return (Path(folder) / "x.pt").read_bytes()


def main() -> None:
    import torch

    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [
            base,
            base.permute(2, 1, 0),
            base[:, 1],
            base.transpose(0, 1),
            base[0, 0, :1].expand(3),
            torch.ones(2).conj(),
        ],
        "types": {str(d): torch.ones(3).to(d) for d in (torch.bfloat16, torch.bool, torch.complex64, torch.int8)},
        "facts": (torch.Size([2, 3]), torch.float16, torch.device("cuda:1"), {"a": {1, 2}, 5: b"\0\xff"}),
    }
    FOLDER.mkdir(exist_ok=True)
    torch.save(state, FOLDER / "archive.pt")
    torch.save(state, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"u": torch.tensor([1, 2], dtype=torch.uint16)}, FOLDER / "newer.pt")
    (FOLDER / "ours.pt").write_bytes(ours())
    expected = {path.name: described(wl.load(path)) for path in sorted(FOLDER.glob("*.pt"))}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
