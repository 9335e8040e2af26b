"""One process of a job that saves and loads with torch.distributed.checkpoint; run by test_dcp_plugin.py.

Usage: dcp_job.py RANK WORLD_SIZE FOLDER TASK..., where a task is save:MODE or load:MODE:NAME. A save leaves NAME =
WORLD_SIZE + MODE: ``NAME`` by Weightlift, ``NAME.own`` by torch's own writer, ``NAME.truth`` the full state. What
Weightlift writes and reads lies in FOLDER, or below the URL ``DCP_PLACE`` of the environment.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter

warnings.simplefilter("ignore")


class Block(torch.nn.Module):
    """A layer of a small network, with names that parallelisms go by."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(24)
        self.up = torch.nn.Linear(24, 52)
        self.down = torch.nn.Linear(52, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(7, 24), Block(), Block(), torch.nn.Linear(24, 2))


def spread(mode: str, model: torch.nn.Module, world: int) -> torch.nn.Module:
    """The model as DDP, FSDP2, HSDP, tensor parallelism, or FSDP2 over tensor parallelism have it."""
    if mode == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    if mode in ("tp", "fsdp_tp"):
        mesh = init_device_mesh("cpu", (1 if mode == "tp" else world // 2, world if mode == "tp" else 2),
                                mesh_dim_names=("dp", "tp"))  # fmt: skip
        for block in (model[1], model[2]):
            parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        if mode == "tp":
            return model
        mesh = mesh["dp"]
    elif mode == "hsdp":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh("cpu", (world,))
    for block in (model[1], model[2]):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def trained(mode: str, world: int, seed: int, steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = spread(mode, network(seed), world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01 * seed)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 7, generator=generator)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def state_of(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, *, full: bool = False
) -> dict[str, Any]:
    options = StateDictOptions(full_state_dict=full, cpu_offload=full)
    weights, moments = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optim": moments, "step": step, "seen": [step, {"file": f"part-{step}"}]}


def main(rank: int, world: int, folder: Path, tasks: list[str]) -> None:
    meeting = folder / f"meeting-{'-'.join(tasks).replace(':', '_')}"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    place = os.environ.get("DCP_PLACE") or str(folder)
    for task in tasks:
        kind, mode, *rest = task.split(":")
        if kind == "save":
            name = f"{world}{mode}"
            model, optimizer = trained(mode, world, 1, 2)
            state = state_of(model, optimizer, 2)
            dcp.save(state, storage_writer=WeightliftWriter(f"{place}/{name}"))
            dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / f"{name}.own"))
            with Checkpointer(f"{place}/{name}.steps", rank=rank, world_size=world, timeout=60) as checkpointer:
                checkpointer.save(2, state, blocking=True)
            future = dcp.async_save(state, storage_writer=WeightliftWriter(f"{place}/{name}.async"))
            with torch.no_grad():
                for weight in model.parameters():  # what is staged must not change
                    (weight.to_local() if hasattr(weight, "to_local") else weight).fill_(9)
            future.result()
            model, optimizer = trained(mode, world, 1, 2)
        else:
            (name,) = rest
            model, optimizer = trained(mode, world, 2, 1)
            state = state_of(model, optimizer, 0)
            dcp.load(state, storage_reader=WeightliftReader(f"{place}/{name}"))
            set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
            assert state["step"] == 2 and state["seen"] == [2, {"file": "part-2"}], state["seen"]
            name = f"{name}.in.{world}{mode}"
        full = state_of(model, optimizer, 2, full=True)
        if rank == 0:
            torch.save(full, folder / f"{name}.truth")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
