"""Random histories of a directory of checkpoints, with damage and what crashes leave.

``WEIGHTLIFT_HISTORIES`` sets how many (default 150).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.unit.checkpoint_histories import Histories

from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint._folders import LocalFolder

pytest.importorskip("zstandard", reason="zstandard is not installed")

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class LocalHistories(Histories):
    """A directory."""

    folder_type = LocalFolder

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY)) / "run"
        self.damaged: dict[int, Any] = {}
        """By inode, for what is linked is damaged everywhere; the files stay open, so that no other gets the number."""

    def checkpointer(self, **options: Any) -> Checkpointer:
        return Checkpointer(self.folder, **options)

    def teardown(self) -> None:
        super().teardown()
        for file in self.damaged.values():
            file.close()
        shutil.rmtree(self.folder.parent)

    @rule(kind=st.sampled_from(["writing", "deleting"]))
    def crash(self, kind: str) -> None:
        """What a job that was killed leaves is no step."""
        self.settle()
        litter = self.folder / f".{kind}-{max([1, *self.expected]):08d}-0123abcd"
        litter.mkdir(parents=True, exist_ok=True)
        (litter / "x").write_bytes(b"x")

    @precondition(lambda self: self.expected)
    @rule(seed=st.integers(0, 99))
    def damage(self, seed: int) -> None:
        """A byte of a shard of the newest step turns; steps that link it have it, too."""
        self.settle()
        chance = random.Random(seed)
        shards = sorted(self.folder.glob(f"step-{max(self.expected):08d}/*.safetensors"))
        if not shards:
            return
        shard = chance.choice(shards)
        inode, size = shard.stat().st_ino, shard.stat().st_size
        if inode in self.damaged:
            return
        self.damaged[inode] = file = shard.open("r+b", buffering=0)
        at = chance.randrange(size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))

    def is_damaged(self, step: int) -> bool:
        return any(p.stat().st_ino in self.damaged for p in self.folder.glob(f"step-{step:08d}/*"))


TestLocalHistories = LocalHistories.TestCase
TestLocalHistories.settings = settings(
    max_examples=int(os.environ.get("WEIGHTLIFT_HISTORIES", "150")),
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
