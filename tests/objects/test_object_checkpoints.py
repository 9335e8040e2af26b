"""Training checkpoints in an object store, against Ceph's gateway.

``WEIGHTLIFT_KILLS`` sets how often the test of killed jobs kills (default 6 here).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.objects.ceph import Gateway
from tests.unit.checkpoint_support import equal, rows, together

import weightlift as wl
from weightlift.checkpoint import Checkpointer, PerRank, Sharded
from weightlift.checkpoint._object_directory import ObjectDirectory, ObjectFolder

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

KILLS = int(os.environ.get("WEIGHTLIFT_KILLS", "6"))
LARGE = 40 << 20
"""Bytes: more than a shard of small tensors takes, so that it has one of its own."""


@pytest.fixture
def make(gateway: Gateway, place: str) -> Callable[..., Checkpointer]:
    """Makes checkpointers of one place."""
    return lambda **options: Checkpointer(place, **{"keep_last": None, "store_options": gateway.options, **options})


def state_of(step: int) -> dict[str, Any]:
    fixed = np.full(LARGE, 7, np.uint8)
    return {"fixed": fixed, "w": np.full((3, 4), step, np.float32), "nested": [step, {"name": "x", "nan": np.nan}]}


def objects(gateway: Gateway, place: str) -> dict[str, int]:
    """Sizes of what lies there, by name."""
    prefix = f"{place.rpartition('/')[2]}/"
    return {o["path"].removeprefix(prefix): o["size"] for o in obstore.list(gateway.store, prefix).collect()}


def test_saved_and_restored(make: Callable[..., Checkpointer]) -> None:
    with make(keep_last=2, metadata={"job": "test"}) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, state_of(step), metrics={"loss": 1 / step}).result()
        checkpointer.wait()
        assert checkpointer.steps() == [2, 3]
        assert equal(checkpointer.restore(), state_of(3))
        assert equal(checkpointer.restore(2), state_of(2))
        assert equal(checkpointer.restore(names="w"), {"w": state_of(3)["w"]})
        assert checkpointer.verify().ok
        assert checkpointer.manifest().metrics == {"loss": 1 / 3}
    with pytest.raises(wl.NotFoundError, match="there is no step 1; committed are 2, 3"):
        make().restore(1)


def test_nothing_there_yet(make: Callable[..., Checkpointer]) -> None:
    assert make().latest() is None
    with pytest.raises(wl.NotFoundError, match="no committed step"):
        make().restore()


def test_what_has_not_changed_is_copied_within_the_store(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str
) -> None:
    with make() as checkpointer:
        assert _saved(checkpointer, 1) > LARGE
        assert _saved(checkpointer, 2) < 100_000
        fixed = checkpointer.manifest(2).tensors["fixed"].file
        assert checkpointer.manifest(2).files[fixed].since == 1
        checkpointer.delete(1)
        assert equal(checkpointer.restore(), state_of(2))
        assert checkpointer.verify().ok
    assert not [name for name in objects(gateway, place) if name.startswith("step-00000001")]


def _saved(checkpointer: Checkpointer, step: int) -> int:
    future = checkpointer.save(step, state_of(step))
    future.result()
    return future.bytes_written


def test_other_tools_read_a_step(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    with make() as checkpointer:
        checkpointer.save(1, state_of(1)).result()
        folder = checkpointer._directory.folder(1).url
    assert equal(wl.load(f"{folder}/model.safetensors.index.json", **gateway.options), state_of(1))
    for name in objects(gateway, place):
        if name.startswith("step-00000001-"):
            data = bytes(obstore.get(gateway.store, f"{place.rpartition('/')[2]}/{name}").bytes())
            (tmp_path / name.rpartition("/")[2]).write_bytes(data)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    for name in ("fixed", "w"):
        assert equal(safetensors.load_file(tmp_path / index["weight_map"][name])[name], state_of(1)[name])


def test_compressed(make: Callable[..., Checkpointer], gateway: Gateway, place: str) -> None:
    pytest.importorskip("zstandard")
    with make(compress="zstd") as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state_of(step)).result()
        assert equal(checkpointer.restore(), state_of(2))
        assert checkpointer.verify().ok
    assert sum(objects(gateway, place).values()) < LARGE


def test_overwritten_rewound_collected(make: Callable[..., Checkpointer], gateway: Gateway, place: str) -> None:
    with make() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"n": step}).result()
        with pytest.raises(wl.StorageError, match="step 2 is saved already"):
            checkpointer.save(2, {"n": 20})
        checkpointer.save(2, {"n": 20}, overwrite=True).result()
        assert checkpointer.restore() == {"n": 20}
        assert checkpointer.rewind(1) == [2]
        assert checkpointer.steps() == [1]
        obstore.put(gateway.store, f"{place.rpartition('/')[2]}/step-00000009-0123abcd/data.safetensors", b"left")
        obstore.put(gateway.store, f"{place.rpartition('/')[2]}/notes.txt", b"somebody's")
        assert checkpointer.gc() == ["step-00000009-0123abcd"]
    names = objects(gateway, place)
    assert "notes.txt" in names and not any("step-00000009" in name for name in names)
    assert len({name.partition("/")[0] for name in names if name.startswith("step-")}) == 2  # its folder, its manifest


# --- two that write -------------------------------------------------------------------------------
def test_of_two_jobs_the_older_is_told(make: Callable[..., Checkpointer]) -> None:
    with make() as older, make() as newer:
        older.save(1, {"n": 1}).result()
        newer.save(2, {"n": 2}).result()
        with pytest.raises(wl.StorageError, match=f"another checkpointer writes here now: process {os.getpid()}"):
            older.save(3, {"n": 3}).result()
        assert newer.restore() == {"n": 2}


def during(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Has something happen once, right before the manifest is put, when all was checked."""
    check, done = ObjectDirectory._check_whole, []

    def checked(self: ObjectDirectory, *arguments: Any) -> None:
        check(self, *arguments)
        if not done:
            done.append(True)
            what()

    monkeypatch.setattr(ObjectDirectory, "_check_whole", checked)


def test_the_same_step_is_committed_once(make: Callable[..., Checkpointer], monkeypatch: pytest.MonkeyPatch) -> None:
    with make() as slow, make() as quick:
        during(monkeypatch, lambda: quick.save(1, {"n": "quick"}).result())
        with pytest.raises(wl.StorageError, match="another checkpointer has committed step 1"):
            slow.save(1, {"n": "slow"}).result()
        assert make().restore() == {"n": "quick"}


def test_a_step_whose_objects_were_taken_for_litter_is_not_committed(
    make: Callable[..., Checkpointer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make() as slow, make() as quick:
        during(monkeypatch, lambda: quick.save(2, {"n": "quick"}).result())
        with pytest.raises(wl.StorageError, match=r"is gone: nothing is committed|another checkpointer writes here"):
            slow.save(1, {"n": "slow", "w": np.ones(3)}).result()
        assert make().steps() == [2]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_commit_is_taken_back_where_another_has_come_meanwhile(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The other one may be about to remove the folder of a step of which it has not seen the manifest."""
    put, done = ObjectDirectory._put_manifest, []

    def overtaken(self: ObjectDirectory, *arguments: Any, **options: Any) -> None:
        put(self, *arguments, **options)
        if not done:
            done.append(True)
            quick._directory.lock()

    with make() as slow, make() as quick:
        if overwrite:
            slow.save(1, {"n": "before"}).result()
        monkeypatch.setattr(ObjectDirectory, "_put_manifest", overtaken)
        with pytest.raises(wl.StorageError, match="another checkpointer writes here now"):
            slow.save(1, {"n": "slow"}, overwrite=overwrite).result()
        assert make().steps() == [1] * overwrite
        assert not overwrite or make().restore() == {"n": "before"}


def test_an_answer_that_is_lost_is_no_failure(
    make: Callable[..., Checkpointer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest comes through, what the store says of that does not, and it is sent once more."""
    put_new = ObjectFolder.put_new

    def sent_twice(self: ObjectFolder, name: str, data: bytes) -> bool:
        put_new(self, name, data)
        return put_new(self, name, data)

    def cut_off(self: ObjectFolder, name: str, data: bytes) -> bool:
        put_new(self, name, data)
        raise wl.TransportError("no answer")

    with make() as checkpointer:
        for step, lost in enumerate([sent_twice, cut_off]):
            monkeypatch.setattr(ObjectFolder, "put_new", lost)
            checkpointer.save(step, {"w": np.full(3, step)}).result()
            assert checkpointer.verify(step).ok


def test_a_step_that_may_be_committed_is_not_removed(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest comes through, and then the store does not answer any more."""
    gone = wl.TransportError("no answer")

    def cut_off(self: ObjectFolder, name: str, data: bytes) -> bool:
        self.put(name, data)
        monkeypatch.setattr(ObjectDirectory, "manifest", silent)
        raise gone

    def silent(self: ObjectDirectory, step: int) -> Any:
        raise gone

    with make() as checkpointer, monkeypatch.context() as patched:
        patched.setattr(ObjectFolder, "put_new", cut_off)
        with pytest.raises(wl.TransportError):
            checkpointer.save(1, {"w": np.ones(3)}).result()
    monkeypatch.undo()
    assert make().verify(1).ok


def test_a_damaged_step_is_overwritten(make: Callable[..., Checkpointer], gateway: Gateway, place: str) -> None:
    with make() as checkpointer:
        checkpointer.save(1, {"w": np.ones(3)}).result()
        obstore.put(gateway.store, f"{place.rpartition('/')[2]}/step-00000001.manifest.json", b"{}")
        checkpointer.save(1, {"w": np.full(3, 2)}, overwrite=True).result()
        assert equal(checkpointer.restore(), {"w": np.full(3, 2)})
    assert len({name.partition("/")[0] for name in objects(gateway, place) if name.startswith("step-")}) == 2


def test_a_shard_that_is_lost_before_the_commit(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = ObjectDirectory._check_owner

    def loses(self: ObjectDirectory) -> None:
        owner(self)
        shards = [name for name in objects(gateway, place) if name.endswith(".safetensors")]
        if shards:
            obstore.delete(gateway.store, [f"{place.rpartition('/')[2]}/{name}" for name in shards])

    monkeypatch.setattr(ObjectDirectory, "_check_owner", loses)
    with make() as checkpointer:
        with pytest.raises(wl.StorageError, match="is gone: nothing is committed"):
            checkpointer.save(1, {"w": np.ones(3)}).result()
        assert checkpointer.steps() == []
    assert not [name for name in objects(gateway, place) if name.startswith("step-")]


# --- damage ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["manifest", "index", "shard", "shard gone", "identity"])
def test_damage_is_told(make: Callable[..., Checkpointer], gateway: Gateway, place: str, what: str) -> None:
    with make() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": np.full(999, step)}).result()
    ending = {"manifest": "2.manifest.json", "index": "index.json", "identity": "2.manifest.json"}.get(
        what, ".safetensors"
    )
    names = [n for n in objects(gateway, place) if n.startswith("step-00000002") and n.endswith(ending)]
    (key,) = (f"{place.rpartition('/')[2]}/{name}" for name in names)
    data = bytearray(bytes(obstore.get(gateway.store, key).bytes()))
    if what == "shard gone":
        obstore.delete(gateway.store, key)
    elif what == "identity":
        from dataclasses import replace

        from weightlift.checkpoint._manifest import Manifest

        obstore.put(gateway.store, key, replace(Manifest.from_json(bytes(data)), identity="../../secret").to_json())
    else:
        data[len(data) // 2] ^= 1
        obstore.put(gateway.store, key, bytes(data))
    reader = make()
    with pytest.raises((wl.FormatError, wl.StorageError)) as caught:
        reader.restore()
    assert "step-00000002" in str(caught.value)
    with pytest.warns(UserWarning, match="step 2 is damaged"):
        assert (reader.restore(fallback=True)["w"] == 1).all()
    if what != "shard gone":
        assert what in ("manifest", "identity") or not reader.verify().ok
    with make() as checkpointer:
        checkpointer.delete(2)
        assert checkpointer.steps() == [1]
    assert not [name for name in objects(gateway, place) if name.startswith("step-00000002")]


# --- many processes -------------------------------------------------------------------------------
WHOLE = np.arange(240.0).reshape(24, 10)


def test_many_processes(make: Callable[..., Checkpointer], gateway: Gateway, place: str) -> None:
    def job(rank: int) -> list[int]:
        with make(rank=rank, world_size=3, timeout=60) as checkpointer:
            state = {"w": rows(WHOLE, rank, 3), "same": np.ones(5), "own": PerRank(rank)}
            return [checkpointer.save(step, state).result() for step in (1, 2)]

    assert together(3, job) == [[1, 2]] * 3
    assert equal(make().restore(), {"w": WHOLE, "same": np.ones(5), "own": 0})
    assert make().manifest().world_size == 3
    assert not [name for name in objects(gateway, place) if name.endswith(("job.json", "rank-00001.json"))]

    def back(rank: int) -> Any:
        blank = {
            "w": Sharded(WHOLE.shape, [((rank * 12, 0), np.zeros((12, 10)))]),
            "same": np.zeros(5),
            "own": PerRank(9),
        }
        loaded = make(rank=rank, world_size=2).restore(into=blank)
        return loaded["w"].shards[0].array

    assert equal(together(2, back), [WHOLE[:12], WHOLE[12:]])


def test_a_process_that_meets_what_a_crash_has_left_begins_again(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It even writes there after rank 0 has removed it."""
    from weightlift.checkpoint import _commit

    prefix = f"{place.rpartition('/')[2]}"
    job = {"world_size": "2", "writer": "gone"}
    obstore.put(gateway.store, f"{prefix}/step-00000001-00000000/job.json", json.dumps(job).encode())
    write, arrived, removed, folders = _commit.write_shards, threading.Event(), threading.Event(), []

    def writes(folder: Any, step: Any, previous: Any, writing: Any) -> Any:
        if writing.label.startswith("r00001"):
            folders.append(folder.name)
            arrived.set()
        else:
            removed.set()
        assert removed.wait(30)
        return write(folder, step, previous, writing)

    monkeypatch.setattr(_commit, "write_shards", writes)

    def run(rank: int) -> Any:
        assert rank or arrived.wait(30)
        with make(rank=rank, world_size=2, timeout=30) as checkpointer:
            return checkpointer.save(1, {"w": rows(WHOLE, rank, 2)}).result()

    assert together(2, run) == [1, 1]
    assert folders[0] == "step-00000001-00000000" and len(folders) == 2
    assert equal(make().restore(), {"w": WHOLE})


def test_a_process_that_does_not_come(make: Callable[..., Checkpointer]) -> None:
    with make(rank=0, world_size=2, timeout=1) as checkpointer:
        with pytest.raises(wl.StorageError, match=r"1 of 2 ranks have written their part.*not rank 1"):
            checkpointer.save(1, {"w": rows(WHOLE, 0, 2)}).result()
        assert checkpointer.steps() == []


def test_a_process_that_cannot_write(make: Callable[..., Checkpointer], monkeypatch: pytest.MonkeyPatch) -> None:
    from weightlift.checkpoint import _commit

    write, all_there = _commit.write_shards, threading.Barrier(2)

    def fails(folder: Any, step: Any, previous: Any, writing: Any) -> Any:
        all_there.wait(20)
        if writing.label.startswith("r00001"):
            raise wl.StorageError("the quota is used up")
        return write(folder, step, previous, writing)

    monkeypatch.setattr(_commit, "write_shards", fails)

    def job(rank: int) -> Any:
        with make(rank=rank, world_size=2, timeout=60) as checkpointer:
            return checkpointer.save(1, {"w": rows(WHOLE, rank, 2)}).result()

    first, second = together(2, job)
    assert "rank 1 could not write its part" in str(first) and "quota" in str(first)
    assert "quota" in str(second)
    assert make().steps() == []


# --- kills ----------------------------------------------------------------------------------------
SAVER = """
import json, sys, numpy as np, weightlift as wl
checkpointer = wl.checkpoint.Checkpointer(sys.argv[1], keep_last=2)
first = (checkpointer.latest() or 0) + 1
fixed = np.full(40 << 20, 7, np.uint8)
print("ready", flush=True)
for step in range(first, first + 10_000):
    changing = np.full(6 << 20, step, np.float32)
    checkpointer.save(step, {"fixed": fixed, "changing": changing, "step": step}).result()
    print(step, flush=True)
"""


@pytest.mark.timeout(1800)
def test_killed_at_any_instant(make: Callable[..., Checkpointer], gateway: Gateway, place: str) -> None:
    rng, environment = random.Random(0), {**os.environ, **gateway.environment}
    newest = 0
    for _ in range(KILLS):
        job = subprocess.Popen([sys.executable, "-c", SAVER, place], stdout=subprocess.PIPE, text=True, env=environment)
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 2))
        job.send_signal(signal.SIGKILL)
        said = [int(line) for line in job.communicate()[0].split()]
        reader = make()
        step = reader.latest() or 0
        assert step >= max([newest, *said])
        newest = step
        assert all(reader.verify(committed).ok for committed in reader.steps())
        if step:
            state = reader.restore()
            assert state["step"] == step and (state["changing"] == step).all() and (state["fixed"] == 7).all()
    with make(keep_last=2) as checkpointer:
        checkpointer.save(newest + 1, {"step": newest + 1}).result()
        checkpointer.wait()
        assert checkpointer._directory.litter() == []
        assert newest == 0 or checkpointer.restore(newest)["step"] == newest


# --- the command ----------------------------------------------------------------------------------
def test_the_command(
    make: Callable[..., Checkpointer], gateway: Gateway, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    testing = pytest.importorskip("click.testing")
    pytest.importorskip("rich")
    from weightlift.cli._app import app

    with make() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"model": {"w": np.full(5, step)}}, metrics={"loss": 0.5}).result()
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Any:
        return testing.CliRunner().invoke(app, ["ckpt", *arguments])

    listed = [json.loads(line) for line in run("ls", place, "--json").stdout.splitlines()]
    assert [(row["step"], row["state"], row["metrics"]) for row in listed] == [
        (1, "committed", {"loss": 0.5}), (2, "committed", {"loss": 0.5}),
    ]  # fmt: skip
    assert "model.w" in run("show", place).stdout
    assert run("verify", place, "--all").exit_code == 0
    assert run("diff", place, "1", "2").exit_code == 1
    assert run("export", place, str(tmp_path / "m.safetensors"), "--prefix", "model").exit_code == 0
    assert equal(wl.load(tmp_path / "m.safetensors"), {"w": np.full(5, 2)})
    assert "removed step 1" in run("gc", place, "--keep-last", "1").stdout
    assert run("ls", gateway.url("nothing-here")).exit_code != 0
