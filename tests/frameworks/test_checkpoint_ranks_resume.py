"""A small GPT trained by several processes, killed and resumed: its losses are those of a run that nobody killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.frameworks.environments import run_script

JOB = Path(__file__).with_name("gpt_job.py")
STEPS = 14


def run(world: int, folder: Path, how: str, *, kill_at: int | None = None) -> dict[int, str]:
    """Losses by step, as rank 0 prints them; all processes are killed once it has printed ``kill_at``."""
    meeting = folder.parent / f"meeting-{len(list(folder.parent.iterdir()))}"
    jobs = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(rank), str(world), str(folder), str(meeting), how, str(STEPS)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    losses: dict[int, str] = {}
    assert jobs[0].stdout is not None
    for line in jobs[0].stdout:
        step, loss = line.split()
        losses[int(step)] = loss
        if int(step) == kill_at:
            for job in jobs:
                job.kill()
    errors = [job.communicate(timeout=120)[1] for job in jobs]
    assert kill_at is not None or [job.returncode for job in jobs] == [0] * world, "\n".join(errors)[-5000:]
    return losses


@pytest.mark.parametrize(("how", "world", "kills"), [("fsdp", 2, [5, 10]), ("fsdp", 4, [8]), ("ddp", 2, [5, 10])])
def test_losses_go_on_as_if_nothing_had_happened(tmp_path: Path, how: str, world: int, kills: list[int]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    whole = run(world, tmp_path / "whole", how)
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert float.fromhex(whole[STEPS]) < 0.9 * float.fromhex(whole[1])  # it learns
    parts = [run(world, tmp_path / "killed", how, kill_at=step) for step in kills]
    parts.append(run(world, tmp_path / "killed", how))
    for step, part in zip(kills, parts[1:], strict=True):
        newest = step - step % 3
        assert min(part) in (newest + 1, newest - 2, newest + 4)  # or that before, if it was cut short; or one behind
    for part in parts:
        assert {step: whole[step] for step in part} == part


def test_arrays_of_several_processes_of_jax(tmp_path: Path) -> None:
    found = run_script("jax", Path(__file__).with_name("jax_processes.py"), tmp_path)
    assert found["processes"] == [[True] * 12] * 2
    assert found["alone"] == [True] * 5
    assert found["by"] == ["r00000", "r00001"]
    assert found["stored"] == (5 * 8 + 1) * 12 * 4  # each box once
