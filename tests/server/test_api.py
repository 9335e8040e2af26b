"""The JSON API: what it says of models and files, and what it does with them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest
from tests.server.support import HIDDEN, Server, model_artifacts, names_in, same_weights

import weightlift as wl

Make = Callable[..., Path]
Serve = Callable[..., Server]


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x40
    file.write_bytes(data)


# ---- what it says --------------------------------------------------------------------------------------------
def test_an_empty_directory(server: Server) -> None:
    assert server.json("/api/models") == {"models": []}
    assert server.json("/api/files") == {"files": []}


def test_the_list_of_models(server: Server, make_model: Make) -> None:
    server.upload("b", make_model(1))
    server.upload("a", make_model(2, quantize="uint8"))
    (server.root / "broken").mkdir()
    (server.root / "broken/model.json").write_text("{")
    a, b, broken = server.json("/api/models")["models"]
    assert (a["name"], b["name"], broken["name"]) == ("a", "b", "broken")
    assert a["format"] == "layers-model" and a["container"] == "tfjs" and a["url"] == "/models/a/model.json"
    assert a["tensors"] == 4 and a["dtypes"] == {"float32": 4} and a["checksums"] == "all" and a["verified"] is None
    assert a["bytes"] == sum(f.stat().st_size for f in (server.root / "a").iterdir())
    assert {f["name"] for f in a["files"]} == {"model.json", "weights.bin"}
    assert a["modified"].endswith("Z")
    assert "not valid JSON" in broken["error"] and str(server.root) not in json.dumps(broken)


def test_the_list_follows_the_directory(server: Server) -> None:
    """What is remembered of a model is forgotten when its files change, whoever changes them."""
    wl.save_model(model_artifacts(1), server.root / "m")
    assert server.json("/api/models")["models"][0]["tensors"] == 4
    wl.save_model(model_artifacts(1, 5, 4, 3), server.root / "m", checksums=False)
    (model,) = server.json("/api/models")["models"]
    assert model["tensors"] == 6 and model["checksums"] == "none"
    (server.root / "m/weights.bin").unlink()
    assert "missing" in server.json("/api/models")["models"][0]["error"]


def test_the_list_of_files(server: Server) -> None:
    (server.root / "sub").mkdir()
    wl.save({"x": np.ones(3, "f2"), "y": np.ones(3, ml_dtypes.bfloat16)}, server.root / "sub/w.safetensors")
    wl.save(np.arange(3), server.root / "v.npy")
    wl.save_model(model_artifacts(), server.root / "sub/nested")
    (server.root / "notes.txt").write_text("x")
    rows = server.json("/api/files")["files"]
    by_path = {r["path"]: r for r in rows}
    assert set(by_path) == {"sub/nested/model.json", "sub/w.safetensors", "v.npy"}
    assert by_path["sub/w.safetensors"]["dtypes"] == {"float16": 1, "bfloat16": 1}
    assert by_path["v.npy"]["format"] == "npy"
    for row in rows:
        assert server.curl(row["url"]).status == 200


def test_the_details_of_a_model(server: Server, make_model: Make) -> None:
    sent = make_model(1, quantize={"uint8": "*kernel"}, metadata={"note": "größe"})
    server.upload("m", sent)
    details = server.json("/api/models/m")
    kernel = details["table"][0]
    assert (kernel["name"], kernel["dtype"], kernel["shape"]) == ("dense_0/kernel", "float32", [3, 8])
    assert (kernel["stored"], kernel["stored_bytes"], kernel["bytes"]) == ("uint8", 24, 96)
    assert kernel["checksum"].startswith("crc32c:")
    assert details["metadata"] == {"note": "größe"}
    assert details["topology"]["class"] == "Sequential" and details["topology"]["layer_count"] == 2
    assert details["topology"]["layers"][0]["facts"]["units"] == 8
    assert details["facts"]["generatedBy"].startswith("TensorFlow.js")
    assert server.curl("/api/models/none").status == 404


def test_the_topology_of_a_graph_model(server: Server) -> None:
    nodes = [{"name": "x", "op": "Placeholder"}, {"name": "w", "op": "Const"}, {"name": "b", "op": "Const"}]
    artifacts = wl.ModelArtifacts({"node": nodes, "versions": {}}, {"w": np.zeros(2, "f4")}, format="graph-model")
    wl.save_model(artifacts, server.root / "g")
    details = server.json("/api/models/g")
    assert details["format"] == "graph-model"
    assert details["topology"] == {"kind": "graph", "nodes": 3, "inputs": ["x"], "ops": {"Const": 2, "Placeholder": 1}}


def test_histograms(server: Server) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000).astype("f4")
    values[:3] = np.nan, np.inf, -np.inf
    values[3:13] = 0
    tensors = {
        "a/b c": values,
        "i": np.arange(10),
        "flat": np.ones(5, "f4"),
        "bits": rng.random(100) < 0.3,
        "c": np.array([3 + 4j, 0], "c8"),
        "e": np.zeros((0, 3), "f4"),
        "bf": np.arange(8).astype(ml_dtypes.bfloat16),
    }
    wl.save(tensors, server.root / "t.safetensors")
    wl.save({"s": np.array([b"x"], object)}, server.root / "s.json")

    def histogram(weight: str, bins: int = 10) -> dict:
        return server.json(f"/api/file/histogram?path=t.safetensors&bins={bins}&weight={weight}")

    answer = histogram("a/b%20c", 16)
    finite = values[np.isfinite(values)]
    counts, edges = np.histogram(finite.astype("f8"), 16)
    assert answer["histogram"]["counts"] == counts.tolist()
    assert np.allclose(answer["histogram"]["edges"], edges)
    found = answer["statistics"]
    assert (found["elements"], found["zeros"], found["nans"]) == (100_000, 10, 1)
    assert (found["positive_infinities"], found["negative_infinities"]) == (1, 1)
    assert np.isclose(found["mean"], finite.mean()) and np.isclose(found["std"], finite.std())
    assert histogram("i")["histogram"]["counts"] == [1] * 10
    assert "histogram" not in histogram("flat") and histogram("flat")["statistics"]["mean"] == 1
    assert sum(histogram("bits", 2)["histogram"]["counts"]) == 100
    assert histogram("c")["statistics"]["maximum"] == 5
    assert histogram("e")["statistics"]["elements"] == 0
    assert histogram("bf")["statistics"]["mean"] == 3.5
    for query, status in (
        ("path=t.safetensors&weight=none", 404), ("path=t.safetensors", 400),
        ("path=t.safetensors&weight=i&bins=0", 400),
        ("path=t.safetensors&weight=i&bins=x", 400), ("weight=i", 400), ("path=none.npy&weight=i", 404),
    ):  # fmt: skip
        assert server.curl(f"/api/file/histogram?{query}").status == status


def test_about_the_server(serve: Serve) -> None:
    server = serve("--token", "x", "--max-upload", "1k")
    about = server.json("/api/server")
    assert about["version"] == wl.__version__ and about["max_upload"] == 1024
    assert about["token_for_writes"] and not about["token_for_reads"] and not about["read_only"]
    assert about["directory"] == "root"


# ---- what it does --------------------------------------------------------------------------------------------
def test_verify_finds_damage(server: Server, make_model: Make) -> None:
    server.upload("m", make_model(1))
    report = server.json("/api/models/m/verify", "-X", "POST")
    assert report["ok"] and report["counts"] == {"ok": 4, "corrupt": 0, "unchecked": 0}
    assert server.json("/api/models")["models"][0]["verified"]["ok"]
    flip(server.root / "m/weights.bin", 2)
    assert server.json("/api/models")["models"][0]["verified"] is None  # of the file before
    report = server.json("/api/models/m/verify", "-X", "POST")
    assert not report["ok"] and [t["name"] for t in report["corrupt"]] == ["dense_0/kernel"]
    assert not server.json("/api/models")["models"][0]["verified"]["ok"]
    wl.save(np.arange(9), server.root / "x.npy")
    assert server.json("/api/file/verify?path=x.npy", "-X", "POST")["ok"]


def test_rename_and_copy(server: Server, make_model: Make) -> None:
    server.upload("a", make_model(1))
    answer = server.curl("/api/models/a/rename", "-d", '{"to": "b é"}')
    assert answer.status == 200 and answer.json["url"] == "/models/b%20%C3%A9/model.json"
    assert server.curl("/models/a/model.json").status == 404
    assert server.curl(answer.json["url"]).status == 200
    answer = server.curl("/api/models/b%20%C3%A9/copy", "-d", '{"to": "c"}')
    assert answer.status == 201 and answer.headers["location"] == "/models/c/model.json"
    assert same_weights(wl.load_model(server.root / "c").weights, wl.load_model(server.root / "b é").weights)
    assert names_in(server.root) == [HIDDEN, "b é", "c"]
    assert server.left_over() == []


@pytest.mark.parametrize("verb", ["rename", "copy"])
def test_rename_and_copy_refuse(server: Server, make_model: Make, verb: str) -> None:
    server.upload("a", make_model(1))
    server.upload("b", make_model(2))
    (server.root / "dir").mkdir()
    for body, status in (
        ('{"to": "b"}', 409), ('{"to": "a"}', 409), ('{"to": "dir"}', 409), ('{"to": "../x"}', 400),
        ('{"to": ".x"}', 400),
        ('{"to": 3}', 422), ("{}", 422), ("nope", 422), ("[]", 422), ('{"to": "' + "x" * 70_000 + '"}', 413),
    ):  # fmt: skip
        answer = server.curl(
            f"/api/models/a/{verb}", "-H", "Content-Type: application/json", "-d", "@-", data=body.encode()
        )
        assert answer.status == status, (body[:80], answer)
    assert server.curl(f"/api/models/none/{verb}", "-d", '{"to": "x"}').status == 404
    assert names_in(server.root) == [HIDDEN, "a", "b", "dir"]
    assert same_weights(wl.load_model(server.root / "b").weights, model_artifacts(2).weights)


def test_delete(server: Server, make_model: Make) -> None:
    server.upload("a", make_model(1))
    assert server.curl("/models/a", "-X", "DELETE").status == 204
    assert server.curl("/models/a", "-X", "DELETE").status == 404
    wl.save({"w": np.arange(9)}, server.root / "x.npz")
    assert server.curl("/files/x.npz", "-X", "DELETE").status == 204
    assert names_in(server.root) == [HIDDEN]
    (server.root / "dir").mkdir()
    for path in ("/models/dir", "/files/dir", "/files/", "/models/.weightlift-server"):
        assert server.curl(path, "-X", "DELETE").status in (400, 404, 405)
    assert names_in(server.root) == [HIDDEN, "dir"]
    assert server.left_over() == []


def test_archives(server: Server, make_model: Make) -> None:
    server.upload("m%20%C3%A9", make_model(3, 64, 32, shard_size=1000))
    answer = server.curl("/api/models/m%20%C3%A9/archive.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert "filename*=UTF-8''m%20%C3%A9.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        files = {p.name: p.read_bytes() for p in (server.root / "m é").iterdir()}
        assert {n.partition("/")[2]: archive.read(n) for n in archive.namelist()} == files


def test_an_archive_of_more_files_than_a_process_may_open(server: Server) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.random(20_000, "f4") for i in range(10)}
    wl.save_model(wl.ModelArtifacts({"class_name": "x"}, weights), server.root / "m", shard_size=2000, durable=False)
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    assert len(server.json("/api/models")["models"][0]["files"]) == 401  # which is remembered
    before, limit = process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (100, limit[1]))
    try:
        answer = server.curl("/api/models/m/archive.zip")
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, limit)
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 401
    server.wait_until(lambda: process.num_fds() <= before + 1)  # the connection may still be there


def test_unknown_urls(server: Server) -> None:
    for path in ("/api", "/api/", "/api/x", "/x", "/models", "/files", "/api/models/", "/api/models/a/b"):
        answer = server.curl(path)
        assert answer.status == 404 and "error" in answer.json
    assert server.curl("/api/models", "-X", "POST").status == 405
