"""Ceph's object gateway, which speaks S3, over one small cluster in memory: a real server for the tests."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.wire import free_ports
from tests.http.servers import program

__all__ = ["KEY", "SECRET", "Gateway", "run_gateway"]

KEY, SECRET = "A1EXAMPLEKEY", "an/example+secret"
BUCKET = "models"
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
"""


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs."""

    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """What URLs of it need."""
        config = {"endpoint": self.endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}
        return {"config": config, "client_options": {"allow_http": True}}

    @property
    def environment(self) -> dict[str, str]:
        """The same, as programs are told."""
        return {
            "AWS_ENDPOINT": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip

    def url(self, name: str = "") -> str:
        """Of an object."""
        return f"s3://{BUCKET}/{name}"

    @property
    def store(self) -> Any:
        """obstore's own view of the bucket."""
        from obstore.store import S3Store

        return S3Store(BUCKET, **self.options)


@contextlib.contextmanager
def run_gateway(folder: Path) -> Iterator[Gateway]:
    """Run a cluster in ``folder``, and a bucket in it; skips the test where Ceph is not installed."""
    monitor, port = free_ports(2)
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    settings = folder / "ceph.conf"
    settings.write_text(CONFIGURATION.format(fsid=fsid, folder=folder, monitor=monitor, port=port))
    tools = {name: program(name) for name in ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")}
    servers: list[subprocess.Popen[bytes]] = []

    def command(name: str, *arguments: str) -> list[str]:
        return [tools[name], "--conf", str(settings), *arguments]

    def call(name: str, *arguments: str) -> str:
        """A young cluster now and then tells one that it is of another cluster: it is asked again."""
        end = time.monotonic() + 30
        while True:
            done = subprocess.run(command(name, *arguments), capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > end or name == "ceph-mon":
                raise RuntimeError(f"{name} {' '.join(arguments)}: {done.stderr[-2000:]}")
            time.sleep(0.2)

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.out").open("ab") as output:
            server = subprocess.Popen(
                command(name, "-f", *arguments), stdout=output, stderr=output, start_new_session=True
            )
        servers.append(server)
        return server

    def start_osd() -> None:
        """So does a server of it, which is started again."""
        end = time.monotonic() + 60
        server = start("ceph-osd", "--id", "0")
        while " 1 up" not in call("ceph", "osd", "stat"):
            if time.monotonic() > end:
                raise RuntimeError((folder / "ceph-osd.out").read_text()[-2000:])
            if server.poll() is not None:
                server = start("ceph-osd", "--id", "0")
            time.sleep(0.2)

    gateway = Gateway(f"http://127.0.0.1:{port}")
    try:
        call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{monitor}]", str(folder / "map"))
        call("ceph-mon", "--id", "a", "--mkfs", "--monmap", str(folder / "map"))
        start("ceph-mon", "--id", "a")
        call("ceph", "osd", "new", osd)
        call("ceph-osd", "--id", "0", "--mkfs", "--osd-uuid", osd)
        call("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
        start_osd()
        start("radosgw", "--id", "gateway")
        call("radosgw-admin", "user", "create", "--uid", "test", "--display-name", "test",
             "--access-key", KEY, "--secret-key", SECRET)  # fmt: skip
        _make_bucket(gateway)
        yield gateway
    finally:
        for server in reversed(servers):
            server.kill()
        for server in servers:
            server.wait()


def _make_bucket(gateway: Gateway) -> None:
    import obstore

    address = obstore.sign(gateway.store, "PUT", "", timedelta(minutes=10))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 60
    while True:
        try:
            opener.open(urllib.request.Request(address, method="PUT"), timeout=30).close()
            break
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)
    obstore.put(gateway.store, "first", b"")  # makes what the cluster has not yet: it takes seconds, once
    obstore.delete(gateway.store, "first")
