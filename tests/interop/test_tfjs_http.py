"""The real TensorFlow.js on Node.js over HTTP: it uploads what we upload, byte for byte, and loads what we uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.http.fault_server import FaultServer
from tests.http.test_uploads import parts_of, without_boundary
from tests.interop.tensorflow_js import run_node, tensorflow_js_or_skip

import weightlift as wl

SCRIPT = Path(__file__).parent / "tfjs_http.js"

tensorflow_js_or_skip()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def node(*arguments: str) -> Any:
    return run_node(SCRIPT, *arguments)


def models() -> dict[str, wl.ModelArtifacts]:
    rng = np.random.default_rng(0)
    weights = {
        "dense/kernel": rng.normal(size=(30, 20)).astype("f4"),
        "dense/bias": np.zeros(20, "f4"),
        "ids": rng.integers(-9, 9, 11, np.int32),
        "mask": rng.random(7) < 0.5,
        "phase": (rng.normal(size=3) + 1j * rng.normal(size=3)).astype("c8"),
    }
    topology = {"class_name": "Sequential", "config": {"name": "é\u2028\U0001f600", "layers": [], "rate": 1e-7}}
    layers = wl.ModelArtifacts(
        weights=weights, model_topology=topology, format="layers-model",
        generated_by="TensorFlow.js tfjs-layers v4.22.0",
        training_config={"loss": "mse", "metrics": [], "optimizer_config": {"class_name": "SGD", "config": {}}},
        user_defined_metadata={"note": "a/b\\c\"d", "n": [1, 2.5, None, True, 1e21, 0.1]},
    )  # fmt: skip
    graph = wl.ModelArtifacts(
        weights=weights, model_topology={"node": [], "library": {}}, format="graph-model", generated_by="2.21.0",
        converted_by="TensorFlow.js Converter v4.22.0", signature={"inputs": {}, "outputs": {}},
        model_initializer={"node": []},
    )  # fmt: skip
    return {"layers": layers, "graph": graph, "weights alone": wl.ModelArtifacts(weights=weights)}


@pytest.mark.parametrize("kind", models())
@pytest.mark.parametrize("shard_size", [None, 1000])
def test_our_upload_is_its_upload(server: FaultServer, tmp_path: Path, kind: str, shard_size: int | None) -> None:
    wl.save_model(models()[kind], tmp_path / "m", shard_size=shard_size, checksums=False)
    server.files |= {f"/m/{p.name}": p.read_bytes() for p in (tmp_path / "m").iterdir()}
    answer = node("upload", server.url("/m/model.json"), server.url("/theirs"))
    model = wl.load_model(server.url("/m/model.json"))
    result = wl.save_model(model, server.url("/ours"), checksums=False)
    ours, theirs = (next(r for r in server.requests if r.path == path) for path in ("/ours", "/theirs"))
    assert ours.method == theirs.method == "POST"
    assert parts_of(ours) == parts_of(theirs)
    assert without_boundary(ours) == without_boundary(theirs).rstrip(b"\r\n") + b"\r\n"
    assert answer == {"bytes": result.model_artifacts_info.weight_data_bytes, "status": 201}


def test_it_loads_what_we_uploaded(server: FaultServer) -> None:
    model = models()["layers"]
    wl.save_model(model, server.url("/up"))
    for head, content in parts_of(server.requests[0]):
        server.files["/m/" + head["content-disposition"].rpartition('filename="')[2].rstrip('"')] = content
    found = {name: (dtype, shape, digest) for name, dtype, shape, digest in node("load", server.url("/m/model.json"))}
    for name, array in model.weights.items():
        data = np.ascontiguousarray(array).tobytes()
        assert found[name] == (array.dtype.name, list(array.shape), hashlib.sha256(data).hexdigest())
