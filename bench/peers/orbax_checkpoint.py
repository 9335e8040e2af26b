"""Orbax's asynchronous save, for bench/checkpoint: run in JAX's environment, where weightlift is not.

    PYTHONPATH=bench python bench/peers/orbax_checkpoint.py stall|durable FOLDER SIZE

Saves once for every line on standard input, and prints its own times as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import orbax.checkpoint as ocp
from models import llama


def main() -> None:
    figure, folder, size = sys.argv[1:]
    state = jax.tree.map(jax.numpy.asarray, llama(int(size)))
    jax.block_until_ready(state)
    to = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    for _ in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        to.save(Path(folder).resolve(), args=ocp.args.StandardSave(state), force=True)
        stalled = time.perf_counter() - begin
        to.wait_until_finished()
        seconds = stalled if figure == "stall" else time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "cpu_s": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main()
