"""Models in more files than a process may have open at first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import numpy as np
import weightlift as wl
soft, hard = int(sys.argv[1]), min(int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
tensors = {f"w{i}": np.full(256, i, np.float32) for i in range(200)}
try:
    wl.save(tensors, "model.json", shard_size=1024)
    for load in (wl.load, lambda url: {n: w[...] for n, w in wl.open(url).items()}):
        assert all(np.array_equal(a, tensors[n]) for n, a in load("model.json").items())
    wl.convert("model.json", "model.safetensors", shard_size=1024)
    assert wl.verify("model.safetensors.index.json").ok
except wl.StorageError as error:
    print(error)
else:
    print("done")
"""


def run(folder: Path, soft: int, hard: int) -> str:
    command = [sys.executable, "-c", SCRIPT, str(soft), str(hard)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("soft", [64, 150, 610])
def test_the_limit_is_raised_as_far_as_the_system_allows(tmp_path: Path, soft: int) -> None:
    assert run(tmp_path, soft, 4096) == "done\n"


def test_beyond_what_the_system_allows(tmp_path: Path) -> None:
    message = run(tmp_path, 64, 100)
    assert "the limit is 100; raise it (ulimit -n), or keep the model in fewer files [file " in message
    assert list(tmp_path.iterdir()) == []
