"""Live torch objects on a GPU: saved from it, and loaded into it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SUFFIXES = ("safetensors", "npz", "pt")


class Net(nn.Module):
    """Tied, frozen, half and integer tensors, and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 48)
        self.norm = nn.BatchNorm1d(48)
        self.head = nn.Linear(48, 64, bias=False)
        self.head.weight = self.embed.weight
        self.narrow = nn.Linear(48, 3, dtype=torch.bfloat16).requires_grad_(False)

    def forward(self, tokens: Any) -> Any:
        x = self.norm(self.embed(tokens))
        return self.head(x), self.narrow(x.bfloat16())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def trained() -> Any:
    net = Net().cuda()
    net(torch.randint(64, (32,), device="cuda"))
    return net.eval()


def same(a: Any, b: Any) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[n].cpu(), y[n].cpu()) for n in x)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("assign", [False, True], ids=["filled", "assigned"])
def test_clone_gives_the_same_outputs(suffix: str, assign: bool) -> None:
    net, clone = trained(), Net().cuda().eval()
    wl.save(net, f"m.{suffix}")
    addresses = {name: tensor.data_ptr() for name, tensor in clone.state_dict().items()}
    assert wl.load(f"m.{suffix}", into=clone, assign=assign) is clone
    tokens = torch.arange(64, device="cuda")
    for one, other in zip(net(tokens), clone(tokens), strict=True):
        assert torch.equal(one, other)
    state = clone.state_dict()
    assert all(tensor.device.type == "cuda" for tensor in state.values())
    assert clone.head.weight is clone.embed.weight
    assert clone.embed.weight.requires_grad and not clone.narrow.weight.requires_grad
    assert (addresses == {name: tensor.data_ptr() for name, tensor in state.items()}) is not assign


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_between_devices(suffix: str) -> None:
    net = trained()
    wl.save(net, f"gpu.{suffix}")
    there = wl.load(f"gpu.{suffix}", into=Net())
    assert same(net, there) and there.embed.weight.device.type == "cpu"
    wl.save(there, f"cpu.{suffix}")
    assert same(net, wl.load(f"cpu.{suffix}", into=Net().cuda()))
    if suffix == "pt":
        assert torch.load("gpu.pt", weights_only=True)["norm.running_mean"].device.type == "cpu"


def test_tied_memory_is_written_once() -> None:
    net = trained()
    wl.save(net, "m.pt")
    state = torch.load("m.pt", weights_only=True)
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()


def test_tensors_by_themselves() -> None:
    tensors = {
        "strided": torch.arange(24.0, device="cuda").reshape(4, 6).t(),
        "half": torch.randn(5, device="cuda").bfloat16(),
        "narrow": torch.randn(8, device="cuda").to(torch.float8_e4m3fn),
        "complex": torch.randn(3, device="cuda", dtype=torch.complex64).conj(),
        "empty": torch.zeros(0, 3, device="cuda"),
        "number": torch.tensor(7, device="cuda"),
    }
    wl.save(tensors, "t.safetensors")
    loaded = wl.load("t.safetensors", framework="torch")
    for name, tensor in tensors.items():
        raw = torch.uint8 if name == "narrow" else tensor.dtype
        assert torch.equal(loaded[name].view(raw), tensor.cpu().view(raw) if name == "narrow" else tensor.cpu()), name


def test_an_optimizer_goes_on_as_if_nothing_had_been() -> None:
    def step(net: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        net(torch.arange(64, device="cuda"))[0].square().sum().backward()
        optimizer.step()

    for options in ({}, {"fused": True}, {"capturable": True}, {"amsgrad": True}):
        net = trained()
        parameters = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, **options)
        step(net, optimizer)
        wl.save(optimizer, "o.pt")
        clone = copy.deepcopy(net)
        other = torch.optim.AdamW([p for p in clone.parameters() if p.requires_grad], **options)
        wl.load("o.pt", into=other)
        for state in other.state.values():
            assert state["exp_avg"].device.type == "cuda"
        step(net, optimizer)
        step(clone, other)
        assert same(net, clone), options


def test_a_wrong_file_leaves_the_module_as_it_was() -> None:
    net = trained()
    before = copy.deepcopy(net)
    wl.save({**net.state_dict(), "narrow.bias": torch.zeros(4)}, "wrong.safetensors")
    with pytest.raises(wl.MismatchError, match=r"narrow\.bias"):
        wl.load("wrong.safetensors", into=net)
    wl.save(trained(), "m.safetensors")
    data = bytearray(Path("m.safetensors").read_bytes())
    data[-5] ^= 1
    Path("m.safetensors").write_bytes(data)
    with pytest.raises(wl.ChecksumError):
        wl.load("m.safetensors", into=net)
    assert same(net, before), "what is copied to a device is verified before"


def test_non_contiguous_parameters_are_filled() -> None:
    net = nn.Conv2d(3, 8, 3).cuda().to(memory_format=torch.channels_last)
    wl.save(net, "conv.safetensors")
    clone = nn.Conv2d(3, 8, 3).cuda().to(memory_format=torch.channels_last)
    wl.load("conv.safetensors", into=clone)
    assert same(net, clone) and clone.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_numpy_file_into_a_module_on_the_device() -> None:
    net = nn.Linear(4, 2).cuda()
    np.savez("m.npz", weight=np.ones((2, 4), "f4"), bias=np.zeros(2, "f4"))
    wl.load("m.npz", into=net)
    assert net(torch.ones(1, 4, device="cuda")).tolist() == [[4.0, 4.0]]
