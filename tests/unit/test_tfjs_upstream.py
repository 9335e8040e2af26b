"""Faults of TensorFlow.js and of its converter that we do not share; docs/formats/tfjs.md has the list of all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.tfjs_check_cases import layers_model

import weightlift as wl


def test_the_initializer_of_a_graph_is_kept(tmp_path: Path) -> None:
    """tfjs-node's files lack it."""
    initializer = {"node": [{"name": "table", "op": "HashTableV2"}]}
    graph = {"node": [], "versions": {}}
    model = wl.ModelArtifacts(
        graph, {"w": np.ones(2, "f4")}, format="graph-model", model_initializer=initializer, initializer_signature={}
    )
    wl.save_model(model, tmp_path)
    loaded = wl.load_model(tmp_path)
    assert loaded.model_initializer == initializer and loaded.initializer_signature == {}


def test_progress_of_a_model_without_weights(tmp_path: Path) -> None:
    """TensorFlow.js: 'promises must be a none empty array'."""
    wl.save_model(wl.ModelArtifacts({"class_name": "Sequential", "config": {"layers": []}}), tmp_path)
    seen: list[float] = []
    assert wl.load_model(tmp_path, on_progress=seen.append).weights == {}
    assert all(0 <= fraction <= 1 for fraction in seen)


def test_no_option_leaves_a_model_without_its_weights(tmp_path: Path) -> None:
    """``streamWeights`` of ``loadLayersModel`` gives random ones; ours are always read when they are touched."""
    layers_model(tmp_path)
    with pytest.raises(TypeError, match="stream_weights"):
        wl.load_model(tmp_path, stream_weights=True)


def test_some_weights_of_a_group_with_strings(tmp_path: Path) -> None:
    """``tf.io.loadWeights`` loses its place after strings, and the converter's reader after none of them."""
    none = np.empty((0,), object)
    some = np.array([b"ab", b""], object)
    tensors = {"s": some, "a": np.arange(3, dtype="f4"), "none": none, "b": np.arange(2, dtype="i4")}
    wl.save(tensors, tmp_path / "model.json", shard_size=16)
    weights = wl.load_model(tmp_path, weight_names=["b", "a"]).weights
    assert {n: w[...].tolist() for n, w in weights.items()} == {"a": [0, 1, 2], "b": [0, 1]}


def test_two_layers_of_one_name_in_nested_models_are_told(tmp_path: Path) -> None:
    """TensorFlow.js saves such a model and cannot load it: 'Duplicate weight name'."""

    def dense(**more: Any) -> dict[str, Any]:
        return {"class_name": "Dense", "config": {"name": "dense", "units": 2, **more}}

    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [dense(batch_input_shape=[None, 2])]}}
    topology = {"class_name": "Sequential", "config": {"name": "outer", "layers": [inner, dense()]}}
    weights = {"dense/kernel": np.zeros((2, 2), "f4"), "dense/bias": np.zeros(2, "f4")}
    codes = [(p.code, p.where) for p in wl.check_tfjs(wl.ModelArtifacts(topology, weights)).problems]
    assert codes == [("variable-twice", "weight 'dense/kernel'"), ("variable-twice", "weight 'dense/bias'")]


def test_paths_with_spaces(tmp_path: Path) -> None:
    """The converter's command line splits its arguments at spaces."""
    pytest.importorskip("click")
    layers_model(tmp_path / "my model")
    command = [sys.executable, "-m", "weightlift", "convert", str(tmp_path / "my model"), str(tmp_path / "a b.npz")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert set(wl.load(tmp_path / "a b.npz")) == set(wl.load(tmp_path / "my model"))


def test_small_integers_are_stored_as_types_that_it_decodes(tmp_path: Path) -> None:
    """The converter writes uint8 and uint16 as such, which TensorFlow.js cannot read."""
    wl.save({"b": np.arange(4, dtype="u1"), "w": np.arange(4, dtype="u2")}, tmp_path / "model.json")
    entries = json.loads((tmp_path / "model.json").read_text())["weightsManifest"][0]["weights"]
    assert [e["dtype"] for e in entries] == ["int32", "int32"]
    assert {n: a.dtype.name for n, a in wl.load(tmp_path).items()} == {"b": "uint8", "w": "uint16"}


@pytest.mark.parametrize("text", ["<!doctype html>", "{", ""])
def test_picked_files_without_a_document_end_in_an_error(tmp_path: Path, text: str) -> None:
    """``tf.io.browserFiles`` of such files never ends."""
    (tmp_path / "model.json").write_text(text)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(wl.FormatError):
        wl.load_model(wl.browser_files([tmp_path / "model.json", tmp_path / "weights.bin"]))
