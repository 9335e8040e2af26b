"""Conventions of frameworks: the table of layers, what it makes of tensors, and what it refuses to guess."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.test_readme import run_python

import weightlift as wl
from weightlift._convention_names import join
from weightlift._layer_kinds import FRAMEWORKS, Leaf, all_kinds
from weightlift._layout import stored_axes

SIZES = {"i": 5, "o": 7, "n": 6, "d": 4, "h": 3, "w": 2, "k": 3, "c": 4, "m": 2, "e": 18, "p": 2, "1": 1, "2": 2}
Arrays = dict[str, np.ndarray]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("f4")


def layer_of(kind: str, framework: str) -> Arrays:
    """The tensors of a layer called ``a.b``, as a framework names and arranges them."""
    sizes = {**SIZES, **all_kinds()[kind].sizes}
    found = {}
    for k, leaf in enumerate(all_kinds()[kind].columns[framework]):
        if isinstance(leaf, Leaf) and leaf.axes:
            shape = [int(np.prod([sizes[letter] for letter in axis.lower()])) for axis in leaf.axes]
            for name in filter(None, leaf.names):
                path = ["a", "b", *leaf.below, *name.split(".")]
                random = np.random.default_rng([k, *name.encode()])
                found[join(framework, path, leaf.collection)] = random.normal(size=shape).astype("f4")
    return found


PAIRS = [
    (kind.name, source, target)
    for kind in all_kinds().values()
    for source, target in permutations(FRAMEWORKS, 2)
    if source in kind.columns and target in kind.columns
]


def kinds_for(kind: str) -> dict[str, str]:
    counted = all_kinds()[kind].counted
    return {"*": f"{kind}*{SIZES[counted]}" if counted else kind}


@pytest.mark.parametrize("kind", all_kinds())
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    """Names and shapes are those of the table, and the way back is the exact inverse."""
    kinds = kinds_for(kind)
    for name, source, target in PAIRS:
        if name != kind:
            continue
        arrays = layer_of(kind, source)
        wl.save(arrays, tmp_path / "a.safetensors", durable=False)
        there = wl.load(tmp_path / "a.safetensors", conventions=f"{source}->{target}", kinds=kinds)
        wanted = layer_of(kind, target)
        assert {k: v.shape for k, v in there.items()} == {k: v.shape for k, v in wanted.items()}, (source, target)
        wl.save(there, tmp_path / "b.safetensors", durable=False)
        back = wl.load(tmp_path / "b.safetensors", conventions=f"{target}->{source}", kinds=kinds)
        assert set(back) == set(arrays)
        for n, array in arrays.items():
            if len(there) == len(arrays) or "bias" not in n:
                np.testing.assert_array_equal(back[n], array, err_msg=f"{source}->{target} {n}")
        np.testing.assert_allclose(biases_of(back), biases_of(arrays), rtol=1e-5, atol=1e-6)


def biases_of(arrays: Arrays) -> np.ndarray:
    """All biases of a layer, added: those of recurrent layers, which only their sum matters of, may be another two."""
    return sum((a.sum(dtype="f8") for n, a in arrays.items() if "bias" in n), np.zeros(()))


TORCH: Arrays = {
    "conv.weight": random(16, 8, 3, 2),
    "conv.bias": random(16),
    "up.weight": random(6, 4, 3, 3),
    "up.bias": random(4),
    "norm.weight": random(4),
    "norm.bias": random(4),
    "norm.running_mean": random(4),
    "norm.running_var": random(4),
    "norm.num_batches_tracked": np.array(7),
    "rnn.weight_ih_l0": random(9, 4),
    "rnn.weight_hh_l0": random(9, 3),
    "rnn.bias_ih_l0": random(9),
    "rnn.bias_hh_l0": random(9) + 1,
    "head.weight": random(5, 3),
    "head.bias": random(5),
}
_SWAP = [3, 4, 5, 0, 1, 2, 6, 7, 8]
KERAS: Arrays = {
    "conv/kernel": TORCH["conv.weight"].transpose(2, 3, 1, 0),
    "conv/bias": TORCH["conv.bias"],
    "up/kernel": TORCH["up.weight"].transpose(2, 3, 1, 0),
    "up/bias": TORCH["up.bias"],
    "norm/gamma": TORCH["norm.weight"],
    "norm/beta": TORCH["norm.bias"],
    "norm/moving_mean": TORCH["norm.running_mean"],
    "norm/moving_variance": TORCH["norm.running_var"],
    "rnn/cell/kernel": TORCH["rnn.weight_ih_l0"][_SWAP].T,
    "rnn/cell/recurrent_kernel": TORCH["rnn.weight_hh_l0"][_SWAP].T,
    "rnn/cell/bias": np.stack([TORCH["rnn.bias_ih_l0"][_SWAP], TORCH["rnn.bias_hh_l0"][_SWAP]]),
    "head/kernel": TORCH["head.weight"].T,
    "head/bias": TORCH["head.bias"],
}


def same(found: Any, wanted: Arrays) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("source", ["a.safetensors", "a.pt", "a.npz", "deflated.npz", "fortran.npz"])
@pytest.mark.parametrize("target", ["b.safetensors", "b.npz", "b.pt", "deflated.npz"])
def test_convert(source: str, target: str, tmp_path: Path) -> None:
    arrays = TORCH
    if source == "fortran.npz":  # which is not what gates are put in order of
        arrays = {n: np.asfortranarray(a) for n, a in TORCH.items() if a.ndim in (1, 2) and n[0] != "r"}
    deflate = "deflate" if source == "deflated.npz" else None
    wl.save(arrays, tmp_path / source, compression=deflate, durable=False)
    (tmp_path / "to").mkdir()
    wl.convert(
        tmp_path / source,
        tmp_path / "to" / target,
        conventions="torch->keras",
        kinds={} if source != "fortran.npz" else {"conv": "skip", "up": "skip"},
        compression="deflate" if target == "deflated.npz" else None,
        durable=False,
    )
    wanted = {n: a for n, a in KERAS.items() if not (source == "fortran.npz" and n[:2] in ("rn", "co", "up"))}
    same(wl.load(tmp_path / "to" / target), wanted)
    assert wl.verify(tmp_path / "to" / target).ok


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    wl.save(TORCH, path, durable=False)
    return path


@pytest.mark.parametrize("memory", ["arena", "tensor", "map"])
def test_load_into_any_memory(saved: Path, memory: str) -> None:
    same(wl.load(saved, conventions="torch->keras", memory=memory), KERAS)


def test_load_into_arrays_as_another_type(saved: Path) -> None:
    out = {name: np.empty(array.shape, "f8", order="F") for name, array in KERAS.items()}
    wl.load(saved, conventions="torch->keras", out=out)
    same(out, KERAS)
    half = wl.load(saved, conventions="torch->keras", dtype="float16")
    same(half, {name: array.astype("f2") for name, array in KERAS.items()})


def test_names_are_the_files_and_rename_comes_after(saved: Path) -> None:
    found = wl.load(saved, names="head.*", conventions="torch->tensorflow", rename={"head/": "out/"})
    same(found, {"out/kernel": KERAS["head/kernel"], "out/bias": KERAS["head/bias"]})


def test_a_damaged_tensor_is_found(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    at = data.index(TORCH["conv.weight"].tobytes())
    data[at + 5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(wl.ChecksumError) as caught:
        wl.load(saved, conventions="torch->keras")
    assert caught.value.offset == at
    with pytest.raises(wl.ChecksumError):
        wl.convert(saved, tmp_path / "b.safetensors", conventions="torch->keras")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_damaged_bias_that_is_added_is_found(tmp_path: Path) -> None:
    wl.save(TORCH, tmp_path / "a.safetensors", durable=False)
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data.replace(TORCH["rnn.bias_hh_l0"].tobytes(), bytes(36)))
    with pytest.raises(wl.ChecksumError):
        wl.load(tmp_path / "a.safetensors", conventions="torch->keras")


# --- what is not guessed ------------------------------------------------------------------------------------------
def load(arrays: Arrays, folder: Path, conventions: str = "torch->keras", **options: Any) -> Any:
    wl.save(arrays, folder / "a.safetensors", durable=False)
    return wl.load(folder / "a.safetensors", conventions=conventions, **options)


CASES = [
    ("torch->keras", {"weight": (5, 4)}, "Linear or Embedding"),
    ("torch->keras", {"weight": (4, 1, 3, 3), "bias": (4,)}, "Conv2d or DepthwiseConv2d"),
    ("torch->keras", {"weight": (4, 4, 3), "bias": (4,)}, None),  # both kinds of convolution come to the same
    ("torch->keras", {"weight": (5, 4, 3, 3)}, None),
    ("torch->keras", {"weight": (4, 3, 3), "bias": (5,)}, "no rule"),
    ("torch->flax", {"weight": (4, 6, 3), "bias": (6,)}, None),
    ("torch->keras", {"in_proj_weight": (12, 4), "in_proj_bias": (12,)}, "no rule"),
    ("torch->keras", {"in_proj_weight": (12, 4), "out_proj.weight": (4, 4)}, "MultiheadAttention, of how many heads"),
    ("torch->keras", {"weight_ih_l1": (8, 4), "weight_hh_l1": (9, 2)}, "no rule"),
    (
        "torch->keras",
        {"weight_ih_l0": (8, 4), "weight_hh_l0": (8, 1), "weight_hr_l0": (1, 2)},
        "LSTM(proj_size): no rule for keras",
    ),
    ("torch->keras", {"weight_ih_l0": (8, 4), "weight_hh_l0": (8, 2), "bias_ih_l0": (8,)}, "no rule"),
    ("torch->tfjs", {"weight_ih_l0": (9, 4), "weight_hh_l0": (9, 3)}, "GRU: no rule for tfjs"),
    ("keras->torch", {"kernel": (3, 3, 4, 4)}, "Conv2d or ConvTranspose2d or DepthwiseConv2d"),
    ("keras->torch", {"0": (2,), "1": (2,), "2": (2,)}, "BatchNorm, but which of its parameters is which"),
    ("flax->torch", {"kernel": (3, 3, 1, 4)}, "Conv2d or ConvTranspose2d or DepthwiseConv2d"),
    ("torch->mxnet", {"weight": (5, 4)}, None),
    ("keras->torch", {"gamma": (4,), "beta": (4,)}, None),
]


@pytest.mark.parametrize(("conventions", "shapes", "why"), CASES)
def test_what_is_uncertain(conventions: str, shapes: dict[str, Any], why: str | None, tmp_path: Path) -> None:
    mark = "/" if conventions.startswith("keras") else "."
    layer = f"x{mark}vars" if "0" in shapes else "x"
    arrays = {f"{layer}{mark}{name}": random(*shape) for name, shape in shapes.items()}
    arrays[f"y{mark}free"] = random(2)
    with pytest.raises(wl.ConventionsError) as caught:
        load(arrays, tmp_path, conventions)
    problems = {name: reason for name, _, reason in caught.value.problems}
    assert problems.pop("y") == "no rule"
    if why is None:
        assert not problems
    else:
        assert problems["x"].startswith(why)
        assert f"x ({', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}): {why}" in str(caught.value)


def test_gru_of_keras_that_resets_before(tmp_path: Path) -> None:
    arrays = {"r/cell/kernel": random(4, 9), "r/cell/recurrent_kernel": random(3, 9)}
    with pytest.raises(wl.ConventionsError, match=r"GRU or GRU\(reset_after=False\)"):
        load(arrays, tmp_path, "keras->torch")
    assert len(load(arrays, tmp_path, "keras->torch", kinds={"r/cell": "GRU"})) == 2
    with pytest.raises(wl.ConventionsError, match=r"GRU\(reset_after=False\): no rule for torch"):
        load({**arrays, "r/cell/bias": random(9)}, tmp_path, "keras->torch")


def test_kinds(tmp_path: Path) -> None:
    arrays = {
        "a.weight": random(5, 4),
        "b.weight": random(5, 4),
        "b.bias": random(5),
        "c.scale": random(3),
        "d": random(1),
    }
    kinds = {"*": "Embedding", "c": "keep", "d": "skip"}
    found = load(arrays, tmp_path, kinds=kinds)
    assert list(found) == ["c/scale", "a/embeddings", "b/kernel", "b/bias"]  # b can be nothing else than what it is
    assert load(arrays, tmp_path, kinds={**kinds, "*": ["Conv2d", "Linear"]})["a/kernel"].shape == (4, 5)
    with pytest.raises(wl.ConventionsError, match=r"b .*: not a Embedding or Conv2d, by its tensors"):
        load(arrays, tmp_path, kinds={**kinds, "b": "Conv2d"})
    with pytest.raises(wl.MismatchError, match="kinds= names no layer: 'e'"):
        load(arrays, tmp_path, kinds={**kinds, "e": "Linear"})
    with pytest.raises(wl.UnsupportedFeatureError, match="no kind 'Dense'"):
        load(arrays, tmp_path, kinds={"a": "Dense"})
    with pytest.raises(wl.UnsupportedFeatureError, match=r"no kind 'Linear\*2'"):
        load(arrays, tmp_path, kinds={"a": "Linear*2"})


@pytest.mark.parametrize("text", ["torch", "torch->torch", "caffe->torch", "torch->"])
def test_what_is_no_convention(text: str, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="where A and B are two of torch"):
        load({"a.weight": random(1)}, tmp_path, text)


def test_kinds_need_conventions(saved: Path) -> None:
    with pytest.raises(TypeError, match="about conventions="):
        wl.load(saved, kinds={"a": "Linear"})


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    arrays = {"params.a.kernel": random(2, 3), "batch_stats.a.kernel": random(2, 3)}
    with pytest.raises(wl.MismatchError, match=r"'params.a.kernel' and 'batch_stats.a.kernel' are one"):
        load(arrays, tmp_path, "flax->torch")


def test_the_state_of_dropout_is_left_out(tmp_path: Path) -> None:
    arrays = {"drop/seed_generator/seed_generator_state": np.zeros(2, "u4"), "a/kernel": random(2, 3)}
    assert list(load(arrays, tmp_path, "keras->torch")) == ["a.weight"]


@pytest.mark.parametrize(
    ("shape", "strides", "axes"),
    [
        ((3, 2, 5, 7), (8, 4, 24, 120), (6, 5, 7)),
        ((5, 7), (4, 20), (5, 7)),
        ((1, 5, 7), (0, 4, 20), (5, 7)),
        ((1, 1), (4, 4), (1,)),
        ((2, 3, 4), (48, 4, 12), None),
    ],
)
def test_stored_axes(shape: Any, strides: Any, axes: Any) -> None:
    assert stored_axes(shape, strides) == axes


def test_the_pages_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[2] / "docs" / "conventions.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for text in blocks:
        run_python(text, names)
