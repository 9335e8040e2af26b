"""What has not changed since the step before is linked, and a deletion breaks nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.checkpoint_support import equal, save_all

from weightlift.checkpoint import Checkpointer, CheckpointFuture
from weightlift.checkpoint import _write as writing
from weightlift.checkpoint._folders import LocalFolder

SHARD = LocalFolder.shard


def big(value: float) -> np.ndarray:
    return np.full(SHARD // 4 + 1, value, np.float32)


def test_what_has_not_changed_is_linked(tmp_path: Path) -> None:
    state = {"a": big(1), "b": big(2), "small": [np.full(100, i) for i in range(4)], "none": np.zeros(0)}
    with Checkpointer(tmp_path / "s", keep_last=None) as checkpointer:
        full = checkpointer.save(1, state)
        full.result()
        state["b"] += 1
        part = checkpointer.save(2, state)
        part.result()
        same = checkpointer.save(3, state)
        same.result()
        assert full.bytes_written > 2 * SHARD
        assert SHARD < part.bytes_written < 1.1 * SHARD
        assert same.bytes_written < 10_000
        manifests = [checkpointer.manifest(step) for step in (1, 2, 3)]
        assert [sorted({f.since for f in m.files.values()}) for m in manifests] == [[1], [1, 2], [1, 2]]
        for step in (1, 2, 3):
            assert checkpointer.verify(step).ok
        for step, b in ((1, 2), (2, 3), (3, 3)):
            assert np.array_equal(checkpointer.restore(step)["b"], big(b))


def test_a_step_that_is_overwritten_keeps_what_it_links(tmp_path: Path) -> None:
    """What is new in the later one has other names than the shards of the earlier one, which are linked."""
    state = {"a": big(1), "b": big(2)}
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, state, blocking=True)
        for number in range(3):
            state |= {"b": big(3 + number), f"new{number}": np.full(number, 1.0)}
            part = checkpointer.save(1, state, overwrite=True, blocking=True)
            assert SHARD < part.bytes_written < 1.1 * SHARD
            assert equal(checkpointer.restore(), state)
            assert checkpointer.verify().ok


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1)])
def test_a_deletion_breaks_no_other_step(tmp_path: Path, order: tuple[int, ...]) -> None:
    state = {"a": big(1), "b": big(2)}
    with Checkpointer(tmp_path / "s", keep_last=None) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, state, blocking=True)
            state["a"] += 1
        for gone in order:
            checkpointer.delete(gone)
            for step in checkpointer.steps():
                assert np.array_equal(checkpointer.restore(step)["a"], big(step))
                assert checkpointer.verify(step).ok
        assert checkpointer.steps() == []
        checkpointer.save(4, state, blocking=True)
        assert np.array_equal(checkpointer.restore()["a"], big(4))


@pytest.mark.parametrize("change", ["shape", "dtype", "name", "fewer", "more"])
def test_what_is_another_tensor_is_written(tmp_path: Path, change: str) -> None:
    state: dict[str, Any] = {"a": np.zeros((4, 4), np.float32), "b": np.zeros(4, np.float32)}
    other = {
        "shape": {**state, "a": state["a"].reshape(2, 8)},
        "dtype": {**state, "a": state["a"].view(np.int32)},
        "name": {"c": state["a"], "b": state["b"]},
        "fewer": {"a": state["a"]},
        "more": {**state, "c": state["b"]},
    }[change]
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, state, blocking=True)
        checkpointer.save(2, other, blocking=True)
        assert {f.since for f in checkpointer.manifest(2).files.values()} == {2}
        assert equal(checkpointer.restore(2), other)


def test_without_links_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    save_all(tmp_path / "s", {1: {"a": np.ones(9)}, 2: {"a": np.ones(9)}})
    checkpointer = Checkpointer(tmp_path / "s")
    assert {f.since for f in checkpointer.manifest(2).files.values()} == {2}
    assert checkpointer.verify(2).ok


def test_not_incremental(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"a": np.ones(9)}, 2: {"a": np.ones(9)}}, incremental=False)
    checkpointer = Checkpointer(tmp_path / "s")
    assert {f.since for f in checkpointer.manifest(2).files.values()} == {2}
    assert checkpointer.verify(2).ok
    save_all(tmp_path / "s", {3: {"a": np.ones(9)}})  # what it cannot compare with is written
    assert {f.since for f in checkpointer.manifest(3).files.values()} == {3}


class Clock:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.time = time.time

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_bandwidth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(writing, "time", clock)
    state = {f"t{i}": np.full(1 << 20, i, np.uint8) for i in range(40)}
    seen: list[float] = []
    monkeypatch.setattr(CheckpointFuture, "report", lambda self, done, total: seen.append(done / total))
    with Checkpointer(tmp_path / "s", bandwidth=80e6) as checkpointer:
        checkpointer.save(1, state, blocking=True)
        assert equal(checkpointer.restore(), state)
    assert clock.now - 1000 == pytest.approx((40 << 20) / 80e6)
    assert seen == sorted(seen) and {0.4, 0.8, 1.0} <= set(seen)  # shards of 16 MiB, one at a time
    with Checkpointer(tmp_path / "t") as checkpointer:
        checkpointer.save(1, state, blocking=True)
    assert clock.now - 1000 == pytest.approx((40 << 20) / 80e6)
