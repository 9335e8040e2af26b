"""Will TensorFlow.js load it? What ``check_tfjs`` says of models with something wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tfjs_check_cases import GRAPH, LAYERS, SAME, SHARDED, Change, apply, graph_model, layers_model

import weightlift as wl


def check(folder: Path, code: str | None, change: Change | None) -> wl.TfjsReport:
    apply(folder, change)
    report = wl.check_tfjs(folder)
    errors = {p.code for p in report.problems if p.severity == "error"}
    if code is None:
        assert report.problems == () and report.loads
    elif code == SAME:
        assert report.loads and [p.severity for p in report.problems] == ["warning"]
    else:
        assert code in errors and not report
    assert all(p.what and (p.fix or p.severity == "note") for p in report.problems)
    return report


@pytest.mark.parametrize("name", LAYERS)
def test_layers_models(tmp_path: Path, name: str) -> None:
    layers_model(tmp_path)
    assert check(tmp_path, *LAYERS[name]).kind == "layers-model"


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_models(tmp_path: Path, name: str) -> None:
    layers_model(tmp_path, shard_size=64)
    check(tmp_path, *SHARDED[name])


@pytest.mark.parametrize("name", GRAPH)
def test_graph_models(tmp_path: Path, name: str) -> None:
    graph_model(tmp_path)
    report = check(tmp_path, *GRAPH[name])
    assert report.kind == "graph-model" and report.loader == "tf.loadGraphModel"


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    layers_model(tmp_path, shard_size=64)
    for name in ("another name", "unknown activation", "loss", "elu"):
        apply(tmp_path, LAYERS[name][1])
    apply(tmp_path, SHARDED["sorted as text"][1])
    (tmp_path / "group1-shard2of14.bin").unlink()
    (tmp_path / "group1-shard3of14.bin").write_bytes(b"<html>")
    codes = {p.code for p in wl.check_tfjs(tmp_path).problems}
    assert codes >= {"shard-missing", "shard-content", "shard-order", "no-variable", "no-weight", "unknown-activation"}
    assert codes >= {"training", "option"}


def test_sizes_and_what_quantisation_would_save(tmp_path: Path) -> None:
    layers_model(tmp_path, quantize={"uint8": "lstm/kernel"})
    report = wl.check_tfjs(tmp_path / "model.json")
    elements = sum(s["shape"] and int(np.prod(s["shape"])) for s in wl.load_model(tmp_path).weight_specs or ())
    assert report.dtypes == {"float32": (10, 4 * (elements - 64)), "uint8": (1, 64)}
    assert report.tensors == 11 and report.nbytes == 4 * elements - 192
    assert report.savings == {"float16": 2 * elements - 64, "uint16": 2 * elements - 64, "uint8": elements}
    assert report.parts == {"InputLayer": 1, "Conv1D": 1, "BatchNormalization": 1, "LSTM": 1, "Dense": 1}


def test_artifacts_and_other_schemes_are_checked_too(tmp_path: Path) -> None:
    layers_model(tmp_path)
    apply(tmp_path, LAYERS["another name"][1])
    for place in (wl.load_model(tmp_path), "memory://checked"):
        if isinstance(place, str):
            wl.save_model(wl.load_model(tmp_path), place)
        assert {p.code for p in wl.check_tfjs(place).problems} == {"no-variable", "no-weight"}
    wl.remove_model("memory://checked")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<!doctype html>", "json"), ('{"modelTopology":', "json"), ("{}", "document"), ("3", "document"),
        ('{"modelTopology": [], "weightsManifest": []}', "topology"), ('{"weightsManifest": {}}', "manifest"),
        ('{"weightsManifest": [{"paths": []}]}', "manifest"), ('[{"paths": [], "weights": [{}]}]', "weight-entry"),
        ('[{"paths": ["../a"], "weights": []}]', "shard-path"), ('{"modelTopology": {}}', "not-layers"),
    ],
)  # fmt: skip
def test_documents_that_are_none(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "model.json").write_text(text)
    assert code in {p.code for p in wl.check_tfjs(tmp_path).problems}


def test_a_model_without_weights_is_fine(tmp_path: Path) -> None:
    document: dict[str, Any] = {"modelTopology": {"class_name": "Sequential", "config": {"layers": []}}}
    (tmp_path / "model.json").write_text(json.dumps(document))
    assert wl.check_tfjs(tmp_path).loads
    with pytest.raises(wl.NotFoundError):
        wl.check_tfjs(tmp_path / "other.json")


def test_published_models_are_fine(tfjs_fixtures: Path) -> None:
    for name in ("layers_node", "layers_adam", "real/selfie.json"):
        assert wl.check_tfjs(tfjs_fixtures / name).problems == ()
    report = wl.check_tfjs(tfjs_fixtures / "real" / "tiny_face_detector_model-weights_manifest.json")
    assert report.kind == "weights" and [p.code for p in report.problems] == ["weights-only"]


# ---- the list of files that TensorFlow.js misreads ---------------------------------------------------------
def misread(sizes: list[int]) -> bool:
    """Whether ``CompositeArrayBuffer`` looks for some byte in a file that there is not."""
    even = len(set(sizes[:-1] or sizes)) == 1
    return even and any(at // max(sizes[0], 1) >= len(sizes) for at in range(sum(sizes)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["f4", "i4", "?", "c8", "f2"]), st.integers(0, 40)), min_size=1, max_size=12),
    st.integers(0, 11),
    st.integers(16, 200),
)
def test_we_never_write_a_list_that_is_misread(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, int]], cut: int, shard_size: int
) -> None:
    """Also of models that come in several groups, which become one."""
    folder = tmp_path_factory.mktemp("groups")
    arrays = {str(i): np.ones(count, kind) for i, (kind, count) in enumerate(kinds)}
    wl.save(arrays, folder / "one" / "model.json", durable=False, checksums=False)
    document = json.loads((folder / "one" / "model.json").read_text())
    document.pop("weightlift", None)
    specs = document["weightsManifest"][0]["weights"]
    data = b"".join(p.read_bytes() for p in (folder / "one").glob("*.bin"))
    first = sum(wl.WeightSpec.from_json(s).nbytes or 0 for s in specs[:cut])
    document["weightsManifest"] = [
        {"paths": [f"{name}.bin"] if part else [], "weights": some}
        for name, part, some in (("a", data[:first], specs[:cut]), ("b", data[first:], specs[cut:]))
    ]
    (folder / "two").mkdir()
    (folder / "two" / "model.json").write_text(json.dumps(document))
    for name, part in (("a", data[:first]), ("b", data[first:])):
        (folder / "two" / f"{name}.bin").write_bytes(part)
    theirs = [len(part) for part in (data[:first], data[first:]) if part]
    found = [p.code for p in wl.check_tfjs(folder / "two").problems]
    assert ("shard-misread" in found) == (len(theirs) == 2 and misread(theirs))
    wl.convert(folder / "two", folder / "new" / "model.json", shard_size=shard_size, durable=False)
    (group,) = json.loads((folder / "new" / "model.json").read_text())["weightsManifest"]
    sizes = [(folder / "new" / p).stat().st_size for p in group["paths"]]
    assert sum(sizes) == len(data) and 0 not in sizes and max(sizes, default=0) <= shard_size
    assert not misread(sizes) if sizes else not data
    assert {p.code for p in wl.check_tfjs(folder / "new").problems} == {"weights-only"}
