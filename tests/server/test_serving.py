"""Files as answers: ranges, conditions, HEAD, compression, and nothing that is not to be served."""

from __future__ import annotations

import email
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.server.support import Answer, Server, model_artifacts

import weightlift as wl

Make = Callable[..., Path]
Serve = Callable[..., Server]

DATA = np.random.default_rng(0).bytes(5000)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server of one model and one large file; nothing in this module changes them."""
    root = tmp_path_factory.mktemp("served")
    wl.save_model(model_artifacts(1, 100, 50, 9, 8, 7), root / "m", checksums=True)
    (root / "m" / "weights.bin").with_name("extra.bin").write_bytes(DATA)
    wl.save({"w": np.arange(1 << 20, dtype="f4")}, root / "big.safetensors")
    server = Server(root, ("--rate", "0", "--read-only")).start()
    yield server
    server.stop()


# ---- ranges --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [
        ("0-0", 0, 1), ("0-", 0, 5000), ("10-19", 10, 20), ("4999-", 4999, 5000), ("-1", 4999, 5000),
        ("-5000", 0, 5000),
        ("-99999", 0, 5000), ("4990-99999", 4990, 5000), ("9000-9001,5-6", 5, 7), ("  1-2 ", 1, 3),
    ],
)  # fmt: skip
def test_one_range(files: Server, wanted: str, begin: int, end: int) -> None:
    answer = files.curl("/models/m/extra.bin", "-H", f"Range: bytes={wanted}")
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/5000"
    assert answer.headers["content-length"] == str(end - begin)
    assert answer.body == DATA[begin:end]


@pytest.mark.parametrize(
    "wanted",
    ["bytes=", "bytes=x-y", "bytes=5-3", "bytes=-", "lines=1-2", "bytes=0-4999,0-4999", "bytes=" + "1-1," * 100, "5-6",
     "bytes=1-2-3", "bytes=" + "9" * 30 + "-"],
)  # fmt: skip
def test_a_range_header_that_is_ignored(files: Server, wanted: str) -> None:
    answer = files.curl("/models/m/extra.bin", "-H", f"Range: {wanted}")
    assert (answer.status, answer.body) == (200, DATA)


@pytest.mark.parametrize("wanted", ["5000-", "99999-100000", "-0"])
def test_a_range_that_is_not_there(files: Server, wanted: str) -> None:
    answer = files.curl("/models/m/extra.bin", "-H", f"Range: bytes={wanted}")
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */5000" and answer.body == b""


def test_several_ranges(files: Server) -> None:
    wanted = [(0, 10), (4000, 4001), (2000, 3500)]
    header = ",".join(f"{a}-{b - 1}" for a, b in wanted)
    answer = files.curl("/models/m/extra.bin", "-H", f"Range: bytes={header}")
    assert answer.status == 206 and int(answer.headers["content-length"]) == len(answer.body)
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body)
    parts = message.get_payload()
    assert [p["Content-Range"] for p in parts] == [f"bytes {a}-{b - 1}/5000" for a, b in wanted]
    for (a, b), part in zip(wanted, parts, strict=True):
        assert DATA[a:b] in answer.body
        assert part["Content-Type"] == "application/octet-stream"


def test_curl_resumes_a_download(files: Server, tmp_path: Path) -> None:
    whole = (files.root / "big.safetensors").read_bytes()
    answer = files.curl("/files/big.safetensors", "-C", "1000000")
    assert answer.status == 206 and answer.body == whole[1_000_000:]


def test_ranges_hold_for_every_cut(files: Server) -> None:
    """A thousand random ranges, over one connection."""
    import http.client

    rng = np.random.default_rng(1)
    connection = http.client.HTTPConnection("127.0.0.1", files.port, timeout=30)
    for _ in range(1000):
        begin, end = sorted(rng.integers(0, 5001, 2).tolist())
        if begin == end:
            continue
        connection.request("GET", "/models/m/extra.bin", headers={"Range": f"bytes={begin}-{end - 1}"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, DATA[begin:end])
    connection.close()


# ---- conditions ----------------------------------------------------------------------------------------------
def test_conditional_requests(files: Server) -> None:
    path = "/models/m/extra.bin"
    first = files.curl(path)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    assert tag.startswith('"') and first.headers["accept-ranges"] == "bytes"

    def status(*headers: str) -> int:
        return files.curl(path, *(x for h in headers for x in ("-H", h))).status

    assert status(f"If-None-Match: {tag}") == 304
    assert status(f"If-None-Match: W/{tag}") == 304
    assert status(f'If-None-Match: "a", {tag}') == 304
    assert status("If-None-Match: *") == 304
    assert status('If-None-Match: "a"') == 200
    assert status('If-None-Match: "a"', f"If-Modified-Since: {date}") == 200
    assert status(f"If-Modified-Since: {date}") == 304
    assert status("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT") == 200
    assert status("If-Modified-Since: nonsense") == 200
    assert status(f"If-Match: {tag}") == 200
    assert status('If-Match: "a"') == 412
    assert status(f"If-Match: W/{tag}") == 412
    assert status("If-Match: *") == 200
    assert status("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT") == 412
    assert status(f"If-Unmodified-Since: {date}") == 200
    assert status("Range: bytes=0-1", f"If-Range: {tag}") == 206
    assert status("Range: bytes=0-1", 'If-Range: "a"') == 200
    assert status("Range: bytes=0-1", f"If-Range: W/{tag}") == 200
    assert status("Range: bytes=0-1", f"If-Range: {date}") == 206
    assert status("Range: bytes=0-1", "If-Range: Sun, 06 Nov 1994 08:49:37 GMT") == 200
    assert status("Range: bytes=0-1", f"If-Match: {tag}") == 206
    unchanged = files.curl(path, "-H", f"If-None-Match: {tag}")
    assert unchanged.body == b"" and unchanged.headers["etag"] == tag


def test_a_replaced_file_has_another_tag(server: Server, make_model: Make) -> None:
    server.upload("m", make_model(1))
    tags = [server.curl(f"/models/m/{n}").headers["etag"] for n in ("model.json", "weights.bin")]
    server.upload("m", make_model(1))  # the same bytes; still another file
    assert server.curl("/models/m/weights.bin", "-H", f"If-Match: {tags[1]}").status == 412
    assert server.curl("/models/m/model.json", "-H", f"If-None-Match: {tags[0]}").status == 200


def test_head(files: Server) -> None:
    for path in ("/models/m/model.json", "/models/m/extra.bin", "/files/big.safetensors"):
        get, head = files.curl(path), files.curl(path, "--head")
        assert head.status == 200 and head.body == b""
        for name in ("content-length", "content-type", "etag", "last-modified", "accept-ranges"):
            assert head.headers[name] == get.headers[name]
        part = files.curl(path, "--head", "-H", "Range: bytes=0-9")
        assert part.status == 206 and part.headers["content-length"] == "10" and part.body == b""
    assert files.curl("/models/none/model.json", "--head").status == 404


# ---- what a file is served as ------------------------------------------------------------------------------
def test_types_and_safety_headers(files: Server) -> None:
    kinds = {"/models/m/model.json": "application/json", "/models/m/extra.bin": "application/octet-stream"}
    for path, kind in kinds.items():
        headers = files.curl(path).headers
        assert headers["content-type"] == kind
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers


def test_json_is_compressed_when_asked(files: Server) -> None:
    path = "/models/m/model.json"
    plain, zipped = files.curl(path), files.curl(path, "-H", "Accept-Encoding: br, gzip;q=0.5")
    assert "content-encoding" not in plain.headers and zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body == (files.root / "m/model.json").read_bytes()
    assert zipped.headers["etag"] != plain.headers["etag"]
    for answer in (plain, zipped):
        assert "accept-encoding" in answer.headers["vary"].lower()
        again = files.curl(path, "-H", "Accept-Encoding: gzip", "-H", f"If-None-Match: {answer.headers['etag']}")
        assert again.status == 304
    part = files.curl(path, "-H", "Accept-Encoding: gzip", "-H", "Range: bytes=0-9")
    assert part.body == plain.body[:10] and "content-encoding" not in part.headers
    refused = files.curl(path, "-H", "Accept-Encoding: gzip;q=0, identity")
    assert "content-encoding" not in refused.headers
    weights = files.curl("/models/m/weights.bin", "-H", "Accept-Encoding: gzip")
    assert "content-encoding" not in weights.headers


# ---- what is not served --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server beside secrets."""
    place = tmp_path_factory.mktemp("traps")
    root = place / "root"
    wl.save_model(model_artifacts(), root / "m")
    (place / "secret.bin").write_bytes(b"SECRET")
    (place / "secret").mkdir()
    wl.save_model(model_artifacts(), place / "secret" / "m")
    (place / "secret" / "m" / "w.bin").write_bytes(b"SECRET")
    (root / "notes.txt").write_text("SECRET")
    (root / ".hidden.bin").write_text("SECRET")
    (root / ".git").mkdir()
    (root / ".git" / "x.bin").write_text("SECRET")
    (root / "link.bin").symlink_to(place / "secret.bin")
    (root / "m" / "link.bin").symlink_to(place / "secret.bin")
    (root / "linked").symlink_to(place / "secret" / "m")
    (root / "linkdir").symlink_to(place / "secret")
    (root / "inside.bin").symlink_to(root / "m" / "weights.bin")
    os.mkfifo(root / "pipe.bin")
    server = Server(root, ("--rate", "0", "--read-only")).start()
    yield server
    server.stop()


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.bin", "/files/%2e%2e/secret.bin", "/files/..%2fsecret.bin", "/models/m/../../secret.bin",
        "/models/m/..%2f..%2fsecret.bin", "/files/a/%2e%2e/%2e%2e/secret.bin", "/files//etc/passwd",
        "/files/%2fetc/passwd",
        "/files/..%5csecret.bin", "/files/secret.bin%00.bin", "/models/../secret.bin", "/models/%2e%2e/secret.bin",
        "/files/notes.txt", "/files/.hidden.bin", "/files/.git/x.bin", "/files/.weightlift-server/lock",
        "/files/link.bin", "/models/m/link.bin", "/models/linked/model.json", "/models/linked/w.bin",
        "/files/linked/w.bin", "/files/linkdir/m/w.bin", "/files/pipe.bin", "/files/m", "/files/m/", "/files/",
        "/models/m/", "/models/", "/models/m", "/page/../secret.bin", "/page/%2e%2e/_app.py", "/page/_app.py", "/page/",
        "/api/file?path=../secret.bin", "/api/file?path=link.bin", "/api/models/linked", "/api/models/..",
        "//etc/passwd", "/secret.bin",
    ],
)  # fmt: skip
def test_nothing_else_is_served(traps: Server, path: str) -> None:
    for answer in (traps.curl(path), traps.curl(path, "-X", "HEAD", "--head")):
        assert answer.status in (400, 403, 404), answer
        assert b"SECRET" not in answer.body and b"root:" not in answer.body
        assert str(traps.root.parent).encode() not in answer.body


def test_links_inside_the_directory_are_followed(traps: Server) -> None:
    assert traps.curl("/files/inside.bin").body == (traps.root / "m/weights.bin").read_bytes()


def test_what_leads_out_is_not_listed(traps: Server) -> None:
    assert [m["name"] for m in traps.json("/api/models")["models"]] == ["m"]
    assert traps.json("/api/files") == {"files": []}


@pytest.mark.parametrize("method", ["TRACE", "PATCH", "PROPFIND", "BREW"])
def test_methods_that_are_not_offered(traps: Server, method: str) -> None:
    answer: Answer = traps.curl("/models/m/model.json", "-X", method)
    assert answer.status in (403, 405)
    assert "error" in json.loads(answer.body)


def test_a_file_that_shrinks_while_it_is_sent_ends_short(serve: Serve) -> None:
    """The client must see that something is missing: fewer bytes than were announced, not other bytes."""
    server = serve("--rate", "0")
    big = server.root / "x.bin"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    with server.connect() as connection:
        connection.sendall(b"GET /files/x.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = len(connection.recv(1 << 16))
        os.truncate(big, 1 << 20)
        while data := connection.recv(1 << 20):
            got += len(data)
    assert got < 64 << 20
    assert server.curl("/files/x.bin").status == 200
