"""Who may do what: tokens, read-only servers, other sites' pages, names of the server, rates; and its life."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.server.support import HIDDEN, Server, names_in

Make = Callable[..., Path]
Serve = Callable[..., Server]

TOKEN = "correct-horse"
BEARER = ("-H", f"Authorization: Bearer {TOKEN}")


# ---- tokens --------------------------------------------------------------------------------------------------
def test_writes_need_the_token(serve: Serve, make_model: Make) -> None:
    server = serve("--rate", "0", WEIGHTLIFT_TOKEN=TOKEN)
    sent = make_model()
    refused = server.upload("m", sent)
    assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert names_in(server.root) == [HIDDEN]
    for wrong in ("x", TOKEN[:-1], TOKEN + "x", "", "ä"):
        assert server.upload("m", sent, "-H", f"Authorization: Bearer {wrong}").status == 401
    assert server.upload("m", sent, "-H", f"Authorization: Basic {TOKEN}").status == 401
    assert server.upload("m", sent, *BEARER).status == 201
    assert server.curl("/models/m/model.json").status == 200
    assert server.curl("/models/m/model.json", "-H", "Authorization: Bearer x").status == 401
    assert server.curl("/models/m", "-X", "DELETE").status == 401
    assert server.curl("/api/models/m/rename", "-d", '{"to": "n"}').status == 401
    assert server.curl("/api/models/m/copy", "-d", '{"to": "n"}').status == 401
    assert server.curl("/api/models/m/verify", "-X", "POST").status == 200  # changes nothing
    assert server.curl("/files/x.npy", "-X", "PUT", "--data-binary", "x").status == 401
    assert server.curl("/models/m", "-X", "DELETE", *BEARER).status == 204


def test_reads_can_need_it_too(serve: Serve, make_model: Make) -> None:
    server = serve("--private", "--token", TOKEN, "--rate", "0")
    server.upload("m", make_model(), *BEARER)
    for path in ("/models/m/model.json", "/models/m/weights.bin", "/api/models", "/api/server", "/api/models/m"):
        assert server.curl(path).status == 401
        assert server.curl(path, *BEARER).status == 200
    assert server.curl("/api/models/m/verify", "-X", "POST").status == 401


def test_a_read_only_server_writes_nothing(serve: Serve, make_model: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_model(1).rename(tmp_path / "m")
    root.mkdir()
    (tmp_path / "m").rename(root / "m")
    server = serve("--read-only", "--rate", "0")
    assert server.upload("x", make_model()).status == 403
    assert server.curl("/models/m", "-X", "DELETE").status == 403
    assert server.curl("/api/models/m/rename", "-d", '{"to": "n"}').status == 403
    assert server.json("/api/models/m/verify", "-X", "POST")["ok"]
    assert names_in(root) == ["m"]


# ---- other sites -------------------------------------------------------------------------------------------
def test_pages_of_other_sites_may_not_write(server: Server, make_model: Make) -> None:
    sent = make_model()
    for headers in (
        ["Origin: http://evil.example"],
        ["Origin: null"],
        ["Sec-Fetch-Site: cross-site"],
        ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"],
        ["Origin: http://localhost:1"],
    ):
        assert server.upload("m", sent, *(x for h in headers for x in ("-H", h))).status == 403
    assert names_in(server.root) == [HIDDEN]
    assert server.upload("m", sent, "-H", f"Origin: {server.url}").status == 201
    assert server.curl("/api/models/m/verify", "-X", "POST", "-H", "Origin: http://evil.example").status == 403
    answer = server.curl("/models/m/model.json", "-H", "Origin: http://evil.example")
    assert answer.status == 200 and "access-control-allow-origin" not in answer.headers


def test_pages_of_other_sites_may_write_with_the_token(serve: Serve, make_model: Make) -> None:
    server = serve("--token", TOKEN)
    assert server.upload("m", make_model(), "-H", "Origin: http://other.example", *BEARER).status == 201


def test_cors(serve: Serve, make_model: Make) -> None:
    server = serve("--cors", "https://app.example", "--rate", "0")
    allowed, other = ("-H", "Origin: https://app.example"), ("-H", "Origin: https://evil.example")
    ask = ("-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT")
    preflight = server.curl("/models/m", *ask, *allowed)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    assert "Origin" in preflight.headers["vary"]
    refused = server.curl("/models/m", *ask, *other)
    assert refused.status == 403 and "access-control-allow-origin" not in refused.headers
    assert server.upload("m", make_model(), *allowed).status == 201
    assert server.upload("m", make_model(), *other).status == 403
    answer = server.curl("/models/m/model.json", *allowed)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "ETag" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in server.curl("/models/m/model.json", *other).headers


def test_cors_for_everybody_is_for_reading(serve: Serve, make_model: Make) -> None:
    server = serve("--cors", "*", "--rate", "0")
    server.upload("m", make_model())
    answer = server.curl("/models/m/weights.bin", "-H", "Origin: https://any.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert server.upload("m", make_model(), "-H", "Origin: https://any.example").status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:99", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("app.localhost", 200),
        ("192.168.1.7:80", 200), ("models.example", 200), ("MODELS.example:443", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("", 421), ("models.example.", 421), ("a b", 421),
        ("localhost@evil.example", 421), ("127.0.0.1.evil.example", 421),
    ],
)  # fmt: skip
def test_the_name_it_is_called_by(named: Server, host: str, status: int) -> None:
    """A page of evil.example whose name points to this machine gets nothing."""
    assert named.curl("/api/models", "-H", f"Host: {host}" if host else "Host;").status == status


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Server:
    server = Server(tmp_path_factory.mktemp("named"), ("--allow-host", "models.example", "--rate", "0")).start()
    yield server
    server.stop()


# ---- rates ---------------------------------------------------------------------------------------------------
def test_a_client_that_asks_too_often(serve: Serve) -> None:
    server = serve("--rate", "0.01")
    assert server.curl("/api/server").status == 200
    refused = server.curl("/api/server")
    assert refused.status == 429 and int(refused.headers["retry-after"]) > 10


def test_tokens_cannot_be_guessed_fast(serve: Serve) -> None:
    server = serve("--token", TOKEN, "--rate", "2")  # ten at once
    connection, statuses = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60), []
    for _ in range(2):  # over one connection: the second comes before there is enough for it again
        connection.request("GET", "/api/models", headers={"Authorization": "Bearer guess"})
        with connection.getresponse() as answer:
            statuses.append(answer.status)
            answer.read()
    connection.close()
    assert statuses == [401, 429]


# ---- life ----------------------------------------------------------------------------------------------------
def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "WEIGHTLIFT_TOKEN"}
    command = [sys.executable, "-m", "weightlift", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_it_listens_to_this_machine_only(server: Server) -> None:
    assert server.process is not None
    listening = [c for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]


def test_it_does_not_listen_to_strangers_without_a_token(tmp_path: Path) -> None:
    for options in ((), ("--read-only",)):
        done = run(str(tmp_path), "--host", "0.0.0.0", *options)
        assert done.returncode == 2 and "--insecure" in done.stderr
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("options", [("--token", TOKEN), ("--insecure",)])
def test_it_listens_to_strangers_when_told(serve: Serve, options: tuple[str, ...]) -> None:
    server = serve("--host", "0.0.0.0", *options)
    server.url = f"http://127.0.0.1:{server.port}"
    assert server.curl("/api/models").status == 200


@pytest.mark.parametrize(
    "options",
    [("--private",), ("--token", ""), ("--token", "a b"), ("--cors", "example.org"), ("--cors", "http://x/y"),
     ("--port", "70000"), ("--max-upload", "lots")],
)  # fmt: skip
def test_options_that_make_no_sense(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(str(tmp_path), *options)
    assert done.returncode == 2 and "Error" in done.stderr


def test_a_connection_that_sends_no_whole_request_is_closed(serve: Serve) -> None:
    server = serve("--timeout", "1", "--rate", "0")
    for begun in (
        b"",
        b"GET /api/models HTTP/1.1\r\nHost: loc",
    ):
        with server.connect() as connection:
            connection.sendall(begun)
            assert connection.recv(65536) == b""
    assert server.json("/api/models") == {"models": []}


def test_an_answer_that_nobody_reads_is_given_up(serve: Serve) -> None:
    """Though the connection is alive: it holds a file, and one of the places for connections."""
    server = serve("--timeout", "1", "--rate", "0")
    with (server.root / "x.bin").open("wb") as file:
        file.truncate(256 << 20)
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    with server.connect() as connection:
        connection.sendall(b"GET /files/x.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1)
        server.wait_until(lambda: not [f for f in process.open_files() if f.path.endswith("x.bin")])
        server.wait_until(lambda: not [c for c in process.net_connections() if c.status == "ESTABLISHED"])
        got = 1
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 20):
                got += len(data)
    assert got < 256 << 20


def test_a_small_body_that_does_not_come_is_not_waited_for(serve: Serve, make_model: Make) -> None:
    server = serve("--timeout", "1")
    server.upload("m", make_model())
    with server.connect() as connection:
        connection.sendall(b"POST /api/models/m/rename HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
    assert names_in(server.root) == [HIDDEN, "m"]


def test_what_is_no_directory(tmp_path: Path) -> None:
    assert run(str(tmp_path / "none")).returncode == 2


def test_a_port_that_is_taken(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    done = run(str(other), "--port", str(server.port))
    assert done.returncode == 2 and "cannot listen" in done.stderr


def test_one_writer_a_directory(server: Server, serve: Serve) -> None:
    done = run(str(server.root), "--port", "0")
    assert done.returncode == 2 and "another server" in done.stderr
    assert serve("--read-only", root=server.root).json("/api/models") == {"models": []}
    server.stop()
    assert serve(root=server.root).json("/api/models") == {"models": []}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly(server: Server, number: int) -> None:
    server.json("/api/models")
    assert server.stop(number) == (0, "Stopped.\n")


def test_it_says_what_rights_there_are(serve: Serve) -> None:
    for options, words in (
        ((), "anybody here may write"),
        (("--read-only",), "read-only"),
        (("--token", TOKEN), "token"),
    ):
        server = serve(*options)
        assert words in server.line and TOKEN not in server.line
        server.stop()


def test_https(serve: Serve, tmp_path: Path, make_model: Make) -> None:
    pem = tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"),
         "-out", str(pem)],
        check=True, capture_output=True,
    )  # fmt: skip
    server = serve("--tls-cert", str(pem), "--tls-key", str(tmp_path / "key.pem"))
    assert server.url.startswith("https://")
    assert server.upload("m", make_model(), "--cacert", str(pem)).status == 201
    assert server.curl("/models/m/model.json", "--cacert", str(pem)).status == 200
