"""The dataclasses of models: their JSON in TensorFlow.js's names and orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift._artifacts import json_bytes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (-0.0, "0"), (0.0, "0"), (-2.0, "-2"), (0.1, "0.1"), (1e-7, "1e-7"), (1.5e-7, "1.5e-7"),
        (1e-6, "0.000001"), (-1.25e-5, "-0.0000125"), (1e16, "10000000000000000"), (1.5e17, "150000000000000000"),
        (1e21, "1e+21"), (1.25e22, "1.25e+22"), (5e-324, "5e-324"), (123456.75, "123456.75"), (float("nan"), "null"),
        (1, "1"), ("é", '"é"'), (None, "null"), ([1.0, {"a": 2.0}], '[1,{"a":2}]'),
    ],
)  # fmt: skip
def test_sizes_are_those_of_javascripts_text(value: Any, text: str) -> None:
    assert json_bytes(value) == len(text.encode())


def test_a_weight_spec_is_the_mapping_of_its_json() -> None:
    raw = {
        "name": "d/kernel", "shape": [3, 2], "dtype": "float32", "group": "optimizer",
        "quantization": {"dtype": "uint16", "min": -1.5, "scale": 0.25, "original_dtype": "float32"},
    }  # fmt: skip
    spec = wl.WeightSpec.from_json(raw)
    assert spec.to_json() == raw and json.dumps(spec.to_json()) == json.dumps(raw)
    assert spec["name"] == "d/kernel" and dict(spec) == raw and spec == raw
    assert spec.get("no such key") is None
    assert spec.nbytes == 12 and spec.quantization == raw["quantization"]
    assert wl.WeightSpec("s", (2,), "string").nbytes is None


@pytest.mark.parametrize("name", ["layers_node", "layers_adam"])
def test_the_document_of_tfjs_node(tfjs_fixtures: Path, name: str) -> None:
    document = json.loads((tfjs_fixtures / name / "model.json").read_text())
    model = wl.ModelArtifacts.from_json(document)
    assert json.dumps(model.to_json(writer="tfjs-node")) == json.dumps(document)
    assert json.dumps(wl.load_model(tfjs_fixtures / name).to_json(writer="tfjs-node")) == json.dumps(document)
    config = document.get("trainingConfig")
    if config is not None:
        assert json.dumps(wl.TrainingConfig.from_json(config).to_json()) == json.dumps(config)


def test_orders_of_the_writers() -> None:
    model = wl.ModelArtifacts(
        model_topology={}, format="graph-model", generated_by="2.15.0", converted_by="x", signature={},
        user_defined_metadata={}, model_initializer={}, initializer_signature={}, extra={"mine": 1},
    )  # fmt: skip
    assert list(model.to_json()) == [
        "modelTopology", "format", "generatedBy", "convertedBy", "weightsManifest", "signature", "userDefinedMetadata",
        "modelInitializer", "initializerSignature", "mine",
    ]  # fmt: skip
    assert list(model.to_json(writer="converter")) == [
        "format", "generatedBy", "convertedBy", "signature", "modelTopology", "userDefinedMetadata", "modelInitializer",
        "initializerSignature", "weightsManifest", "mine",
    ]  # fmt: skip
    layers = wl.ModelArtifacts(model_topology={}, format="layers-model", generated_by="keras v2.15.0")
    keys = ["format", "generatedBy", "convertedBy", "modelTopology", "weightsManifest"]
    assert list(layers.to_json(writer="converter")) == keys


def test_typed_parts_are_saved_like_mappings(tmp_path: Path) -> None:
    config = wl.TrainingConfig({"class_name": "SGD", "config": {"learning_rate": 0.1}}, "hinge", ["accuracy"])
    model = wl.ModelArtifacts(
        model_topology={"class_name": "Sequential"},
        weights={"w": np.zeros(3, "f4"), "o": np.ones((), "f4")},
        weight_specs=[wl.WeightSpec("w", (3,)), wl.WeightSpec("o", (), group="optimizer")],
        training_config=config,
    )
    assert model.info().weight_specs_bytes == len(json.dumps([s.to_json() for s in model.specs], separators=(",", ":")))
    wl.save_model(model, tmp_path)
    loaded = wl.load_model(tmp_path)
    assert loaded.training_config == config.to_json() and loaded.specs == model.specs
    assert loaded.specs[1].group == "optimizer"


def test_specs_come_from_the_weights_where_there_are_none() -> None:
    strings = np.array([b"a"], object)
    model = wl.ModelArtifacts(weights={"w": np.zeros((3, 1), "f4"), "s": strings})
    assert [s.to_json() for s in model.specs] == [
        {"name": "w", "shape": [3, 1], "dtype": "float32"},
        {"name": "s", "shape": [1], "dtype": "string"},
    ]


def test_info_reads_back() -> None:
    raw = {
        "dateSaved": "2026-11-22T01:17:23.429Z", "modelTopologyType": "JSON", "modelTopologyBytes": 1020,
        "weightSpecsBytes": 205, "weightDataBytes": 44,
    }  # fmt: skip
    info = wl.ModelArtifactsInfo.from_json(raw)
    assert json.dumps(info.to_json()) == json.dumps(raw)
    result = wl.SaveResult("u", "tfjs", ("u",), 1, 1, model_artifacts_info=info)
    assert result.to_json() == {"modelArtifactsInfo": raw}
