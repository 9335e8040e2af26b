"""Run where JAX is installed: ``python jax_processes.py FOLDER``.

Two processes of JAX, of two devices each, save arrays that are spread over them, and restore them, spread otherwise;
then one process restores all of it. Prints as JSON what was as it should be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from several import start

from weightlift.checkpoint import Checkpointer, PerRank

COUNT = 2
ARRAY = np.random.default_rng(1).standard_normal((8, 12)).astype(np.float32)


def state(mesh: Any, *, axes: list[tuple[str | None, ...]], zeros: bool) -> Any:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    source = np.zeros_like(ARRAY) if zeros else ARRAY
    spread = [
        jax.make_array_from_callback(ARRAY.shape, NamedSharding(mesh, PartitionSpec(*of)), lambda index: source[index])
        for of in axes
    ]
    return {"spread": spread, "whole": source[0], "step": 0 if zeros else 3}


AXES = [("x", "y"), ("x", None), (None, "y"), (("x", "y"), None), ()]


def job(rank: int, address: str, folder: Path) -> None:
    """One of the processes."""
    import jax
    from jax.sharding import Mesh

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, COUNT, rank)
    assert len(jax.devices()) == 2 * COUNT
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
    with Checkpointer(folder, rank=rank, world_size=COUNT, timeout=60) as checkpointer:
        saved = {**state(mesh, axes=AXES, zeros=False), "own": PerRank(rank)}
        checkpointer.save(1, saved, blocking=True)
    turned = Mesh(np.array(jax.devices())[::-1].reshape(4, 1), ("x", "y"))
    ok = []
    for other in (mesh, turned):
        into = {**state(other, axes=AXES[::-1], zeros=True), "own": PerRank(-1)}
        back = checkpointer.restore(into=into)
        ok.append(back["step"] == 3 and back["own"].value == rank and np.array_equal(into["whole"], ARRAY[0]))
        for new, old in zip(back["spread"], into["spread"], strict=True):
            same = all(np.array_equal(shard.data, ARRAY[shard.index]) for shard in new.addressable_shards)
            ok.append(same and new.sharding == old.sharding and new.shape == ARRAY.shape)
    (folder / f"ok-{rank}").write_text(json.dumps([bool(one) for one in ok]))


def main(folder: Path) -> None:
    start(__file__, folder, COUNT)
    checkpointer = Checkpointer(folder)
    alone = checkpointer.restore()
    tensors = checkpointer.manifest().tensors
    print(json.dumps({
        "processes": [json.loads((folder / f"ok-{k}").read_text()) for k in range(COUNT)],
        "alone": [np.array_equal(array, ARRAY) for array in alone["spread"]],
        "stored": sum(t.nbytes for t in tensors.values()),
        "by": sorted({tensor.file.split("-")[2] for tensor in tensors.values()}),
    }))  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 2:
        job(int(sys.argv[2]), sys.argv[3], Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]))
