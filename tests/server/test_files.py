"""Single weights files: PUT, checked before they are published, and DELETE."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.server.support import HIDDEN, Server, names_in, same_weights

import weightlift as wl

Make = Callable[..., Path]
Serve = Callable[..., Server]


def test_single_files(server: Server, tmp_path: Path) -> None:
    for suffix in (".safetensors", ".npz", ".npy"):
        file = tmp_path / f"x{suffix}"
        wl.save(np.arange(5.0) if suffix == ".npy" else {"w": np.arange(5.0)}, file, checksums=False)
        answer = server.curl(f"/files/deep/er/x{suffix}", "-T", str(file))
        assert answer.status == 201 and answer.headers["location"] == f"/files/deep/er/x{suffix}"
        assert (server.root / "deep/er" / file.name).read_bytes() == file.read_bytes()
        got = server.curl(f"/files/deep/er/x{suffix}")
        assert got.body == file.read_bytes() and got.headers["etag"] == answer.headers["etag"]
        again = server.curl(f"/files/deep/er/x{suffix}", "-T", str(file), "-H", "If-None-Match: *")
        assert again.status == 412
        tag = f"If-Match: {got.headers['etag']}"
        assert server.curl(f"/files/deep/er/x{suffix}", "-T", str(file), "-H", tag).status == 200
    assert server.left_over() == []


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("x.safetensors", b"garbage", 422),
        ("x.npy", b"\x93NUMPY\x01\x00", 422),
        ("x.npz", b"", 400),
        ("x.npz", b"PK\x03\x04", 422),
        ("x.txt", b"text", 415),
        ("x.bin", b"text", 415),
        (".x.npy", b"text", 400),
        ("../x.npy", b"text", 400),
        ("a//x.npy", b"text", 400),
    ],
)
def test_a_bad_file_is_refused(server: Server, path: str, content: bytes, status: int) -> None:
    answer = server.curl(f"/files/{path}", "-X", "PUT", "--data-binary", "@-", data=content)
    assert answer.status == status, answer
    assert names_in(server.root) == [HIDDEN]


def test_content_must_be_what_the_name_says(server: Server, tmp_path: Path) -> None:
    wl.save(np.arange(3), tmp_path / "x.npy")
    answer = server.curl("/files/x.safetensors", "-T", str(tmp_path / "x.npy"))
    assert answer.status == 422 and "npy" in answer.json["error"]


def test_an_old_sidecar_does_not_outlive_its_file(server: Server, tmp_path: Path) -> None:
    wl.save({"w": np.arange(5.0)}, server.root / "x.npz")
    wl.save({"w": np.arange(9.0)}, tmp_path / "x.npz", checksums=False)
    assert (server.root / "x.npz.crc32c").exists()
    assert server.curl("/files/x.npz", "-T", str(tmp_path / "x.npz")).status == 200
    assert wl.load(server.root / "x.npz")["w"].size == 9


def test_a_sharded_set_file_by_file(server: Server, tmp_path: Path) -> None:
    tensors = {f"w{i}": np.full(100, i, "f4") for i in range(5)}
    wl.save(tensors, tmp_path / "s.safetensors", shard_size=900)
    files = sorted(tmp_path.glob("s-*.safetensors"))
    index = tmp_path / "s.safetensors.index.json"
    assert server.curl(f"/files/{index.name}", "-T", str(index)).status in (404, 422)  # its shards are not there
    for file in [*files, index]:
        assert server.curl(f"/files/{file.name}", "-T", str(file)).status == 201
    assert same_weights(wl.load(server.root / index.name), tensors)
    listed = server.json("/api/files")["files"]
    assert [f["path"] for f in listed] == [index.name] and listed[0]["tensors"] == 5


def test_no_file_goes_into_a_model(server: Server, make_model: Make, tmp_path: Path) -> None:
    server.upload("m", make_model())
    wl.save(np.arange(3), tmp_path / "x.npy")
    assert server.curl("/files/m/x.npy", "-T", str(tmp_path / "x.npy")).status == 409


def test_no_upload_through_a_link_out_of_the_directory(server: Server, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (server.root / "out").symlink_to(outside)
    wl.save(np.arange(3), tmp_path / "x.npy")
    assert server.curl("/files/out/x.npy", "-T", str(tmp_path / "x.npy")).status == 403
    assert list(outside.iterdir()) == []


def test_curl_that_expects_100_continue_does_not_send_what_is_refused(serve: Serve, tmp_path: Path) -> None:
    server = serve("--read-only")
    big = tmp_path / "big.npy"
    with open(big, "wb") as file:
        file.truncate(1 << 30)
    seen = ["-w", "%{http_code} %{size_upload}", "-o", str(tmp_path / "answer")]
    command = ["curl", "-sS", "--expect100-timeout", "60", "-T", str(big), *seen, f"{server.url}/files/big.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    status, sent = done.stdout.split()
    assert status == "403" and int(sent) < 1 << 26
