"""Whole models in ``.h5`` files, read without Keras."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_graphs import MODELS, make
from tests.interop.keras_support import keras_or_skip

import weightlift as wl

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
keras = keras_or_skip()


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_read_as_its_live_model_is_saved(name: str, tmp_path: Path) -> None:
    model = make(name)
    kept: list[wl.ModelArtifacts] = []
    wl.save_model(model, wl.with_save_handler(kept.append))
    model.save(tmp_path / "m.h5")
    read = wl.load_model(tmp_path / "m.h5")
    assert list(read.weights) == list(kept[0].weights)
    for key, array in kept[0].weights.items():
        np.testing.assert_array_equal(read.weights[key], array, err_msg=key)
    assert read.model_topology == kept[0].model_topology


def keras_2(path: Path, *, parts: int = 1) -> dict[str, np.ndarray]:
    """A file as Keras 2 wrote it: no modules, lists of nodes, names with ``:0``, an inner model called as node 1."""
    random = np.random.default_rng(0)
    arrays = {
        "fc/kernel": random.normal(size=(4, 3)), "fc/bias": random.normal(size=3), "bn/gamma": random.normal(size=3),
        "bn/beta": random.normal(size=3), "out/kernel": random.normal(size=(3, 2)), "out/bias": random.normal(size=2),
        "bn/moving_mean": random.normal(size=3), "bn/moving_variance": random.uniform(1, 2, size=3),
    }  # fmt: skip
    weights = {name: array.astype("f4") for name, array in arrays.items()}

    def layer(class_name: str, name: str, nodes: Any, **config: Any) -> dict[str, Any]:
        config = {"name": name, "trainable": True, "dtype": "float32", **config}
        return {"class_name": class_name, "config": config, "name": name, "inbound_nodes": nodes}

    def graph(name: str, layers: list[Any], last: str, node: int = 0) -> dict[str, Any]:
        first = layers[0]["name"]
        config = {"name": name, "layers": layers, "input_layers": [[first, 0, 0]], "output_layers": [[last, node, 0]]}
        return {"class_name": "Functional", "config": config}

    options = {"use_bias": True, "activation": "linear"}
    inner = graph("inner", [
        layer("InputLayer", "i", [], batch_input_shape=[None, 3], sparse=False, ragged=False),
        layer("BatchNormalization", "bn", [[["i", 0, 0, {}]]], axis=[1], epsilon=0.01, center=True, scale=True),
        layer("Dense", "out", [[["bn", 0, 0, {}]]], units=2, **options),
    ], "out")  # fmt: skip
    outer = graph("model", [
        layer("InputLayer", "x", [], batch_input_shape=[None, 4], sparse=False, ragged=False),
        layer("Dense", "fc", [[["x", 0, 0, {}]]], units=3, **options),
        {**inner, "name": "inner", "inbound_nodes": [[["fc", 0, 0, {}]]]},
    ], "inner", 1)  # fmt: skip
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(outer)
        file.attrs["keras_version"] = b"2.11.0"
        for top, names in (("fc", ["fc/"]), ("inner", ["bn/", "out/"])):
            group = file.create_group(f"model_weights/{top}")
            mine = [n for n in weights if n.startswith(tuple(names))]
            cut = np.array_split(np.array([f"{n}:0".encode() for n in mine]), parts)
            for i, part in enumerate(cut):
                group.attrs[f"weight_names{i}" if parts > 1 else "weight_names"] = part
            for n in mine:
                group[f"{n}:0"] = weights[n]
    return weights


@pytest.mark.parametrize("parts", [1, 2])
def test_keras_2(parts: int, tmp_path: Path) -> None:
    weights = keras_2(tmp_path / "m.h5", parts=parts)
    artifacts = wl.load_model(tmp_path / "m.h5")
    assert artifacts.generated_by == "keras 2.11.0"
    assert set(artifacts.weights) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(artifacts.weights[name], array)
    from tests.interop.keras_support import predict

    x = np.random.default_rng(1).normal(size=(5, 4)).astype("f4")
    hidden = x @ weights["fc/kernel"] + weights["fc/bias"]
    scaled = (hidden - weights["bn/moving_mean"]) / np.sqrt(weights["bn/moving_variance"] + 0.01)
    wanted = (scaled * weights["bn/gamma"] + weights["bn/beta"]) @ weights["out/kernel"] + weights["out/bias"]
    np.testing.assert_allclose(predict(artifacts.to_keras(), [x])[0], wanted, rtol=1e-4, atol=1e-5)
    result = wl.convert(tmp_path / "m.h5", tmp_path / "out")
    assert result.tensors == 8


def test_a_file_of_others(framework_fixtures: Path) -> None:
    artifacts = wl.load_model(framework_fixtures / "keras3-jax" / "small_legacy.h5")
    with np.load(framework_fixtures / "keras3-jax" / "small_legacy.h5.truth.npz") as truth:
        known = {array.tobytes() for array in truth.values()}
    assert artifacts.weights and all(np.asarray(w).tobytes() in known for w in artifacts.weights.values())


def test_weights_without_their_model(framework_fixtures: Path) -> None:
    for name in ("tf-2.4/small_weights.h5", "keras3-jax/small.weights.h5"):
        with pytest.raises(wl.FormatError, match="weights without their model"):
            wl.load_model(framework_fixtures / name)


def link(file: Any) -> None:
    del file["model_weights/fc/fc/kernel:0"]
    file["model_weights/fc/fc/kernel:0"] = h5py.ExternalLink("other.h5", "/x")


DAMAGED: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "external link": (link, wl.UnsafeContentError, "ExternalLink"),
    "a weight is missing": (lambda f: f.pop("model_weights/fc/fc/kernel:0"), wl.FormatError, "is not in the file"),
    "a layer is missing": (lambda f: f.pop("model_weights/fc"), wl.MismatchError, "fc has 0 weights .* expected 2"),
    "all are missing": (lambda f: f.pop("model_weights"), wl.FormatError, "no group model_weights"),
    "no JSON": (lambda f: f.attrs.__setitem__("model_config", "{"), wl.FormatError, "model_config cannot be read"),
    "a list": (lambda f: f.attrs.__setitem__("model_config", "[]"), wl.FormatError, "not a JSON object"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(name: str, tmp_path: Path) -> None:
    keras_2(tmp_path / "m.h5")
    change, error, text = DAMAGED[name]
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        change(file)
    with pytest.raises(error, match=text):
        wl.load_model(tmp_path / "m.h5")


def test_no_hdf5_at_all(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(b"<html>" * 100)
    with pytest.raises(wl.FormatError, match="cannot be read"):
        wl.load_model(tmp_path / "m.h5")
    with pytest.raises(wl.NotFoundError):
        wl.load_model(tmp_path / "gone.h5")
