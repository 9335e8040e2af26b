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


# --- checkpoints: the ring of page-locked memory -----------------------------------------------------
def slow_sum(rounds: int) -> Any:
    """What the device is still busy with when the host has it: every element is ``rounds``."""
    x = torch.zeros(64 << 20, dtype=torch.float32, device="cuda")
    for _ in range(rounds):
        x = x + 1
    return x


def test_a_checkpoint_has_the_values_of_its_moment() -> None:
    """Computed by what was queued before the save, and not touched by what is queued after it."""
    with wl.checkpoint.Checkpointer("run", keep_last=None) as checkpointer:
        for step in range(1, 6):
            x = slow_sum(20 * step)
            small = [torch.full((n,), float(step), device="cuda") for n in range(1, 400)]
            future = checkpointer.save(step, {"x": x, "small": small})
            x.fill_(-1)
            for tensor in small:
                tensor.fill_(-1)
            future.result()
        for step in range(1, 6):
            state = checkpointer.restore(step)
            assert (state["x"] == 20 * step).all()
            assert all((array == step).all() and len(array) == n for n, array in enumerate(state["small"], 1))


def test_a_checkpoint_of_a_module_and_its_optimizer() -> None:
    net = trained().train()
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step(module: Any, own: Any) -> None:
        own.zero_grad()
        module(torch.arange(64, device="cuda"))[0].square().sum().backward()
        own.step()

    step(net, optimizer)
    with wl.checkpoint.Checkpointer("run") as checkpointer:
        checkpointer.save(1, {"net": net, "optimizer": optimizer})
        clone = Net().cuda()
        other = torch.optim.AdamW([p for p in clone.parameters() if p.requires_grad], fused=True)
        step(net, optimizer)
        checkpointer.wait()
        checkpointer.restore(into={"net": clone, "optimizer": other})
    step(clone, other)
    assert same(net, clone)


def test_tensors_of_all_kinds_through_the_ring() -> None:
    from weightlift._ops import block
    from weightlift.frameworks._torch_device import on_host

    with torch.device("cuda"):
        shared = torch.randn(33, 5)
        kinds = [
            shared, shared.t(), shared[:, ::2], shared[3:7], torch.tensor(7), torch.zeros(0, 3),
            torch.randn(3, dtype=torch.complex64), torch.randn(3, dtype=torch.complex64).conj(),
            torch.randn(9).bfloat16(), torch.randn(9).to(torch.float8_e4m3fn), torch.tensor([True, False]),
            torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn((200 << 20) // 4 + 1),
            torch.ones(3, device="cpu"),
        ]  # fmt: skip
    made = on_host([*kinds, shared], block)
    assert made[0] is made[-1] and made[-2] is kinds[-1]
    for tensor, copy_ in zip(kinds, made, strict=False):
        assert copy_.device.type == "cpu" and copy_.dtype == tensor.dtype and copy_.shape == tensor.shape
        raw = torch.uint8 if tensor.dtype == torch.float8_e4m3fn else tensor.dtype
        assert torch.equal(copy_.view(raw), tensor.cpu().view(raw))


def test_a_staged_state_of_torch_distributed_checkpoint() -> None:
    import torch.distributed.checkpoint as dcp

    from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter

    net = trained()
    state = net.state_dict()
    writer = WeightliftWriter("dcp")
    staged = writer.stage(state)
    assert all(torch.equal(staged[name], state[name].cpu()) for name in state)
    dcp.save(state, storage_writer=writer, no_dist=True)
    clone = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    dcp.load(clone, storage_reader=WeightliftReader("dcp"), no_dist=True)
    assert all(torch.equal(clone[name], state[name]) for name in state)
