"""TensorFlow.js in a page of another origin, in Chromium: it asks our server first (CORS), then loads and saves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.tensorflow_js import BUNDLE, tensorflow_js_or_skip
from tests.server.browser import chromium, playwright_or_skip
from tests.server.support import Server
from tests.unit.tfjs_check_cases import INPUT, layers_model

import weightlift as wl

playwright_or_skip()
tensorflow_js_or_skip(node=False)

LOAD = """async ([url, headers, input]) => {
  const model = await tf.loadLayersModel(tf.io.http(url, {requestInit: {headers}}));
  return [...await model.predict(tf.tensor(input[1], input[0])).data()];
}"""
SAVE = """async ([from, to, headers]) => {
  const model = await tf.loadLayersModel(tf.io.http(from, {requestInit: {headers}}));
  const result = await model.save(tf.io.http(to, {requestInit: {method: 'PUT', headers}}));
  return result.responses[0].status;
}"""
HEADERS = {"Authorization": "Bearer secret"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of an origin of its own, with TensorFlow.js in it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>app</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        with chromium() as browser:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{pages.server_port}/index.html")
            page.add_script_tag(path=str(BUNDLE))
            page.evaluate("async () => { await tf.setBackend('cpu'); await tf.ready(); }")
            yield page
        pages.shutdown()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    layers_model(folder / "m", shard_size=200)
    return folder


@pytest.fixture
def serve(root: Path) -> Iterator[Any]:
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(root, ("--rate", "0", *options)))
        return started[-1].start()

    yield start
    for server in started:
        server.kill()


def test_it_loads_and_saves_where_its_origin_may(page: Any, serve: Any, root: Path) -> None:
    origin = page.evaluate("location.origin")
    server = serve("--cors", origin, "--token", "secret", "--private")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    url = f"{server.url}/models/m/model.json"
    output = page.evaluate(LOAD, [f"{url}?v=1", HEADERS, INPUT])
    assert np.allclose(sum(output), 1, atol=1e-5)
    shards = len(list((root / "m").glob("group1-*")))
    assert [u.endswith("?v=1") for u in asked] == [True] * (1 + shards)
    assert page.evaluate(LOAD, [url, HEADERS, INPUT]) == output
    assert page.evaluate(SAVE, [url, f"{server.url}/models/back", HEADERS]) == 201
    saved, first = wl.load_model(root / "back"), wl.load_model(root / "m")
    assert set(saved.weights) == set(first.weights)
    assert all(np.array_equal(saved.weights[n][...], first.weights[n][...]) for n in first.weights)
    assert page.evaluate(LOAD, [f"{server.url}/models/back/model.json", HEADERS, INPUT]) == output


@pytest.mark.parametrize("options", [(), ("--cors", "https://example.org")])
def test_nobody_else_may(page: Any, serve: Any, options: tuple[str, ...]) -> None:
    server = serve(*options, "--token", "secret", "--private")
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate(LOAD, [f"{server.url}/models/m/model.json", HEADERS, INPUT])


def test_without_the_token_its_origin_may_not_either(page: Any, serve: Any) -> None:
    server = serve("--cors", page.evaluate("location.origin"), "--token", "secret", "--private")
    with pytest.raises(Exception, match="status code 401"):
        page.evaluate(LOAD, [f"{server.url}/models/m/model.json", {}, INPUT])
