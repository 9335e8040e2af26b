"""Live models, optimizers and plain values in one container, and parts of a file into one of them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

SUFFIXES = ("safetensors", "npz", "pt")


def trained(kind: str = "AdamW", seed: int = 0) -> tuple[Any, Any]:
    """A model and its optimizer after one step."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.1 * (seed + 1))
    step(net, optimizer)
    return net, optimizer


def step(net: Any, optimizer: Any) -> None:
    optimizer.zero_grad()
    net(torch.linspace(0, 1, 8).reshape(2, 4)).square().sum().backward()
    optimizer.step()


def same(a: Any, b: Any) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[n], y[n]) for n in x)


def go_on_alike(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two models and optimizers make the same of the next step."""
    step(*one)
    step(*other)
    return same(one[0], other[0])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])  # without momentum SGD's state holds no tensors at all
def test_all_of_a_training_at_once(suffix: str, kind: str) -> None:
    net, optimizer = trained(kind)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    wl.save({"model": net, "optimizer": optimizer, "scheduler": scheduler, "epoch": 3, "best": 0.5}, f"a.{suffix}")
    other, again = trained(kind, seed=1)
    into = {"model": other, "optimizer": again, "scheduler": torch.optim.lr_scheduler.StepLR(again, 7), "epoch": 0}
    found = wl.load(f"a.{suffix}", into={**into, "best": None})
    assert found["model"] is other and found["optimizer"] is again and found["scheduler"] is into["scheduler"]
    assert (found["epoch"], type(found["epoch"]), found["best"]) == (3, int, 0.5)
    assert found["scheduler"].step_size == 3 and again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert go_on_alike((net, optimizer), (other, again))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "options", [{"names": "optimizer.*"}, {"names": "optimizer.*", "rename": {"optimizer.": ""}},
                {"rename": [(r"^optimizer\.", "")]}]
)  # fmt: skip
def test_an_optimizer_out_of_a_checkpoint(suffix: str, options: Any) -> None:
    net, optimizer = trained()
    wl.save({"model": net, "optimizer": optimizer, "epoch": 3}, f"a.{suffix}")
    other, again = copy.deepcopy(net), None
    again = torch.optim.AdamW(other.parameters(), lr=1.0)
    assert wl.load(f"a.{suffix}", into=again, **options) is again
    assert go_on_alike((net, optimizer), (other, again))


def test_a_checkpoint_of_torch_itself() -> None:
    net, optimizer = trained()
    saved = {"net": net.state_dict(), "opts": [optimizer.state_dict()], "facts": {"epoch": 3, "note": "é", "t": (1, 2)}}
    torch.save(saved, "a.ckpt")
    saved = copy.deepcopy(saved)
    other, again = trained(seed=1)
    into = {"net": other, "opts": [again], "facts": OrderedDict(epoch=0, note="", t=(0, 0))}
    found = wl.load("a.ckpt", into=into)
    assert found["facts"] == {"epoch": 3, "note": "é", "t": (1, 2)} and type(found["facts"]) is OrderedDict
    assert into["facts"]["epoch"] == 0, "numbers do not change: what is new is in what load returns"
    assert go_on_alike((net, optimizer), (other, again))
    third, last = trained(seed=2)
    found = wl.load("a.ckpt", into={"model": third, "o": last}, rename={"net.": "model.", "opts.0.": "o."})
    assert same(third, saved_net(saved)) and last.state_dict()["state"][0]["step"] == 1


def saved_net(saved: Any) -> Any:
    net = trained(seed=3)[0]
    net.load_state_dict(saved["net"])
    return net


@pytest.mark.parametrize("names", ["facts.*", ["facts.epoch", "facts.n*"], ["facts.*", "model.0.*"]])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_plain_values_alone(suffix: str, names: Any) -> None:
    net, optimizer = trained()
    wl.save({"model": net, "optimizer": optimizer, "facts": {"epoch": 3, "note": "é"}}, f"a.{suffix}")
    other, again = trained(seed=1)
    before = copy.deepcopy(other.state_dict())
    into = {"model": other, "optimizer": again, "facts": {"epoch": 0, "note": ""}}
    found = wl.load(f"a.{suffix}", into=into, names=names)
    assert found["facts"] == {"epoch": 3, "note": "é"}
    taken = {n for n, tensor in other.state_dict().items() if not torch.equal(tensor, before[n])}
    assert taken == ({"0.weight", "0.bias"} if "model.0.*" in names else set())
    renamed = wl.load(f"a.{suffix}", into={"model": other, "at": 0}, names="facts.epoch", rename={"facts.epoch": "at"})
    assert renamed["at"] == 3
    for wrong in ("nothing", ["facts.*", "nothing"]):
        with pytest.raises(wl.MismatchError, match="no tensor is called or matches 'nothing'"):
            wl.load(f"a.{suffix}", into=into, names=wrong)
    with pytest.raises(wl.MismatchError, match=r"matches 'facts\.note'"):  # there is no place for it
        wl.load(f"a.{suffix}", into={"model": other}, names="facts.note")


def test_some_of_a_checkpoint() -> None:
    net, optimizer = trained()
    wl.save({"model": net, "optimizer": optimizer, "epoch": 3}, "a.pt")
    other, again = trained(seed=1)
    before = copy.deepcopy(again.state_dict())
    found = wl.load("a.pt", into={"model": other, "optimizer": again, "epoch": 0}, names="model.*")
    assert same(other, net) and found["epoch"] == 0 and again.state_dict()["param_groups"] == before["param_groups"]
    found = wl.load("a.pt", into={"model": other, "optimizer": again, "epoch": 0}, names="[!m]*")
    assert found["epoch"] == 3 and again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_what_is_missing_is_said_before_anything_changes() -> None:
    net = trained()[0]
    wl.save({"model": net, "epoch": 3}, "a.pt")
    other, again = trained(seed=1)
    before = copy.deepcopy(other)
    into = {"model": other, "optimizer": again, "epoch": 0, "lr": 0.1}
    with pytest.raises(wl.MismatchError) as caught:
        wl.load("a.pt", into=into)
    assert caught.value.missing == ["optimizer", "lr"] and same(other, before)
    report = wl.load("a.pt", into=into, strict=False)
    assert report.missing == ("optimizer", "lr") and "epoch" in report.loaded and report.value["epoch"] == 3
    assert report.value["lr"] == 0.1 and same(other, net)
    wl.save({"model": net, "optimizer": {"state": {9: {"step": 1}}, "param_groups": []}}, "b.pt")
    other = copy.deepcopy(before)
    with pytest.raises(wl.MismatchError, match="parameter 9") as caught:
        wl.load("b.pt", into={"model": other, "optimizer": again})
    assert caught.value.tensor == "optimizer" and same(other, before)
    with pytest.raises(wl.UnsupportedFeatureError, match="one by one"):
        wl.load("b.pt", into={"model": other, "optimizer": again}, assign=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbers_and_text_beside_arrays(suffix: str) -> None:
    note, z = ("é", 1 + 2j) if suffix != "safetensors" else (2, 3)  # which holds neither text nor such numbers
    state = {"w": np.arange(3.0), "run": [{"epoch": 3, "rate": 0.5, "done": True}, (1, note)], "z": z}
    wl.save(state, f"a.{suffix}")
    w = np.zeros(3)
    into = {"w": w, "run": [{"epoch": 0, "rate": 0.0, "done": False}, (0, type(note)())], "z": type(z)()}
    found = wl.load(f"a.{suffix}", into=into)
    assert found["w"] is w and w.tolist() == [0, 1, 2]
    assert repr((found["run"], found["z"])) == repr((state["run"], state["z"]))
    with pytest.raises(wl.MismatchError) as caught:
        wl.load(f"a.{suffix}", into={"w": 0})
    assert caught.value.wrong_shape == [("w", (), (3,))]
