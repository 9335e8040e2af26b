"""WeightliftWriter and WeightliftReader under torch.distributed.checkpoint: real processes, meshes, and wrappers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift._arrays import as_array
from weightlift.checkpoint import Checkpointer

torch = pytest.importorskip("torch", reason="torch is not installed")
dcp = pytest.importorskip("torch.distributed.checkpoint", reason="torch is not installed")
CheckpointException = dcp.api.CheckpointException
JOB = Path(__file__).with_name("dcp_job.py")


def run(world: int, folder: Path, *tasks: str) -> None:
    jobs = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(rank), str(world), str(folder), *tasks],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * world, "\n".join(outputs)[-5000:]


SAVED = {4: ["fsdp", "hsdp", "fsdp_tp"], 2: ["ddp", "fsdp", "tp"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of six jobs, and what jobs of other shapes have loaded of them."""
    path = tmp_path_factory.mktemp("dcp")
    run(4, path, *(f"save:{mode}" for mode in SAVED[4]))
    run(2, path, *(f"save:{mode}" for mode in SAVED[2]), "load:fsdp:4fsdp", "load:tp:4hsdp", "load:ddp:4fsdp_tp")
    run(4, path, "load:fsdp_tp:2ddp", "load:fsdp:2tp", "load:hsdp:2fsdp")
    return path


def same(a: Any, b: Any, path: str = "") -> None:
    """Equal bit for bit."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, Mapping):
        assert set(a) == set(b), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}.{number}")
    else:
        assert a == b, path


NAMES = [f"{world}{mode}" for world, modes in SAVED.items() for mode in modes]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["", ".async"])
def test_what_is_saved_is_read_by_us_and_by_dcp(folder: Path, name: str, kind: str) -> None:
    truth = torch.load(folder / f"{name}.truth")
    loaded = wl.load(folder / f"{name}{kind}", framework="torch")
    same(loaded["model"], truth["model"])
    same(loaded["optim"], truth["optim"])
    assert loaded["step"] == 2 and loaded["seen"] == [2, {"file": "part-2"}]
    assert wl.verify(folder / f"{name}{kind}").ok
    from weightlift.checkpoint.dcp import WeightliftReader

    state: dict[str, Any] = {"model": {key: torch.zeros_like(tensor) for key, tensor in truth["model"].items()}}
    state |= {"step": 0, "seen": [0, {"file": ""}]}
    dcp.load(state, storage_reader=WeightliftReader(folder / f"{name}{kind}"), no_dist=True)
    same(state["model"], truth["model"])
    assert state["step"] == 2 and state["seen"] == [2, {"file": "part-2"}]


@pytest.mark.parametrize("name", NAMES)
def test_ours_is_what_its_own_writer_stores(folder: Path, name: str) -> None:
    ours, own = wl.load(folder / name, framework="torch"), wl.load(folder / f"{name}.own", framework="torch")
    same(ours, own)


OTHERS = {"4fsdp": "2fsdp", "4hsdp": "2tp", "4fsdp_tp": "2ddp", "2ddp": "4fsdp_tp", "2tp": "4fsdp", "2fsdp": "4hsdp"}


@pytest.mark.parametrize("name", NAMES)
def test_checkpointers_of_many_ranks_store_the_same(folder: Path, name: str) -> None:
    same(
        wl.load(folder / f"{name}.steps" / "step-00000002", framework="torch"),
        wl.load(folder / name, framework="torch"),
    )


@pytest.mark.parametrize(("name", "into"), OTHERS.items())
def test_other_worlds_and_meshes(folder: Path, name: str, into: str) -> None:
    same(torch.load(folder / f"{name}.in.{into}.truth"), torch.load(folder / f"{name}.truth"))


def test_directories_of_dcp_are_converted(folder: Path, tmp_path: Path) -> None:
    result = wl.convert(folder / "4fsdp.own", tmp_path / "m.safetensors", names="model.*", rename={"model.": ""})
    assert result.tensors
    same(wl.load(tmp_path / "m.safetensors", framework="torch"), torch.load(folder / "4fsdp.truth")["model"])


@pytest.mark.parametrize("world", [1, 2])
def test_saves_by_a_process_beside(tmp_path: Path, world: int) -> None:
    pytest.importorskip("torch.distributed.checkpoint._async_process_executor", reason="of newer versions of torch")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = JOB.with_name("dcp_process_job.py")
    jobs = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(world), str(port), str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    outputs = [job.communicate(timeout=200)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * world, "\n".join(outputs)[-5000:]
    torch.manual_seed(0)
    model = torch.nn.Linear(9, 5).state_dict()
    for number in range(2):
        loaded = wl.load(tmp_path / str(number), framework="torch")
        same(loaded["model"], {name: tensor + number for name, tensor in model.items()})
        assert loaded["step"] == number and loaded["seen"] == [number, {"file": "part"}]
        assert wl.verify(tmp_path / str(number)).ok
        ranks = {path.name[14:20] for path in (tmp_path / str(number)).glob("data-*")}
        assert ranks == {f"r0000{rank}" for rank in range(world)}


def test_all_processes_write(folder: Path) -> None:
    for name in NAMES:
        files = {path.name[:20] for path in (folder / name).glob("data-*")}
        assert files == {f"data-00000000-r0000{rank}" for rank in range(int(name[0]))}, name


# --- one process ------------------------------------------------------------------------------------------------------
def save(state: dict[str, Any], path: Path, **options: Any) -> None:
    from weightlift.checkpoint.dcp import WeightliftWriter

    dcp.save(state, storage_writer=WeightliftWriter(path, **options), no_dist=True)


def load(state: dict[str, Any], path: Path) -> dict[str, Any]:
    from weightlift.checkpoint.dcp import WeightliftReader

    dcp.load(state, storage_reader=WeightliftReader(path), no_dist=True)
    return state


pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

KINDS = [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.uint16, torch.bool]


def test_types_and_shapes(tmp_path: Path) -> None:
    state = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in KINDS}
    state |= {"scalar": torch.tensor(1.5), "none": torch.zeros(0, 3), "turned": torch.arange(6.0).reshape(2, 3).T}
    save(state, tmp_path / "c")
    back = load({key: torch.zeros_like(tensor) for key, tensor in state.items()}, tmp_path / "c")
    for key, tensor in state.items():
        assert back[key].dtype == tensor.dtype and back[key].shape == tensor.shape
        assert as_array(back[key]).tobytes() == as_array(tensor).tobytes()


def test_values(tmp_path: Path) -> None:
    values = {
        "int": 3, "float": float("nan"), "text": "ä", "none": None, "bytes": b"\0", "tuple": (1, (2.5,)), "empty": {},
        "numpy": np.arange(3), "rng": np.random.default_rng(3), "mixed": [torch.ones(2), 3, {"deep": torch.zeros(1)}],
        "pair": (torch.ones(3), 2),
    }  # fmt: skip
    save(values, tmp_path / "c")
    blank = {
        "int": 0, "float": 0.0, "text": "", "none": 1, "bytes": b"", "tuple": (), "empty": {}, "numpy": 0, "rng": 0,
        "mixed": [torch.zeros(2), 0, {"deep": torch.ones(1)}], "pair": (torch.zeros(3), 0),
    }  # fmt: skip
    back = load(blank, tmp_path / "c")
    assert back["float"] != back["float"] and back["tuple"] == (1, (2.5,)) and back["none"] is None
    assert type(back["numpy"]) is np.ndarray and np.array_equal(back["numpy"], np.arange(3))
    assert back["rng"].random() == np.random.default_rng(3).random()
    assert torch.equal(back["mixed"][0], torch.ones(2)) and back["mixed"][1:] == [3, {"deep": torch.zeros(1)}]
    assert torch.equal(back["pair"][0], torch.ones(3)) and back["pair"][1] == 2
    assert (back["int"], back["text"], back["bytes"]) == (3, "ä", b"\0")


def test_empty_dicts_of_lists(tmp_path: Path) -> None:
    """The planner keeps nothing of them; what comes after keeps its place."""
    state = {"optim": [{}, {"w": torch.ones(2)}, {}, 3], "rest": [torch.zeros(1), {}, torch.ones(1)]}
    save(state, tmp_path / "ours")
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path / "own"), no_dist=True)
    for place in ("ours", "own"):
        same(wl.load(tmp_path / place, framework="torch"), state)


class Planner(dcp.DefaultSavePlanner):
    """Gives bytes of its own making."""

    def transform_object(self, write_item: Any, object: Any) -> Any:
        return super().transform_object(write_item, object)


def test_planners_of_others(tmp_path: Path) -> None:
    from weightlift.checkpoint.dcp import WeightliftWriter

    state = {"w": torch.ones(3), "lr": 0.5, "deep": {"a": [1, 2]}}
    dcp.save(state, storage_writer=WeightliftWriter(tmp_path / "c"), planner=Planner(), no_dist=True)
    assert load({"lr": 0, "deep": {"a": [0, 0]}}, tmp_path / "c") == {"lr": 0.5, "deep": {"a": [1, 2]}}
    flat = dcp.DefaultSavePlanner(flatten_state_dict=False)
    dcp.save(state, storage_writer=WeightliftWriter(tmp_path / "d"), planner=flat, no_dist=True)
    assert wl.load(tmp_path / "d")["deep"] == {"a": [1, 2]}
    cached = [dcp.DefaultSavePlanner(enable_plan_caching=True) for _ in range(3)]
    for number, planner in enumerate(cached):
        state["w"][:] = number
        writer = WeightliftWriter(tmp_path / f"cached{number}")
        dcp.save({"w": state["w"]}, storage_writer=writer, planner=planner, no_dist=True)
        assert wl.load(tmp_path / f"cached{number}")["w"].tolist() == [number] * 3


def test_what_cannot_be_stored_is_refused_by_name(tmp_path: Path) -> None:
    class Thing:
        pass

    for state, message in [
        ({"a": {"thing": Thing()}}, "register_encoder.*a.thing"),
        ({"a": torch.ones(2).to_sparse()}, "sparse.*'a'"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "complex128"),
    ]:
        with pytest.raises(CheckpointException, match=f"(?s){message}"):
            save(state, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == [".c.writing"]  # until the next save
    save({"a": torch.ones(1)}, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_is_there(tmp_path: Path) -> None:
    save({"a": torch.ones(1)}, tmp_path / "c")
    save({"a": torch.zeros(1)}, tmp_path / "c")
    assert wl.load(tmp_path / "c")["a"] == 0
    with pytest.raises(CheckpointException, match="overwrite=True"):
        save({"a": torch.ones(1)}, tmp_path / "c", overwrite=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(CheckpointException, match=r"no checkpoint \(thesis\.txt"):
        save({"a": torch.ones(1)}, tmp_path / "mine")
    (tmp_path / "deep" / "empty").mkdir(parents=True)
    save({"a": torch.ones(1)}, tmp_path / "deep" / "empty")
    save({"a": torch.ones(1)}, tmp_path / "new" / "deep")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "deep", "mine", "new"]
    with pytest.raises(CheckpointException, match="there is no checkpoint"):
        load({"a": torch.ones(1)}, tmp_path / "none")
    dcp.save({"a": torch.ones(1)}, checkpoint_id=tmp_path / "own", no_dist=True)
    with pytest.raises(CheckpointException, match=r"one of DCP itself, which weightlift\.load reads"):
        load({"a": torch.ones(1)}, tmp_path / "own")


def test_an_old_one_is_found_while_a_new_one_takes_its_place(tmp_path: Path) -> None:
    save({"a": torch.ones(1)}, tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / ".c.replaced")  # here a crash may leave it
    assert load({"a": torch.zeros(1)}, tmp_path / "c")["a"] == 1
    save({"a": torch.full((1,), 2.0)}, tmp_path / "c")
    assert load({"a": torch.zeros(1)}, tmp_path / "c")["a"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_old_one_outlives_a_save_that_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash has left the only one aside, and somebody has made an empty directory of its name."""
    from weightlift.checkpoint.dcp import _target

    save({"a": torch.ones(1)}, tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / ".c.replaced")
    (tmp_path / "c").mkdir()

    def cut_short(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_target, "exchange", cut_short)
    with pytest.raises(CheckpointException, match="Input/output error"):
        save({"a": torch.zeros(1)}, tmp_path / "c")
    monkeypatch.undo()
    assert load({"a": torch.zeros(1)}, tmp_path / "c")["a"] == 1
    save({"a": torch.full((1,), 2.0)}, tmp_path / "c")
    assert load({"a": torch.zeros(1)}, tmp_path / "c")["a"] == 2


def test_damage_is_found(tmp_path: Path) -> None:
    save({"a": torch.arange(1000.0)}, tmp_path / "c")
    (shard,) = (tmp_path / "c").glob("data-*")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointException, match=r"CRC-32C mismatch(.|\n)*tensor 'a'"):
        load({"a": torch.zeros(1000)}, tmp_path / "c")
    (tmp_path / "c" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointException, match="the index has the CRC-32C"):
        load({"a": torch.zeros(1000)}, tmp_path / "c")


def test_steps_of_a_checkpointer(tmp_path: Path) -> None:
    state = {"model": {"w": np.ones((3, 2), np.float32), "list": [np.zeros(2), 3]}, "lr": 0.1}
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(7, state, blocking=True)
    blank = {"model": {"w": torch.zeros(3, 2), "list": [torch.ones(2).double(), 0]}, "lr": 0.0}
    back = load(blank, tmp_path / "s" / "step-00000007")
    assert back["model"]["w"].sum() == 6 and back["model"]["list"][1] == 3 and back["lr"] == 0.1


def test_staging_is_used_again(tmp_path: Path) -> None:
    from weightlift.checkpoint.dcp import WeightliftWriter

    writer = WeightliftWriter(tmp_path / "0")
    tied = torch.arange(1 << 18, dtype=torch.bfloat16)
    for number in range(3):
        state = {"a": tied, "b": tied, "n": number}
        future = dcp.async_save(state, checkpoint_id=tmp_path / str(number), storage_writer=writer, no_dist=True)
        tied += 1
        future.result()
        back = wl.load(tmp_path / str(number), framework="torch")
        assert torch.equal(back["a"] + 1, tied) and torch.equal(back["b"] + 1, tied) and back["n"] == number
    writer.close()


@pytest.mark.parametrize(
    "said",
    [3, {}, {"paths": 3, "values": {}}, {"paths": {"n": 3}, "values": {}}, {"paths": {"n": [{}]}, "values": {}},
     {"paths": {}, "values": {"n": 3}}, {"paths": {}, "values": {"n": {"dict": 3}}}, {"paths": {}, "values": [1]}],
)  # fmt: skip
def test_manifests_that_lie(tmp_path: Path, said: Any) -> None:
    import dataclasses

    from weightlift.checkpoint._folders import LocalFolder
    from weightlift.checkpoint._manifest import read_manifest

    save({"a": torch.ones(1), "n": 3}, tmp_path / "c")
    manifest = read_manifest(LocalFolder(tmp_path / "c"))
    lying = dataclasses.replace(manifest, metadata={"torch.distributed.checkpoint": said})
    (tmp_path / "c" / "manifest.json").write_bytes(lying.to_json())
    with pytest.raises(CheckpointException, match="malformed manifest"):
        load({"a": torch.zeros(1), "n": 0}, tmp_path / "c")
