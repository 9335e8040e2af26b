"""One process of a job that saves by another process, beside it; run by test_dcp_plugin.py.

Usage: dcp_process_job.py RANK WORLD_SIZE PORT PLACE. Leaves ``PLACE/NUMBER`` of two saves with one writer.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType
from torch.distributed.fsdp import fully_shard

from weightlift.checkpoint.dcp import WeightliftWriter

warnings.simplefilter("ignore")


def main(rank: int, world: int, port: str, place: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    model: Any = torch.nn.Linear(9, 5)
    if world > 1:
        model = fully_shard(model)
    writer = WeightliftWriter(f"{place}/0", metadata={"run": "x"})
    for number in range(2):
        state = {"model": model.state_dict(), "step": number, "seen": [number, {"file": "part"}]}
        future = dcp.async_save(
            state, checkpoint_id=f"{place}/{number}", storage_writer=writer,
            async_checkpointer_type=AsyncCheckpointerType.PROCESS,
        )  # fmt: skip
        with torch.no_grad():
            for weight in model.parameters():  # what is staged must not change
                (weight.to_local() if world > 1 else weight).add_(1)
        future.result()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
