"""The real servers are set up as the tests believe: seen by curl."""

from __future__ import annotations

import subprocess

import pytest
from tests.http.servers import TOKEN, USER, Nginx, Proxy, program


def curl(*arguments: str) -> tuple[int, bytes]:
    """(status, body); status 0 when curl failed."""
    command = [program("curl"), "-q", "-s", "-m", "10", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    body, _, status = done.stdout.rpartition(b"\n")
    return (0 if done.returncode else int(status)), body


@pytest.fixture
def text(nginx: Nginx) -> bytes:
    data = b"0123456789" * 100
    (nginx.files / "text").write_bytes(data)
    return data


def test_paths(nginx: Nginx, text: bytes) -> None:
    assert curl(nginx.url("plain/text")) == (200, text)
    assert curl("-r", "5-9", nginx.url("plain/text")) == (206, b"56789")
    assert curl("-r", "5-9", nginx.url("noranges/text")) == (200, text)
    assert curl("-r", "5-9", nginx.url("slow/text")) == (206, b"56789")
    assert curl(nginx.url("basic/text"))[0] == 401
    assert curl("-u", ":".join(USER), nginx.url("basic/text")) == (200, text)
    assert curl(nginx.url("bearer/text"))[0] == 401
    assert curl("-H", f"Authorization: Bearer {TOKEN}", nginx.url("bearer/text")) == (200, text)
    assert curl(nginx.url("moved/text"))[0] == 302
    assert curl("-L", nginx.url("moved/text")) == (200, text)
    assert len(curl("-H", "Accept-Encoding: gzip", nginx.url("gzip/text"))[1]) < 100


def test_uploads(nginx: Nginx) -> None:
    assert curl("-X", "PUT", "--data-binary", "abc", nginx.url("dav/folder/x%20y"))[0] == 201
    assert (nginx.uploads / "folder" / "x y").read_bytes() == b"abc"
    assert curl(nginx.url("dav/folder/x%20y")) == (200, b"abc")
    assert curl("-X", "DELETE", nginx.url("dav/folder/x%20y"))[0] == 204
    assert not (nginx.uploads / "folder" / "x y").exists()


def test_tls(nginx: Nginx, text: bytes) -> None:
    certificates = nginx.certificates
    assert certificates is not None
    trust = ("--cacert", str(certificates.ca))
    assert curl(*trust, nginx.url("plain/text", "tls")) == (200, text)
    assert curl(*trust, nginx.url("plain/text", "h2")) == (200, text)
    for kind in ("expired", "wrong_host"):
        assert curl(*trust, nginx.url("plain/text", kind))[0] == 0
    assert curl("--cacert", str(certificates.other_ca), nginx.url("plain/text", "tls"))[0] == 0
    assert curl(*trust, nginx.url("plain/text", "client_cert"))[0] == 400
    chain, key = map(str, certificates.client)
    assert curl(*trust, "--cert", chain, "--key", key, nginx.url("plain/text", "client_cert")) == (200, text)


def test_log(nginx: Nginx, text: bytes) -> None:
    certificates = nginx.certificates
    assert certificates is not None
    nginx.forget()
    curl("-r", "5-9", nginx.url("plain/text"))
    curl("--cacert", str(certificates.ca), nginx.url("plain/text", "h2"))
    plain, h2 = nginx.requests()
    assert (plain["status"], plain["range"], plain["bytes"], plain["protocol"]) == ("206", "bytes=5-9", "5", "HTTP/1.1")
    assert h2["protocol"] == "HTTP/2.0" and h2["tls"].startswith("TLS")


def test_proxy(nginx: Nginx, proxy: Proxy, private_proxy: Proxy, text: bytes) -> None:
    assert curl("-x", proxy.url, nginx.url("plain/text")) == (200, text)
    assert f"127.0.0.1:{nginx.ports['plain']}" in proxy.log() or "GET" in proxy.log()
    certificates = nginx.certificates
    assert certificates is not None
    assert curl("-x", proxy.url, "--cacert", str(certificates.ca), nginx.url("plain/text", "tls")) == (200, text)
    assert curl("-x", f"http://127.0.0.1:{private_proxy.port}", nginx.url("plain/text"))[0] == 407
    assert curl("-x", private_proxy.url, nginx.url("plain/text")) == (200, text)
