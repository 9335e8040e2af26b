"""Models of every kind, from TensorFlow.js to us and back, over files and over HTTP from our server.

One Node.js runs for all: it makes the models, and says what it decodes and computes, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.interop.tensorflow_js import NODE_ENVIRONMENT, tensorflow_js_or_skip
from tests.server.support import Server

import weightlift as wl

tensorflow_js_or_skip()

SCRIPT = Path(__file__).parent / "tfjs_matrix.js"
MODELS = ("sequential", "recurrent", "metadata", "optimizer", "graph")
SAVES: dict[str, dict[str, Any]] = {
    "one file": {},
    "sharded": {"shard_size": 100},
    "uint8": {"quantize": "uint8"},
    "uint16, sharded": {"quantize": "uint16", "shard_size": 64},
    "float16": {"quantize": "float16", "checksums": False},
    "by a map": {"quantize": {"uint8": "*kernel", "float16": True}, "shard_size": 1000},
    "automatic": {"quantize": "auto:1e-3"},
}

Ask = Callable[..., dict[str, Any]]
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def node() -> Iterator[Ask]:
    """What tfjs_matrix.js answers."""
    with subprocess.Popen(
        ["node", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=NODE_ENVIRONMENT
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(**request: Any) -> dict[str, Any]:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, f"Node.js ended with status {process.wait()}"
            answer: dict[str, Any] = json.loads(line)
            assert "error" not in answer, answer["error"]
            return answer

        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def made(node: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of TensorFlow.js' models, and what it says of each."""
    folder = tmp_path_factory.mktemp("theirs")
    return folder, node(do="make", to=str(folder))


def seen(array: Array) -> list[Any]:
    """A weight as tfjs_matrix.js describes it."""
    if array.dtype == object:
        return ["string", list(array.shape), hashlib.sha256(b"".join(array.ravel())).hexdigest()]
    return [array.dtype.name, list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]


def ours(folder: Path) -> dict[str, list[Any]]:
    return {name: seen(np.asarray(weight[...])) for name, weight in wl.load_model(folder).weights.items()}


@pytest.mark.parametrize("name", MODELS)
def test_what_it_saves_we_load(made: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, facts = made
    assert ours(folder / name) == facts[name]["weights"]
    assert wl.check_tfjs(folder / name).problems == ()


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("name", MODELS)
def test_what_we_save_it_loads(
    node: Ask, made: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, how: str
) -> None:
    folder, facts = made
    fact, model = facts[name], wl.load_model(folder / name)
    wl.save_model(model, tmp_path / "ours", **SAVES[how])
    answer = node(do="run", model=str(tmp_path / "ours"), loader=fact["loader"], inputs=fact["inputs"])
    assert answer["weights"] == ours(tmp_path / "ours")
    assert answer.get("metadata") == model.user_defined_metadata
    if "quantize" not in SAVES[how]:
        assert answer["weights"] == fact["weights"] and answer["outputs"] == fact["outputs"]
    else:  # as a model of the values that the quantised weights stand for
        wl.save_model(wl.load_model(tmp_path / "ours", lazy=False), tmp_path / "plain")
        plain = node(do="run", model=str(tmp_path / "plain"), loader=fact["loader"], inputs=fact["inputs"])
        assert answer["outputs"] == plain["outputs"] and answer["weights"] == plain["weights"]
    if name == "optimizer":
        assert answer["optimizer"] == sum(s.group == "optimizer" for s in model.specs)


# ---- over HTTP -----------------------------------------------------------------------------------------------
TOKEN = {"requestInit": {"headers": {"Authorization": "Bearer secret", "X-Mine": "yes"}}}


@pytest.fixture(scope="module")
def served(made: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of what we saved, that asks for a token."""
    root = tmp_path_factory.mktemp("served")
    for name in MODELS:
        wl.save_model(wl.load_model(made[0] / name), root / name, shard_size=200)
    server = Server(root, ("--token", "secret", "--private", "--rate", "0"))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("name", MODELS)
def test_it_loads_from_our_server(node: Ask, made: tuple[Path, dict[str, Any]], served: Server, name: str) -> None:
    fact = made[1][name]
    url = f"{served.url}/models/{name}/model.json"
    answer = node(do="run", model=url, loader=fact["loader"], inputs=fact["inputs"], options=TOKEN)
    assert answer["weights"] == fact["weights"] and answer["outputs"] == fact["outputs"]
    shards = len(list((served.root / name).glob("group1-*")))
    assert shards > 1 or name == "graph"
    assert answer["progress"] == pytest.approx([(i + 1) / (2 * shards) for i in range(2 * shards)])


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("?tfjs-format=file", {}),
        ("?v=1&x=%20", {}),
        ("", {"weightPathPrefix": "{url}/models/sequential/"}),
        ("", {"converter": True}),
    ],
    ids=["hub", "query", "prefix", "converter"],
)
def test_options_of_a_load(
    node: Ask, made: tuple[Path, dict[str, Any]], served: Server, query: str, options: dict[str, Any]
) -> None:
    fact = made[1]["sequential"]
    url = f"{served.url}/models/sequential/model.json{query}"
    given = {k: v.format(url=served.url) if isinstance(v, str) else v for k, v in options.items()} | TOKEN
    answer = node(do="run", model=url, loader=fact["loader"], inputs=fact["inputs"], options=given)
    assert answer["weights"] == fact["weights"] and answer["outputs"] == fact["outputs"]
    own = {"weight_path_prefix": f"{served.url}/models/sequential"} if "weightPathPrefix" in options else {}
    model = wl.load_model(url, auth="secret", **own)
    assert {n: seen(w[...]) for n, w in model.weights.items()} == fact["weights"]


def test_without_the_token_nobody_gets_in(node: Ask, served: Server) -> None:
    url = f"{served.url}/models/sequential/model.json"
    with pytest.raises(AssertionError, match="failed with status code 401"):
        node(do="run", model=url, loader="loadLayersModel", inputs=[])
    with pytest.raises(wl.AccessError):
        wl.load_model(url)
