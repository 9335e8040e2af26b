"""Random histories of a place of checkpoints: whatever is done to it, every step is what it should be."""

from __future__ import annotations

import math
import warnings
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.unit.checkpoint_support import equal, rows, together

import weightlift as wl
from weightlift.checkpoint import Checkpointer, _checkpointer, _unchanged

NAMES = ("a", "b", "c", "deep.d", "deep.e", "table.f", "table.g")  # several processes divide the tables
SHAPES = ((), (0,), (7,), (3, 0, 2), (40, 3), (700,), (330, 3))  # the last ones are shards of their own
DTYPES = ("f4", "f8", "i2", "u1", "?", "c8")

LEAVES = st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.sampled_from("CF/"), st.integers(0, 9))
METRICS = st.one_of(st.none(), st.sampled_from([0.5, 1.0, 2.0, math.nan, math.inf]))
KEEP = st.fixed_dictionaries(
    {
        "keep_last": st.sampled_from([None, None, 1, 2, 3]),
        "keep_every": st.sampled_from([None, 2, 3]),
        "keep_best": st.sampled_from([None, ("loss", 1), ("loss", 2, "max")]),
    }
)
HOW = st.fixed_dictionaries(
    {
        "incremental": st.sampled_from([True, True, False]),
        "compress": st.sampled_from([None, None, "zstd"]),
        "max_in_flight": st.sampled_from([1, 2]),
    }
)


def made(leaf: tuple[Any, ...]) -> np.ndarray:
    """An array of that shape, type, order in memory, and of these values."""
    shape, dtype, order, seed = leaf
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 100, shape).astype(dtype)
    if order == "/" and raw.ndim:
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
        wide[..., ::2] = raw
        return wide[..., ::2]
    return np.asarray(raw, order="F" if order == "F" else "C")


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """``deep.d`` is ``d`` in ``deep``."""
    state: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        inside = state
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return state


class Histories(RuleBasedStateMachine):
    """A place, who writes to it, and what should be there."""

    folder_type: Any
    """Of the place."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(self.folder_type, "shard", 1500)
        self.patches.setattr(_checkpointer, "CHUNK", 2000)
        self.patches.setattr(_unchanged, "_WORTH_COMPARING", 100)
        self.state: dict[str, np.ndarray] = {}
        self.expected: dict[int, tuple[dict[str, Any], float | None]] = {}
        self.keep: dict[str, Any] = {}
        self.ranks: list[Checkpointer] = []

    def checkpointer(self, **options: Any) -> Checkpointer:
        """One of the place."""
        raise NotImplementedError

    def is_damaged(self, step: int) -> bool:
        """Whether the step is to be refused."""
        return False

    def teardown(self) -> None:
        try:
            if self.ranks:
                self.every_step_is_what_was_saved()
                self.leave()
        finally:
            self.patches.undo()

    def leave(self) -> None:
        assert not [e for e in together(len(self.ranks), lambda rank: self.ranks[rank].close()) if e]

    # --- acts -------------------------------------------------------------------------------------
    @initialize(keep=KEEP, how=HOW, count=st.sampled_from([1, 1, 1, 2, 3]))
    def begin(self, keep: dict[str, Any], how: dict[str, Any], count: int) -> None:
        self.keep = keep
        options = {**keep, **how, "world_size": count, "timeout": 20}
        self.ranks = [self.checkpointer(**options, rank=rank) for rank in range(count)]

    @rule(keep=KEEP, how=HOW, count=st.sampled_from([1, 1, 1, 2, 3]))
    def begin_anew(self, keep: dict[str, Any], how: dict[str, Any], count: int) -> None:
        """Another job, of so many processes."""
        self.leave()
        self.begin(keep, how, count)

    @rule(name=st.sampled_from(NAMES), leaf=LEAVES)
    def put(self, name: str, leaf: tuple[Any, ...]) -> None:
        self.state[name] = made(leaf)

    @rule(name=st.sampled_from(NAMES))
    def drop(self, name: str) -> None:
        self.state.pop(name, None)

    @rule(name=st.sampled_from(NAMES), at=st.integers(0, 2000))
    def change_in_place(self, name: str, at: int) -> None:
        """Maybe while a save is under way, which must not notice."""
        array = self.state.get(name)
        if array is not None and array.size:
            array[np.unravel_index(at % array.size, array.shape)] += array.dtype.type(1)

    @rule(gap=st.integers(1, 3), loss=METRICS, blocking=st.booleans(), value=st.integers(0, 3))
    def save(self, gap: int, loss: float | None, blocking: bool, value: int) -> None:
        step = max([0, *self.expected]) + gap
        self.saved(step, loss, value, blocking=blocking)

    @precondition(lambda self: self.expected)
    @rule(loss=METRICS, value=st.integers(0, 3))
    def save_again(self, loss: float | None, value: int) -> None:
        """In the place of the newest one, which may be under way."""
        self.saved(max(self.expected), loss, value, blocking=True, overwrite=True)

    @precondition(lambda self: self.expected)
    @rule(back=st.integers(0, 2))
    def save_what_is_there(self, back: int) -> None:
        with pytest.raises(wl.StorageError):
            self.ranks[0].save(max(max(self.expected) - back, 0), {})

    def saved(self, step: int, loss: float | None, value: int, **options: Any) -> None:
        metrics = {} if loss is None else {"loss": loss}
        results = together(
            len(self.ranks),
            lambda rank: self.ranks[rank].save(step, self.mine(rank, value), metrics=metrics, **options),
        )
        assert not [r for r in results if isinstance(r, Exception)], results
        whole = {"value": value, "none": None, **nested({n: np.array(a, order="C") for n, a in self.state.items()})}
        self.expected[step] = whole, loss
        self.retain()

    def mine(self, rank: int, value: int) -> dict[str, Any]:
        """What a process gives of the state."""
        return {"value": value, "none": None, **nested(self.divided(self.state, rank))}

    def divided(self, flat: dict[str, np.ndarray], rank: int) -> dict[str, Any]:
        """With a process's rows of tables."""
        count = len(self.ranks)
        spread = {n for n, array in flat.items() if n.startswith("table.") and array.ndim and count > 1}
        return {n: rows(array, rank, count) if n in spread else array for n, array in flat.items()}

    def retain(self) -> None:
        """What is kept, said in another way than the code does."""
        if self.keep["keep_last"] is None:
            return
        steps = sorted(self.expected)
        metric = {s: loss for s, (_, loss) in self.expected.items() if loss is not None and loss == loss}
        best: list[int] = []
        if self.keep["keep_best"] is not None:
            _, count, *mode = self.keep["keep_best"]
            sign = -1 if mode else 1
            best = sorted(metric, key=lambda s: (sign * metric[s], -s))[:count]
        every = self.keep["keep_every"]
        for step in steps[: -self.keep["keep_last"]]:
            if step not in best and not (every and step % every == 0):
                del self.expected[step]

    @precondition(lambda self: self.expected)
    @rule(which=st.integers(0, 9))
    def delete(self, which: int) -> None:
        self.settle()
        step = sorted(self.expected)[which % len(self.expected)]
        for checkpointer in reversed(self.ranks):
            checkpointer.delete(step)
        del self.expected[step]

    @precondition(lambda self: self.expected)
    @rule(which=st.integers(0, 9))
    def rewind(self, which: int) -> None:
        self.settle()
        step = sorted(self.expected)[which % len(self.expected)]
        newer = [s for s in sorted(self.expected) if s > step]
        gone = together(len(self.ranks), lambda rank: self.ranks[rank].rewind(step))
        assert gone[0] == newer
        for s in newer:
            del self.expected[s]

    @rule()
    def collect(self) -> None:
        self.settle()
        self.ranks[0].gc()
        self.retain()

    # --- what holds -------------------------------------------------------------------------------
    def settle(self) -> None:
        assert not [e for e in together(len(self.ranks), lambda rank: self.ranks[rank].wait()) if e]

    @precondition(lambda self: self.expected)
    @rule(which=st.integers(0, 9), pick=st.sampled_from(["a", "deep.*", "table.*", "*"]))
    def restore_some(self, which: int, pick: str) -> None:
        step = self.whole_step(which)
        wanted = {n: a for n, a in flattened(self.expected[step][0]).items() if fnmatch(n, pick)} if step else {}
        if step and wanted:
            found = flattened(self.checkpointer().restore(step, names=pick))
            assert set(found) == set(wanted) and all(equal(found[n], a) for n, a in wanted.items())

    @precondition(lambda self: self.expected)
    @rule(which=st.integers(0, 9))
    def restore_into(self, which: int) -> None:
        """Into arrays that are there, each process into its own, however many had saved it."""
        step = self.whole_step(which)
        if not step:
            return
        state = self.expected[step][0]
        whole = flattened(state)

        def restore(rank: int) -> None:
            blank = self.divided({name: np.zeros_like(array) for name, array in whole.items()}, rank)
            back = self.ranks[rank].restore(step, into={"value": -1, "none": None, **nested(blank)})
            assert back["value"] == state["value"]
            for name, wanted in self.divided(whole, rank).items():
                for shard, other in zip(boxes(blank[name]), boxes(wanted), strict=True):
                    assert equal(shard, other)

        assert not [e for e in together(len(self.ranks), restore) if e]

    def whole_step(self, which: int) -> int | None:
        """One of the steps, unless it is damaged."""
        self.settle()
        step = sorted(self.expected)[which % len(self.expected)]
        return None if self.is_damaged(step) else step

    @precondition(lambda self: self.expected)
    @rule()
    def restore_what_is_whole(self) -> None:
        self.settle()
        whole = [s for s in sorted(self.expected) if not self.is_damaged(s)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if whole:
                assert equal(self.checkpointer().restore(fallback=True), self.expected[whole[-1]][0])
            else:
                with pytest.raises((wl.FormatError, wl.StorageError)):
                    self.checkpointer().restore(fallback=True)

    @rule()
    def every_step_is_what_was_saved(self) -> None:
        self.settle()
        reader = self.checkpointer(keep_best=("loss", 1))
        assert reader.steps() == sorted(self.expected)
        metric = {s: loss for s, (_, loss) in self.expected.items() if loss is not None and loss == loss}
        assert reader.best() == (min(metric, key=lambda s: (metric[s], -s)) if metric else None)
        for step, (state, _) in self.expected.items():
            if self.is_damaged(step):
                assert not reader.verify(step).ok
                with pytest.raises((wl.FormatError, wl.StorageError)):
                    reader.restore(step)
            else:
                assert equal(reader.restore(step), state)
                assert reader.verify(step).ok


def flattened(state: Any, path: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found.update(flattened(value, f"{path}{name}."))
        elif isinstance(value, np.ndarray):
            found[path + name] = value
    return found


def boxes(value: Any) -> list[np.ndarray]:
    return [shard.array for shard in value.shards] if isinstance(value, wl.checkpoint.Sharded) else [value]
