"""One network in PyTorch and in Keras: what was trained in either computes the same in the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_support import keras_or_skip, predict

import weightlift as wl

keras = keras_or_skip()
torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn


class Picture(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.PReLU(6)
        self.wide = nn.Conv2d(6, 12, (3, 2), groups=6)
        self.up = nn.ConvTranspose2d(12, 5, 3)
        self.head = nn.Linear(5, 4)
        self.out = nn.LayerNorm(4)

    def forward(self, x: Any) -> Any:
        x = self.wide(self.act(self.norm(self.stem(x.permute(0, 3, 1, 2)))))
        return self.out(self.head(self.up(x).mean((2, 3))))


class Text(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.first = nn.LSTM(4, 6, batch_first=True)
        self.second = nn.GRU(6, 5, batch_first=True)
        self.third = nn.RNN(5, 3, batch_first=True)
        self.head = nn.Conv1d(3, 2, 3, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.third(self.second(self.first(self.words(x))[0])[0])[0]
        return self.head(x.permute(0, 2, 1)).permute(0, 2, 1)


def keras_picture() -> Any:
    L = keras.layers
    given = keras.Input((8, 7, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(given)
    x = L.PReLU(shared_axes=[1, 2], name="act")(L.BatchNormalization(epsilon=1e-5, name="norm")(x))
    x = L.DepthwiseConv2D((3, 2), depth_multiplier=2, name="wide")(x)
    x = L.GlobalAveragePooling2D()(L.Conv2DTranspose(5, 3, name="up")(x))
    x = L.LayerNormalization(epsilon=1e-5, name="out")(L.Dense(4, name="head")(x))
    return keras.Model(given, x)


def keras_text() -> Any:
    L = keras.layers
    given = keras.Input((9,), dtype="int32")
    x = L.LSTM(6, return_sequences=True, name="first")(L.Embedding(20, 4, name="words")(given))
    x = L.SimpleRNN(3, return_sequences=True, name="third")(L.GRU(5, return_sequences=True, name="second")(x))
    return keras.Model(given, L.Conv1D(2, 3, use_bias=False, name="head")(x))


FROM_TORCH = {"wide": "DepthwiseConv2d*2", "act": "PReLU2d", "words": "Embedding"}
NETWORKS = {"picture": (Picture, keras_picture), "text": (Text, keras_text)}


def inputs_of(name: str) -> Any:
    random = np.random.default_rng(1)
    return random.normal(size=(2, 8, 7, 3)).astype("f4") if name == "picture" else random.integers(0, 20, (2, 9))


def computed(net: Any, x: Any) -> Any:
    with torch.no_grad():
        return net.eval()(torch.from_numpy(x)).numpy()


def filled(net: Any) -> Any:
    """With values that are no layer's first ones, batch statistics too."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=random) * 0.8 + 0.1)
    return net


def kinds_for(net: Any, kinds: dict[str, Any]) -> dict[str, Any]:
    layers = dict(net.named_children())
    return {name: kind for name, kind in kinds.items() if name in layers}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("suffix", "told"), [(".pt", True), (".safetensors", False)])
def test_from_torch_to_keras(name: str, suffix: str, told: bool, tmp_path: Path) -> None:
    """What a layer is, the caller says, or the model that has a place for it."""
    make, make_keras = NETWORKS[name]
    net = filled(make())
    wl.save(net, tmp_path / f"net{suffix}")
    model = make_keras()
    kinds = kinds_for(net, FROM_TORCH) if told else None
    assert wl.load(tmp_path / f"net{suffix}", conventions="torch->keras", kinds=kinds, into=model) is model
    x = inputs_of(name)
    np.testing.assert_allclose(predict(model, [x])[0], computed(net, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ["live", "weights.h5"])
def test_from_keras_to_torch(name: str, form: str, tmp_path: Path) -> None:
    make, make_keras = NETWORKS[name]
    model = make_keras()
    random = np.random.default_rng(3)
    model.set_weights([random.uniform(0.1, 0.9, w.shape).astype("f4") for w in model.get_weights()])
    net = make()
    kinds: dict[str, Any] = {"up": "ConvTranspose2d", "wide": "DepthwiseConv2d", "stem": "Conv2d", "head": "Conv1d"}
    kinds = {k: v for k, v in kinds.items() if (k, name) != ("head", "picture") and hasattr(net, k)}
    rename = None
    if form == "live":
        path = tmp_path / "model.safetensors"
        wl.save(model, path)
    else:  # as Keras saves it; parameters have numbers there, so less is certain
        path = tmp_path / "model.weights.h5"
        model.save_weights(path)
        names = {layer.name: stored for layer, stored in zip(named_layers(model), stored_layers(path), strict=True)}
        rename = {f"{stored.replace('/', '.')}.": f"{layer}." for layer, stored in names.items()}
        also = {"out": "LayerNorm", "act": "PReLU2d", "words": "Embedding", "head": ["Conv1d", "Linear"]}
        kinds = {names[k]: v for k, v in {**also, **kinds}.items() if k in names}
    wl.load(path, conventions="keras->torch", kinds=kinds, rename=rename, into=net)
    x = inputs_of(name)
    np.testing.assert_allclose(computed(net, x), predict(model, [x])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conventions", ["tfjs->torch", "tfjs->keras"])
def test_from_what_tensorflow_js_loads(conventions: str, tmp_path: Path) -> None:
    """Its recurrent layers keep their parameters themselves; what its converter writes has them in cells."""
    L = keras.layers
    words, first = L.Embedding(20, 4, name="words"), L.LSTM(6, return_sequences=True, name="first")
    model = keras.Sequential([keras.Input((9,), dtype="int32"), words, first, L.Dense(2, name="head")])
    model.set_weights([np.random.default_rng(4).normal(size=w.shape).astype("f4") for w in model.get_weights()])
    wl.save_model(model, tmp_path / "web")
    found = wl.load(tmp_path / "web", conventions=conventions)
    if conventions == "tfjs->keras":
        assert np.array_equal(found["first/cell/recurrent_kernel"], model.layers[1].get_weights()[1])
        return
    cells = {name.replace("first/", "first/lstm_cell/"): array for name, array in wl.load(tmp_path / "web").items()}
    wl.save(cells, tmp_path / "converted.npz")
    again = wl.load(tmp_path / "converted.npz", conventions=conventions)
    assert all(np.array_equal(found[name], again[name]) for name in found) and list(found) == list(again)
    net = nn.ModuleDict({"words": nn.Embedding(20, 4), "first": nn.LSTM(4, 6, batch_first=True)})
    net["head"] = nn.Linear(6, 2)
    wl.load(tmp_path / "web", conventions=conventions, into=net)
    x = inputs_of("text")
    with torch.no_grad():
        got = net["head"](net["first"](net["words"](torch.from_numpy(x)))[0]).numpy()
    np.testing.assert_allclose(got, predict(model, [x])[0], rtol=1e-4, atol=1e-5)


def named_layers(model: Any) -> list[Any]:
    return sorted((layer for layer in model.layers if layer.weights), key=lambda layer: kind_and_place(model, layer))


def kind_and_place(model: Any, layer: Any) -> tuple[str, int]:
    from weightlift.frameworks._keras_live import _snake

    return _snake(type(layer).__name__), model.layers.index(layer)


def stored_layers(path: Path) -> list[str]:
    return sorted({name.split("/vars")[0].removesuffix("/cell") for name in wl.open(path)})


def test_a_model_does_not_decide_what_the_caller_says(tmp_path: Path) -> None:
    wl.save(Text(), tmp_path / "net.pt")
    with pytest.raises(wl.MismatchError, match="words/kernel"):
        wl.load(tmp_path / "net.pt", conventions="torch->keras", kinds={"words": "Linear"}, into=keras_text())
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="other")])
    with pytest.raises(wl.ConventionsError) as caught:  # it has no place for it at all
        wl.load(tmp_path / "net.pt", conventions="torch->keras", names="words.*", into=other)
    assert [problem[0] for problem in caught.value.problems] == ["words"]


def test_what_is_not_certain_is_listed_at_once(tmp_path: Path) -> None:
    wl.save(Picture(), tmp_path / "net.pt")
    with pytest.raises(wl.ConventionsError, match="has no certain rule for 2 of the layers") as caught:
        wl.load(tmp_path / "net.pt", conventions="torch->keras")
    assert [(layer, why) for layer, _, why in caught.value.problems] == [
        ("act", "LayerNorm or GroupNorm or InstanceNorm or RMSNorm or PReLU or PReLU1d or PReLU2d or PReLU3d"),
        ("wide", "Conv2d or DepthwiseConv2d"),
    ]


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_one_step(kind: str, tmp_path: Path) -> None:
    """Cells alone, both ways; in Keras they are told by ``kinds=`` where their weights are those of others."""
    net = torch.nn.ModuleDict({"one": filled(getattr(nn, kind)(4, 3))})
    wl.save(net, tmp_path / "net.pt")
    found = wl.load(tmp_path / "net.pt", conventions="torch->keras")
    assert list(found) == ["one/kernel", "one/recurrent_kernel", "one/bias"]
    cell = getattr(keras.layers, {"RNNCell": "SimpleRNNCell"}.get(kind, kind))(3)
    cell.build((2, 4))
    cell.set_weights(list(found.values()))
    random = np.random.default_rng(4)
    x, *states = (random.normal(size=(2, n)).astype("f4") for n in ((4, 3, 3) if kind == "LSTMCell" else (4, 3)))
    theirs = np.asarray(cell(x, states if len(states) == 2 else states[0])[0].detach())
    given = tuple(map(torch.from_numpy, states))
    np.testing.assert_allclose(theirs, stepped(net, x, given), rtol=1e-4, atol=1e-5)

    wl.save({f"one/{w.name}": w.numpy() for w in cell.weights}, tmp_path / "cell.npz")
    clone = torch.nn.ModuleDict({"one": getattr(nn, kind)(4, 3)})
    wl.load(tmp_path / "cell.npz", conventions="keras->torch", kinds={"one": kind}, into=clone)
    np.testing.assert_allclose(stepped(clone, x, given), theirs, rtol=1e-4, atol=1e-5)


def stepped(net: Any, x: Any, states: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        found = net["one"](torch.from_numpy(x), states if len(states) == 2 else states[0])
    return (found[0] if isinstance(found, tuple) else found).numpy()
