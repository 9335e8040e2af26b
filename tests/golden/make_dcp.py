"""Makes tests/golden/dcp: checkpoints of torch.distributed.checkpoint, and what is in them.

    python tests/golden/make_dcp.py [FOLDER]

Needs torch 2.4 or newer. ``plain`` is saved by one process, ``sharded`` by two (gloo, on the CPU). ``NAME.json`` holds
the bytes of each tensor as hexadecimal, by its name, as torch has them, and the plain values.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

HERE = Path(__file__).parent / "dcp"


def plain(folder: Path) -> None:
    """A module, its optimizer, and values, tensors and views around them."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "list": [torch.arange(3), "x", (torch.ones(2), None)],
        "types": {
            "bfloat16": torch.randn(2, 2).bfloat16(),
            "complex64": torch.randn(3, dtype=torch.complex64),
            "bool": torch.tensor([True, False]),
            "float8": torch.randn(4).to(torch.float8_e4m3fn),
        },
        "turned": torch.randn(3, 2).t(),
        "empty": torch.zeros(0, 3),
        "part": torch.arange(10)[2:5],
    }
    dcp.save(state, checkpoint_id=folder)
    _truth(folder, state)


def sharded(rank: int, folder: Path) -> None:
    """Tensors over two processes by rows, by columns, unevenly, and not at all; FSDP2 with its optimizer."""
    meeting = folder.with_suffix(".meeting").resolve()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))

    def over(tensor: torch.Tensor, *how: Any) -> DTensor:
        return distribute_tensor(tensor, mesh, how)

    tensors = {
        "rows": over(torch.randn(5, 3), Shard(0)),
        "columns": over(torch.randn(4, 7).bfloat16(), Shard(1)),
        "whole": over(torch.randn(3), Replicate()),
        "one": over(torch.randn(1, 2), Shard(0)),
    }
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))
    for layer in net:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    model_state, optimizer_state = get_state_dict(net, optimizer)
    state = {"tensors": tensors, "model": model_state, "optimizer": optimizer_state, "epoch": 3}
    dcp.save(state, checkpoint_id=folder)
    _truth(folder, state, write=rank == 0)
    dist.destroy_process_group()


def _truth(folder: Path, state: Any, *, write: bool = True) -> None:
    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            full = value.full_tensor() if isinstance(value, DTensor) else value
            raw = full.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            tensors[path] = [str(full.dtype).removeprefix("torch."), list(full.shape), raw.hex()]
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                visit(item, f"{path}.{i}")
        else:
            values[path] = value

    visit(state, "")
    if write:
        text = json.dumps({"tensors": tensors, "values": values}, indent=0)
        folder.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def main(folder: Path) -> None:
    """Make both."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)  # the metadata keep the path as it was given
    plain(Path("plain"))
    mp.start_processes(sharded, (Path("sharded"),), nprocs=2, start_method="fork")
    Path("sharded.meeting").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE)
