"""Arrays of frameworks that are spread over processes: torch's DTensor, JAX' arrays of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from weightlift._sharded import Shard, Sharded
from weightlift.errors import UnsupportedFeatureError

__all__ = ["sharded", "unsharded"]

Array = npt.NDArray[Any]


def sharded(leaf: Any, name: str = "") -> Sharded | None:
    """The boxes that this process has of an array; None for one that it has all of.

    Args:
        leaf: Anything.
        name: Of the tensor: by it one of the processes is chosen that have the same box, so that all write their part.
    """
    if isinstance(leaf, Sharded):
        return leaf
    package = type(leaf).__module__.partition(".")[0]
    if package == "torch" and hasattr(leaf, "device_mesh") and hasattr(leaf, "to_local"):
        return _of_torch(leaf, name)
    if package in ("jax", "jaxlib") and hasattr(leaf, "addressable_shards") and not leaf.is_fully_addressable:
        return _of_jax(leaf)
    return None


def unsharded(leaf: Any, arrays: Sequence[Any]) -> Any:
    """What takes the place of ``leaf`` once its boxes, in their order, are loaded: itself where they were filled."""
    if type(leaf).__module__.partition(".")[0] in ("jax", "jaxlib"):
        import jax

        shards = leaf.addressable_shards
        made = [jax.device_put(np.asarray(array), shard.device) for array, shard in zip(arrays, shards, strict=True)]
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, made)
    return leaf


def _of_torch(tensor: Any, name: str) -> Sharded:
    """The local part of a DTensor; of replicas, one by the tensor's name writes."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements
    local = tensor.to_local()
    _, begin = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    where = mesh.get_coordinate()
    if where is None:  # this process is not part of the mesh
        return Sharded(tensor.shape, [])
    replica, count = siblings = _siblings(mesh)
    for placement, at, size in zip(placements, where, mesh.shape, strict=True):
        if placement.is_partial():
            raise UnsupportedFeatureError(
                "a DTensor whose processes have summands of it (Partial): redistribute it first", tensor=name or None
            )
        if isinstance(placement, Replicate):
            replica, count = replica * size + at, count * size
    chosen = crc32(name.encode()) % count
    return Sharded(tensor.shape, [Shard(tuple(begin), local, (replica - chosen) % count, siblings[1] > 1)])


def _siblings(mesh: Any) -> tuple[int, int]:
    """(which, of how many): of a mesh that was cut out of a larger one, with others beside it.

    Where FSDP goes over tensor parallelism, a norm is spread over the processes of a row of the mesh, and its DTensor
    knows of this row only; those of the other rows have the same. torch has no public way to the whole mesh.
    """
    whole = getattr(mesh, "_get_root_mesh", lambda: mesh)()
    where = whole.get_coordinate()
    if whole is mesh or where is None:
        return 0, 1
    members = set(mesh.mesh.flatten().tolist())
    number, count, inside = 0, 1, 1
    for axis, at in enumerate(where):
        along = (*where[:axis], slice(None), *where[axis + 1 :])
        line = whole.mesh[along].tolist()
        if members.issuperset(line):
            inside *= len(line)
        else:
            number, count = number * len(line) + at, count * len(line)
    return (number, count) if inside == len(members) else (0, 1)


def _of_jax(array: Any) -> Sharded:
    return Sharded(
        array.shape,
        [
            Shard(tuple(int(index.start or 0) for index in shard.index), shard.data, shard.replica_id)
            for shard in array.addressable_shards
        ],
    )
