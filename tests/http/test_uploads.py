"""Uploads: streamed, byte for byte what TensorFlow.js sends, and never half."""

from __future__ import annotations

import email
import email.policy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures
from tests.http import faults
from tests.http.fault_server import Fault, FaultServer
from tests.http.messages import Request
from tests.http.servers import USER, Nginx, Proxy
from tests.http.support import FAST, assert_same, model, model_bytes

import weightlift as wl
from weightlift.formats._tfjs_upload import as_javascript

OPTIONS = {k: v for k, v in FAST.items() if k not in ("part_bytes", "connections")}
TENSORS = model(700_000)
MIB = 1 << 20


def parts_of(request: Request) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart body: (headers in lower case, content)."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body, policy=email.policy.HTTP)
    return [
        ({n.lower(): v for n, v in part.items()}, part.get_payload(decode=True) or b"") for part in message.iter_parts()
    ]


def without_boundary(request: Request) -> bytes:
    """The body with a fixed boundary."""
    boundary = request.headers["content-type"].partition("boundary=")[2].strip('"')
    assert len(boundary) <= 70 and boundary.encode() in request.body
    return request.body.replace(boundary.encode(), b"BOUNDARY")


# --- PUT --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "deflated.npz", "x.npy"])
@pytest.mark.parametrize("kind", ["plain", "tls", "h2"])
def test_put_to_nginx(nginx: Nginx, tmp_path: Path, name: str, kind: str) -> None:
    """The file that arrives is the file that a local save writes."""
    assert nginx.certificates is not None
    saved: Any = TENSORS["w0"] if name == "x.npy" else TENSORS
    options: dict[str, Any] = {"compression": "deflate"} if name == "deflated.npz" else {}
    store = {**OPTIONS, **({} if kind == "plain" else {"ca_file": nginx.certificates.ca})}
    url = nginx.url(f"dav/{kind}/{name}", kind)
    result = wl.save(saved, url, **options, **store)
    wl.save(saved, tmp_path / name, **options)
    assert (nginx.uploads / kind / name).read_bytes() == (tmp_path / name).read_bytes()
    assert_same(wl.load(url, **store), saved)
    assert result.format == name.rpartition(".")[2]


def test_put_is_one_request_with_a_length(server: FaultServer, tmp_path: Path) -> None:
    wl.save(TENSORS, server.url("/up/m.safetensors"), **OPTIONS, headers={"X-Note": "mine"}, auth="token")
    puts = [r for r in server.requests if r.method == "PUT" and r.path == "/up/m.safetensors"]
    assert len(puts) == 1
    assert int(puts[0].headers["content-length"]) == len(puts[0].body)
    assert puts[0].headers["x-note"] == "mine" and puts[0].headers["authorization"] == "Bearer token"
    assert puts[0].body == model_bytes(TENSORS, tmp_path)


def test_convert_to_a_url(server: FaultServer, tmp_path: Path) -> None:
    wl.save(TENSORS, tmp_path / "m.npz")
    wl.convert(tmp_path / "m.npz", server.url("/m.safetensors"), **OPTIONS)
    (tmp_path / "m.safetensors").write_bytes(server.stored["/m.safetensors"])
    assert_same(wl.load(tmp_path / "m.safetensors"), TENSORS)


@pytest.mark.parametrize(("status", "kind"), [(401, wl.AccessError), (403, wl.AccessError), (404, wl.NotFoundError)])
def test_refused_uploads(server: FaultServer, status: int, kind: type[wl.StorageError]) -> None:
    server.fault = faults.status(status)
    with pytest.raises(kind, match=str(status)) as caught:
        wl.save(TENSORS, server.url("/m.safetensors"), **OPTIONS)
    assert caught.value.url == server.url("/m.safetensors")


@pytest.mark.parametrize("status", [400, 409, 413, 422, 500, 507])
def test_failed_uploads(server: FaultServer, status: int) -> None:
    server.fault = faults.status(status)
    with pytest.raises(wl.TransportError, match=str(status)) as caught:
        wl.save(TENSORS, server.url("/m.safetensors"), **{**OPTIONS, "attempts": 2})
    assert caught.value.status == status and caught.value.url == server.url("/m.safetensors")


BROKEN: dict[str, Fault] = {
    "refused before the body is read": lambda r, a: replace(faults.status(413)(r, a), take=0, ending="close"),
    "reset in the body": lambda r, a: faults.reset(r, replace(a, take=100_000)),
    "closed in the body": lambda r, a: faults.hang_up(r, replace(a, take=100_000)),
    "not read to its end": lambda r, a: faults.silence(r, replace(a, take=1000)),
    "no answer": faults.silence,
    "no HTTP": faults.garbage_headers,
    "closed without an answer": faults.hang_up,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_uploads(server: FaultServer, name: str) -> None:
    server.fault = BROKEN[name]
    big = model(8_000_000)  # more than sockets hold
    with pytest.raises(wl.TransportError) as caught:
        wl.save(big, server.url("/m.safetensors"), **{**OPTIONS, "attempts": 2, "timeout": 1.0})
    assert caught.value.url == server.url("/m.safetensors")
    assert (caught.value.status == 413) == (name == "refused before the body is read")


def test_an_upload_follows_a_redirect_to_another_host_without_its_secrets(
    server: FaultServer, other_server: FaultServer, tmp_path: Path
) -> None:
    """As stores do that keep the files elsewhere."""
    server.fault = faults.redirect(other_server.url("/m.safetensors"), 307)
    wl.save(TENSORS, server.url("/m.safetensors"), **OPTIONS, auth=("ada", "s3cret"))
    assert other_server.stored["/m.safetensors"] == model_bytes(TENSORS, tmp_path)
    assert all("authorization" in request.headers for request in server.requests)
    assert other_server.requests and all("authorization" not in r.headers for r in other_server.requests)


def test_upload_through_a_proxy(server: FaultServer, proxy: Proxy, tmp_path: Path) -> None:
    wl.save(TENSORS, server.url("/m.safetensors"), **OPTIONS, proxy=proxy.url)
    assert server.stored["/m.safetensors"] == model_bytes(TENSORS, tmp_path)
    assert "test-proxy" in server.requests[0].headers["via"]


def test_sharded_uploads(nginx: Nginx) -> None:
    """Shards first, the index last."""
    url = nginx.url("dav/sharded/m.safetensors")
    nginx.forget()
    wl.save(TENSORS, url, shard_size=200_000, **OPTIONS)
    puts = [r["uri"] for r in nginx.requests() if r["method"] == "PUT"]
    assert puts[-1].endswith(".index.json") and len(puts) > 3
    assert_same(wl.load(f"{url}.index.json", **OPTIONS), TENSORS)


# --- models: multipart POST ---------------------------------------------------------------------------
def artifacts() -> wl.ModelArtifacts:
    rng = np.random.default_rng(1)
    return wl.ModelArtifacts(
        weights={"dense/kernel": rng.normal(size=(4, 3)).astype("f4"), "dense/bias": np.zeros(3, "f4")},
        model_topology={"class_name": "Sequential", "config": {"name": "é", "layers": []}},
        format="layers-model",
        generated_by="TensorFlow.js tfjs-layers v4.22.0",
        user_defined_metadata={"note": "hello"},
    )


def test_a_model_is_one_form(server: FaultServer) -> None:
    result = wl.save_model(artifacts(), server.url("/upload"), **OPTIONS)
    (request,) = server.requests
    assert request.method == "POST" and int(request.headers["content-length"]) == len(request.body)
    (head, document), (binary_head, weights) = parts_of(request)
    assert head["content-disposition"] == 'form-data; name="model.json"; filename="model.json"'
    assert head["content-type"] == "application/json"
    assert binary_head["content-disposition"] == 'form-data; name="model.weights.bin"; filename="model.weights.bin"'
    assert binary_head["content-type"] == "application/octet-stream"
    found = json.loads(document)
    assert found["weightsManifest"][0]["paths"] == ["./model.weights.bin"]
    assert weights == b"".join(a.tobytes() for a in artifacts().weights.values())
    assert set(found.pop("weightlift")["crc32c"]) == set(artifacts().weights)
    assert list(found)[:5] == ["modelTopology", "format", "generatedBy", "convertedBy", "weightsManifest"]
    assert [r.status if hasattr(r, "status") else r["status"] for r in result.responses] == [201]
    assert result.model_artifacts_info.weight_data_bytes == len(weights)


def test_put_and_headers_and_further_fields(server: FaultServer) -> None:
    handler = wl.http(
        server.url("/upload"), method="PUT", headers={"X-Token": "abc"}, auth=USER, form={"kind": 'a "test"', "n": "1"}
    )
    wl.save_model(artifacts(), handler)
    (request,) = server.requests
    assert request.method == "PUT" and request.headers["x-token"] == "abc"
    assert request.headers["authorization"].startswith("Basic ")
    fields = parts_of(request)
    assert [content for _, content in fields[:2]] == [b'a "test"', b"1"]
    assert len(fields) == 4


@pytest.mark.parametrize("weights", [{}, {"none": np.zeros((0, 3), "f4")}], ids=["no weights", "no bytes"])
def test_a_model_without_weights(server: FaultServer, weights: dict[str, Any]) -> None:
    """As TensorFlow.js sends it: a file without bytes, which the manifest names."""
    wl.save_model(replace(artifacts(), weights=weights), server.url("/upload"), **OPTIONS)
    (_, document), (_, data) = parts_of(server.requests[0])
    sent = json.loads(document)
    assert sent["modelTopology"]["class_name"] == "Sequential" and data == b""
    assert [group["paths"] for group in sent["weightsManifest"]] == [["./model.weights.bin"]]


def test_numbers_are_written_as_in_javascript() -> None:
    numbers = [1e-7, 1.5e-7, 1e-6, 0.00001, 1.25e-5, 0.1, 1.0, -0.0, 100.0, 1e16, 123456789012345680000.0, 1e21, 1e300]
    text = json.dumps({"a": numbers, "b": '1e-07 " 1.0 \\', "c": [1, -5]}, separators=(",", ":"))
    written = as_javascript(text.encode()).decode()
    plain = "1e-7,1.5e-7,0.000001,0.00001,0.0000125,0.1,1,0,100,10000000000000000,123456789012345680000,1e+21,1e+300"
    assert written == f'{{"a":[{plain}],' + r'"b":"1e-07 \" 1.0 \\","c":[1,-5]}'


@pytest.mark.parametrize("name", BROKEN)
def test_broken_model_uploads(server: FaultServer, name: str) -> None:
    server.fault = BROKEN[name]
    big = replace(artifacts(), weights={"w": np.zeros(2_000_000, "f4")})
    with pytest.raises(wl.TransportError) as caught:
        wl.save_model(big, server.url("/upload"), **{**OPTIONS, "attempts": 2, "timeout": 1.0})
    assert caught.value.url == server.url("/upload")


def captured(name: str) -> Request:
    """A request of real TensorFlow.js, as it was recorded."""
    raw = (shared_fixtures("tfjs") / "captures" / name).read_bytes()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    method, target, _ = first.split(" ")
    return Request(0, 0, method, target, {n.lower(): v for n, v in headers.items()}, body)


@pytest.mark.parametrize("name", ["node_post.raw", "chromium_post.raw", "node_put_optimizer.raw"])
def test_the_same_bytes_as_tensorflow_js(server: FaultServer, tmp_path: Path, name: str) -> None:
    """Its recorded upload, loaded as a model and uploaded by us, is the same body but for boundary and checksums."""
    theirs = captured(name)
    for head, content in parts_of(theirs):
        file = head["content-disposition"].rpartition('filename="')[2].rstrip('"')
        (tmp_path / file).write_bytes(content)
    model = wl.load_model(tmp_path / "model.json")
    wl.save_model(model, server.url(theirs.target), method=theirs.method, checksums=False)
    ours = server.requests[0]
    assert (ours.method, ours.target) == (theirs.method, theirs.target)
    assert ours.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert without_boundary(ours) == without_boundary(theirs).rstrip(b"\r\n") + b"\r\n"


# --- memory -------------------------------------------------------------------------------------------
MEASURED = """
import resource, sys, numpy as np, weightlift as wl
url, what = sys.argv[1], sys.argv[2]
tensors = {f"w{i}": np.full(8 << 20, i, np.float32) for i in range(8)}  # 256 MiB
wl.save({"warm": np.ones(3)}, url + ".warm.npz")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if what == "put":
    wl.save(tensors, url + ".safetensors")
else:
    wl.save_model(wl.ModelArtifacts(weights=tensors, format="layers-model"), wl.http(url, method="PUT"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("what", ["put", "form"])
def test_uploads_are_streamed(nginx: Nginx, what: str) -> None:
    """Peak memory is that of the model and 64 MiB at most."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    url = nginx.url(f"dav/streamed/{what}")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, url, what], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 64 << 10, f"{int(done.stdout) / 1024:.0f} MiB beyond the model"
    arrived = nginx.uploads / "streamed" / (f"{what}.safetensors" if what == "put" else what)
    assert arrived.stat().st_size >= 256 * MIB
    arrived.unlink()
