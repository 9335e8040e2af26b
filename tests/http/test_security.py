"""Who gets to see a secret, and whom the client believes."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from tests.http import faults
from tests.http.fault_server import FaultServer
from tests.http.messages import Request
from tests.http.servers import TOKEN, USER, Certificates, Nginx, Proxy
from tests.http.support import FAST, assert_same, model, model_bytes

import weightlift as wl

PATH = "/m.safetensors"
TENSORS = model(300_000)
SECRETS: dict[str, dict[str, Any]] = {
    "password": {"auth": ("ada", "s3cret")},
    "token": {"auth": "s3cret"},
    "Authorization": {"headers": {"Authorization": "Custom s3cret"}},
    "cookie": {"headers": {"Cookie": "session=s3cret"}},
    "API key": {"headers": {"X-Api-Key": "s3cret"}},
    "another token": {"headers": {"X-Auth-Token": "s3cret"}},
}
BASIC = base64.b64encode(b"ada:s3cret").decode()


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return model_bytes(TENSORS, tmp_path)


def shows_secret(request: Request) -> bool:
    text = f"{request.target} {request.headers}"
    return "s3cret" in text or BASIC in text


# --- redirects --------------------------------------------------------------------------------------
@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_go_to_the_host_that_was_asked(server: FaultServer, data: bytes, secret: str) -> None:
    """On every request, and along redirects on the same host."""
    server.files["/there"] = data
    server.fault = faults.where(lambda r: r.path == PATH, faults.redirect("/there"))
    assert_same(wl.load(server.url(PATH), **FAST, **SECRETS[secret]), TENSORS)
    assert len(server.requests) > 2 and all(shows_secret(r) for r in server.requests)


@pytest.mark.parametrize("host", ["another name", "another port"])
@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_never_follow_to_another_host(
    server: FaultServer, other_server: FaultServer, data: bytes, secret: str, host: str
) -> None:
    """Another name for the same machine is another host, and so is another port."""
    other_server.files["/there"] = data
    server.files["/there"] = data
    target = server.url("/there", "localhost") if host == "another name" else other_server.url("/there")
    server.fault = faults.where(lambda r: r.path == PATH, faults.redirect(target, 307))
    assert_same(wl.load(server.url(PATH), **FAST, **SECRETS[secret]), TENSORS)
    there = [r for s in (server, other_server) for r in s.requests if r.path == "/there"]
    assert there and not any(shows_secret(r) for r in there)
    assert not any(name in r.headers for r in there for name in ("authorization", "cookie", "x-api-key"))


def test_secrets_in_the_url_never_follow_to_another_host(
    server: FaultServer, other_server: FaultServer, data: bytes
) -> None:
    other_server.files["/there"] = data
    server.fault = faults.redirect(other_server.url("/there"))
    url = server.url(PATH).replace("http://", "http://ada:s3cret@") + "?key=s3cret"
    assert_same(wl.load(url, **FAST), TENSORS)
    assert all(shows_secret(r) for r in server.requests)
    assert other_server.requests and not any(shows_secret(r) for r in other_server.requests)


def test_a_password_does_not_come_back_from_another_host(
    server: FaultServer, other_server: FaultServer, data: bytes
) -> None:
    """There and back again: the way may lead through the first host, and the last one gets nothing."""
    other_server.files["/end"] = data
    server.fault = faults.in_turn(
        faults.redirect(other_server.url("/back")), faults.redirect(other_server.url("/end")), then=faults.honest
    )
    other_server.fault = faults.where(lambda r: r.path == "/back", faults.redirect(server.url("/again")))
    assert_same(wl.load(server.url(PATH), **FAST, auth=("ada", "s3cret")), TENSORS)
    assert not any(shows_secret(r) for r in other_server.requests)


def test_other_headers_follow_everywhere(server: FaultServer, other_server: FaultServer, data: bytes) -> None:
    other_server.files["/there"] = data
    server.fault = faults.redirect(other_server.url("/there"))
    wl.load(server.url(PATH), **FAST, headers={"X-Purpose": "test", "User-Agent": "mine"})
    for request in (*server.requests, *other_server.requests):
        assert request.headers["x-purpose"] == "test" and request.headers["user-agent"] == "mine"


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "data:,x"])
def test_redirects_lead_to_http_only(server: FaultServer, target: str) -> None:
    server.fault = faults.redirect(target)
    with pytest.raises(wl.StorageError):
        wl.load(server.url(PATH), **FAST)


def test_a_redirect_from_https_to_http_is_noticed(nginx: Nginx, server: FaultServer, data: bytes) -> None:
    """Tokens do not go on in the clear."""
    assert nginx.certificates is not None
    (nginx.files / "down.safetensors").write_bytes(data)
    url = nginx.url("moved/down.safetensors", "tls")  # nginx redirects to the same scheme, host and port
    loaded = wl.load(url, **FAST, ca_file=nginx.certificates.ca, auth="s3cret")
    assert_same(loaded, TENSORS)


def test_errors_show_no_secret(server: FaultServer) -> None:
    url = server.url(PATH).replace("http://", "http://ada:s3cret@") + "?X-Signature=s3cret"
    for fault in (faults.status(404), faults.status(403), faults.status(500), faults.hang_up, faults.garbage_headers):
        server.fault = fault
        with pytest.raises(wl.StorageError) as caught:
            wl.load(url, **{**FAST, "attempts": 2})
        error = caught.value
        assert "s3cret" not in str(error) and "s3cret" not in repr(error) and "s3cret" not in str(error.url)


# --- passwords --------------------------------------------------------------------------------------
def test_passwords_and_tokens_with_nginx(nginx: Nginx, data: bytes) -> None:
    (nginx.files / "m.safetensors").write_bytes(data)
    assert_same(wl.load(nginx.url("basic/m.safetensors"), **FAST, auth=USER), TENSORS)
    assert_same(wl.load(nginx.url("bearer/m.safetensors"), **FAST, auth=TOKEN), TENSORS)
    for url, auth in ((nginx.url("basic/m.safetensors"), ("ada", "wrong")), (nginx.url("bearer/m.safetensors"), "no")):
        for given in ({}, {"auth": auth}):
            with pytest.raises(wl.AccessError, match="401") as caught:
                wl.load(url, **FAST, **given)
            assert caught.value.url == url


def test_netrc(server: FaultServer, data: bytes) -> None:
    """Only when asked for, only for its hosts; what the caller says comes first."""
    server.files[PATH] = data
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text("machine 127.0.0.1 login ada password s3cret\nmachine elsewhere login x password y\n")
    netrc.chmod(0o600)
    assert_same(wl.load(server.url(PATH), **FAST), TENSORS)
    assert not any("authorization" in r.headers for r in server.requests)
    server.forget()
    assert_same(wl.load(server.url(PATH), **FAST, netrc=True), TENSORS)
    assert {r.headers.get("authorization") for r in server.requests} == {f"Basic {BASIC}"}
    server.forget()
    assert_same(wl.load(server.url(PATH), **FAST, netrc=True, auth="token"), TENSORS)
    assert {r.headers.get("authorization") for r in server.requests} == {"Bearer token"}
    server.forget()
    assert_same(wl.load(server.url(PATH, "localhost"), **FAST, netrc=True), TENSORS)
    assert not any("authorization" in r.headers for r in server.requests)


def test_netrc_is_for_the_host_that_was_asked_for(server: FaultServer, other_server: FaultServer, data: bytes) -> None:
    """A redirect does not choose which of the user's passwords are sent where."""
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text("machine 127.0.0.1 login ada password s3cret\n")
    netrc.chmod(0o600)
    other_server.files[PATH] = data
    server.fault = faults.redirect(other_server.url(PATH))
    assert_same(wl.load(server.url(PATH), **FAST, netrc=True), TENSORS)
    assert all("authorization" in r.headers for r in server.requests)
    assert other_server.requests and not any("authorization" in r.headers for r in other_server.requests)


# --- TLS --------------------------------------------------------------------------------------------
@pytest.fixture
def tls(nginx: Nginx, data: bytes) -> Certificates:
    (nginx.files / "m.safetensors").write_bytes(data)
    assert nginx.certificates is not None
    return nginx.certificates


def secure(nginx: Nginx, kind: str, **options: Any) -> Any:
    return wl.load(nginx.url("plain/m.safetensors", kind), **{**FAST, **options})


def test_a_trusted_server(nginx: Nginx, tls: Certificates) -> None:
    nginx.forget()
    assert_same(secure(nginx, "tls", ca_file=tls.ca), TENSORS)
    assert all(r["tls"].startswith("TLSv1") for r in nginx.requests())


@pytest.mark.parametrize("kind", ["tls", "expired", "wrong_host"])
@pytest.mark.parametrize("authority", ["other", "system"])
def test_an_unknown_authority_is_refused(nginx: Nginx, tls: Certificates, kind: str, authority: str) -> None:
    options = {"ca_file": tls.other_ca} if authority == "other" else {}
    with pytest.raises(wl.TransportError, match=r"(?i)certificate|ssl|tls") as caught:
        secure(nginx, kind, **options)
    assert caught.value.url == nginx.url("plain/m.safetensors", kind)
    assert caught.value.attempts == 1, "another attempt would find the same certificate"


@pytest.mark.parametrize("kind", ["expired", "wrong_host"])
def test_a_bad_certificate_is_refused(nginx: Nginx, tls: Certificates, kind: str) -> None:
    with pytest.raises(wl.TransportError, match=r"(?i)certificate|ssl|tls"):
        secure(nginx, kind, ca_file=tls.ca)


@pytest.mark.parametrize("kind", ["tls", "expired", "wrong_host"])
def test_verification_is_left_out_by_name_only(nginx: Nginx, tls: Certificates, kind: str) -> None:
    assert_same(secure(nginx, kind, tls_verify=False), TENSORS)
    with pytest.raises(wl.TransportError):
        secure(nginx, kind, verify=False)  # that is about checksums


def test_a_client_certificate(nginx: Nginx, tls: Certificates, tmp_path: Path) -> None:
    assert_same(secure(nginx, "client_cert", ca_file=tls.ca, client_cert=tls.client), TENSORS)
    both = tmp_path / "both.pem"
    both.write_bytes(tls.client[0].read_bytes() + tls.client[1].read_bytes())
    assert_same(secure(nginx, "client_cert", ca_file=tls.ca, client_cert=both), TENSORS)
    with pytest.raises(wl.TransportError, match="400"):
        secure(nginx, "client_cert", ca_file=tls.ca)


def test_files_of_certificates_that_are_not_there(nginx: Nginx, tls: Certificates, tmp_path: Path) -> None:
    for options in ({"ca_file": tmp_path / "none.pem"}, {"ca_file": tls.ca, "client_cert": tmp_path / "none.pem"}):
        with pytest.raises((wl.StorageError, OSError, ValueError), match=r"none\.pem"):
            secure(nginx, "tls", **options)


@pytest.mark.parametrize("version", ["auto", "2", "1.1"])
def test_http_2(nginx: Nginx, tls: Certificates, version: str) -> None:
    nginx.forget()
    assert_same(secure(nginx, "h2", ca_file=tls.ca, http_version=version), TENSORS)
    asked = nginx.requests()
    if version == "2":
        assert {r["protocol"] for r in asked} == {"HTTP/2.0"}
    if version == "1.1":
        assert {r["protocol"] for r in asked} == {"HTTP/1.1"}
    assert wl.verify(nginx.url("plain/m.safetensors", "h2"), ca_file=tls.ca, **FAST).ok


# --- proxies ----------------------------------------------------------------------------------------
def test_a_proxy_by_name(server: FaultServer, proxy: Proxy, data: bytes) -> None:
    server.files[PATH] = data
    assert_same(wl.load(server.url(PATH), **FAST, proxy=proxy.url), TENSORS)
    assert server.requests and all("test-proxy" in r.headers.get("via", "") for r in server.requests)


@pytest.mark.parametrize("upper", [False, True])
def test_a_proxy_of_the_environment(
    server: FaultServer, proxy: Proxy, data: bytes, upper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY in capitals is not heeded for http:// URLs, as in curl: a CGI program could be given it by anyone."""
    server.files[PATH] = data
    monkeypatch.setenv("HTTP_PROXY" if upper else "http_proxy", proxy.url)
    assert_same(wl.load(server.url(PATH), **FAST), TENSORS)
    assert all(("via" in r.headers) != upper for r in server.requests)
    server.forget()
    assert_same(wl.load(server.url(PATH), **FAST, proxy=""), TENSORS)
    assert not any("via" in r.headers for r in server.requests)


@pytest.mark.parametrize("value", ["127.0.0.1", "*", "example.test,127.0.0.1"])
def test_no_proxy(server: FaultServer, proxy: Proxy, data: bytes, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files[PATH] = data
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", value)
    assert_same(wl.load(server.url(PATH), **FAST), TENSORS)
    assert not any("via" in r.headers for r in server.requests)


def test_tls_through_a_proxy(nginx: Nginx, tls: Certificates, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = proxy.log().count("CONNECT")
    monkeypatch.setenv("https_proxy", proxy.url)
    assert_same(secure(nginx, "tls", ca_file=tls.ca), TENSORS)
    assert proxy.log().count("CONNECT") > before
    with pytest.raises(wl.TransportError):
        secure(nginx, "tls", ca_file=tls.other_ca)


def test_a_proxy_that_wants_a_password(server: FaultServer, private_proxy: Proxy, data: bytes) -> None:
    """It gets its own; the server does not see it."""
    server.files[PATH] = data
    assert_same(wl.load(server.url(PATH), **FAST, proxy=private_proxy.url), TENSORS)
    assert not any("authorization" in name for r in server.requests for name in r.headers)
    with pytest.raises(wl.StorageError, match="407"):
        wl.load(server.url(PATH), **FAST, proxy=f"http://127.0.0.1:{private_proxy.port}")


def test_a_proxy_that_is_not_there(server: FaultServer) -> None:
    with pytest.raises(wl.TransportError) as caught:
        wl.load(server.url(PATH), **{**FAST, "attempts": 2}, proxy="http://keeper:s3cret@127.0.0.1:1")
    assert "s3cret" not in str(caught.value)
    assert not server.requests
