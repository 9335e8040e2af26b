"""Weightlift's own HTTP client against our server: both ends of the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.server.support import Server, model_artifacts, same_weights

import weightlift as wl

Serve = Callable[..., Server]


def test_a_model_goes_there_and_back(server: Server) -> None:
    sent = model_artifacts(3, 50, 20)
    result = wl.save_model(sent, f"{server.url}/models/net")
    assert result.model_artifacts_info is not None and result.responses
    stored = wl.load_model(server.root / "net")
    assert same_weights(stored.weights, sent.weights)
    loaded = wl.load_model(f"{server.url}/models/net/model.json")
    assert same_weights(loaded.weights, sent.weights) and loaded.model_topology == sent.model_topology
    assert wl.verify(f"{server.url}/models/net/model.json").ok
    some = wl.load_model(f"{server.url}/models/net/model.json", weight_names="*bias")
    assert list(some.weights) == ["dense_0/bias", "dense_1/bias"]


@pytest.mark.parametrize("weights", [{}, {"none": np.zeros((0, 3), "f4")}], ids=["no weights", "no bytes"])
def test_a_model_without_weights_goes_there_and_back(server: Server, weights: dict[str, np.ndarray]) -> None:
    wl.save_model(replace(model_artifacts(), weights=weights), f"{server.url}/models/net")
    loaded = wl.load_model(f"{server.url}/models/net/model.json")
    assert same_weights(loaded.weights, weights) and loaded.model_topology == model_artifacts().model_topology


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_weights_go_there_and_back(server: Server, suffix: str) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.normal(size=(100, 300)).astype("f4") for i in range(20)}
    url = f"{server.url}/files/deep/x{suffix}"
    wl.save(tensors, url)
    assert same_weights(wl.load(url), tensors)
    assert same_weights(wl.load(server.root / f"deep/x{suffix}"), tensors)
    report = wl.verify(url)
    assert report.ok and not report.unchecked
    assert np.array_equal(wl.load(url, names="w7")["w7"], tensors["w7"])
    with wl.open(url) as lazy:
        assert np.array_equal(lazy["w3"][10:12], tensors["w3"][10:12])
    tensors["w0"] = tensors["w0"] + 1
    wl.save(tensors, url)  # over the old one
    assert same_weights(wl.load(url), tensors)


def test_tokens(serve: Serve) -> None:
    server = serve("--private", "--token", "secret", "--rate", "0")
    url = f"{server.url}/models/net"
    with pytest.raises(wl.AccessError):
        wl.save_model(model_artifacts(), url)
    wl.save_model(model_artifacts(), wl.http(url, auth="secret"))
    with pytest.raises(wl.AccessError):
        wl.load_model(f"{url}/model.json")
    loaded = wl.load_model(f"{url}/model.json", headers={"Authorization": "Bearer secret"})
    assert same_weights(loaded.weights, model_artifacts().weights)


def test_what_is_refused_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(wl.NotFoundError):
        wl.load_model(f"{server.url}/models/none/model.json")
    with pytest.raises(wl.WeightliftError, match="415"):
        wl.save({"w": np.ones(3)}, f"{server.url}/files/x.txt", format="safetensors")
