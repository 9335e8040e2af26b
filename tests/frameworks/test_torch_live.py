"""Live torch modules, optimizers and other holders of a state_dict: saved, and loaded into."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

SUFFIXES = ("safetensors", "npz", "pt")


class MLP(nn.Module):
    """The chapter's model."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 256)
        self.output = nn.Linear(256, 10)

    def forward(self, x: Any) -> Any:
        return self.output(torch.relu(self.hidden(x)))


class Tied(nn.Module):
    """An embedding that is the output's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight


def same(a: Any, b: Any) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[n], y[n]) for n in x)


def addresses(net: Any) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_clone_gives_the_same_outputs(suffix: str) -> None:
    net, clone, x = MLP(), MLP(), torch.randn(2, 20)
    wl.save(net, f"mlp.{suffix}")
    before = addresses(clone)
    assert wl.load(f"mlp.{suffix}", into=clone) is clone
    assert addresses(clone) == before  # the same memory, filled
    assert torch.equal(net(x), clone(x))


def test_torch_loads_what_was_saved() -> None:
    net, clone = MLP(), MLP()
    wl.save(net, "mlp.pt")
    clone.load_state_dict(torch.load("mlp.pt", weights_only=True))
    assert same(net, clone)


def test_any_layout_is_a_source() -> None:
    net = MLP()
    wl.save(net, "model/model.json", format="tfjs")
    assert same(net, wl.load("model/model.json", into=MLP()))
    torch.save({"epoch": 3, "net": net.state_dict()}, "checkpoint.ckpt")
    assert same(net, wl.load("checkpoint.ckpt", into=MLP(), names="net.*", rename={"net.": ""}))
    torch.save(net.state_dict(), "old.pt", _use_new_zipfile_serialization=False)
    assert same(net, wl.load("old.pt", into=MLP()))


@pytest.mark.parametrize(
    "rename", [{"hidden.": "encoder.0."}, lambda n: n.replace("hidden", "encoder.0"), [(r"^hidden\.", "encoder.0.")]]
)
def test_first_layer_in_another_network(rename: Any) -> None:
    net = MLP()
    other = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(20, 256), nn.ReLU()), "head": nn.Linear(256, 3)})
    head = other["head"].weight.clone()
    wl.save(net, "mlp.safetensors")
    wl.load("mlp.safetensors", into=other, names="hidden.*", rename=rename)
    assert torch.equal(other["encoder"][0].weight, net.hidden.weight)
    assert torch.equal(other["encoder"][0].bias, net.hidden.bias)
    assert torch.equal(other["head"].weight, head)


def test_mismatch_lists_everything_and_changes_nothing() -> None:
    wl.save(
        {"hidden.weight": np.zeros((256, 20), "f4"), "hidden.bias": np.zeros(255, "f4"), "new": np.zeros(1)}, "w.npz"
    )
    net = MLP()
    before = copy.deepcopy(net)
    with pytest.raises(wl.MismatchError) as caught:
        wl.load("w.npz", into=net)
    assert caught.value.missing == ["output.weight", "output.bias"]
    assert caught.value.unexpected == ["new"]
    assert caught.value.wrong_shape == [("hidden.bias", (256,), (255,))]
    assert same(net, before)


def test_report() -> None:
    wl.save(
        {"hidden.weight": np.zeros((256, 20), "f4"), "hidden.bias": np.zeros(255, "f4"), "new": np.zeros(1)}, "w.npz"
    )
    net = MLP()
    bias = net.hidden.bias.clone()
    report = wl.load("w.npz", into=net, strict=False)
    assert report == wl.LoadReport(
        net,
        ("hidden.weight",),
        ("output.weight", "output.bias"),
        ("new",),
        (("hidden.bias", (256,), (255,)),),
    )
    assert not report and report.value is net
    assert not net.hidden.weight.any() and torch.equal(net.hidden.bias, bias)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tied_weights_stay_tied(suffix: str, assign: bool) -> None:
    net, clone = Tied(), Tied()
    result = wl.save(net, f"tied.{suffix}")
    assert result.shared == (("embed.weight", "head.weight"),)
    assert result.stored_once == (suffix == "pt")
    wl.load(f"tied.{suffix}", into=clone, assign=assign)
    assert clone.embed.weight is clone.head.weight
    assert same(net, clone)


def test_one_name_is_enough_for_a_tied_tensor() -> None:
    net, clone = Tied(), Tied()
    wl.save({"head.weight": net.head.weight}, "head.safetensors")
    report = wl.load("head.safetensors", into=clone, strict=False)
    assert report and set(report.loaded) == {"embed.weight", "head.weight"}
    assert torch.equal(clone.embed.weight, net.embed.weight)


@pytest.mark.parametrize("checksums", [False, True])
def test_a_tied_tensor_that_is_two_in_the_file_is_refused(checksums: bool) -> None:
    wl.save(
        {"embed.weight": np.zeros((12, 8), "f4"), "head.weight": np.ones((12, 8), "f4")},
        "two.safetensors",
        checksums=checksums,
    )
    net = Tied()
    before = copy.deepcopy(net)
    with pytest.raises(wl.MismatchError, match="differ in the file"):
        wl.load("two.safetensors", into=net)
    assert same(net, before)
    wl.save(
        {"embed.weight": np.ones((12, 8), "f4"), "head.weight": np.ones((12, 8), "f4")}, "one.npz", checksums=checksums
    )
    assert wl.load("one.npz", into=net).head.weight.min() == 1


def test_types_are_the_modules_own() -> None:
    net, half = MLP(), MLP().to(torch.bfloat16)
    half.hidden.weight.requires_grad_(False)
    wl.save(net, "mlp.safetensors")
    wl.load("mlp.safetensors", into=half)
    assert half.hidden.weight.dtype == torch.bfloat16
    assert torch.equal(half.hidden.weight, net.hidden.weight.bfloat16())
    assert not half.hidden.weight.requires_grad and half.output.weight.requires_grad
    wl.load("mlp.safetensors", into=half, assign=True)
    assert torch.equal(half.output.weight, net.output.weight.bfloat16())
    assert not half.hidden.weight.requires_grad and half.output.weight.requires_grad
    wl.load("mlp.safetensors", into=half, assign=True, dtype="float16")
    assert torch.equal(half.output.weight, net.output.weight.half())
    with pytest.raises(wl.UnsupportedFeatureError, match="own types"):
        wl.load("mlp.safetensors", into=half, dtype="float32")


def test_fractions_do_not_go_into_integers() -> None:
    net = nn.BatchNorm1d(3)
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    wl.save({**state, "num_batches_tracked": np.float32(2.5)}, "norm.npz")
    with pytest.raises(wl.UnsupportedFeatureError, match="num_batches_tracked"):
        wl.load("norm.npz", into=net)
    wl.save({**state, "num_batches_tracked": np.int32(2)}, "norm.npz")
    assert wl.load("norm.npz", into=net).num_batches_tracked == 2
    del state["num_batches_tracked"]
    wl.save(state, "norm.npz")
    assert wl.load("norm.npz", into=net).num_batches_tracked == 2  # files of old torch have none


def test_meta_module_gets_its_memory() -> None:
    net = MLP()
    wl.save(net, "mlp.pt")
    empty = MLP().to("meta")
    with pytest.raises(wl.UnsupportedFeatureError, match="assign=True"):
        wl.load("mlp.pt", into=empty)
    wl.load("mlp.pt", into=empty, assign=True)
    assert same(net, empty) and isinstance(empty.hidden.weight, nn.Parameter)
    tied = Tied().to("meta")
    tied.head.weight = tied.embed.weight
    wl.save(Tied(), "tied.npz")
    wl.load("tied.npz", into=tied, assign=True)
    assert tied.embed.weight is tied.head.weight and tied.head.weight.device.type == "cpu"
    with pytest.raises(wl.UnsupportedFeatureError, match="meta device"):
        wl.save(MLP().to("meta"), "none.pt")


def test_assigned_tensors_lie_in_one_arena() -> None:
    net = MLP()
    wl.save(net, "mlp.safetensors")
    old = net.hidden.weight
    value = old.detach().clone()
    wl.load("mlp.safetensors", into=net, assign=True)
    assert net.hidden.weight is not old and torch.equal(net.hidden.weight, value)
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in net.state_dict().values())
    assert spans[-1][1] - spans[0][0] < sum(t.nbytes for t in net.state_dict().values()) + 64 * 4 + 8192
    assert all(begin % 64 == 0 for begin, _ in spans)


def test_damage_is_noticed_and_assign_keeps_what_was() -> None:
    net = MLP()
    before = copy.deepcopy(net)
    wl.save(MLP(), "mlp.safetensors")
    with open("mlp.safetensors", "r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff")
    with pytest.raises(wl.ChecksumError):
        wl.load("mlp.safetensors", into=net, assign=True)
    assert same(net, before)
    with pytest.raises(wl.ChecksumError, match="parts of the file"):
        wl.load("mlp.safetensors", into=net)


def test_autograd_notices_the_new_values() -> None:
    net = MLP()
    wl.save(net, "mlp.safetensors")
    loss = net(torch.randn(2, 20)).sum()
    wl.load("mlp.safetensors", into=net)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_in_another_order_of_elements() -> None:
    net = nn.Linear(4, 3)
    net.weight = nn.Parameter(torch.zeros(4, 3).t())
    weight = np.arange(12, dtype="f4").reshape(3, 4)
    wl.save({"weight": np.asfortranarray(weight), "bias": np.ones(3, "f4")}, "w.npz")
    wl.load("w.npz", into=net)
    assert not net.weight.is_contiguous() and net.weight.tolist() == weight.tolist()
    wl.load("w.npz", into=net, assign=True)
    assert net.weight.is_contiguous() and net.weight.tolist() == weight.tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_optimizer_goes_on_where_it_was(suffix: str, kind: str) -> None:
    options = {"lr": 0.05, **({"momentum": 0.9} if kind == "SGD" else {})}
    net = MLP()
    optimizer = getattr(torch.optim, kind)(net.parameters(), **options)
    train(net, optimizer)
    wl.save({"net": net, "optimizer": optimizer, "epoch": 1}, f"all.{suffix}")
    wl.save(net, f"net.{suffix}")
    wl.save(optimizer, f"optimizer.{suffix}")
    other = wl.load(f"net.{suffix}", into=MLP())
    again = getattr(torch.optim, kind)(other.parameters(), lr=1.0)
    assert wl.load(f"optimizer.{suffix}", into=again) is again
    assert again.param_groups[0]["lr"] == 0.05
    train(net, optimizer)
    train(other, again)
    assert same(net, other)
    assert wl.load(f"all.{suffix}")["epoch"] == 1


def train(net: Any, optimizer: Any) -> None:
    optimizer.zero_grad()
    net(torch.linspace(0, 1, 40).reshape(2, 20)).square().sum().backward()
    optimizer.step()


def test_optimizer_of_another_model_is_refused() -> None:
    net, other = MLP(), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    optimizer, mine = torch.optim.Adam(net.parameters()), torch.optim.Adam(other.parameters())
    train(net, optimizer)
    wl.save(optimizer, "optimizer.pt")
    with pytest.raises(wl.MismatchError) as caught:
        wl.load("optimizer.pt", into=mine)
    assert ("state.0.exp_avg", (3, 2), (256, 20)) in caught.value.wrong_shape
    assert not mine.state_dict()["state"]
    wl.save(net, "net.pt")
    with pytest.raises(wl.MismatchError, match="no optimizer's state"):
        wl.load("net.pt", into=mine)


def test_scheduler_and_other_holders() -> None:
    net = MLP()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    train(net, optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    wl.save(scheduler, "scheduler.pt")
    again = torch.optim.lr_scheduler.StepLR(optimizer, 7)
    wl.load("scheduler.pt", into=again)
    assert again.state_dict() == scheduler.state_dict()

    class Counter:
        def __init__(self) -> None:
            self.values = {"count": np.zeros(3)}

        def state_dict(self) -> dict[str, Any]:
            return dict(self.values)

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.values = state

    wl.save({"count": np.arange(3.0)}, "count.npz")
    assert wl.load("count.npz", into=Counter()).values["count"].tolist() == [0, 1, 2]
    wl.save({"other": np.arange(3.0)}, "count.npz")
    with pytest.raises(wl.MismatchError) as caught:
        wl.load("count.npz", into=Counter())
    assert (caught.value.missing, caught.value.unexpected) == (["count"], ["other"])


def test_hooks_are_heeded() -> None:
    class Versioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self._register_load_state_dict_pre_hook(self._rename)

        def _rename(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
            if f"{prefix}w" in state:
                state[f"{prefix}weight"] = state.pop(f"{prefix}w")

    wl.save({"part.w": np.arange(3, dtype="f4")}, "old.safetensors")
    net = nn.ModuleDict({"part": Versioned()})
    assert wl.load("old.safetensors", into=net)["part"].weight.tolist() == [0, 1, 2]
    wl.save({"part.w": np.arange(4, dtype="f4")}, "old.safetensors")
    with pytest.raises(wl.MismatchError, match="size mismatch"):
        wl.load("old.safetensors", into=net)
    wl.save({"part.v": np.arange(3, dtype="f4")}, "old.safetensors")
    with pytest.raises(wl.MismatchError) as caught:
        wl.load("old.safetensors", into=net)
    assert (caught.value.missing, caught.value.unexpected) == (["part.weight"], ["part.v"])


def test_lazy_modules_take_their_shape_from_the_file() -> None:
    wl.save(nn.Linear(4, 3), "linear.npz")
    assert wl.load("linear.npz", into=nn.LazyLinear(3)).weight.shape == (3, 4)


def test_progress_counts_to_the_end() -> None:
    net = MLP()
    wl.save(net, "mlp.safetensors")
    seen: list[tuple[int, int]] = []
    wl.load("mlp.safetensors", into=MLP(), progress=lambda done, total: seen.append((done, total)))
    total = sum(t.nbytes for t in net.state_dict().values())
    assert seen[-1] == (total, total)


def test_what_no_adapter_knows_is_refused() -> None:
    wl.save(np.ones(3), "w.npy")
    with pytest.raises(wl.UnsupportedFeatureError, match="register_adapter"):
        wl.load("w.npy", into=object())
    with pytest.raises(TypeError, match="about into="):
        wl.load("w.npy", strict=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tensors_of_torch_share_the_arena(suffix: str) -> None:
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    dtypes += [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
    want = {str(d)[6:]: torch.arange(6).reshape(2, 3).to(d) for d in dtypes}
    wl.save(want, f"all.{suffix}")
    got = wl.load(f"all.{suffix}", framework="torch")
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        assert torch.equal(got[name].view(torch.uint8), tensor.view(torch.uint8))
    pointers = [t.data_ptr() for t in got.values()]
    assert max(pointers) - min(pointers) < 1 << 16 and all(p % 64 == 0 for p in pointers)


def test_what_torch_has_no_type_for_is_named() -> None:
    wl.save({"a": np.array(["2026-11-22"], "M8[D]")}, "a.npz")
    with pytest.raises(wl.UnsupportedFeatureError, match=r"datetime64\[D\]"):
        wl.load("a.npz", framework="torch")
    wl.save(np.ones(3), "w.npy")
    with pytest.raises(wl.UnsupportedFeatureError, match="read-only"):
        wl.load("w.npy", framework="torch", memory="map")
    with pytest.raises(ValueError, match="framework must be"):
        wl.load("w.npy", framework="caffe")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_opened_tensors_of_torch(suffix: str) -> None:
    want = {"w": torch.arange(12.0).reshape(4, 3), "b": torch.arange(4).bfloat16()}
    wl.save(want, f"some.{suffix}")
    with wl.open(f"some.{suffix}", framework="torch") as weights:
        assert weights.memory == "arena"  # not the mapped file, into which torch would write
        assert torch.equal(weights["w"][...], want["w"]) and torch.equal(weights["b"][...], want["b"])
        assert torch.equal(weights["w"][1:3, 1], want["w"][1:3, 1]) and weights["w"][2, 1] == 7
        assert torch.equal(weights["w"][::-1], want["w"].flip(0))
        assert torch.equal(weights.arrays()["b"], want["b"])
        assert np.asarray(weights["w"]).tolist() == want["w"].tolist()
    with (
        wl.open(f"some.{suffix}", framework="torch", memory="map") as weights,
        pytest.raises(wl.UnsupportedFeatureError, match="read-only"),
    ):
        weights["w"][...]
