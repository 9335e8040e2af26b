"""Uploads: what TensorFlow.js sends is stored whole or not at all, whatever arrives."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server.support import HIDDEN, Server, model_artifacts, names_in, same_weights

import weightlift as wl

Make = Callable[..., Path]
Serve = Callable[..., Server]

BOUNDARY = "----formdata-weightlift-test"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """A multipart body of (field name, file name, content)."""
    body = b""
    for name, filename, data in parts:
        where = f'; filename="{filename}"' if filename is not None else ""
        body += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{where}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return body + f"--{BOUNDARY}--\r\n".encode()


def send(server: Server, name: str, body: bytes, *arguments: str, method: str = "POST") -> Any:
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    return server.curl(
        f"/models/{name}", "-X", method, "-H", kind, "-H", "Expect:", "--data-binary", "@-", *arguments, data=body
    )


def manifest(*groups: tuple[list[str], list[dict[str, Any]]]) -> bytes:
    return json.dumps(
        {"modelTopology": {}, "weightsManifest": [{"paths": p, "weights": w} for p, w in groups]}
    ).encode()


FOUR = {"name": "w", "shape": [4], "dtype": "float32"}


# ---- what is right -------------------------------------------------------------------------------------------
def test_an_upload_is_stored_as_a_model(server: Server, make_model: Make) -> None:
    sent = make_model(1)
    answer = server.upload("my%20model", sent)
    assert answer.status == 201, answer
    assert answer.headers["location"] == "/models/my%20model/model.json"
    stored = server.root / "my model"
    assert answer.json["bytes"] == sum(f.stat().st_size for f in stored.iterdir())
    assert answer.json["tensors"] == 4
    loaded = wl.load_model(stored)
    assert same_weights(loaded.weights, wl.load_model(sent).weights)
    assert loaded.model_topology == wl.load_model(sent).model_topology
    assert (stored / "weights.bin").read_bytes() == (sent / "weights.bin").read_bytes()
    assert server.left_over() == []


def test_what_has_no_checksums_gets_them(serve: Serve, make_model: Make) -> None:
    server = serve("--rate", "0")
    sent = make_model(1)
    server.upload("m", sent)
    assert not wl.verify(server.root / "m").unchecked
    before, after = (json.loads((f / "model.json").read_text()) for f in (sent, server.root / "m"))
    del after["weightlift"]
    assert before == after
    server.stop()
    server = serve("--no-checksums")
    server.upload("n", sent)
    assert (server.root / "n" / "model.json").read_bytes() == (sent / "model.json").read_bytes()


def test_put_and_post_replace_a_model(server: Server, make_model: Make) -> None:
    first = server.upload("m", make_model(1))
    second = server.upload("m", make_model(2, 16, 2), method="PUT")
    assert (first.status, second.status) == (201, 200)
    assert first.headers["etag"] != second.headers["etag"]
    assert same_weights(wl.load_model(server.root / "m").weights, model_artifacts(2, 16, 2).weights)
    assert sorted(p.name for p in (server.root / "m").iterdir()) == ["model.json", "weights.bin"]
    assert server.left_over() == []


def test_shards_in_any_order_before_the_json(server: Server, make_model: Make) -> None:
    sent = make_model(3, 64, 32, shard_size=1000)
    shards = sorted((f for f in sent.iterdir() if f.suffix == ".bin"), reverse=True)
    assert len(shards) > 3
    parts = [(f.name, f.name, f.read_bytes()) for f in shards]
    body = form(*parts, ("note", None, b"ignored"), ("model.json", "model.json", (sent / "model.json").read_bytes()))
    assert send(server, "m", body).status == 201
    assert same_weights(wl.load_model(server.root / "m").weights, model_artifacts(3, 64, 32).weights)


def test_parts_are_matched_by_file_name_field_name_or_base_name(server: Server) -> None:
    document = manifest((["./a.bin", "sub/b.bin", "c"], [{"name": "w", "shape": [3], "dtype": "float32"}]))
    body = form(("x", "model.json", document), ("y", "a.bin", b"aaaa"), ("b", "b.bin", b"bbbb"), ("c", "blob", b"cccc"))
    assert send(server, "m", body).status == 201
    assert (server.root / "m" / "sub" / "b.bin").read_bytes() == b"bbbb"
    assert server.curl("/models/m/sub/b.bin").body == b"bbbb"
    assert server.curl("/models/m/c").body == b"cccc"  # no known ending, but it is of the model


def test_a_model_without_weights(server: Server) -> None:
    body = form(
        ("model.json", "model.json", b'{"modelTopology":{},"weightsManifest":[{"paths":["./model.weights.bin"]}]}')
    )
    assert send(server, "m", body).status == 201
    assert names_in(server.root / "m") == ["model.json"]


def test_a_model_with_checksums_is_verified(server: Server, make_model: Make) -> None:
    sent = make_model(1, checksums=True)
    assert server.upload("m", sent).status == 201
    data = bytearray((sent / "weights.bin").read_bytes())
    data[5] ^= 1
    (sent / "weights.bin").write_bytes(data)
    answer = server.upload("n", sent)
    assert answer.status == 422 and "checksum" in answer.json["error"] and "dense_0/kernel" in answer.json["error"]
    assert not (server.root / "n").exists()


def test_a_large_upload_is_streamed(server: Server, tmp_path: Path) -> None:
    """The body never lies in memory: it is larger than the server's memory is allowed to grow."""
    import psutil

    folder = tmp_path / "big"
    weights = {"w": np.random.default_rng(0).random((40, 1 << 20), "f4")}
    wl.save_model(wl.ModelArtifacts({"class_name": "x"}, weights), folder, durable=False)
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    server.json("/api/models")
    before = process.memory_info().rss
    assert server.upload("big", folder).status == 201
    assert process.memory_full_info().uss - before < 64 << 20
    assert (server.root / "big/weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()


# ---- what is wrong -------------------------------------------------------------------------------------------
JSON = manifest((["w.bin"], [FOUR]))
GOOD = ("w.bin", "w.bin", b"\0" * 16)
HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (form(("model.json", "model.json", b"{nope"), GOOD), 422, "not valid JSON"),
    "a page": (form(("model.json", "model.json", b"<html>"), GOOD), 422, "HTML"),
    "a list": (form(("model.json", "model.json", b"[]"), GOOD), 422, "not a JSON object"),
    "duplicate keys": (form(("model.json", "model.json", b'{"modelTopology":1,"modelTopology":2}')), 422, "twice"),
    "deep": (form(("model.json", "model.json", b"[" * 5000 + b"]" * 5000)), 400, "nested"),
    "no model.json": (form(GOOD), 422, "no part model.json"),
    "two model.json": (form(("model.json", "model.json", JSON), ("model.json", "x.json", JSON)), 422, "two model.json"),
    "a byte short": (form(("model.json", "model.json", JSON), ("w.bin", "w.bin", b"\0" * 15)), 422, "16 bytes, but 15"),
    "a byte long": (form(("model.json", "model.json", JSON), ("w.bin", "w.bin", b"\0" * 17)), 422, "more than that"),
    "long, first": (form(("w.bin", "w.bin", b"\0" * 17), ("model.json", "model.json", JSON)), 422, "more than that"),
    "a shard missing": (form(("model.json", "model.json", JSON)), 422, "but 0 arrived"),
    "a file too many": (form(("model.json", "model.json", JSON), GOOD, ("x.bin", "x.bin", b"")), 400, "no weight file"),
    "a file twice": (form(("model.json", "model.json", JSON), GOOD, ("w.bin", "w.bin", b"")), 422, "twice"),
    "a part that leads out": (
        form(("model.json", "model.json", JSON), ("../w.bin", "../w.bin", b"")),
        400,
        "leads out",
    ),
    "an absolute part": (form(("model.json", "model.json", JSON), ("w", "/etc/passwd", b"")), 400, "leads out"),
    "a path that leads out": (form(("model.json", "model.json", manifest((["../w.bin"], [FOUR])))), 400, "leads out"),
    "an absolute path": (form(("model.json", "model.json", manifest((["/w.bin"], [FOUR])))), 400, "absolute"),
    "a URL": (form(("model.json", "model.json", manifest((["http://h/w.bin"], [FOUR])))), 400, "URL"),
    "a hidden path": (form(("model.json", "model.json", manifest(([".w.bin"], [FOUR])))), 400, "hidden"),
    "model.json as weights": (
        form(("model.json", "model.json", manifest((["model.json"], [FOUR])))),
        422,
        "model.json",
    ),
    "a path twice": (form(("model.json", "model.json", manifest((["w.bin", "w.bin"], [FOUR])))), 422, "twice"),
    "file and directory": (form(("model.json", "model.json", manifest((["w", "w/x"], [FOUR])))), 422, "directory"),
    "unknown dtype": (form(("model.json", "model.json", manifest((["w"], [{**FOUR, "dtype": "f9"}])))), 422, "'f9'"),
    "negative shape": (form(("model.json", "model.json", manifest((["w"], [{**FOUR, "shape": [-4]}])))), 422, "shape"),
    "huge claim": (
        form(("model.json", "model.json", manifest((["w.bin"], [{**FOUR, "shape": [2**62, 2**62]}]))), GOOD),
        422,
        "but 16",
    ),
    "two of one name": (
        form(("model.json", "model.json", manifest((["w.bin"], [{**FOUR, "shape": [2]}] * 2))), GOOD),
        422,
        "same name",
    ),
    "no parts": (f"--{BOUNDARY}--\r\n".encode(), 422, "no part model.json"),
    "cut off": (form(("model.json", "model.json", JSON), GOOD)[:-10], 400, "last boundary"),
    "no form": (b"hello", 400, "malformed"),
    "a long field": (form(("x", None, b"x" * 70_000)), 413, "65536"),
}


@pytest.fixture(scope="module")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("hostile")
    wl.save_model(model_artifacts(7), root / "m")
    server = Server(root, ("--rate", "0", "--max-upload", "1MiB")).start()
    yield server
    assert server.stop()[0] == 0


@pytest.mark.parametrize("what", HOSTILE)
def test_a_bad_upload_is_refused_and_leaves_nothing(hostile_server: Server, what: str) -> None:
    body, status, words = HOSTILE[what]
    server = hostile_server
    answer = send(server, "m", body)
    assert answer.status == status, answer
    assert words in answer.json["error"]
    assert str(server.root) not in answer.json["error"]
    assert names_in(server.root) == [HIDDEN, "m"]
    assert server.left_over() == []
    assert same_weights(wl.load_model(server.root / "m").weights, model_artifacts(7).weights)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 415),
        ("multipart/form-data", 415),
        ("multipart/form-data; boundary=" + "x" * 2000, 400),
        ("", 415),
    ],
)
def test_it_must_be_a_form(server: Server, kind: str, status: int) -> None:
    answer = server.curl("/models/m", "-X", "POST", "-H", f"Content-Type: {kind}", "--data-binary", "{}")
    assert answer.status == status, answer


@pytest.mark.parametrize("name", [".hidden", "..", "a%2Fb", "a%00b", "-x", "x.", "%20x", "a%5Cb", "x" * 121, "a%0Ab"])
def test_a_name_that_is_refused(server: Server, name: str, make_model: Make) -> None:
    answer = server.upload(name, make_model())
    assert answer.status in (400, 404, 405), answer
    assert names_in(server.root) == [HIDDEN]


def test_an_encoded_body_is_refused(server: Server, make_model: Make) -> None:
    assert server.upload("m", make_model(), "-H", "Content-Encoding: gzip").status == 415


# ---- limits --------------------------------------------------------------------------------------------------
def test_a_body_that_says_that_it_is_too_large(serve: Serve, make_model: Make) -> None:
    server = serve("--max-upload", "1000")
    answer = server.upload("m", make_model(0, 100))
    assert answer.status == 413 and "1000" in answer.json["error"]
    assert server.left_over() == []


def test_a_body_that_does_not_say_so(serve: Serve, make_model: Make) -> None:
    server = serve("--max-upload", "1MiB")
    answer = server.upload("m", make_model(0, 1000, 1000), "-H", "Transfer-Encoding: chunked", "-H", "Expect:")
    assert answer.status == 413
    server.wait_until_clean()
    assert not (server.root / "m").exists()


def test_quota(serve: Serve, make_model: Make) -> None:
    server = serve("--quota", "20k")
    assert server.upload("a", make_model(0, 100, 30)).status == 201
    answer = server.upload("b", make_model(0, 100, 30))
    assert answer.status == 507 and "no room" in answer.json["error"]
    assert server.curl("/api/models/a/copy", "-d", '{"to": "b"}').status == 507
    assert [m["name"] for m in server.json("/api/models")["models"]] == ["a"]


def test_too_much_is_refused_before_the_rest_arrives(server: Server) -> None:
    """The manifest wants 16 bytes and a gigabyte is announced: the answer comes after some megabytes."""
    with server.connect() as connection:
        connection.sendall(
            f"POST /models/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 30}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
        )
        # Little more than the server takes at a time: it has read all when it answers, and closes nothing unread.
        connection.sendall(form(("model.json", "model.json", JSON), ("w.bin", "w.bin", b"\0" * (1 << 20)))[:-50])
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 422") and b"connection: close" in answer.lower()
    server.wait_until_clean()


def test_a_silent_upload_is_given_up(serve: Serve) -> None:
    server = serve("--timeout", "1")
    with server.connect() as connection:
        connection.sendall(
            f"POST /models/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n--".encode()
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408")
    server.wait_until_clean()


def test_an_aborted_upload_leaves_nothing(server: Server) -> None:
    whole = form(
        ("model.json", "model.json", manifest((["w.bin"], [{**FOUR, "shape": [1 << 20]}]))),
        ("w.bin", "w.bin", bytes(4 << 20)),
    )
    head = (
        f"POST /models/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(whole)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()
    for cut in (0, 10, 300, 1 << 20, len(whole) - 1):
        with server.connect() as connection:
            connection.sendall(head + whole[:cut])
            if cut > 1 << 20:
                server.wait_for_uploads(2)  # it is really under way: its directory, and the part
        server.wait_until_clean()
    assert names_in(server.root) == [HIDDEN]
    assert server.json("/api/models") == {"models": []}


def test_uploads_at_one_time(serve: Serve, make_model: Make) -> None:
    server = serve("--max-uploads", "1")
    with server.connect() as connection:
        connection.sendall(
            f"POST /models/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n--".encode()
        )
        server.wait_for_uploads(1)
        answer = server.upload("m", make_model())
        assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
    server.wait_until_clean()
    assert server.upload("m", make_model()).status == 201


# ---- old or new, never a mix ---------------------------------------------------------------------------------
def test_uploads_of_one_name_at_the_same_time(server: Server, make_model: Make) -> None:
    """Readers who hold the directory see one of the uploads whole, at every moment and at the end."""
    folders = [make_model(seed, 32 + seed, 2) for seed in range(3)]
    wanted = {(f / "weights.bin").read_bytes() for f in folders}
    server.upload("m", folders[0])
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                place = os.open(server.root / "m", os.O_RDONLY)
            except FileNotFoundError:
                wrong.append("there is no model")
                return
            try:
                parts = []
                for name in ("model.json", "weights.bin"):
                    with open(os.open(name, os.O_RDONLY, dir_fd=place), "rb") as file:
                        parts.append(file.read())
            except FileNotFoundError:
                continue  # this one was just replaced and is being removed
            finally:
                os.close(place)
            record = json.loads(parts[0])["weightlift"]["crc32c"]["dense_0/kernel"]
            size = json.loads(parts[0])["weightsManifest"][0]["weights"][0]["shape"]
            if f"{wl.crc32c(parts[1][: 4 * size[0] * size[1]]):08x}" != record or parts[1] not in wanted:
                wrong.append("a mix")
            seen.add(parts[1])

    reader = threading.Thread(target=read)
    reader.start()
    statuses: list[int] = []

    def upload(folder: Path) -> None:
        statuses.extend(server.upload("m", folder).status for _ in range(8))

    writers = [threading.Thread(target=upload, args=(f,)) for f in folders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert statuses == [200] * 24
    assert wrong == [] and len(seen) > 1
    assert (server.root / "m/weights.bin").read_bytes() in wanted and wl.verify(server.root / "m").ok
    assert server.left_over() == []


def test_what_a_killed_server_left_is_removed(serve: Serve, make_model: Make, tmp_path: Path) -> None:
    server = serve()
    server.upload("m", make_model(1))
    with server.connect() as connection, server.connect() as second:
        connection.sendall(
            f"PUT /models/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n--".encode()
        )
        second.sendall(b"PUT /files/deep/x.npy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n--")
        server.wait_for_uploads(2)
        server.stop(signal.SIGKILL)
    assert len(server.left_over()) == 2
    old = server.root / HIDDEN / "old"  # as after a kill between the two renames, where there is no exchange
    old.mkdir()
    (server.root / "m").rename(old / "m")
    server = serve()
    assert server.left_over() == [] and not old.exists()
    assert same_weights(wl.load_model(server.root / "m").weights, model_artifacts(1).weights)


def test_if_match_and_if_none_match(server: Server, make_model: Make) -> None:
    first = server.upload("m", make_model(1), "-H", "If-None-Match: *")
    assert first.status == 201
    assert server.upload("m", make_model(2), "-H", "If-None-Match: *").status == 412
    assert server.upload("m", make_model(2), "-H", 'If-Match: "x"').status == 412
    second = server.upload("m", make_model(2), "-H", f"If-Match: {first.headers['etag']}")
    assert second.status == 200
    assert server.curl("/models/m", "-X", "DELETE", "-H", f"If-Match: {first.headers['etag']}").status == 412
    assert server.curl("/models/m", "-X", "DELETE", "-H", f"If-Match: {second.headers['etag']}").status == 204
    assert server.upload("m", make_model(2), "-H", "If-Match: *").status == 412


def test_a_directory_that_is_no_model_is_not_replaced(server: Server, make_model: Make) -> None:
    (server.root / "mine").mkdir()
    (server.root / "mine/notes.txt").write_text("keep")
    assert server.upload("mine", make_model()).status == 409
    assert (server.root / "mine/notes.txt").read_text() == "keep"
    assert server.left_over() == []
