"""Processes that save and load one state together, for bench/checkpoint_ranks.

    PYTHONPATH=bench python bench/peers/ranks_job.py SYSTEM FIGURE FOLDER SIZE WORLD_SIZE [RANK PORT]

Without a rank it starts all of them and is rank 0. Each has its rows of every tensor (DTensor). Saves, or loads, once
for every line on standard input, and prints the times as JSON: seconds until the last one is ready, CPU seconds of all.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from models import llama
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from wire import free_ports

from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter

PREPARE = ("set_up_storage_writer", "prepare_local_plan", "prepare_global_plan")


def rows(size: int, rank: int, world: int) -> dict[str, Any]:
    """This rank's rows of each tensor."""
    mesh = init_device_mesh("cpu", (world,))
    made = {}
    for name, array in llama(size).items():
        part = torch.from_numpy(array).chunk(world)
        local = part[rank].clone() if rank < len(part) else torch.empty(0, *array.shape[1:])
        whole = torch.from_numpy(array)
        made[name] = DTensor.from_local(
            local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
        )
    return made


class Timed(WeightliftWriter):
    """Notes how long its part of the planning takes, and when the planning is over."""

    own = 0.0
    planned = 0.0

    def write_data(self, plan: Any, planner: Any) -> Any:
        self.planned = time.perf_counter()
        return super().write_data(plan, planner)


def _noting(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(WeightliftWriter, name))  # DCP looks at the signature
    def method(self: Timed, *args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return getattr(WeightliftWriter, name)(self, *args, **options)
        finally:
            self.own += time.perf_counter() - begin

    return method


for _name in PREPARE:
    setattr(Timed, _name, _noting(_name))


def work(
    system: str, figure: str, folder: str, state: dict[str, Any], rank: int, world: int
) -> Callable[[], float | None]:
    """What is done for each line; what it gives stands for the seconds, if it gives any."""
    if figure == "load" and system == "plug-in":
        dcp.save(state, storage_writer=WeightliftWriter(folder))
        return lambda: dcp.load(state, storage_reader=WeightliftReader(folder))
    if figure == "load" and system == "own":
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder))
        return lambda: dcp.load(state, storage_reader=dcp.FileSystemReader(folder))
    if system == "checkpointer":
        to, step = Checkpointer(folder, keep_last=1, incremental=False, rank=rank, world_size=world), iter(range(10**6))
        if figure == "load":
            to.save(0, state, blocking=True)
            dist.barrier()
            return lambda: to.restore(into=state) and None
        return lambda: to.save(next(step), state).result() and None
    if system == "plug-in":

        def save() -> float | None:
            writer, begin = Timed(folder), time.perf_counter()
            dcp.save(state, storage_writer=writer)
            if figure != "planning":
                return None
            return writer.own / (writer.planned - begin - writer.own)

        return save
    return lambda: (
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, sync_files=True, overwrite=True)) and None
    )


def main(arguments: list[str]) -> None:
    system, figure, folder, size, world = *arguments[:3], int(arguments[3]), int(arguments[4])
    rank, port = (int(arguments[5]), arguments[6]) if len(arguments) > 5 else (0, str(free_ports(1)[0]))
    others = []
    if len(arguments) == 5:
        command = [sys.executable, __file__, *arguments]
        others = [subprocess.Popen([*command, str(k), port], stdin=subprocess.DEVNULL) for k in range(1, world)]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    run = work(system, figure, folder, rows(size, rank, world), rank, world)
    for path in Path(folder).rglob("*"):
        if figure == "load" and path.is_file():
            path.read_bytes()  # into the page cache, where all others' are: ours was written past it
    while True:
        go = [bool(sys.stdin.readline())] if rank == 0 else [False]
        dist.broadcast_object_list(go)
        if not go[0]:
            break
        begin, cpu = time.perf_counter(), time.process_time()
        said = run()
        dist.barrier()
        seconds = time.perf_counter() - begin if said is None else said
        used: list[Any] = [None] * world
        dist.all_gather_object(used, time.process_time() - cpu)
        if rank == 0:
            print(json.dumps({"seconds": seconds, "cpu_s": sum(used)}), flush=True)
    dist.destroy_process_group()
    for other in others:
        other.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
