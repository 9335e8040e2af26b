"""What callbacks of frameworks need where several processes train one model, each all of it (DDP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightlift.checkpoint._checkpointer import Checkpointer
from weightlift.errors import UnsupportedFeatureError

__all__ = ["barrier", "check_process", "check_world_size", "of_first", "with_first_buffers"]


def check_process(checkpointer: Checkpointer, rank: int, world_size: int) -> None:
    """UnsupportedFeatureError unless the checkpointer is that of this process."""
    ranks = checkpointer.ranks
    if (rank, world_size) != (ranks.rank, ranks.world_size):
        raise UnsupportedFeatureError(
            f"this is process {rank} of {world_size}; make its checkpointer with rank={rank}, world_size={world_size}"
        )


def check_world_size(checkpointer: Checkpointer, step: int) -> None:
    """UnsupportedFeatureError for a step of another number of processes: what each has of its own is of so many."""
    written = checkpointer.manifest(step).world_size
    if written != checkpointer.world_size:
        raise UnsupportedFeatureError(
            f"step {step} was saved by {written} processes, and {checkpointer.world_size} would go on; start as many, "
            "or load the weights alone (weightlift.load)"
        )


def of_first(value: Any) -> Any:
    """What rank 0 has."""
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def barrier() -> None:
    """Return when all processes have come here."""
    import torch.distributed as dist

    dist.barrier()


def with_first_buffers(state: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """A module's state with the buffers of rank 0 (running means, say), which DDP gives to all before each step."""
    import torch.distributed as dist

    buffers, made = dict(module.named_buffers()), dict(state)
    for name in state:
        if name in buffers:
            made[name] = state[name].clone()
            dist.broadcast(made[name], 0)
    return made
