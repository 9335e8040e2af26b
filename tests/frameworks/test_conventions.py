"""One network in PyTorch and in TensorFlow, MXNet and Flax: they compute the same from one file, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.frameworks.environments import run_script

import weightlift as wl

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

SCRIPT = Path(__file__).with_name("conventions_script.py")
ENVIRONMENTS = {"tensorflow": "tensorflow", "mxnet": "mxnet", "flax": "jax"}


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 6, 2, groups=6)
        self.head = nn.Linear(6, 4)
        self.words = nn.Embedding(20, 5)
        self.first = nn.LSTM(5, 3, batch_first=True)
        self.second = nn.GRU(3, 2, batch_first=True)

    def forward(self, picture: Any, text: Any) -> Any:
        picture = self.wide(self.norm(self.stem(picture.permute(0, 3, 1, 2))))
        return self.head(picture.mean((2, 3))), self.second(self.first(self.words(text))[0])[0]


def computed(net: Any, x: Any, words: Any) -> list[Any]:
    with torch.no_grad():
        return [o.numpy() for o in net.eval()(torch.from_numpy(x), torch.from_numpy(words))]


@pytest.mark.parametrize("framework", ENVIRONMENTS)
def test_there_and_back(framework: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    net = Net()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.startswith("norm") and tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.3)
    wl.save(net, tmp_path / "torch.safetensors")
    x = np.random.default_rng(1).normal(size=(2, 6, 7, 3)).astype("f4")
    words = np.random.default_rng(2).integers(0, 20, (2, 5))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "words.npy", words)

    answers = run_script(ENVIRONMENTS[framework], SCRIPT, framework, tmp_path)
    wanted = computed(net, x, words)
    if framework == "flax":  # whose recurrent layers keep each gate by itself
        wanted[1] = net.words.weight.detach().numpy()[words]
    for (shape, values), expected in zip(answers, wanted, strict=True):
        np.testing.assert_allclose(np.reshape(values, shape), expected, rtol=1e-4, atol=1e-5)

    files = ["back.safetensors"] + (["checkpoint"] if framework == "tensorflow" else [])
    for file in files:
        clone = Net()
        kinds = {"*": ["DepthwiseConv2d", "Embedding", "Conv2d"]} if framework != "tensorflow" else {"stem": "Conv2d"}
        names = [n for n in wl.open(tmp_path / file) if "save_counter" not in n]
        partial = wl.load(
            tmp_path / file,
            conventions=f"{framework}->torch",
            kinds=kinds,
            names=names,
            into=clone,
        )
        assert partial is clone
        if framework == "flax":
            for layer in ("first", "second"):
                getattr(clone, layer).load_state_dict(getattr(net, layer).state_dict())
        for found, expected in zip(computed(clone, x, words), computed(net, x, words), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Layers(nn.Module):  # type: ignore[misc]
    """Layers that are several tensors in Flax, or several of which are one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.gru = nn.GRU(4, 3, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(6, 12, batch_first=True)
        self.att = nn.MultiheadAttention(12, 3, batch_first=True)
        self.up = nn.ConvTranspose1d(12, 5, 3, stride=2)
        self.wide = nn.ConvTranspose2d(2, 2, (3, 2))
        self.step = nn.GRUCell(5, 3)

    def forward(self, x: Any, picture: Any) -> Any:
        text = self.rnn(self.gru(self.lstm(x)[0])[0])[0]
        up = self.up(self.att(text, text, text)[0].movedim(-1, 1)).movedim(1, -1)
        wide = self.wide(picture.movedim(-1, 1)).movedim(1, -1)
        return up, wide, self.step(x[:, 0], torch.ones(len(x), 3))


def test_layers_of_flax(tmp_path: Path) -> None:
    torch.manual_seed(4)
    net, clone = Layers(), Layers()
    wl.save(net, tmp_path / "torch.safetensors")
    x = np.random.default_rng(1).normal(size=(2, 6, 5)).astype("f4")
    picture = np.random.default_rng(2).normal(size=(2, 4, 5, 2)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "picture.npy", picture)
    answers = run_script("jax", SCRIPT.with_name("conventions_flax.py"), tmp_path)
    with pytest.raises(wl.ConventionsError) as caught:
        wl.load(tmp_path / "back.safetensors", conventions="flax->torch")
    problems = {layer: why for layer, _, why in caught.value.problems}
    assert problems == {
        "step": "GRU or GRUCell",
        "up": "Conv1d or ConvTranspose1d",
        "wide": "Conv2d or ConvTranspose2d",
    }
    kinds = {"wide": "ConvTranspose2d"}  # of the others the model's shapes tell
    wl.load(tmp_path / "back.safetensors", conventions="flax->torch", kinds=kinds, into=clone)
    wanted = [*computed(net, x, picture), *computed(clone, x, picture)]
    for (shape, values), expected in zip(answers, wanted, strict=True):
        np.testing.assert_allclose(np.reshape(values, shape), expected, rtol=1e-5, atol=1e-5)


class Deep(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.LSTM(5, 4, 2, bidirectional=True, batch_first=True)
        self.long = nn.GRU(8, 3, 3, batch_first=True)
        self.sep = nn.Sequential(nn.Conv1d(3, 6, 2, groups=3, bias=False), nn.Conv1d(6, 5, 1))

    def forward(self, x: Any) -> Any:
        return self.sep(self.long(self.deep(x)[0])[0].movedim(-1, 1))


def test_layers_of_mxnet(tmp_path: Path) -> None:
    torch.manual_seed(4)
    net, clone = Deep(), Deep()
    wl.save(net, tmp_path / "torch.safetensors")
    x = np.random.default_rng(1).normal(size=(2, 6, 5)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    theirs, ours = run_script("mxnet", SCRIPT.with_name("conventions_mxnet.py"), tmp_path)
    wl.load(tmp_path / "back.safetensors", conventions="mxnet->torch", into=clone)
    with torch.no_grad():
        for (shape, values), model in ((theirs, clone), (ours, net)):
            expected = model(torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(np.reshape(values, shape), expected, rtol=1e-5, atol=1e-5)
