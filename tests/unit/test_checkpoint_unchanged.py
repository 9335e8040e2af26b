"""What the last save has linked is compared where it is; the step has the values of its save all the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.checkpoint_support import equal

from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint import _checkpointer as checkpointing
from weightlift.checkpoint._folders import LocalFolder
from weightlift.checkpoint._write import Step
from weightlift.errors import StorageError

LARGE = LocalFolder.shard // 4 + 1


def state_of(value: float) -> dict[str, Any]:
    return {
        "large": np.full(LARGE, value, np.float32),
        "turned": np.arange(12.0).reshape(3, 4).T + value,
        "small": [np.full(1 << 19, i + value, np.float32) for i in range(3)],
        "tiny": np.full(100, value),
        "none": np.zeros(0),
    }


class Gates:
    """Steps that are snapshotted, and written only when their gate is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gates: dict[int, threading.Event] = {}
        save_step = checkpointing.save_step

        def waiting(directory: Any, ranks: Any, step: Step, *others: Any) -> int:
            if step.number in self._gates:
                self._gates[step.number].wait()
            return save_step(directory, ranks, step, *others)

        monkeypatch.setattr(checkpointing, "save_step", waiting)

    @contextmanager
    def held(self, step: int) -> Iterator[None]:
        gate = self._gates[step] = threading.Event()
        try:
            yield
        finally:
            gate.set()


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Gates:
    return Gates(monkeypatch)


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[tuple[Checkpointer, dict[str, Any]]]:
    """A checkpointer whose last step, the second, has linked everything."""
    state = state_of(1)
    with Checkpointer(tmp_path / "s", keep_last=None, max_in_flight=2) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state, blocking=True)
        yield checkpointer, state


def copied(monkeypatch: pytest.MonkeyPatch, checkpointer: Checkpointer) -> list[int]:
    """How many arrays each snapshot copies, from now on."""
    counts: list[int] = []
    snapshot = checkpointer._staging.snapshot

    def counting(arrays: Any, lasting: Any = None) -> Any:
        counts.append(len(arrays) - sum(lasting or ()))
        return snapshot(arrays, lasting)

    monkeypatch.setattr(checkpointer._staging, "snapshot", counting)
    return counts


def since(checkpointer: Checkpointer, step: int) -> set[int]:
    return {file.since for file in checkpointer.manifest(step).files.values()}


def test_what_was_linked_is_not_copied(
    frozen: tuple[Checkpointer, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer, state = frozen
    counts = copied(monkeypatch, checkpointer)
    checkpointer.save(3, state, blocking=True)
    state["large"][5] = 9
    checkpointer.save(4, state, blocking=True)
    state["small"][2][5] = 9
    checkpointer.save(5, state, blocking=True)  # the large one is copied: it has changed the last time
    assert counts == [0, 1, 1 + 6]
    assert since(checkpointer, 3) == {1}
    assert since(checkpointer, 4) == {1, 4}
    assert equal(checkpointer.restore(3), state_of(1))
    assert equal(checkpointer.restore(5), state)
    assert all(checkpointer.verify(step).ok for step in checkpointer.steps())


def test_the_values_are_those_of_the_save(frozen: tuple[Checkpointer, dict[str, Any]], gates: Gates) -> None:
    checkpointer, state = frozen
    with gates.held(3):
        checkpointer.save(3, state)
        state["large"] += 1
        state["turned"] += 1
        state["tiny"] += 1
        for array in state["small"]:
            array += 1
    checkpointer.wait()
    assert equal(checkpointer.restore(3), state_of(1))
    checkpointer.save(4, state, blocking=True)
    assert equal(checkpointer.restore(4), state_of(2))


def test_many_small_arrays_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {f"t{i}": np.full(100, i) for i in range(50)}
    with Checkpointer(tmp_path / "s") as checkpointer:
        counts = copied(monkeypatch, checkpointer)
        for step in range(4):
            checkpointer.save(step, state, blocking=True)
        assert counts == [50] * 4
        assert since(checkpointer, 3) == {0}


def refuse_links(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)


def remove(folder: Path, _: pytest.MonkeyPatch) -> None:
    for shard in folder.glob("step-*/*.safetensors"):
        shard.unlink()


def damage(folder: Path, _: pytest.MonkeyPatch) -> None:
    for shard in folder.glob("step-*/*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])


LOSSES = [refuse_links, remove, damage]


@pytest.mark.parametrize("lose", LOSSES)
def test_what_cannot_be_linked_is_written_while_it_is_there(
    frozen: tuple[Checkpointer, dict[str, Any]], gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lose: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    checkpointer, state = frozen
    with gates.held(3):
        checkpointer.save(3, state)
        lose(tmp_path / "s", monkeypatch)
    checkpointer.wait()
    assert since(checkpointer, 3) == {3}
    assert checkpointer.verify(3).ok
    assert equal(checkpointer.restore(3), state_of(1))


@pytest.mark.parametrize("lose", LOSSES)
def test_what_is_nowhere_any_more_is_told(
    frozen: tuple[Checkpointer, dict[str, Any]], gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lose: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    checkpointer, state = frozen
    with gates.held(3):
        checkpointer.save(3, state)
        state["large"] += 1
        lose(tmp_path / "s", monkeypatch)
    with pytest.raises(StorageError, match=r"it was as in the step before.*'large'"):
        checkpointer.wait()
    assert checkpointer.steps() == [1, 2]
    counts = copied(monkeypatch, checkpointer)
    checkpointer.save(4, state, blocking=True)
    assert counts == [7]
    assert checkpointer.verify(4).ok
    assert equal(checkpointer.restore(4), {**state_of(1), "large": np.full(LARGE, 2, np.float32)})


def test_after_a_deletion_all_is_copied(
    frozen: tuple[Checkpointer, dict[str, Any]], gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer, state = frozen
    checkpointer.delete(2)
    counts = copied(monkeypatch, checkpointer)
    with gates.held(3):
        checkpointer.save(3, state)
        state["large"] += 1
    checkpointer.wait()
    assert counts == [7]
    assert equal(checkpointer.restore(3), state_of(1))


@pytest.mark.parametrize("compress", [None, "zstd"])
@pytest.mark.parametrize("seed", range(4))
def test_any_history(tmp_path: Path, gates: Gates, seed: int, compress: Any) -> None:
    if compress:
        pytest.importorskip("zstandard", reason="zstandard is not installed")
    rng = np.random.default_rng(seed)
    state = {f"t{i}": np.full(LARGE if i < 2 else 1000, i, np.float32) for i in range(6)}
    expected: dict[int, dict[str, Any]] = {}
    with Checkpointer(tmp_path / "s", keep_last=4, max_in_flight=2, compress=compress) as checkpointer:
        for step in range(24):
            with gates.held(step):
                checkpointer.save(step, state)
                expected[step] = {name: array.copy() for name, array in state.items()}
                for name in rng.choice(list(state), rng.integers(0, 3), replace=False):
                    state[name][int(rng.integers(0, 1000))] += 1
            if rng.random() < 0.7:
                checkpointer.wait()
        checkpointer.wait()
        assert len(checkpointer.steps()) == 4
        for step in checkpointer.steps():
            assert equal(checkpointer.restore(step), expected[step])
