"""What the HTTP benches talk to: nginx on loopback, plain and with TLS, and a relay that makes it far away."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing as mp
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = """
daemon off;
%(user)s
pid %(root)s/nginx.pid;
error_log %(root)s/error.log;
worker_processes %(workers)d;
events { worker_connections 1024; }
http {
  default_type application/octet-stream;
  access_log %(log)s;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_max_body_size 0;
  client_body_temp_path %(root)s/body; proxy_temp_path %(root)s/proxy; fastcgi_temp_path %(root)s/fastcgi;
  uwsgi_temp_path %(root)s/uwsgi; scgi_temp_path %(root)s/scgi;
  server {
    listen 127.0.0.1:%(plain)d;
    listen 127.0.0.1:%(tls)d ssl;
    ssl_certificate %(root)s/server.pem;
    ssl_certificate_key %(root)s/server.key;
    root %(root)s/files;
    location /upload/ { dav_methods PUT; create_full_put_path on; }
  }
}
"""


class Unavailable(Exception):
    """A program that the bench needs is not installed; the text says which."""


def program(name: str) -> str:
    """Where a program is; servers are not on everybody's PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


@dataclass(frozen=True)
class Nginx:
    """A running nginx; what lies in ``files`` is served."""

    root: Path
    plain: int
    tls: int

    @property
    def files(self) -> Path:
        """The folder that is served."""
        return self.root / "files"

    @property
    def ca_file(self) -> Path:
        """The certificate of the TLS port, which signs itself."""
        return self.root / "server.pem"

    def url(self, name: str, *, tls: bool = False) -> str:
        """The URL of a file."""
        return f"https://localhost:{self.tls}/{name}" if tls else f"http://127.0.0.1:{self.plain}/{name}"

    def requests(self) -> list[tuple[int, int]]:
        """(status, bytes of the body) of every request so far, when logging is on."""
        size = -1
        log = self.root / "access.log"
        while size != (size := log.stat().st_size):
            time.sleep(0.1)
        return [tuple(map(int, line.split('"')[2].split()[:2])) for line in log.read_text().splitlines()]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def wait_for(port: int, alive: object = None) -> None:
    """Until something listens."""
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > end:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.02)


@contextlib.contextmanager
def serve(root: Path, *, log: bool = False) -> Iterator[Nginx]:
    """nginx with everything below ``root``; Unavailable where it is not installed."""
    nginx_program = program("nginx")
    ports = free_ports(2)
    nginx = Nginx(root.resolve(), *ports)
    nginx.files.mkdir(parents=True)
    subprocess.run(
        [
            program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(root / "server.key"), "-out", str(root / "server.pem"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    values = {
        "root": nginx.root, "plain": nginx.plain, "tls": nginx.tls, "workers": min(4, os.cpu_count() or 1),
        "user": "user root;" if os.geteuid() == 0 else "", "log": f"{nginx.root}/access.log" if log else "off",
    }  # fmt: skip
    (root / "nginx.conf").write_text(CONFIGURATION % values)
    command = [nginx_program, "-p", str(nginx.root), "-c", str(nginx.root / "nginx.conf"), "-e", f"{nginx.root}/errors"]
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(nginx.plain)
        yield nginx
    finally:
        process.terminate()
        process.wait(10)


# --- far away ---------------------------------------------------------------------------------------
BLOCK = 1 << 17


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, rate: float) -> None:
    """Hand bytes on ``delay`` seconds after they came, at most ``rate`` a second."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(max(8, int(rate * delay * 2 / BLOCK)))

    async def take() -> None:
        while data := await reader.read(BLOCK):
            await waiting.put((time.monotonic() + delay, data))
        await waiting.put((time.monotonic() + delay, b""))

    task = asyncio.ensure_future(take())
    free_at = 0.0
    try:
        while True:
            due, data = await waiting.get()
            free_at = max(due, free_at) + len(data) / rate
            if (pause := free_at - time.monotonic()) > 0.0005:
                await asyncio.sleep(pause)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    finally:
        task.cancel()


async def _relay(port: int, target: int, delay: float, rate: float) -> None:
    async def connected(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay)  # the round trip of the handshake, which loopback answers at once
        there, forth = await asyncio.open_connection("127.0.0.1", target)
        pumps = [_pump(client, forth, delay / 2, rate), _pump(there, back, delay / 2, rate)]
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(*pumps)
        for writer in (forth, back):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=4 * BLOCK)
    async with server:
        await server.serve_forever()


def _run_relay(*arguments: float) -> None:
    port, target, delay, rate = arguments
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_relay(int(port), int(target), delay, rate))


@contextlib.contextmanager
def relay(target: int, *, round_trip: float, rate: float) -> Iterator[int]:
    """A port that leads to ``target``, ``round_trip`` seconds away, ``rate`` bytes a second for each connection."""
    (port,) = free_ports(1)
    process = mp.get_context("spawn").Process(target=_run_relay, args=(port, target, round_trip, rate), daemon=True)
    process.start()
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.join(10)


def without_proxies() -> None:
    """Loopback needs none, and some peers would ask one."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]


def skip(error: Exception) -> None:
    """Say why nothing is measured, and end well."""
    print(f"  skipped: {error}")
    sys.exit(0)
