"""Models by URL, with TensorFlow.js's options, without its faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from tests.http import faults
from tests.http.fault_server import FaultServer
from tests.http.servers import Nginx
from tests.http.support import FAST, assert_same

import weightlift as wl

WEIGHTS = {
    f"layer{i}/{part}": np.arange(i, i + n, dtype=np.float32)
    for i in range(6)
    for part, n in (("kernel", 3000), ("bias", 30))
}


def document(tmp_path: Path, *, shard_size: int = 20_000) -> dict[str, bytes]:
    """A sharded model's files by name."""
    model = wl.ModelArtifacts(
        weights=WEIGHTS, model_topology={"class_name": "Sequential", "config": []}, format="layers-model"
    )
    wl.save_model(model, tmp_path / "model", shard_size=shard_size)
    return {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return document(tmp_path)


@pytest.fixture
def shards(files: dict[str, bytes]) -> list[str]:
    """Names of the weight files, in the manifest's order."""
    paths: list[str] = json.loads(files["model.json"])["weightsManifest"][0]["paths"]
    assert len(paths) > 2
    return paths


def publish(server: FaultServer, files: dict[str, bytes], folder: str, names: list[str] | None = None) -> None:
    server.files |= {f"{folder}/{n}": files[n] for n in (names or files)}


def loaded(model: wl.ModelArtifacts) -> dict[str, Any]:
    return {name: np.asarray(model.weights[name][...]) for name in model.weights}


def test_a_model_and_its_shards(server: FaultServer, files: dict[str, bytes]) -> None:
    publish(server, files, "/models/a")
    model = wl.load_model(server.url("/models/a/model.json"), **FAST)
    assert (model.format, model.model_topology) == ("layers-model", {"class_name": "Sequential", "config": []})
    assert [s["name"] for s in model.weight_specs or ()] == list(WEIGHTS)
    assert_same(loaded(model), WEIGHTS)
    assert {r.path for r in server.requests} == {f"/models/a/{n}" for n in files}


def test_shards_lie_where_redirects_led(
    server: FaultServer, other_server: FaultServer, files: dict[str, bytes]
) -> None:
    publish(other_server, files, "/real/place")
    server.fault = faults.redirect(other_server.url("/real/place/model.json"))
    model = wl.load_model(server.url("/alias"), **FAST, auth="s3cret")
    assert_same(loaded(model), WEIGHTS)
    assert len(server.requests) >= 1 and not any("authorization" in r.headers for r in other_server.requests)


def test_queries(server: FaultServer, files: dict[str, bytes]) -> None:
    """A slash in the query is not a folder, and a query goes along, whole."""
    publish(server, files, "/m")
    query = "token=a/b/c%2Fd&x=model.json"
    model = wl.load_model(server.url(f"/m/model.json?{query}"), **FAST)
    assert_same(loaded(model), WEIGHTS)
    for request in server.requests:
        assert request.path in {f"/m/{n}" for n in files}
        assert parse_qs(request.target.partition("?")[2]) == {"token": ["a/b/c/d"], "x": ["model.json"]}


@pytest.mark.parametrize("slash", ["", "/"])
def test_weight_path_prefix(
    server: FaultServer, other_server: FaultServer, files: dict[str, bytes], shards: list[str], slash: str
) -> None:
    publish(server, files, "/m", ["model.json"])
    publish(other_server, files, "/weights", shards)
    prefix = other_server.url("/weights") + slash
    model = wl.load_model(server.url("/m/model.json"), weight_path_prefix=prefix, **FAST)
    assert_same(loaded(model), WEIGHTS)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_weight_url_converter(
    server: FaultServer, other_server: FaultServer, files: dict[str, bytes], shards: list[str], asynchronous: bool
) -> None:
    """Each shard has a URL of its own, signed for it alone."""
    publish(server, files, "/m", ["model.json"])
    other_server.files |= {f"/blob/{i}": files[n] for i, n in enumerate(shards)}
    asked: list[str] = []

    def sign(name: str) -> str:
        asked.append(name)
        return other_server.url(f"/blob/{shards.index(name)}?signature={shards.index(name)}")

    async def sign_later(name: str) -> str:
        return sign(name)

    converter = sign_later if asynchronous else sign
    model = wl.load_model(server.url("/m/model.json"), weight_url_converter=converter, **FAST)
    assert_same(loaded(model), WEIGHTS)
    assert set(asked) == set(shards)
    for request in other_server.requests:
        number = request.path.rpartition("/")[2]
        assert request.target.endswith(f"?signature={number}")


def test_request_headers(server: FaultServer, files: dict[str, bytes]) -> None:
    publish(server, files, "/m")
    model = wl.load_model(server.url("/m/model.json"), headers={"X-Key": "k"}, **FAST)
    assert_same(loaded(model), WEIGHTS)
    assert all(r.headers["x-key"] == "k" for r in server.requests)


def test_progress_as_fractions(server: FaultServer, files: dict[str, bytes]) -> None:
    publish(server, files, "/m")
    seen: list[float] = []
    model = wl.load_model(server.url("/m/model.json"), on_progress=seen.append, **FAST)
    assert_same(dict(model.weights), WEIGHTS)
    assert seen == sorted(seen) and seen[-1] == 1.0 and all(0 <= f <= 1 for f in seen)


def test_weight_names_fetch_only_their_ranges(server: FaultServer, files: dict[str, bytes]) -> None:
    publish(server, files, "/m")
    wl.load_model(server.url("/m/model.json"), **FAST)
    opened = server.body_bytes_sent
    server.forget()
    model = wl.load_model(server.url("/m/model.json"), weight_names=["layer0/bias"], **FAST)
    assert_same(loaded(model), {"layer0/bias": WEIGHTS["layer0/bias"]})
    assert server.body_bytes_sent <= opened + 4096


def test_names_that_are_missing(server: FaultServer, files: dict[str, bytes]) -> None:
    publish(server, files, "/m")
    url = server.url("/m/model.json")
    with pytest.raises(wl.MismatchError, match="nothing"):
        wl.load_model(url, weight_names=["nothing"], **FAST)
    model = wl.load_model(url, weight_names=["nothing", "layer1/*"], strict=False, **FAST)
    assert list(model.weights) == ["layer1/kernel", "layer1/bias"]


def test_from_tf_hub(server: FaultServer, files: dict[str, bytes]) -> None:
    publish(server, files, "/hub/model/1")
    for url in (server.url("/hub/model/1"), server.url("/hub/model/1/")):
        server.forget()
        model = wl.load_model(url, from_tf_hub=True, **FAST)
        assert_same(loaded(model), WEIGHTS)
        assert server.requests[0].target == "/hub/model/1/model.json?tfjs-format=file"
        assert all(r.target.endswith("?tfjs-format=file") for r in server.requests)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_shard_with_another_status_is_never_weights(
    server: FaultServer, files: dict[str, bytes], shards: list[str], status: int
) -> None:
    """TensorFlow.js takes the page for weights."""
    publish(server, files, "/m")
    page = b"\x00" * len(files[shards[1]])
    server.fault = faults.where(lambda r: r.path.endswith(shards[1]), faults.status(status, page))
    with pytest.raises(wl.StorageError, match=shards[1]) as caught:
        loaded(wl.load_model(server.url("/m/model.json"), **FAST))
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("change", [-4, 4])
def test_a_shard_of_another_length(
    server: FaultServer, files: dict[str, bytes], shards: list[str], change: int
) -> None:
    """What the manifest says is compared with what is there."""
    publish(server, files, "/m")
    last = files[shards[-1]]
    server.files[f"/m/{shards[-1]}"] = last[:change] if change < 0 else last + b"\0" * change
    with pytest.raises((wl.FormatError, wl.TruncatedError)) as caught:
        loaded(wl.load_model(server.url("/m/model.json"), **FAST))
    assert caught.value.url is not None


def test_memory_is_asked_for_once_a_file_has_the_size_that_is_claimed(server: FaultServer) -> None:
    """Not for the terabytes of a manifest whose weight file has four bytes."""
    weight = {"name": "w", "shape": [1 << 42], "dtype": "float32"}
    manifest = [{"paths": ["weights.bin"], "weights": [weight]}]
    server.files = {"/model.json": json.dumps({"weightsManifest": manifest}).encode(), "/weights.bin": b"1234"}
    weights = wl.load_model(server.url("/model.json"), **FAST).weights
    for ask in (slice(0, 1 << 41), ...):
        with pytest.raises(wl.FormatError, match="has 4 bytes"):
            weights["w"][ask]


@pytest.mark.parametrize("body", [b"", b"{}", b"<html></html>", b'{"modelTopology": ', b"\xff\xfe"])
def test_what_is_no_model(server: FaultServer, body: bytes) -> None:
    server.files["/m/model.json"] = body
    with pytest.raises(wl.FormatError) as caught:
        wl.load_model(server.url("/m/model.json"), **FAST)
    assert caught.value.url == server.url("/m/model.json")


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "..%2fsecret.bin", "a/../../b.bin"])
def test_shards_stay_in_their_folder(
    server: FaultServer, files: dict[str, bytes], shards: list[str], name: str
) -> None:
    publish(server, files, "/m")
    server.files["/m/model.json"] = files["model.json"].replace(shards[0].encode(), name.encode())
    with pytest.raises(wl.WeightliftError):
        loaded(wl.load_model(server.url("/m/model.json"), **FAST))
    assert all(r.path.startswith("/m/") for r in server.requests)


def test_what_was_uploaded_is_loaded_again(nginx: Nginx, server: FaultServer, tmp_path: Path) -> None:
    """Upload as a form, stored as TensorFlow.js servers do, served by nginx."""
    from tests.http.test_uploads import parts_of

    original = wl.ModelArtifacts(weights=WEIGHTS, model_topology={"a": 1}, format="graph-model")
    wl.save_model(original, server.url("/upload"), **FAST)
    folder = nginx.files / "uploaded"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for head, content in parts_of(server.requests[0]):
        (folder / head["content-disposition"].rpartition('filename="')[2].rstrip('"')).write_bytes(content)
    model = wl.load_model(nginx.url("plain/uploaded/model.json"), **FAST)
    assert_same(loaded(model), WEIGHTS)
    assert (model.model_topology, model.format) == ({"a": 1}, "graph-model")


# ---- check_tfjs ----------------------------------------------------------------------------------------------
def test_everything_that_is_wrong_with_a_model_on_a_server(
    server: FaultServer, files: dict[str, bytes], shards: list[str]
) -> None:
    publish(server, files, "/m")
    url = server.url("/m/model.json?v=1")
    assert {p.code for p in wl.check_tfjs(url, **FAST).problems} == {"no-variable"}
    del server.files[f"/m/{shards[0]}"]
    server.files[f"/m/{shards[1]}"] = b"<!doctype html>" + b" " * 100
    server.fault = faults.where(lambda r: r.path.endswith(shards[2]), faults.status(403, b"no"))
    found = {p.where: p.code for p in wl.check_tfjs(url, **FAST).problems if p.code.startswith("shard")}
    assert found[f"file {shards[0]!r}"] == "shard-missing"
    assert found[f"file {shards[1]!r}"] == "shard-content"
    assert found[f"file {shards[2]!r}"] == "shard-unreadable"
    with pytest.raises(wl.NotFoundError):
        wl.check_tfjs(server.url("/none/model.json"), **FAST)
