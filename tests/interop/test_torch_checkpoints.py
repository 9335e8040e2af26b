"""Checkpoints as trainers write them by ``torch.save``: NumPy's values, schedulers, options, and what is code."""

from __future__ import annotations

import argparse
import functools
import pathlib
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.test_torch import assert_same
from tests.unit.torch_support import archive, legacy, name, pickled, tensor, text

import weightlift as wl

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

SCALARS = {
    "lr": np.float64(0.1), "step": np.int64(-3), "half": np.float16(0.5), "single": np.float32(0.1),
    "byte": np.uint8(255), "most": np.uint64((1 << 64) - 1), "flag": np.bool_(True), "nan": np.float32("nan"),
    "complex": np.complex64(1 - 2j), "double complex": np.complex128(1j), "text": np.str_("é€"),
    "no text": np.str_(""), "bytes": np.bytes_(b"\xff\x01"),
}  # fmt: skip
ARRAYS = {
    "hist": np.arange(3), "none": np.zeros((0, 2), "f4"), "point": np.array(2.5), "fortran": np.eye(3, 4, 1).T,
    "big-endian": np.arange(3, dtype=">i2"), "flags": np.array([True, False]), "texts": np.array(["a", "bc"]),
    "large": np.arange(70_000, dtype="f4"), "steps": np.arange(10)[::3],
}  # fmt: skip


def values() -> dict[str, Any]:
    return {"scalars": dict(SCALARS), "arrays": dict(ARRAYS), "w": torch.arange(4.0)}


def expected() -> dict[str, Any]:
    """Scalars as Python's own, arrays as they were."""
    arrays = {n: a.astype(a.dtype.newbyteorder("=")) for n, a in ARRAYS.items()}
    return {"scalars": {n: v.item() for n, v in SCALARS.items()}, "arrays": arrays, "w": torch.arange(4.0)}


def repacked(path: Path, old: bytes, new: bytes) -> None:
    """The archive with other words in its pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist() if ".data" not in n and "format" not in n}
    with zipfile.ZipFile(path, "w") as out:
        for member, data in members.items():
            out.writestr(member, data.replace(old, new) if member.endswith("data.pkl") else data)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("old", [False, True], ids=["archive", "legacy"])
def test_values_of_numpy(old: bool, protocol: int, tmp_path: Path) -> None:
    torch.save(values(), tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    assert_same(wl.load(tmp_path / "x.pt", skip_unsafe=True), expected())
    with wl.open(tmp_path / "x.pt", skip_unsafe=True) as weights:
        assert weights["arrays.large"][2:4].tolist() == [2, 3]
    assert list(wl.load(tmp_path / "x.pt", names="arrays.hist", skip_unsafe=True)) == ["arrays.hist"]


def test_values_of_older_numpy_are_called_otherwise(tmp_path: Path) -> None:
    torch.save(values(), tmp_path / "x.pt")
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        repacked(tmp_path / "x.pt", old, new)
        assert_same(wl.load(tmp_path / "x.pt", skip_unsafe=True), expected())


def test_values_of_numpy_go_to_other_formats(tmp_path: Path) -> None:
    torch.save(values(), tmp_path / "x.pt")
    wl.convert(tmp_path / "x.pt", tmp_path / "y.npz", skip_unsafe=True)
    wl.convert(tmp_path / "y.npz", tmp_path / "z.npz")
    assert wl.diff(tmp_path / "y.npz", tmp_path / "z.npz").same
    assert wl.load(tmp_path / "z.npz")["scalars"]["lr"] == 0.1


def test_numpy_in_places_of_all_kinds(tmp_path: Path) -> None:
    ragged = np.array([np.arange(2), {"a": np.float32(1)}, None], object)
    saved = {np.int64(3): torch.ones(1), np.str_("a"): {np.float64(0.5)}, "ragged": ragged, "type": np.dtype("f2")}
    torch.save(saved, tmp_path / "x.pt")
    found = {3: torch.ones(1), "a": {0.5}, "ragged": [np.arange(2), {"a": 1.0}, None], "type": "float16"}
    assert_same(wl.load(tmp_path / "x.pt", skip_unsafe=True), found)
    torch.save(np.arange(3), tmp_path / "alone.pt")
    assert wl.load(tmp_path / "alone.pt", skip_unsafe=True).tolist() == [0, 1, 2]


@pytest.mark.parametrize("old", [False, True], ids=["archive", "legacy"])
def test_arrays_of_numpy_are_refused_by_name(old: bool, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), **SCALARS}, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    assert wl.load(tmp_path / "x.pt")["lr"] == 0.1
    torch.save({"w": torch.ones(2), "hist": np.arange(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(wl.UnsafeContentError, match=r"_reconstruct.*array of NumPy.*skip_unsafe=True.*x\.pt"):
        wl.load(tmp_path / "x.pt")


@pytest.mark.parametrize("scalar", [np.datetime64("2020-01-01"), np.longdouble(1)])
def test_scalars_that_python_lacks_are_refused_by_name(scalar: Any, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "when": scalar}, tmp_path / "x.pt")
    with pytest.raises(wl.UnsupportedFeatureError, match=r"NumPy scalar of .*when"):
        wl.load(tmp_path / "x.pt")
    assert wl.load(tmp_path / "x.pt", names="w")["w"].tolist() == [1, 1]


DTYPE = name("numpy", "dtype") + b"(" + text("f8") + b"\x89\x88tR"
SCALAR = name("numpy._core.multiarray", "scalar")
HOSTILE = {
    "a scalar of too few bytes": SCALAR + b"(" + DTYPE + b"U\x03abctR",
    "a scalar of numbers": SCALAR + b"(" + DTYPE + b"K\x05tR",
    "a scalar of no type": SCALAR + b"(K\x05U\x01atR",
    "text beyond Unicode": SCALAR + b"(" + name("numpy", "dtype") + b"(" + text("U1") + b"\x89\x88tRU\x04\0\0\0\x7ftR",
    "half a pair": SCALAR + b"(" + name("numpy", "dtype") + b"(" + text("U1") + b"\x89\x88tRU\x04\0\xd8\0\0tR",
    "an array of another class": name("numpy._core.multiarray", "_reconstruct")
    + b"(" + name("torch", "Tensor") + b"K\0\x85U\x01btR",
    "an array that is never set": name("numpy._core.multiarray", "_reconstruct")
    + b"(" + name("numpy", "ndarray") + b"K\0\x85U\x01btR",
    "objects that are no list": name("numpy._core.multiarray", "scalar") + b"(" + DTYPE + b"]tR",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_values_of_numpy(case: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(archive(pickled(HOSTILE[case])))
    with pytest.raises(wl.FormatError, match=r"x\.pt"):
        wl.load(tmp_path / "x.pt", skip_unsafe=True)


# --- a whole checkpoint -----------------------------------------------------------------------------
class AttributeDict(dict[str, Any]):
    """As Lightning has one."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


class Own(torch.Tensor):  # type: ignore[misc]
    """A tensor of the user's own class."""


class Kind:
    """A class of the user's own, of which there are instances all over the place."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return Kind, (self.value,)


def trained() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=np.float64(0.01), amsgrad=True)
    net(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return net, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 7])


def checkpoint() -> dict[str, Any]:
    """What ``Trainer.save_checkpoint`` writes, without what is code."""
    net, optimizer, scheduler = trained()
    counts = defaultdict(int, a=1)
    return {
        "epoch": 3, "global_step": 12, "pytorch-lightning_version": "2.5.0", "state_dict": net.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}, "current": None}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss', 'mode': 'min'}": {
            "best_model_score": torch.tensor(0.5), "best_k_models": {"a.ckpt": torch.tensor(0.5)}, "dirpath": "x/y"}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()],
        "MixedPrecision": {"scale": 65536.0, "_growth_tracker": 0}, "hparams_name": "kwargs",
        "hyper_parameters": OrderedDict(
            lr=1e-3, betas=(0.9, 0.999), dtype=torch.bfloat16, device=torch.device("cuda", 1),
            size=torch.Size([2, 3]), tags={"a", "b"}, counts=counts, words=Counter("aab"), seed=None,
            rate=np.float32(0.5), nested=[{"a": (1,)}],
        ),
    }  # fmt: skip


def as_loaded(value: Any) -> Any:
    """How the object comes back: plain containers, words for types and devices, NumPy's scalars as Python's."""
    if isinstance(value, dict):
        return {key: as_loaded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_loaded(v) for v in value] if isinstance(value, list) else tuple(as_loaded(v) for v in value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("old", [False, True], ids=["archive", "legacy"])
def test_a_checkpoint_of_a_trainer(old: bool, tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "x.ckpt", _use_new_zipfile_serialization=not old)
    found = wl.load(tmp_path / "x.ckpt")
    assert_same(found, as_loaded(checkpoint()))
    net, optimizer, scheduler = trained()
    found = wl.load(tmp_path / "x.ckpt", framework="torch")
    net.load_state_dict(found["state_dict"])
    optimizer.load_state_dict(found["optimizer_states"][0])
    scheduler.load_state_dict(found["lr_schedulers"][0])
    assert_same(scheduler.state_dict(), as_loaded(checkpoint()["lr_schedulers"][0]))


UNSAFE: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace(lr=0.1, layers=[1, 2], w=Kind()),
    "test_torch_checkpoints.AttributeDict": AttributeDict(lr=0.1, inner=AttributeDict(a=1)),
    "PosixPath": pathlib.PurePosixPath("a/b"),
    "test_torch_checkpoints.Kind": {"list": [Kind()], "key": {Kind(): 1, "b": 2}, "set": {Kind(), 3}},
    "functools.partial": functools.partial(np.asarray, dtype="f4"),
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("what", UNSAFE)
def test_what_is_code_is_refused_by_name_and_can_be_left_out(what: str, protocol: int, tmp_path: Path) -> None:
    saved = {"state_dict": {"w": torch.arange(3.0)}, "hyper_parameters": UNSAFE[what], "epoch": np.int64(3)}
    torch.save(saved, tmp_path / "x.ckpt", pickle_protocol=protocol)
    with pytest.raises(wl.UnsafeContentError, match=what.replace("PosixPath", "Path")):
        wl.load(tmp_path / "x.ckpt")
    found = wl.load(tmp_path / "x.ckpt", skip_unsafe=True)
    assert found["state_dict"]["w"].tolist() == [0, 1, 2] and found["epoch"] == 3
    rest = found.get("hyper_parameters", {})
    assert rest in ({}, {"list": [None], "key": {"b": 2}, "set": {3}})


def test_what_is_made_of_code_is_left_out_with_it(tmp_path: Path) -> None:
    """Tensors of the user's own class, and dicts that make values of one."""
    saved = {"own": torch.ones(2).as_subclass(Own), "made": defaultdict(Kind, a=torch.ones(1)), "w": torch.ones(3)}
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(wl.UnsafeContentError, match=r"test_torch_checkpoints\.Own"):
        wl.load(tmp_path / "x.pt")
    found = wl.load(tmp_path / "x.pt", skip_unsafe=True)
    assert_same(found, {"made": {"a": np.ones(1, "f4")}, "w": np.ones(3, "f4")})


def test_values_of_numpy_in_a_distributed_checkpoint(tmp_path: Path) -> None:
    from torch.distributed import checkpoint as dcp

    saved = {"w": torch.arange(4.0), "rate": np.float64(0.1), "facts": {"hist": np.arange(3), "seed": np.int64(7)}}
    dcp.save(saved, checkpoint_id=tmp_path / "dcp", no_dist=True)
    found = wl.load(tmp_path / "dcp", skip_unsafe=True)
    assert_same(found, {"w": np.arange(4, dtype="f4"), "rate": 0.1, "facts": {"hist": np.arange(3), "seed": 7}})


# --- names and old pickles --------------------------------------------------------------------------
@pytest.mark.parametrize("old", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("file", ["x.pkl", "x.pth.tar", "pytorch_model.bin", "x.model", "checkpoint-3", "x.npz"])
def test_content_decides_whatever_the_name(file: str, old: bool, tmp_path: Path) -> None:
    torch.save({"w": torch.arange(3.0)}, tmp_path / file, _use_new_zipfile_serialization=not old)
    assert wl.load(tmp_path / file)["w"].tolist() == [0, 1, 2]


def test_strings_of_python_2(tmp_path: Path) -> None:
    """Its text was bytes; SHORT_BINSTRING in place of BINUNICODE, with and without characters of ASCII."""
    short = lambda raw: b"U" + bytes([len(raw)]) + raw  # noqa: E731
    kind = name("torch", "FloatStorage")
    held = b"(" + short(b"storage") + kind + short(b"0") + short(b"cpu") + b"K\x04NtQ"
    body = b"}(" + short(b"w") + tensor(held=held) + short(b"\xe9t\xe9") + short("é".encode()) + b"u"
    (tmp_path / "x.pt").write_bytes(legacy(pickled(body), ["0"], [(4, np.arange(4, dtype="<f4").tobytes())]))
    found = wl.load(tmp_path / "x.pt")
    assert found["w"].tolist() == [0, 1, 2, 3] and found["été"] == "é"
    assert torch.load(tmp_path / "x.pt", weights_only=False, encoding="latin1")["w"].tolist() == [0, 1, 2, 3]
