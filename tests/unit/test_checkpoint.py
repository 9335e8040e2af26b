"""Checkpointers: what is saved comes back; steps are committed, linked, kept and deleted as promised."""

from __future__ import annotations

import json
import math
import random
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.checkpoint_support import equal, restored, save_all

import weightlift as wl
from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint import _write as writing
from weightlift.checkpoint._directory import StepDirectory

# --- states -----------------------------------------------------------------------------------------------------------
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
ARRAYS = st.builds(
    lambda kind, shape, fill: np.full(shape, fill, kind),
    st.sampled_from(["f4", "f8", "i8", "u1", "?", "c8"]), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 1),
)  # fmt: skip
KEYS = st.text("abcdefg_0123", min_size=1, max_size=6) | st.integers(1000, 9999)
STATES = st.recursive(
    PLAIN | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(state=STATES)
def test_what_is_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    folder = tmp_path_factory.mktemp("steps")
    save_all(folder, {1: {"state": state}})
    assert equal(restored(folder), {"state": state})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(20)[::3],
        np.arange(5, dtype=">f4"),
        np.array(7.5),
        np.zeros((0, 3)),
        np.array([np.nan, np.inf, -0.0]),
        np.arange(1 << 20, dtype=np.float32).reshape(1024, 1024)[:, ::2],
    ],
)
def test_arrays_of_any_layout(tmp_path: Path, array: np.ndarray) -> None:
    save_all(tmp_path / "s", {1: {"a": array}})
    back = restored(tmp_path / "s")["a"]
    assert back.shape == array.shape
    assert back.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    state = {
        "pcg": np.random.default_rng(1), "mt": np.random.Generator(np.random.MT19937(3)),
        "legacy": np.random.RandomState(2), "python": random.Random(3), "scalar": np.float32(1.5),
    }  # fmt: skip
    state["legacy"].standard_normal(3)
    save_all(tmp_path / "s", {1: state})
    back = restored(tmp_path / "s")
    into = {
        "pcg": np.random.default_rng(9), "mt": np.random.Generator(np.random.MT19937(9)),
        "legacy": np.random.RandomState(9), "python": random.Random(9), "scalar": np.float32(0),
    }  # fmt: skip
    filled = restored(tmp_path / "s", into=into)
    assert all(filled[name] is into[name] for name in ("pcg", "mt", "legacy", "python"))
    for found in (back, filled):
        assert type(found["scalar"]) is np.float32 and found["scalar"] == 1.5
    expected = [state["pcg"].random(5), state["mt"].random(5), state["legacy"].standard_normal(5)]
    for found in (back, into):
        values = [found["pcg"].random(5), found["mt"].random(5), found["legacy"].standard_normal(5)]
        assert all(np.array_equal(a, b) for a, b in zip(values, expected, strict=True))
    expected_python = state["python"].random()
    assert back["python"].random() == into["python"].random() == expected_python


def test_registered_types(tmp_path: Path) -> None:
    class Meter:
        def __init__(self, total: Any) -> None:
            self.total = total

    with pytest.raises(wl.UnsupportedFeatureError, match="register_encoder") as refused:
        save_all(tmp_path / "s", {1: {"meters": [Meter(1)]}})
    assert refused.value.tensor == "meters.0"
    assert Checkpointer(tmp_path / "s").steps() == []
    wl.checkpoint.register_encoder(Meter, "meter", lambda m: {"total": m.total}, lambda s: Meter(s["total"]))
    save_all(tmp_path / "s", {1: {"meters": [Meter(np.ones(2)), Meter(3)]}})
    first, second = restored(tmp_path / "s")["meters"]
    assert np.array_equal(first.total, np.ones(2)) and second.total == 3
    from weightlift.checkpoint._state import _ENCODERS

    del _ENCODERS["meter"]
    with pytest.raises(wl.FormatError, match="'meter', which nobody registered"):
        restored(tmp_path / "s")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"f": print}}, "neither numbers nor strings"),
        ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, "two paths give the tensor name"),
        ({"$encoded": 1}, "which checkpoints use"),
        ({"a": np.array(["text"], object)}, "a"),
        ({(1, 2): 3}, "dict key"),
    ],
)
def test_what_no_checkpoint_holds_is_refused_at_once(tmp_path: Path, state: Any, message: str) -> None:
    with Checkpointer(tmp_path / "s") as checkpointer:
        with pytest.raises(wl.UnsupportedFeatureError, match=message):
            checkpointer.save(1, state)
        checkpointer.save(1, {"a": 1}, blocking=True)
    assert restored(tmp_path / "s") == {"a": 1}


def test_a_state_that_holds_itself(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with Checkpointer(tmp_path / "s") as checkpointer, pytest.raises(wl.UnsupportedFeatureError, match="holds itself"):
        checkpointer.save(1, state)


def test_a_hundred_thousand_tensors(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((100_000, 4)).astype(np.float32)
    state = {f"t{i}": row for i, row in enumerate(values)}
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, state)
    back = restored(tmp_path / "s")
    assert len(back) == 100_000
    assert all(np.array_equal(back[f"t{i}"], values[i]) for i in (0, 7, 99_999))


def test_the_snapshot_is_of_the_moment(tmp_path: Path) -> None:
    weights = np.zeros(4 << 20, np.float32)
    with Checkpointer(tmp_path / "s") as checkpointer:
        future = checkpointer.save(1, {"w": weights, "view": weights[5:10]})
        weights += 1
        future.result()
        state = checkpointer.restore()
    assert not state["w"].any() and not state["view"].any()


# --- steps ------------------------------------------------------------------------------------------------------------
def test_any_tool_reads_a_step(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    state = {"model": {"a": np.arange(6.0), "b": np.ones((5 << 20,), np.float32)}, "step": 3}
    save_all(tmp_path / "s", {3: state})
    folder = tmp_path / "s" / "step-00000003"
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    loaded = {name: safetensors.load_file(folder / file)[name] for name, file in weight_map.items()}
    assert {n: t.shape for n, t in loaded.items()} == {"model.a": (6,), "model.b": (5 << 20,)}
    assert np.array_equal(loaded["model.a"], state["model"]["a"])
    assert equal(wl.load(folder), state)


def test_steps_are_saved_once_unless_asked_otherwise(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, {"a": 1})
        with pytest.raises(wl.StorageError, match="step 1 is saved already"):
            checkpointer.save(1, {"a": 2})
        checkpointer.wait()
        with pytest.raises(wl.StorageError, match="step 1 is saved already"):
            checkpointer.save(1, {"a": 2})
        checkpointer.save(1, {"a": 3}, overwrite=True, blocking=True)
        assert checkpointer.restore() == {"a": 3}
        with pytest.raises(ValueError, match="negative"):
            checkpointer.save(-1, {})
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [".lock", "step-00000001"]
    with pytest.raises(ValueError, match="closed"):
        checkpointer.save(2, {})


def test_two_histories_are_not_mixed(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "s", keep_last=None) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"step": step})
        for overwrite in (False, True):
            with pytest.raises(wl.StorageError, match=r"step 2 is older than step 3.*rewind"):
                checkpointer.save(2, {}, overwrite=overwrite)
        with pytest.raises(wl.NotFoundError, match="no step 7"):
            checkpointer.rewind(7)
        assert checkpointer.rewind(1) == [2, 3]
        checkpointer.save(2, {"step": "again"}, blocking=True)
        assert checkpointer.steps() == [1, 2] and checkpointer.restore() == {"step": "again"}


def test_a_save_that_ends_at_that_moment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a look at what is committed and one at what is under way, what was under way is committed."""
    newest, commit, looked = StepDirectory.newest, StepDirectory.commit, threading.Event()

    def late(*args: Any) -> int:
        assert looked.wait(60)
        return commit(*args)

    def look(directory: StepDirectory) -> int:
        found = newest(directory)
        looked.set()
        first.result()
        return found

    with Checkpointer(tmp_path / "s") as checkpointer:
        monkeypatch.setattr(StepDirectory, "commit", late)
        first = checkpointer.save(3, {"step": 3})
        monkeypatch.setattr(StepDirectory, "newest", look)
        for step, refused in ((2, "older than step 3"), (3, "saved already")):
            with pytest.raises(wl.StorageError, match=refused):
                checkpointer.save(step, {})
    assert Checkpointer(tmp_path / "s").restore() == {"step": 3}


def test_there_is_no_such_step(tmp_path: Path) -> None:
    with pytest.raises(wl.NotFoundError, match="no committed step"):
        restored(tmp_path / "nowhere")
    save_all(tmp_path / "s", {4: {}, 6: {}})
    with pytest.raises(wl.NotFoundError, match="there is no step 5; committed are 4, 6"):
        restored(tmp_path / "s", 5)
    assert Checkpointer(tmp_path / "nowhere").latest() is None
    with pytest.raises(wl.UnsupportedFeatureError, match="local directories"):
        Checkpointer("https://host/steps")


def test_best(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "s", keep_last=1, keep_best=("loss", 2)) as checkpointer:
        for step, loss in enumerate([0.9, 0.2, math.nan, 0.3, 0.5]):
            checkpointer.save(step, {"step": step}, metrics={"loss": loss}, blocking=True)
        assert checkpointer.steps() == [1, 3, 4]
        assert checkpointer.best() == 1
        assert checkpointer.best("loss", "max") == 4
        assert checkpointer.restore("best") == {"step": 1}
        assert checkpointer.manifest("best").metrics == {"loss": 0.2}
    with pytest.raises(ValueError, match="which metric"):
        Checkpointer(tmp_path / "s").best()


def test_metadata_comes_back_as_json_has_it(tmp_path: Path) -> None:
    """Keys that are numbers become text, which sorts otherwise: the manifest still is what its digest was taken of."""
    for metadata in ({10: "a", 9: "b", "run": [1, None]}, {"nested": {2: {10: 1, 9: 2}}}):
        with Checkpointer(tmp_path / str(len(metadata)), metadata=metadata) as checkpointer:  # type: ignore[arg-type]
            checkpointer.save(1, {"a": np.ones(1)}, blocking=True)
        again = Checkpointer(tmp_path / str(len(metadata)))
        assert again.manifest(1).metadata == json.loads(json.dumps(metadata)) and again.verify().ok


def test_names_and_frameworks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    save_all(tmp_path / "s", {1: {"model": {"w": np.ones(3), "b": np.zeros(3)}, "opt": {"m": np.ones(2)}}})
    assert list(restored(tmp_path / "s", names="model.*")) == ["model.w", "model.b"]
    assert torch.equal(restored(tmp_path / "s", framework="torch")["opt"]["m"], torch.ones(2, dtype=torch.float64))
    target = {"model": {"w": np.zeros(3), "b": np.ones(3)}}
    with pytest.raises(wl.MismatchError, match=r"opt\.m"):
        restored(tmp_path / "s", into=target)
    assert not target["model"]["w"].any()
    restored(tmp_path / "s", into=target, names="model.*")
    assert target["model"]["w"].all()


class Moments(NamedTuple):
    """As the states of optimizers are in JAX."""

    mean: Any
    count: int


def test_named_tuples(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"opt": (Moments({"w": np.ones(3)}, 4), Moments(np.zeros(2), 5))}})
    into = {"opt": (Moments({"w": np.zeros(3)}, 0), Moments(np.ones(2), 0))}
    back = restored(tmp_path / "s", into=into)["opt"]
    assert back[0][0]["w"] is into["opt"][0].mean["w"] and into["opt"][0].mean["w"].all()
    assert not into["opt"][1].mean.any()
    assert [moments[1] for moments in back] == [4, 5]


# --- futures ----------------------------------------------------------------------------------------------------------
class Held:
    """Writes that wait until they are let go, and may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        write = writing.write_shards

        def held(*args: Any, **options: Any) -> Any:
            self.begun.set()
            assert self.go.wait(60)
            if error is not None:
                raise error
            return write(*args, **options)

        monkeypatch.setattr("weightlift.checkpoint._commit.write_shards", held)


def test_a_save_goes_on_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with Checkpointer(tmp_path / "s") as checkpointer:
        future = checkpointer.save(1, {"a": np.ones(3)})
        assert held.begun.wait(60) and not future.done() and checkpointer.steps() == []
        with pytest.raises(TimeoutError, match="step 1"):
            future.result(0.01)
        held.go.set()
        assert future.result(60) == 1 and future.done() and future.progress == 1 and future.exception() is None
        assert future.bytes_written > 24 and future.stall_seconds > 0
        assert checkpointer.steps() == [1]


@pytest.mark.parametrize("limit", [1, 2])
def test_back_pressure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    held = Held(monkeypatch)
    with Checkpointer(tmp_path / "s", max_in_flight=limit) as checkpointer:
        for step in range(limit):
            checkpointer.save(step, {})
        late = threading.Thread(target=checkpointer.save, args=(9, {}))
        late.start()
        late.join(0.2)
        assert late.is_alive()
        held.go.set()
        late.join(60)
        assert not late.is_alive()
    assert checkpointer.steps() == [*range(limit), 9]


def test_a_failed_save_is_told_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, wl.StorageError("the disk is gone"))
    held.go.set()
    checkpointer = Checkpointer(tmp_path / "s")
    checkpointer.save(1, {})
    with pytest.raises(wl.StorageError, match="the disk is gone"):
        checkpointer.wait()
    checkpointer.wait()
    checkpointer.save(2, {})._ended.wait(60)
    with pytest.raises(wl.StorageError, match="the disk is gone"):
        checkpointer.save(3, {})
    future = checkpointer.save(4, {})
    with pytest.raises(wl.StorageError, match="the disk is gone"):
        future.result()
    checkpointer.wait()
    checkpointer.save(5, {})._ended.wait(60)
    with pytest.raises(wl.StorageError, match="the disk is gone"):
        checkpointer.close()
    assert [p.name for p in (tmp_path / "s").iterdir()] == [".lock"]


def test_what_happened_first_is_what_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, wl.StorageError("the disk is gone"))
    held.go.set()
    with (
        pytest.warns(UserWarning, match="the disk is gone"),
        pytest.raises(ZeroDivisionError),
        Checkpointer(tmp_path / "s") as checkpointer,
    ):
        checkpointer.save(1, {})
        raise ZeroDivisionError


def test_a_deletion_that_fails_is_told_and_the_step_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise wl.StorageError("cannot delete")

    monkeypatch.setattr(StepDirectory, "delete", refuse)
    with Checkpointer(tmp_path / "s", keep_last=1) as checkpointer:
        checkpointer.save(1, {}, blocking=True)
        assert checkpointer.save(2, {}).result() == 2
        with pytest.raises(wl.StorageError, match="cannot delete"):
            checkpointer.wait()
        checkpointer.wait()
        assert checkpointer.steps() == [1, 2]


# --- what is copied ---------------------------------------------------------------------------------------------------
def test_arrays_that_cannot_change_are_not_copied() -> None:
    from weightlift.checkpoint._snapshot import Staging

    staging, arrays = Staging(), [np.arange(5), np.ones(3), np.zeros(2)]
    made = staging.snapshot(arrays, [False, True, False])
    assert made[1] is arrays[1] and all(equal(a, b) for a, b in zip(made, arrays, strict=True))
    assert not np.shares_memory(made[0], arrays[0]) and not np.shares_memory(made[2], arrays[2])


class Pair(NamedTuple):
    first: Any
    second: Any


def test_named_tuples_are_restored(tmp_path: Path) -> None:
    state = {"pairs": [Pair(np.arange(3), 1), Pair(np.ones(2), Pair(np.zeros(1), "x"))]}
    save_all(tmp_path / "s", {1: state})
    into = {"pairs": [Pair(np.zeros(3, int), 0), Pair(np.zeros(2), Pair(np.ones(1), ""))]}
    back = restored(tmp_path / "s", into=into)
    assert type(back["pairs"][1]) is Pair and back["pairs"][0].second == 1 and back["pairs"][1].second.second == "x"
    assert back["pairs"][0].first is into["pairs"][0].first and equal(into["pairs"][0].first, np.arange(3))
