"""Files as old as the converter's first versions, and what others write that is not quite JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

WEIGHTS = np.arange(6, dtype="f4").reshape(3, 2)
ENTRY = {"name": "w", "shape": [3, 2], "dtype": "float32"}
CHARS = [83, 65, 77, 69]
"""``SAME``, as arrays of character codes."""

OLD_GRAPH = {
    "node": [
        {"name": "x", "op": "Placeholder", "attr": {"dtype": {"type": 1}, "shape": {"shape": {"dim": [{"size": -1}]}}}},
        {"name": "w", "op": "Const", "attr": {"dtype": {"type": 1}, "padding": {"s": CHARS}}},
    ],
    "versions": {"producer": 27},
}
"""Numeric enums, strings as character codes, sizes as numbers, constants without a shape."""


def old_files(folder: Path, topology: Any, paths: list[str]) -> None:
    data = WEIGHTS.tobytes()
    for i, path in enumerate(paths):
        (folder / path).write_bytes(data[i * 16 : (i + 1) * 16] if len(paths) > 1 else data)
    manifest = [{"paths": paths, "weights": [ENTRY]}]
    document = manifest if topology is None else {"modelTopology": topology, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(document))


@pytest.mark.parametrize("paths", [["group1-shard1of1"], ["group1-shard1of2", "group1-shard2of2"]])
def test_weight_files_without_a_suffix(tmp_path: Path, paths: list[str]) -> None:
    old_files(tmp_path, OLD_GRAPH, paths)
    model = wl.load_model(tmp_path)
    assert np.array_equal(model.weights["w"][...], WEIGHTS)
    assert model.format is None and model.generated_by is None
    assert wl.check_tfjs(tmp_path).loads


def test_a_bare_manifest(tmp_path: Path) -> None:
    old_files(tmp_path, None, ["group1-shard1of1"])
    assert np.array_equal(wl.load(tmp_path)["w"], WEIGHTS)
    assert wl.load_model(tmp_path).model_topology is None


def test_an_old_graph_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old_files(tmp_path / "old", OLD_GRAPH, ["group1-shard1of1"])
    wl.save_model(wl.load_model(tmp_path / "old"), tmp_path / "new")
    assert json.loads((tmp_path / "new" / "model.json").read_text())["modelTopology"] == OLD_GRAPH
    assert wl.load_model(tmp_path / "new").model_topology == OLD_GRAPH


def test_a_topology_in_model_config(tmp_path: Path) -> None:
    dense = {
        "class_name": "Dense",
        "config": {"name": "d", "units": 2, "use_bias": False, "batch_input_shape": [None, 3]},
    }
    whole = {"keras_version": "2.1.6", "backend": "tensorflow"}
    # A Sequential model of then is a bare list of layers.
    old_files(tmp_path, whole | {"model_config": {"class_name": "Sequential", "config": [dense]}}, ["group1-shard1of1"])
    document = json.loads((tmp_path / "model.json").read_text())
    document["weightsManifest"][0]["weights"][0]["name"] = "d/kernel"
    (tmp_path / "model.json").write_text(json.dumps(document))
    report = wl.check_tfjs(tmp_path)
    assert report.problems == () and report.kind == "layers-model"
    assert wl.load_model(tmp_path).model_topology == document["modelTopology"]


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    old_files(tmp_path, {"class_name": "Sequential", "config": {"layers": [], "low": -math.inf, "x": math.nan}}, ["w"])
    assert b"NaN" in (tmp_path / "model.json").read_bytes()
    topology = wl.load_model(tmp_path).model_topology
    assert topology is not None and topology["config"]["low"] == -math.inf and math.isnan(topology["config"]["x"])
    with pytest.raises(wl.UnsupportedFeatureError, match="cannot be written as JSON"):
        wl.save_model(wl.load_model(tmp_path), tmp_path / "again")


def test_a_byte_order_mark(tmp_path: Path) -> None:
    old_files(tmp_path, OLD_GRAPH, ["group1-shard1of1"])
    path = tmp_path / "model.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert np.array_equal(wl.load(tmp_path)["w"], WEIGHTS)
