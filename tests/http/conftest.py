"""Servers that tests of HTTP share; see servers.py and fault_server.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.http.fault_server import FaultServer
from tests.http.servers import Certificates, Nginx, Proxy, make_certificates, run_nginx, run_tinyproxy

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy and no password of the machine takes part, and caches go to the test's folder."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A fault server without files, honest until a test says otherwise."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def other_server() -> Iterator[FaultServer]:
    """Another one, on another port."""
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A test authority's certificates."""
    return make_certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Nginx]:
    """nginx, plain and with TLS."""
    with run_nginx(tmp_path_factory.mktemp("nginx"), certificates) as nginx:
        yield nginx


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """tinyproxy for everyone."""
    with run_tinyproxy(tmp_path_factory.mktemp("proxy") / "open") as proxy:
        yield proxy


@pytest.fixture(scope="session")
def private_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """tinyproxy that asks for a user and password."""
    with run_tinyproxy(tmp_path_factory.mktemp("proxy") / "private", ("keeper", "of-the-gate")) as proxy:
        yield proxy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
