"""Real programs for the tests: nginx in all the ways that it is met, and tinyproxy. Each runs in a folder of its own.

nginx listens on one port for each kind of service; paths choose the rest:

    /plain/      files, by ranges           /noranges/  the same without ranges
    /slow/       200 KiB a second           /gzip/      compressed for those who accept that
    /basic/      user "ada", password "pass:word"
    /bearer/     Authorization: Bearer secret-token
    /dav/        GET, PUT, DELETE of files, and listings as JSON
    /moved/      redirects to /plain/
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bench.wire import free_ports

__all__ = ["USER", "Certificates", "Nginx", "Proxy", "make_certificates", "run_nginx", "run_tinyproxy"]

USER = ("ada", "pass:word")
TOKEN = "secret-token"
SBIN = ("/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin")
"""Where servers lie that are not on every user's PATH."""


def program(name: str) -> str:
    """The program's path; skips the test where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(SBIN))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def start(command: Sequence[str], ports: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
    """Run a server until it listens; RuntimeError with its log when it does not."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    end = time.monotonic() + 20
    for port in ports:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                process.wait()
                raise RuntimeError(f"{command[0]} does not listen on {port}:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that ``start`` ran."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- TLS ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Certificates:
    """Files in PEM form: (certificate chain, key) pairs, and the authorities that signed them."""

    ca: Path
    other_ca: Path
    server: tuple[Path, Path]
    expired: tuple[Path, Path]
    wrong_host: tuple[Path, Path]
    client: tuple[Path, Path]


def make_certificates(folder: Path) -> Certificates:
    """Certificates for ``localhost`` and ``127.0.0.1`` of a new authority, and some that nobody should accept."""
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    from datetime import datetime, timedelta, timezone

    folder.mkdir()
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other_ca.pem"))

    def pair(name: str, *hosts: str, **options: Any) -> tuple[Path, Path]:
        issued = authority.issue_cert(*hosts, **options)
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return chain, key

    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    return Certificates(
        folder / "ca.pem",
        folder / "other_ca.pem",
        server=pair("server", "localhost", "127.0.0.1"),
        expired=pair("expired", "localhost", "127.0.0.1", not_after=yesterday),
        wrong_host=pair("wrong_host", "example.test"),
        client=pair("client", "someone@example.test"),
    )


# --- nginx ----------------------------------------------------------------------------------------
LOCATIONS = """
    location /plain/ { alias %(files)s/; }
    location /noranges/ { alias %(files)s/; max_ranges 0; }
    location /slow/ { alias %(files)s/; limit_rate 200k; }
    location /gzip/ { alias %(files)s/; gzip on; gzip_types *; gzip_min_length 1; gzip_comp_level 1; gzip_http_version 1.0; }
    location /basic/ { alias %(files)s/; auth_basic "weights"; auth_basic_user_file %(root)s/users; }
    location /bearer/ {
      alias %(files)s/;
      if ($http_authorization != "Bearer %(token)s") { return 401; }
    }
    location /moved/ { rewrite ^/moved/(.*)$ /plain/$1 redirect; }
    location /dav/ {
      alias %(uploads)s/;
      dav_methods PUT DELETE; create_full_put_path on; client_max_body_size 0;
      autoindex on; autoindex_format json;
    }
"""  # noqa: E501
CONFIGURATION = """
daemon off;
%(user)s
pid %(root)s/nginx.pid;
error_log %(root)s/error.log info;
worker_processes 1;
events { worker_connections 512; }
http {
  types { }
  default_type application/octet-stream;
  log_format requests escape=json '{"port": "$server_port", "method": "$request_method", "uri": "$request_uri",'
    ' "status": "$status", "bytes": "$body_bytes_sent", "range": "$http_range", "protocol": "$server_protocol",'
    ' "connection": "$connection", "tls": "$ssl_protocol"}';
  access_log %(root)s/access.log requests;
  sendfile on;
  keepalive_requests 100000;
  client_body_temp_path %(root)s/body; proxy_temp_path %(root)s/proxy; fastcgi_temp_path %(root)s/fastcgi;
  uwsgi_temp_path %(root)s/uwsgi; scgi_temp_path %(root)s/scgi;
  ssl_session_cache shared:tls:1m;
  %(servers)s
}
"""


@dataclass
class Nginx:
    """A running nginx.

    Attributes:
        files: What lies here is served.
        uploads: Where PUT puts files.
        ports: By kind: ``plain``, and with certificates ``tls``, ``h2``, ``expired``, ``wrong_host``, ``client_cert``.
    """

    root: Path
    ports: dict[str, int]
    certificates: Certificates | None = None
    _seen: int = field(default=0, repr=False)
    _marks: int = field(default=0, repr=False)

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    def url(self, path: str, kind: str = "plain", host: str = "127.0.0.1") -> str:
        """The URL of ``path``, ``plain/x.npy`` say, at one kind of service."""
        return f"{'http' if kind == 'plain' else 'https'}://{host}:{self.ports[kind]}/{path}"

    def forget(self) -> None:
        """Begin to count requests anew."""
        self._seen = len(self._settled_log())

    def requests(self) -> list[dict[str, str]]:
        """What was asked since ``forget``."""
        lines = [json.loads(line) for line in self._settled_log()[self._seen :]]
        return [line for line in lines if not line["uri"].startswith("/mark")]

    def _settled_log(self) -> list[str]:
        """The lines of all requests so far. nginx, of one process, writes one when it has sent an answer: once it has
        written that of a request of our own, it has written those of the requests before it."""
        self._marks += 1
        mark = f"/mark{self._marks}"
        with socket.create_connection(("127.0.0.1", self.ports["plain"]), timeout=60) as connection:
            connection.sendall(f"GET {mark} HTTP/1.0\r\n\r\n".encode())
            while connection.recv(1 << 16):
                pass
        while f'"uri": "{mark}"' not in (log := (self.root / "access.log").read_text()):
            time.sleep(0.01)
        return log.splitlines()


@contextlib.contextmanager
def run_nginx(root: Path, certificates: Certificates | None = None) -> Iterator[Nginx]:
    """nginx with its configuration, logs and files below ``root``."""
    command = program("nginx")
    kinds = {"plain": ""}
    if certificates is not None:
        pairs = {"tls": certificates.server, "expired": certificates.expired, "wrong_host": certificates.wrong_host}
        kinds |= {kind: _tls(*pair) for kind, pair in pairs.items()}
        kinds["h2"] = _tls(*certificates.server)
        kinds["client_cert"] = (
            _tls(*certificates.server) + f"ssl_verify_client on; ssl_client_certificate {certificates.ca};"
        )
    nginx = Nginx(root, dict(zip(kinds, free_ports(len(kinds)), strict=True)), certificates)
    for folder in (nginx.files, nginx.uploads):
        folder.mkdir(parents=True)
    digest = base64.b64encode(hashlib.sha1(USER[1].encode()).digest()).decode()
    (root / "users").write_text(f"{USER[0]}:{{SHA}}{digest}\n")
    values = {"root": root, "files": nginx.files, "uploads": nginx.uploads, "token": TOKEN}
    servers = []
    for kind, options in kinds.items():
        flags = {"plain": "", "h2": " ssl http2"}.get(kind, " ssl")
        listen = f"listen 127.0.0.1:{nginx.ports[kind]}{flags};"
        servers.append(f"server {{ {listen} server_name localhost; {options} {LOCATIONS % values} }}")
    user = "user root;" if os.geteuid() == 0 else ""
    (root / "nginx.conf").write_text(CONFIGURATION % {**values, "user": user, "servers": "\n".join(servers)})
    process = start(
        [command, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "error.log")],
        list(nginx.ports.values()),
        root / "output.log",
    )
    try:
        yield nginx
    finally:
        stop(process)


def _tls(chain: Path, key: Path) -> str:
    return f"ssl_certificate {chain}; ssl_certificate_key {key};"


# --- proxy ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Proxy:
    """A running tinyproxy; ``url`` has the user and password where it wants them."""

    root: Path
    port: int
    user: tuple[str, str] | None

    @property
    def url(self) -> str:
        credentials = f"{self.user[0]}:{self.user[1]}@" if self.user else ""
        return f"http://{credentials}127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it did so far."""
        return (self.root / "tinyproxy.log").read_text()


@contextlib.contextmanager
def run_tinyproxy(root: Path, user: tuple[str, str] | None = None) -> Iterator[Proxy]:
    """tinyproxy on a free port."""
    command = program("tinyproxy")
    root.mkdir(parents=True)
    proxy = Proxy(root, free_ports(1)[0], user)
    lines = [
        f"Port {proxy.port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "Timeout 60", "MaxClients 100",
        f'LogFile "{root}/tinyproxy.log"', "LogLevel Info", f'PidFile "{root}/pid"', 'ViaProxyName "test-proxy"',
        *([f"BasicAuth {user[0]} {user[1]}"] if user else []),
    ]  # fmt: skip
    (root / "tinyproxy.conf").write_text("\n".join(lines) + "\n")
    process = start([command, "-d", "-c", str(root / "tinyproxy.conf")], [proxy.port], root / "output.log")
    try:
        yield proxy
    finally:
        stop(process)
