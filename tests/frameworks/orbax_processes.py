"""Run where Orbax and tensorstore are installed: ``python orbax_processes.py FOLDER``.

Two processes of JAX save one checkpoint, each what is on its device; what we read of it, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from several import start

COUNT = 2
WAYS = {"ocdbt": True, "folders": False}


def values() -> Any:
    return np.random.default_rng(1).standard_normal((6, 8), np.float32)


def save(rank: int, address: str, folder: Path) -> None:
    """One of the processes."""
    import jax
    import orbax.checkpoint as ocp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, COUNT, rank)
    assert jax.process_count() == len(jax.devices()) == COUNT
    mesh = Mesh(np.array(jax.devices()), ("x",))

    def put(*axes: str | None) -> Any:
        array = values()
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, PartitionSpec(*axes)), lambda index: array[index]
        )

    tree = {"rows": put("x"), "columns": put(None, "x"), "whole": [put()], "step": np.array(3)}
    for name, database in WAYS.items():
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=database))
        checkpointer.save(folder / name, tree)


def main(folder: Path) -> None:
    start(__file__, folder, COUNT)

    import weightlift as wl

    answers = {}
    for name in WAYS:
        found = wl.load(folder / name)
        same = [np.array_equal(a, values()) for a in (found["rows"], found["columns"], *found["whole"])]
        part = wl.load(folder / name, names="columns")["columns"]
        answers[name] = [*same, np.array_equal(part, values()), found["step"].tolist() == 3]
    written = {path.name for path in (folder / "ocdbt").iterdir()}
    print(json.dumps({"answers": answers, "written by": sorted(n for n in written if n.startswith("ocdbt."))}))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        save(int(sys.argv[2]), sys.argv[3], Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]))
