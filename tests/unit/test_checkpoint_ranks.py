"""Many processes save one step together; here each is a thread with a checkpointer of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.checkpoint_support import equal, restored, rows, together

import weightlift as wl
from weightlift.checkpoint import Checkpointer, PerRank, Shard, Sharded
from weightlift.checkpoint import _checkpointer as checkpointing
from weightlift.checkpoint import _commit as committing
from weightlift.checkpoint._directory import StepDirectory
from weightlift.checkpoint._folders import Folder
from weightlift.checkpoint._ranks import Ranks


def save_together(folder: Path, count: int, states: dict[int, Callable[[int], Any]], **options: Any) -> list[Any]:
    """Save steps, of which each rank has the state that the function gives; what each rank gave or raised."""

    def job(rank: int) -> list[int]:
        with Checkpointer(folder, rank=rank, world_size=count, **{"timeout": 20, **options}) as checkpointer:
            return [checkpointer.save(step, state(rank)).result() for step, state in states.items()]

    return together(count, job)


WHOLE = np.arange(24 * 10, dtype=np.float32).reshape(24, 10)


def test_what_all_have_is_stored_once_by_all_of_them(tmp_path: Path) -> None:
    state = {"model": {f"w{i}": np.full((50 + i, 7), i) for i in range(8)}, "lr": 0.1, "none": np.zeros((0, 3))}
    assert save_together(tmp_path / "s", 3, {1: lambda rank: state}) == [[1]] * 3
    assert equal(restored(tmp_path / "s"), state)
    manifest = Checkpointer(tmp_path / "s").manifest()
    sizes = [sum(t.nbytes for t in manifest.tensors.values() if f"-r{rank:05d}-" in t.file) for rank in range(3)]
    assert sum(sizes) == sum(a.nbytes for a in state["model"].values()) and max(sizes) < 2 * min(sizes)
    assert manifest.world_size == 3
    assert {path.name for path in (tmp_path / "s" / "step-00000001").iterdir()} == {
        "manifest.json", "model.safetensors.index.json", *manifest.files
    }  # fmt: skip
    assert Checkpointer(tmp_path / "s").verify().ok


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (0, 3), (3, 0), (0,), (5, 0, 2)])
def test_tables_of_fewer_rows_than_there_are_processes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Several have nothing of it, at one place: torch's DTensors end so."""
    whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    def own(rank: int) -> Sharded:
        first = min(rank, len(whole))
        return Sharded(shape, [((first, *(0 for _ in shape[1:])), whole[first : first + 1])])

    assert save_together(tmp_path / "s", 5, {1: lambda rank: {"w": own(rank)}}) == [[1]] * 5
    assert equal(restored(tmp_path / "s"), {"w": whole})
    assert Checkpointer(tmp_path / "s").verify().ok


def test_a_step_that_is_overwritten_keeps_what_others_have_written_of_it(tmp_path: Path) -> None:
    """Who links a shard need not be who wrote it: then another may write one at that moment."""
    state = {f"w{i}": np.full(20_000, i, np.float32) for i in range(4)}
    assert save_together(tmp_path / "s", 3, {1: lambda rank: state}) == [[1]] * 3
    for number in range(6):
        state = {f"v{number}": np.full(20_000 + number, number, np.float32), **state, f"u{number}": np.zeros(3)}

        def overwrite(rank: int, now: dict[str, np.ndarray] = state) -> None:
            with Checkpointer(tmp_path / "s", rank=rank, world_size=3, timeout=20) as checkpointer:
                checkpointer.save(1, now, overwrite=True, blocking=True)

        assert together(3, overwrite) == [None] * 3
        assert equal(restored(tmp_path / "s"), state)
        assert Checkpointer(tmp_path / "s").verify().ok


@pytest.mark.parametrize("size", [4, 60_000])
def test_what_is_presumed_the_same_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(checkpointing, "CHUNK", 100_000)  # so that the large one is in pieces
    shape = (2 * size, 2)

    def state(rank: int) -> Any:
        row, column = divmod(rank, 2)  # four processes: two boxes, each of two of them
        shards = [Shard((row * size, 0), np.full((size, 2), row + changed.get(rank, 0)), column, presumed=True)]
        return {"w": Sharded(shape, shards)}

    changed: dict[int, int] = {}
    save_together(tmp_path / "s", 4, {1: state})
    whole = np.repeat([0, 1], size).reshape(-1, 1) * np.ones((1, 2), int)
    assert equal(restored(tmp_path / "s"), {"w": whole})
    changed[3] = 1
    results = save_together(tmp_path / "s", 4, {2: state})
    assert all("rank 3 has other values than the process that stores it" in str(result) for result in results)
    assert Checkpointer(tmp_path / "s").steps() == [1]


@pytest.mark.parametrize("saved", [1, 2, 4])
@pytest.mark.parametrize("loaded", [1, 3, 4])
def test_boxes_are_read_by_any_number_of_processes(tmp_path: Path, saved: int, loaded: int) -> None:
    folder = tmp_path / "s"
    save_together(folder, saved, {5: lambda rank: {"w": rows(WHOLE, rank, saved), "n": np.arange(3), "step": 5}})
    assert equal(restored(folder), {"w": WHOLE, "n": np.arange(3), "step": 5})
    assert equal(wl.load(folder / "step-00000005")["w"], WHOLE)

    def load(rank: int) -> Any:
        into = {"w": rows(np.zeros_like(WHOLE), rank, loaded), "n": np.zeros(3, int), "step": 0}
        checkpointer = Checkpointer(folder, rank=rank, world_size=loaded)
        back = checkpointer.restore(into=into)
        assert back["w"] is into["w"] and back["n"] is into["n"] and back["step"] == 5
        return into

    for rank, into in enumerate(together(loaded, load)):
        if isinstance(into, Exception):
            raise into
        (shard,), (wanted,) = into["w"].shards, rows(WHOLE, rank, loaded).shards
        assert equal(shard.array, wanted.array) and equal(into["n"], np.arange(3))


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """Cuts of each axis: (begin, end) pairs."""
    cuts = [sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=3))}) for n in shape]
    return [list(itertools.pairwise(axis)) for axis in cuts]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_grid_is_read_as_any_other(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("steps")
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from(["f4", "i2", "u1", "c8"]))
    whole = np.arange(np.prod(shape)).reshape(shape).astype(dtype)

    def shards(grid: list[list[tuple[int, int]]], source: np.ndarray) -> list[Any]:
        boxes = itertools.product(*grid)
        return [(tuple(b for b, _ in box), source[tuple(slice(b, e) for b, e in box)].copy()) for box in boxes]

    written, wanted = shards(data.draw(grids(shape)), whole), shards(data.draw(grids(shape)), np.zeros_like(whole))
    count = data.draw(st.integers(1, 3))
    results = save_together(folder, count, {1: lambda rank: {"a": Sharded(shape, written[rank::count]), "b": 1}})
    assert results == [[1]] * count
    assert equal(restored(folder)["a"], whole)
    into = {"a": Sharded(shape, wanted), "b": 0}
    restored(folder, into=into)
    for shard in into["a"].shards:
        expected = whole[tuple(slice(b, b + n) for b, n in zip(shard.begin, shard.shape, strict=True))]
        assert equal(shard.array, np.ascontiguousarray(expected))


def test_what_each_has_of_its_own(tmp_path: Path) -> None:
    def state(rank: int) -> Any:
        return {
            "rng": PerRank(np.random.default_rng(rank)),
            "at": PerRank({"file": f"part-{rank}", "w": np.full(3, rank)}),
        }

    folder = tmp_path / "s"
    save_together(folder, 3, {1: state})
    for rank in range(3):
        checkpointer = Checkpointer(folder, rank=rank, world_size=3)
        back = checkpointer.restore()
        assert back["rng"].random() == np.random.default_rng(rank).random()
        assert equal(back["at"], {"file": f"part-{rank}", "w": np.full(3, rank)})
        into = {"rng": PerRank(np.random.default_rng(99)), "at": PerRank({"file": "", "w": np.zeros(3, int)})}
        filled = checkpointer.restore(into=into)
        assert filled["rng"].value is into["rng"].value
        assert into["rng"].value.random() == np.random.default_rng(rank).random()
        assert equal(filled["at"].value, {"file": f"part-{rank}", "w": np.full(3, rank)})
    other = Checkpointer(folder, rank=3, world_size=4)
    assert other.restore() == {"rng": None, "at": None}
    with pytest.raises(wl.MismatchError):
        other.restore(into=state(3))


@pytest.mark.parametrize(
    ("states", "message", "tensor"),
    [
        (lambda rank: {"rng": np.arange(3) + rank}, "rank . has other values", "rng"),
        (lambda rank: {"a": np.zeros(3), **({"b": np.zeros(3)} if rank else {})}, "only rank 1 of 0 and 1 has it", "b"),
        (lambda rank: {"lr": 0.1 + rank, "w": np.zeros(2)}, "ranks 0 and 1 have different values at lr", None),
        (lambda rank: {"l": [1] * (rank + 1), "w": np.zeros(2)}, "ranks 0 and 1 have different values at l", None),
        (lambda rank: {"w": rows(WHOLE, rank, 3)}, "no box has the element at .16, 0.", "w"),
        (lambda rank: {"w": Sharded((4,), [((rank,), np.zeros(3))])}, "overlaps", "w"),
        (lambda rank: {"w": Sharded((4,), [])}, "no process has any of it", "w"),
        (lambda rank: {"w": Sharded((2,), [((0,), np.full(2, rank))])}, "two processes have stored it", "w"),
    ],
)
def test_processes_that_disagree(tmp_path: Path, states: Any, message: str, tensor: str | None) -> None:
    folder = tmp_path / "s"
    save_together(folder, 2, {1: lambda rank: {"w": np.zeros(2)}})
    first, second = save_together(folder, 2, {2: states})
    with pytest.raises(wl.WeightliftError, match=message) as found:
        raise first
    assert found.value.tensor == tensor
    with pytest.raises(wl.StorageError, match="rank 0 has given up step 2") as told:
        raise second
    assert message[:10] in str(told.value) or tensor is not None
    assert Checkpointer(folder).steps() == [1]
    assert save_together(folder, 2, {2: lambda rank: {"w": np.ones(2)}}) == [[2]] * 2  # and clears up
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", ".lock-00001", ".newest.json", "step-00000001", "step-00000002"
    ]  # fmt: skip


def test_a_missing_rank_ends_in_an_error_that_names_it(tmp_path: Path) -> None:
    def job(rank: int) -> None:
        with Checkpointer(tmp_path / "s", rank=rank, world_size=4, timeout=0.5) as checkpointer:
            if rank not in (1, 3):
                checkpointer.save(1, {"w": WHOLE}).result()

    results = together(4, job)
    assert results[1] is results[3] is None
    with pytest.raises(wl.StorageError, match=r"2 of 4 ranks .* after 0\.5 s not rank 1, 3: nothing is committed"):
        raise results[0]
    with pytest.raises(wl.StorageError, match=r"rank 0 has given up step 1: .* not rank 1, 3"):
        raise results[2]
    assert Checkpointer(tmp_path / "s").steps() == []


def test_without_rank_0_nothing_begins(tmp_path: Path) -> None:
    with (
        Checkpointer(tmp_path / "s", rank=1, world_size=2, timeout=0.2) as checkpointer,
        pytest.raises(wl.StorageError, match="rank 0 has not begun to write step 1"),
    ):
        checkpointer.save(1, {"w": WHOLE}).result()


def test_a_rank_that_cannot_write_says_why_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, all_there = committing.write_shards, threading.Barrier(3)

    def fails(folder: Path, step: Any, previous: Any, how: Any) -> Any:
        all_there.wait(20)
        if "r00002" in how.label:
            raise wl.StorageError("no space left on that disk", path=str(folder))
        return write(folder, step, previous, how)

    monkeypatch.setattr(committing, "write_shards", fails)
    for error in save_together(tmp_path / "s", 3, {1: lambda rank: {"w": WHOLE}}):
        with pytest.raises(wl.StorageError, match="no space left on that disk"):
            raise error
    assert Checkpointer(tmp_path / "s").steps() == []


def test_a_rank_that_comes_when_all_is_over_hears_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "s"
    steps, over = StepDirectory.writing, threading.Event()

    def late(directory: StepDirectory, step: int) -> Any:
        assert over.wait(20)  # rank 0 is there, and then it is not
        return steps(directory, step)

    def first(rank: int) -> Any:
        if rank == 0:
            try:
                with Checkpointer(folder, rank=0, world_size=2, timeout=3) as checkpointer:
                    return checkpointer.save(1, {"w": WHOLE}).result()
            finally:
                over.set()
        while StepDirectory(folder).writer() is None:
            pass
        with Checkpointer(folder, rank=1, world_size=2, timeout=20) as checkpointer:
            return checkpointer.save(1, {"w": WHOLE}).result()

    monkeypatch.setattr(StepDirectory, "writing", late)
    _, second = together(2, first)
    with pytest.raises(wl.StorageError, match=r"rank 0 has ended or died.*1 of 2 ranks have written their part"):
        raise second


def test_a_rank_that_meets_the_litter_of_a_crash_begins_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    litter = folder / ".writing-00000001-00000000"
    litter.mkdir(parents=True)
    (litter / "job.json").write_text(json.dumps({"world_size": "2", "writer": "gone"}))
    arrived, state = threading.Event(), {"w": rows(WHOLE, 0, 1)}

    def job(rank: int) -> int:
        if rank == 0:
            assert arrived.wait(20)
        else:
            state["w"] = np.zeros(1)
        with Checkpointer(folder, rank=rank, world_size=2, timeout=20) as checkpointer:
            return checkpointer.save(1, {"w": rows(WHOLE, rank, 2)}).result()

    def watch() -> None:
        while not (litter / "rank-00001.json").exists():
            pass
        arrived.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    results = together(2, job)
    watcher.join()
    assert results == [1, 1], results[1]
    assert equal(restored(folder), {"w": WHOLE}) and not litter.exists()


def test_ranks_must_agree_on_their_number(tmp_path: Path) -> None:
    def job(rank: int) -> None:
        with Checkpointer(tmp_path / "s", rank=rank, world_size=2 + rank, timeout=1) as checkpointer:
            checkpointer.save(1, {"w": WHOLE}).result()

    first, second = together(2, job)
    with pytest.raises(wl.StorageError, match="rank 1 was told that there are 3 processes, rank 0 that there are 2"):
        raise second
    with pytest.raises(wl.StorageError, match="nothing is committed"):
        raise first
    with pytest.raises(ValueError, match="rank is 2, of world_size 2"):
        Checkpointer(tmp_path, rank=2, world_size=2)


def test_what_a_job_of_another_size_has_left_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "s"
    for number, left in enumerate([{"job": 4}, {"job": 4, "abandoned": 1}, {"job": 2, "abandoned": 1}]):
        litter = folder / f".writing-00000001-0000000{number}"
        litter.mkdir(parents=True)
        (litter / "job.json").write_text(json.dumps({"world_size": str(left["job"]), "writer": "gone"}))
        if "abandoned" in left:
            (litter / "abandoned.json").write_text(json.dumps({"reason": "old"}))
    looked_at: list[tuple[str, Any]] = []
    all_seen, look = threading.Event(), Ranks._is_open

    def looked(ranks: Ranks, path: Folder, step: int) -> bool:
        looked_at.append((path.name, None))
        looked_at[-1] = (path.name, found := look(ranks, path, step))
        if len(looked_at) == 3:
            all_seen.set()
        return found

    monkeypatch.setattr(Ranks, "_is_open", looked)

    def job(rank: int) -> int:
        if rank == 0:
            assert all_seen.wait(20)  # rank 1 has met all that is there, before rank 0 removes it
        with Checkpointer(folder, rank=rank, world_size=2, timeout=20) as checkpointer:
            return checkpointer.save(1, {"w": rows(WHOLE, rank, 2)}).result()

    assert together(2, job) == [1, 1]
    assert looked_at[:3] == [(f".writing-00000001-0000000{number}", False) for number in range(3)]


def test_a_rank_of_another_job_cannot_take_part(tmp_path: Path) -> None:
    old = StepDirectory(tmp_path / "s", 1)
    old.lock()
    with (
        Checkpointer(tmp_path / "s", rank=1, world_size=2) as checkpointer,
        pytest.raises(wl.StorageError, match=f"another checkpointer is writing here: process {os.getpid()}"),
    ):
        checkpointer.save(1, {"w": WHOLE})
    old.unlock()


DIES = """
import sys, numpy as np, os
from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint import _commit
write = _commit.write_shards
def dies(*args):
    if len(sys.argv) > 2:
        print("here", flush=True)
        sys.stdin.readline()
        os._exit(9)
    return write(*args)
_commit.write_shards = dies
c = Checkpointer(sys.argv[1], rank=1, world_size=2, timeout=60)
c.save(1, {"w": np.zeros(3)}).result()
"""


def test_a_rank_that_dies_is_noticed_before_the_time_is_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path / "s"), "die"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        Checkpointer(tmp_path / "s", rank=0, world_size=2, timeout=60) as checkpointer,
    ):
        future = checkpointer.save(1, {"w": np.zeros(3)})
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "here\n"
        while 1 not in checkpointer.ranks._seen:
            assert not future.done()
        other.stdin.write("\n")
        other.stdin.flush()
        with pytest.raises(wl.StorageError, match="rank 1 has ended or died in the middle of a save"):
            future.result()
    assert Checkpointer(tmp_path / "s").steps() == []


def test_shards_of_ranks_are_linked(tmp_path: Path) -> None:
    frozen = np.random.default_rng(0).random((128, 1 << 15))  # 32 MiB, so that each half has a shard of its own
    head = np.zeros(1 << 10)

    def state(step: int) -> Callable[[int], Any]:
        return lambda rank: {"frozen": rows(frozen, rank, 2), "head": head + step}

    folder = tmp_path / "s"
    save_together(folder, 2, {1: state(1), 2: state(2), 3: state(3)}, keep_last=2)
    manifest = Checkpointer(folder).manifest(3)
    since = {name: manifest.files[t.file].since for name, t in manifest.tensors.items()}
    assert since == {"frozen[0:64,0:32768]": 1, "frozen[64:128,0:32768]": 1, "head": 3}
    assert Checkpointer(folder).steps() == [2, 3]
    assert equal(restored(folder), {"frozen": frozen, "head": head + 3})
    with Checkpointer(folder, rank=0, world_size=1) as alone:  # another number of processes writes anew
        alone.save(4, {"frozen": frozen, "head": head}, blocking=True)
    assert equal(restored(folder), {"frozen": frozen, "head": head})


@pytest.mark.parametrize(
    "report", [b"", b"{}", b"[]", b'{"rank": 1}', b'{"written": {"files": 3}}', b'{"error": "full"}', b"\xff" * 99]
)
def test_reports_that_are_none(tmp_path: Path, report: bytes) -> None:
    def job(rank: int) -> Any:
        if rank == 0:
            with Checkpointer(tmp_path / "s", rank=0, world_size=2, timeout=20) as checkpointer:
                return checkpointer.save(1, {"w": WHOLE}).result()
        while not (found := [f for f in StepDirectory(tmp_path / "s").writing(1) if f.has("job.json")]):
            pass
        (found[0].path / "part").write_bytes(report)
        (found[0].path / "part").rename(found[0].path / "rank-00001.json")
        return None

    with pytest.raises((wl.FormatError, wl.StorageError)):
        raise together(2, job)[0]
    assert Checkpointer(tmp_path / "s").steps() == []


def test_all_ranks_fall_back_to_the_same_step(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    save_together(folder, 2, {n: lambda rank, n=n: {"w": rows(WHOLE + n, rank, 2)} for n in (1, 2)})
    shard = next((folder / "step-00000002").glob("data-*r00001*"))  # only rank 1 would read it
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)

    def load(rank: int) -> Any:
        into = {"w": rows(np.zeros_like(WHOLE), rank, 2)}
        Checkpointer(folder, rank=rank, world_size=2).restore(into=into, fallback=True)
        return into["w"].shards[0].array

    with pytest.warns(UserWarning, match="step 1 is taken instead"):
        both = together(2, load)
    assert equal(np.concatenate(both), WHOLE + 1)


def test_rank_0_deletes_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    state = {"w": rows(WHOLE, 0, 1)}

    def job(rank: int) -> Any:
        with Checkpointer(folder, keep_last=None, rank=rank, world_size=2, timeout=20) as checkpointer:
            for step in range(4):
                checkpointer.save(step, {"w": rows(WHOLE, rank, 2)}, blocking=True)
            gone = checkpointer.rewind(1)
            checkpointer.save(2, {"w": rows(WHOLE, rank, 2)}, blocking=True)
            checkpointer.delete(0)
            return gone, checkpointer.gc()

    first, second = together(2, job)
    assert first == ([2, 3], []) and second in [([2, 3], []), ([2], []), ([], [])]  # of what it still saw
    assert Checkpointer(folder).steps() == [1, 2] and equal(restored(folder)["w"], state["w"].shards[0].array)


@pytest.mark.parametrize(
    "structure",
    [{"dict": 3}, {"dict": [["$rank", {"dict": [["1"]]}]]}, {"dict": [[1, 2, 3]]}, {"list": [{}]}, {"a": 1, "b": 2}],
)
def test_structures_that_lie(tmp_path: Path, structure: Any) -> None:
    from dataclasses import replace

    from weightlift._checksum import crc32c
    from weightlift.checkpoint._folders import LocalFolder
    from weightlift.checkpoint._manifest import INDEX, MANIFEST, read_manifest

    folder = tmp_path / "s"
    save_together(folder, 2, {1: lambda rank: {"w": rows(WHOLE, rank, 2), "n": 1}})
    step = folder / "step-00000001"
    index = json.loads((step / INDEX).read_text())
    index["metadata"]["weightlift.structure"] = json.dumps(structure)
    del index["metadata"]["weightlift.crc32c"]
    (step / INDEX).write_text(json.dumps(index))
    manifest = replace(read_manifest(LocalFolder(step)), index_crc32c=crc32c((step / INDEX).read_bytes()))
    (step / MANIFEST).write_bytes(manifest.to_json())
    two = Sharded(WHOLE.shape, [((row, 0), np.zeros((12, 10), np.float32)) for row in (0, 12)])
    for into in (None, {"w": two, "n": 0}):
        with pytest.raises(wl.WeightliftError):
            restored(folder, into=into)
