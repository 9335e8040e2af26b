"""Layers that are several tensors, or several layers, in another framework: PyTorch and Keras compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_support import keras_or_skip

import weightlift as wl

keras = keras_or_skip()
torch = pytest.importorskip("torch", reason="torch is not installed")
nn, L = torch.nn, keras.layers

RECURRENT = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "SimpleRNN"}


def filled(net: Any) -> Any:
    """With values that are no layer's first ones."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=random) - 0.4)
    return net


def randomised(model: Any) -> Any:
    random = np.random.default_rng(3)
    model.set_weights([random.uniform(-0.5, 0.5, w.shape).astype("f4") for w in model.get_weights()])
    return model


def outputs(net: Any, x: Any) -> Any:
    with torch.no_grad():
        found = net(torch.from_numpy(x))
    return (found[0] if isinstance(found, tuple) else found).numpy()


def predicted(model: Any, x: Any) -> Any:
    return keras.ops.convert_to_numpy(model(x))


def same(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def recurrent_twin(kind: str, count: int, both: bool) -> Any:
    """The Keras model whose names are those of a layer ``rnn`` of PyTorch."""

    def one(name: str) -> Any:
        layer = getattr(L, RECURRENT[kind])(3, return_sequences=True, name="twin" if both else name)
        return L.Bidirectional(layer, name=name) if both else layer

    if count == 1:
        return keras.Sequential([keras.Input((5, 4)), one("rnn")])
    stack = keras.Sequential([one(f"l{k}") for k in range(count)], name="rnn")
    return keras.Sequential([keras.Input((5, 4)), stack])


class Recurrent(nn.Module):  # type: ignore[misc]
    def __init__(self, kind: str, count: int, both: bool) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(4, 3, count, bidirectional=both, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.rnn(x)[0]


@pytest.mark.parametrize(("kind", "count", "both"), [
    ("LSTM", 2, False), ("LSTM", 1, True), ("LSTM", 2, True), ("GRU", 3, False), ("GRU", 2, True), ("RNN", 2, True),
])  # fmt: skip
def test_several_layers_and_directions(kind: str, count: int, both: bool, tmp_path: Path) -> None:
    net, x = filled(Recurrent(kind, count, both)), np.random.default_rng(1).normal(size=(2, 5, 4)).astype("f4")
    wl.save(net, tmp_path / "net.pt")
    model = wl.load(tmp_path / "net.pt", conventions="torch->keras", into=recurrent_twin(kind, count, both))
    same(predicted(model, x), outputs(net, x))

    model, clone = randomised(model), Recurrent(kind, count, both)
    wl.save(model, tmp_path / "model.safetensors")
    wl.load(tmp_path / "model.safetensors", conventions="keras->torch", into=clone)
    same(outputs(clone, x), predicted(model, x))


def test_what_keras_wrote_itself(tmp_path: Path) -> None:
    """By the names of its variables (.h5), and by numbers (.weights.h5)."""
    model, x = randomised(recurrent_twin("GRU", 1, True)), np.random.default_rng(1).normal(size=(2, 5, 4)).astype("f4")
    model.save_weights(tmp_path / "x.weights.h5")
    model.save(tmp_path / "x.h5")
    for file in ("x.weights.h5", "x.h5"):
        clone = Recurrent("GRU", 1, True)
        rename = lambda name: f"rnn.{name.rpartition('.')[2]}"  # noqa: E731
        wl.load(tmp_path / file, conventions="keras->torch", into=clone, rename=rename)
        same(outputs(clone, x), predicted(model, x))


def test_of_one_direction_there_is_no_other(tmp_path: Path) -> None:
    """A layer that is only called so is no half of two."""
    arrays = {
        f"forward_lstm/cell/{w}": np.ones(s, "f4") for w, s in (("kernel", (4, 12)), ("recurrent_kernel", (3, 12)))
    }
    wl.save(arrays, tmp_path / "a.safetensors")
    assert "forward_lstm.weight_ih_l0" in wl.load(tmp_path / "a.safetensors", conventions="keras->torch")


def test_projections_are_reported(tmp_path: Path) -> None:
    net = nn.ModuleDict({"rnn": nn.LSTM(4, 3, 2, proj_size=2), "head": nn.Linear(2, 2)})
    wl.save(net, tmp_path / "net.pt")
    with pytest.raises(wl.ConventionsError) as caught:
        wl.load(tmp_path / "net.pt", conventions="torch->keras")
    assert [(layer, why) for layer, _, why in caught.value.problems] == [
        ("rnn", "LSTM(proj_size): no rule for keras")
    ] * 2
    assert "weight_hr_l1 [2, 3]" in str(caught.value)


# --- attention ----------------------------------------------------------------------------------------------------
class Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.att(x, x, x)[0]


def attending(key_dim: int = 4, bias: bool = True) -> Any:
    given = keras.Input((5, 12))
    return keras.Model(given, L.MultiHeadAttention(3, key_dim, use_bias=bias, name="att")(given, given))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("suffix", ["pt", "npz", "deflated.npz"])
@pytest.mark.parametrize("told", [True, False])
def test_attention(bias: bool, suffix: str, told: bool, tmp_path: Path) -> None:
    net, x = filled(Attention(bias)), np.random.default_rng(1).normal(size=(2, 5, 12)).astype("f4")
    how = {"compression": "deflate"} if suffix.startswith("deflated") else {}
    wl.save(net, tmp_path / f"net.{suffix}", **how)
    kinds = {"att": "MultiheadAttention*3"} if told else None
    model = attending(bias=bias)
    wl.load(tmp_path / f"net.{suffix}", conventions="torch->keras", kinds=kinds, into=model)
    same(predicted(model, x), outputs(net, x))

    model, clone = randomised(model), Attention(bias)
    wl.save(model, tmp_path / f"model.{suffix}", **how)
    wl.load(tmp_path / f"model.{suffix}", conventions="keras->torch", into=clone)
    same(outputs(clone, x), predicted(model, x))
    for memory in ("map", "tensor"):
        again = wl.load(tmp_path / f"model.{suffix}", conventions="keras->torch", memory=memory)
        assert np.array_equal(again["att.in_proj_weight"], clone.att.in_proj_weight.detach().numpy())
    wl.convert(tmp_path / f"model.{suffix}", tmp_path / "back.npz", conventions="keras->torch", **how)
    assert np.array_equal(np.load(tmp_path / "back.npz")["att.in_proj_weight"], again["att.in_proj_weight"])


def test_attention_as_keras_wrote_it(tmp_path: Path) -> None:
    model, x = randomised(attending()), np.random.default_rng(1).normal(size=(2, 5, 12)).astype("f4")
    model.save_weights(tmp_path / "x.weights.h5")
    model.save(tmp_path / "x.h5")
    for file, begin in (("x.weights.h5", "layers.multi_head_attention."), ("x.h5", "model_weights.att.att.")):
        clone = Attention()
        wl.load(tmp_path / file, conventions="keras->torch", into=clone, rename={begin: "att."})
        same(outputs(clone, x), predicted(model, x))


def test_what_attention_is_not(tmp_path: Path) -> None:
    wl.save(Attention(), tmp_path / "net.pt")
    with pytest.raises(wl.ConventionsError, match="MultiheadAttention, of how many heads"):
        wl.load(tmp_path / "net.pt", conventions="torch->keras")
    assert len(wl.load(tmp_path / "net.pt", conventions="torch->keras", kinds={"att": "MultiheadAttention*2"})) == 8
    with pytest.raises(wl.ConventionsError, match="not a MultiheadAttention"):
        wl.load(tmp_path / "net.pt", conventions="torch->keras", kinds={"att": "MultiheadAttention*5"})
    with pytest.raises(wl.MismatchError, match="att"):
        wl.load(
            tmp_path / "net.pt", conventions="torch->keras", kinds={"att": "MultiheadAttention*2"}, into=attending()
        )
    wl.save(attending(key_dim=5), tmp_path / "wide.safetensors")  # 3 heads of 5, of 12 inputs: PyTorch has no such
    with pytest.raises(wl.ConventionsError, match="att"):
        wl.load(tmp_path / "wide.safetensors", conventions="keras->torch")
    wl.save(nn.ModuleDict({"att": nn.MultiheadAttention(12, 3, kdim=5)}), tmp_path / "keys.pt")
    with pytest.raises(wl.ConventionsError, match="k_proj_weight"):
        wl.load(tmp_path / "keys.pt", conventions="torch->keras")


def test_a_damaged_part_is_found(tmp_path: Path) -> None:
    """Of what is joined, and of what is taken apart."""
    wl.save(randomised(attending()), tmp_path / "model.safetensors")
    wl.save(filled(Attention()), tmp_path / "net.safetensors")
    for file, name, conventions in (
        ("model", "att/value_dense/kernel", "keras->torch"),
        ("net", "att.in_proj_weight", "torch->keras"),
    ):
        path = tmp_path / f"{file}.safetensors"
        stored = wl.load(path)[name].tobytes()
        path.write_bytes(path.read_bytes().replace(stored[-16:], bytes(16)))
        with pytest.raises(wl.ChecksumError):
            wl.load(path, conventions=conventions, kinds={"*": "MultiheadAttention*3"})


# --- separable convolutions ---------------------------------------------------------------------------------------
class Separable(nn.Module):  # type: ignore[misc]
    def __init__(self, axes: int, many: int) -> None:
        super().__init__()
        conv = getattr(nn, f"Conv{axes}d")
        self.sep = nn.Sequential(conv(4, 4 * many, 3, groups=4, bias=False), conv(4 * many, 6, 1))

    def forward(self, x: Any) -> Any:
        return self.sep(x.movedim(-1, 1)).movedim(1, -1)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("told", [True, False])
def test_separable(axes: int, many: int, told: bool, tmp_path: Path) -> None:
    given = keras.Input((7,) * axes + (4,))
    layer = getattr(L, f"SeparableConv{axes}D")(6, 3, depth_multiplier=many, name="sep")
    model = keras.Model(given, layer(given))
    net, x = filled(Separable(axes, many)), np.random.default_rng(1).normal(size=(2, *given.shape[1:])).astype("f4")
    wl.save(net, tmp_path / "net.pt")
    kinds = {"sep": f"SeparableConv{axes}d*{many}"} if told else None
    wl.load(tmp_path / "net.pt", conventions="torch->keras", kinds=kinds, into=model)
    same(predicted(model, x), outputs(net, x))
    if not told:
        with pytest.raises(wl.ConventionsError, match=f"or a SeparableConv{axes}d of 'sep'"):
            wl.load(tmp_path / "net.pt", conventions="torch->keras")

    model, clone = randomised(model), Separable(axes, many)
    wl.save(model, tmp_path / "model.safetensors")
    wl.load(tmp_path / "model.safetensors", conventions="keras->torch", into=clone)
    same(outputs(clone, x), predicted(model, x))


def test_a_whole_layer_is_kept_or_left_out(tmp_path: Path) -> None:
    wl.save(nn.ModuleDict({"att": nn.MultiheadAttention(12, 3), "out": nn.Linear(2, 2)}), tmp_path / "net.pt")
    found = wl.load(tmp_path / "net.pt", conventions="torch->keras", kinds={"att": "skip"})
    assert list(found) == ["out/kernel", "out/bias"]
    found = wl.load(tmp_path / "net.pt", conventions="torch->keras", kinds={"att": "keep"})
    assert {"att/in_proj_weight", "att/out_proj/weight"} < set(found)
