"""WeightliftWriter and WeightliftReader of torch.distributed.checkpoint on an object store: Ceph's gateway."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.frameworks import dcp_job
from tests.objects.ceph import Gateway

import weightlift as wl
from weightlift.checkpoint import Checkpointer

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
dcp = pytest.importorskip("torch.distributed.checkpoint", reason="torch is not installed")
CheckpointException = dcp.api.CheckpointException

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

STEP = "step-00000000"


@pytest.fixture
def save(gateway: Gateway) -> Callable[..., None]:
    from weightlift.checkpoint.dcp import WeightliftWriter

    def run(state: dict[str, Any], url: str, **options: Any) -> None:
        writer = WeightliftWriter(url, store_options=gateway.options, **options)
        dcp.save(state, storage_writer=writer, no_dist=True)

    return run


@pytest.fixture
def load(gateway: Gateway) -> Callable[..., dict[str, Any]]:
    from weightlift.checkpoint.dcp import WeightliftReader

    def run(state: dict[str, Any], url: str) -> dict[str, Any]:
        dcp.load(state, storage_reader=WeightliftReader(url, store_options=gateway.options), no_dist=True)
        return state

    return run


def objects(gateway: Gateway, url: str) -> list[str]:
    """The names of what lies below a URL."""
    prefix = f"{url.split('/', 3)[3]}/"
    return sorted(o["path"].removeprefix(prefix) for o in obstore.list(gateway.store, prefix).collect())


def key(gateway: Gateway, url: str, end: str) -> str:
    """The key of the only object below a URL with such an end."""
    (found,) = [name for name in objects(gateway, url) if name.endswith(end)]
    return f"{url.split('/', 3)[3]}/{found}"


def started(gateway: Gateway, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    program = Path(dcp_job.__file__).with_name(script)
    return subprocess.Popen(
        [sys.executable, str(program), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **gateway.environment, **environment},
    )  # fmt: skip


def finished(jobs: list[subprocess.Popen[str]]) -> None:
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), "\n".join(outputs)[-5000:]


# --- real jobs ------------------------------------------------------------------------------------
def test_jobs_of_many_processes(
    gateway: Gateway, place: str, tmp_path: Path, load: Callable[..., dict[str, Any]]
) -> None:
    """FSDP over two processes; into tensor parallelism over two, FSDP over four, and one process without any."""

    def run(world: int, *tasks: str) -> None:
        finished(
            [started(gateway, "dcp_job.py", str(r), str(world), str(tmp_path), *tasks, DCP_PLACE=place)
             for r in range(world)]
        )  # fmt: skip

    run(2, "save:fsdp", "load:tp:2fsdp")
    run(4, "load:fsdp:2fsdp", "save:fsdp_tp")
    run(2, "load:ddp:4fsdp_tp")
    truth = torch.load(tmp_path / "2fsdp.truth")
    for loaded in ("2fsdp.in.2tp", "2fsdp.in.4fsdp", "4fsdp_tp.in.2ddp"):
        expected = torch.load(tmp_path / f"{loaded.partition('.')[0]}.truth")
        same = torch.load(tmp_path / f"{loaded}.truth")
        assert all(torch.equal(same["model"][name], tensor) for name, tensor in expected["model"].items()), loaded
    for kind in ("", ".async"):
        state: dict[str, Any] = {"model": {name: torch.zeros_like(t) for name, t in truth["model"].items()}}
        state |= {"step": 0, "seen": [0, {"file": ""}]}
        load(state, f"{place}/2fsdp{kind}")
        assert all(torch.equal(state["model"][name], tensor) for name, tensor in truth["model"].items())
        assert state["step"] == 2 and state["seen"] == [2, {"file": "part-2"}]
        shards = [n for n in objects(gateway, f"{place}/2fsdp{kind}") if n.endswith(".safetensors")]
        assert {n.partition("/")[2][14:20] for n in shards} == {"r00000", "r00001"}, "both have written"
    # A Checkpointer's steps, by the name of one.
    state = {"step": 0, "seen": [0, {"file": ""}]}
    assert load(state, f"{place}/2fsdp.steps/step-00000002")["step"] == 2


def test_saves_by_a_process_beside(gateway: Gateway, place: str, load: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("torch.distributed.checkpoint._async_process_executor", reason="of newer versions of torch")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    finished([started(gateway, "dcp_process_job.py", str(rank), "2", port, place) for rank in range(2)])
    torch.manual_seed(0)
    model = torch.nn.Linear(9, 5).state_dict()
    for number in range(2):
        state = {"model": {name: torch.zeros_like(t) for name, t in model.items()}, "step": -1}
        load(state, f"{place}/{number}")
        assert all(torch.equal(state["model"][name], tensor + number) for name, tensor in model.items())
        assert state["step"] == number


# --- what is there --------------------------------------------------------------------------------
def test_what_is_stored(
    gateway: Gateway, place: str, save: Callable[..., None], load: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    state = {"a": torch.arange(5.0), "half": torch.ones(3).bfloat16(), "n": 3, "deep": {"list": [torch.eye(2), None]}}
    save(state, f"{place}/", metadata={"run": "x"})
    names = objects(gateway, place)
    folder = names[1].partition("/")[0]
    assert [name for name in names if "/" not in name] == [".writer.json", f"{STEP}.manifest.json"]
    assert folder.startswith(f"{STEP}-") and not any(name.endswith("job.json") for name in names)
    blank = {"a": torch.zeros(5), "half": torch.zeros(3).bfloat16(), "n": 0, "deep": {"list": [torch.zeros(2, 2), 1]}}
    load(blank, place)
    assert torch.equal(blank["a"], state["a"]) and torch.equal(blank["half"], state["half"]) and blank["n"] == 3
    assert torch.equal(blank["deep"]["list"][0], torch.eye(2))
    # It is the only step of a place, which everything that knows these reads.
    index = f"{place}/{folder}/model.safetensors.index.json"
    assert wl.load(index, **gateway.options)["a"].tolist() == [0, 1, 2, 3, 4]
    with Checkpointer(place, store_options=gateway.options) as checkpointer:
        assert checkpointer.steps() == [0] and checkpointer.verify(0).ok
        assert checkpointer.manifest(0).metadata["run"] == "x"
    assert wl.convert(index, tmp_path / "m.npz", names="a", **gateway.options).tensors


def test_one_takes_the_place_of_another(
    gateway: Gateway, place: str, save: Callable[..., None], load: Callable[..., dict[str, Any]]
) -> None:
    save({"a": torch.ones(1)}, place)
    first = objects(gateway, place)
    save({"a": torch.zeros(1)}, place)
    assert load({"a": torch.ones(1)}, place)["a"] == 0
    second = objects(gateway, place)
    assert len(second) == len(first) and not set(first) & {name for name in second if "/" in name}
    with pytest.raises(CheckpointException, match="overwrite=True"):
        save({"a": torch.ones(1)}, place, overwrite=False)
    save({"a": torch.ones(1)}, f"{place}/other", overwrite=False)
    assert load({"a": torch.zeros(1)}, f"{place}/other")["a"] == 1


def test_a_save_that_is_cut_short(
    gateway: Gateway, place: str, save: Callable[..., None], load: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from weightlift.checkpoint._object_directory import ObjectDirectory

    def dies(*_: Any) -> None:
        raise wl.StorageError("the power is gone")

    for number in range(2):  # over nothing, and over a checkpoint
        with monkeypatch.context() as patch:
            patch.setattr(ObjectDirectory, "commit", dies)
            with pytest.raises(CheckpointException, match="the power is gone"):
                save({"a": torch.full((1,), 9.0)}, place)
        assert any(name.endswith("job.json") for name in objects(gateway, place))
        if number:
            assert load({"a": torch.zeros(1)}, place)["a"] == 0
        else:
            with pytest.raises(CheckpointException, match="there is no checkpoint"):
                load({"a": torch.zeros(1)}, place)
        save({"a": torch.full((1,), float(number))}, place)
        assert load({"a": torch.zeros(1)}, place)["a"] == number
        assert len({name.partition("/")[0] for name in objects(gateway, place) if "/" in name}) == 1


def test_two_jobs_at_one_place(
    gateway: Gateway, place: str, save: Callable[..., None], load: Callable[..., dict[str, Any]]
) -> None:
    """Whoever begins last has the place; the other one commits nothing, and says so."""
    from weightlift.checkpoint.dcp import WeightliftWriter

    class Slow(WeightliftWriter):
        def finish(self, **arguments: Any) -> None:  # type: ignore[override]
            save({"a": torch.full((1,), 2.0)}, place)
            super().finish(**arguments)

    with pytest.raises(CheckpointException, match="another checkpointer writes here now"):
        dcp.save({"a": torch.ones(1)}, storage_writer=Slow(place, store_options=gateway.options), no_dist=True)
    assert load({"a": torch.zeros(1)}, place)["a"] == 2


def test_a_process_that_meets_another_job(gateway: Gateway, place: str) -> None:
    """It writes where the last job to begin has said; the one that its own process began does not take that."""
    from weightlift.checkpoint.dcp._object_target import TargetObjects

    mine, theirs, other = (TargetObjects(place, gateway.options) for _ in range(3))
    mine.begin()
    assert other.made.name == mine.made.name and other.label(1) != TargetObjects(place, gateway.options).label(1)
    theirs.begin()
    assert TargetObjects(place, gateway.options).made.name == theirs.made.name != mine.made.name
    theirs.made.put("job.json", json.dumps({"writer": "nobody"}).encode())
    with pytest.raises(wl.StorageError, match="another job is writing"):
        _ = TargetObjects(place, gateway.options).made


def test_shards_in_two_folders_are_no_checkpoint(gateway: Gateway, place: str) -> None:
    from weightlift.checkpoint.dcp import WeightliftWriter

    class Astray(WeightliftWriter):
        """As of a process that has met another job's folder."""

        def write_data(self, *arguments: Any) -> Any:
            begun, self._current = self._current, None
            self.set_up_storage_writer(False)
            assert self._current is not None
            self._current.begin()  # type: ignore[unreachable]
            try:
                return super().write_data(*arguments)
            finally:
                self._current = begun

    with pytest.raises(CheckpointException, match="another job is writing a checkpoint of this name"):
        dcp.save({"a": torch.ones(1)}, storage_writer=Astray(place, store_options=gateway.options), no_dist=True)


# --- errors ---------------------------------------------------------------------------------------
def test_damage_is_found(
    gateway: Gateway, place: str, save: Callable[..., None], load: Callable[..., dict[str, Any]]
) -> None:
    save({"a": torch.arange(1000.0)}, place)
    shard = key(gateway, place, ".safetensors")
    good = bytes(obstore.get(gateway.store, shard).bytes())
    obstore.put(gateway.store, shard, good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    with pytest.raises(CheckpointException, match=r"CRC-32C mismatch(.|\n)*tensor 'a'"):
        load({"a": torch.zeros(1000)}, place)
    obstore.delete(gateway.store, shard)
    with pytest.raises(CheckpointException, match=r"is not there"):
        load({"a": torch.zeros(1000)}, place)
    obstore.put(gateway.store, key(gateway, place, "index.json"), b"{}")
    with pytest.raises(CheckpointException, match="the index has the CRC-32C"):
        load({"a": torch.zeros(1000)}, place)
    obstore.put(gateway.store, key(gateway, place, "manifest.json"), b"{}")
    with pytest.raises(CheckpointException, match="not a checkpoint's manifest"):
        load({"a": torch.zeros(1000)}, place)


def test_what_is_not_there(
    gateway: Gateway, place: str, save: Callable[..., None], load: Callable[..., dict[str, Any]]
) -> None:
    from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter

    with Checkpointer(f"{place}/steps", store_options=gateway.options) as checkpointer:
        checkpointer.save(7, {"a": torch.ones(1)}, blocking=True)
    with pytest.raises(CheckpointException, match=r"steps of a Checkpointer; name one, \.\.\./step-00000007"):
        load({"a": torch.zeros(1)}, f"{place}/steps")
    assert load({"a": torch.zeros(1)}, f"{place}/steps/step-00000007")["a"] == 1
    with pytest.raises(CheckpointException, match="there is no checkpoint"):
        load({"a": torch.zeros(1)}, f"{place}/steps/step-00000008")
    with pytest.raises(CheckpointException, match="no-such-bucket"):
        save({"a": torch.ones(1)}, "s3://no-such-bucket/run")
    for kind in (WeightliftReader, WeightliftWriter):
        with pytest.raises(wl.UnsupportedFeatureError, match=r"local directories and object stores \(s3, gs, az\)"):
            kind("https://host/run")
        with pytest.raises(TypeError, match="local files have no option config"):
            kind("run", store_options=gateway.options)
        assert kind.validate_checkpoint_id(place) and not kind.validate_checkpoint_id("https://host/run")


def test_the_place_of_a_save(gateway: Gateway, place: str, load: Callable[..., dict[str, Any]]) -> None:
    """``checkpoint_id`` of each, as loops give it."""
    from weightlift.checkpoint.dcp import WeightliftWriter

    writer = WeightliftWriter(f"{place}/0", store_options=gateway.options)
    tied = torch.arange(1000.0)
    for number in range(2):
        url = f"{place}/{number}"
        future = dcp.async_save({"a": tied}, checkpoint_id=url, storage_writer=writer, no_dist=True)
        tied += 1
        future.result()
        assert writer.checkpoint_id == url
        assert torch.equal(load({"a": torch.zeros(1000)}, url)["a"] + 1, tied)
    writer.close()
