"""The real TensorFlow.js on Node.js as a client: it saves to our server and loads from it over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server.support import Server, model_artifacts

import weightlift as wl

SCRIPT = Path(__file__).parent / "tfjs_client.js"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = Path(os.environ.get("WEIGHTLIFT_NODE") or CACHE / "weightlift" / "node")

if shutil.which("node") is None:
    pytest.skip("Node.js is not installed", allow_module_level=True)
if not (FOLDER / "node_modules" / "@tensorflow" / "tfjs").is_dir():
    pytest.skip("TensorFlow.js is not installed: run tests/interop/setup_node.sh", allow_module_level=True)


def node(**request: Any) -> Any:
    """What tfjs_client.js answers."""
    done = subprocess.run(
        ["node", str(SCRIPT), json.dumps(request)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "NODE_PATH": str(FOLDER / "node_modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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
