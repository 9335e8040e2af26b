"""The real TensorFlow.js on Node.js as a client: it saves to our server and loads from it over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.tensorflow_js import run_node, tensorflow_js_or_skip
from tests.server.support import Server, model_artifacts

import weightlift as wl

SCRIPT = Path(__file__).parent / "tfjs_client.js"

tensorflow_js_or_skip()


def node(**request: Any) -> Any:
    """What tfjs_client.js answers."""
    return run_node(SCRIPT, json.dumps(request))


def test_it_saves_a_model_and_loads_it_again(server: Server) -> None:
    answer = node(do="roundtrip", url=f"{server.url}/models/net")
    assert answer["saved"]["status"] == 201 and answer["saved"]["type"] == "JSON"
    assert answer["before"] == answer["after"] and any(answer["before"])
    stored = wl.load_model(server.root / "net")
    assert stored.user_defined_metadata == {"note": "größe"}
    assert list(stored.weights) == ["d1/kernel", "d1/bias", "d2/kernel", "d2/bias"]
    assert wl.verify(server.root / "net").ok and not wl.verify(server.root / "net").unchecked
    assert (server.root / "net/model.weights.bin").stat().st_size == answer["bytes"]


def test_it_puts_with_a_token(serve: Any) -> None:
    server = serve("--token", "secret", "--private", "--rate", "0")
    refused = node(do="roundtrip", url=f"{server.url}/models/net", method="PUT")
    assert "401" in refused["error"]
    answer = node(do="roundtrip", url=f"{server.url}/models/net", method="PUT", token="secret")
    assert answer["saved"]["status"] == 201 and answer["before"] == answer["after"]


@pytest.mark.parametrize("options", [{}, {"shard_size": 1000}, {"quantize": "uint8"}, {"quantize": "float16"}])
def test_it_loads_what_we_saved(server: Server, options: dict[str, Any]) -> None:
    artifacts = model_artifacts(4, 40, 20, 2)
    wl.save_model(artifacts, server.root / "m", **options)
    answer = node(do="predict", url=f"{server.url}/models/m/model.json", input=[[1, 2, 3], [0, 0.5, -1]])
    weights = {n: v[...] for n, v in wl.load_model(server.root / "m").weights.items()}
    x = np.array([[1, 2, 3], [0, 0.5, -1]], "f4")
    for i in range(3):
        x = np.maximum(x @ weights[f"dense_{i}/kernel"] + weights[f"dense_{i}/bias"], 0)
    assert np.allclose(np.array(answer["output"]).reshape(2, 2), x, rtol=1e-4, atol=1e-5)
    assert np.any(x > 0)


def test_a_missing_model_is_an_error_to_it(server: Server) -> None:
    answer = node(do="predict", url=f"{server.url}/models/none/model.json", input=[[1, 2, 3]])
    assert "404" in answer["error"]
