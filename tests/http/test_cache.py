"""The local cache: what was fetched once is not fetched again, and nothing false ever comes out of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.http import faults
from tests.http.fault_server import FaultServer, Resource
from tests.http.support import FAST, assert_same, model, model_bytes

import weightlift as wl

PATH = "/m.safetensors"
TENSORS = model(1_000_000)
OTHER = model(1_000_000, seed=5)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def data(server: FaultServer, tmp_path: Path) -> bytes:
    data = model_bytes(TENSORS, tmp_path)
    server.files[PATH] = data
    return data


def load(server: FaultServer, cache: Any, **options: Any) -> Any:
    return wl.load(server.url(PATH), **FAST, cache=cache, **options)


def size_of(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())


def test_the_second_load_costs_one_small_request(server: FaultServer, data: bytes, cache: Path) -> None:
    """One that asks for the identity only."""
    assert_same(load(server, cache), TENSORS)
    server.forget()
    assert_same(load(server, cache), TENSORS)
    assert len(server.requests) <= 1 and server.body_bytes_sent == 0


@pytest.mark.parametrize("validators", [{"etag": '"1"'}, {"etag": None, "modified": 1e9}], ids=["ETag", "date"])
def test_a_changed_file_is_fetched_anew(
    server: FaultServer, data: bytes, cache: Path, tmp_path: Path, validators: dict[str, Any]
) -> None:
    server.files[PATH] = Resource(data, **validators)
    assert_same(load(server, cache), TENSORS)
    (tmp_path / "other").mkdir()
    changed = {"etag": '"2"'} if validators["etag"] else {"etag": None, "modified": 1e9 + 60}
    server.files[PATH] = Resource(model_bytes(OTHER, tmp_path / "other"), **changed)
    assert_same(load(server, cache), OTHER)
    server.files[PATH] = Resource(data, **validators)
    assert_same(load(server, cache), TENSORS)


def test_a_file_without_validators_is_not_believed(
    server: FaultServer, data: bytes, cache: Path, tmp_path: Path
) -> None:
    """Nothing says that it is still the same."""
    server.files[PATH] = Resource(data, etag=None, modified=None)
    assert_same(load(server, cache), TENSORS)
    (tmp_path / "other").mkdir()
    server.files[PATH] = Resource(model_bytes(OTHER, tmp_path / "other"), etag=None, modified=None)
    assert_same(load(server, cache), OTHER)


def test_ranges_are_kept_sparse(server: FaultServer, cache: Path, tmp_path: Path) -> None:
    """One tensor's bytes, then the rest; each comes about once."""
    tensors = model(8_000_000)
    data = server.files[PATH] = model_bytes(tensors, tmp_path)
    assert_same(load(server, cache, names=["w3"]), {"w3": tensors["w3"]})
    first = server.body_bytes_sent
    assert max(first, size_of(cache)) < len(data) / 3
    server.forget()
    assert_same(load(server, cache), tensors)
    assert server.body_bytes_sent <= len(data) - first + (512 << 10)
    server.forget()
    assert_same(load(server, cache, names=["w0", "w3"]), {n: tensors[n] for n in ("w0", "w3")})
    assert server.body_bytes_sent == 0


def test_versions_are_never_mixed(server: FaultServer, cache: Path, tmp_path: Path) -> None:
    """The file is another one when what is missing is fetched, though it was the old one when it was opened."""
    tensors = model(8_000_000)
    old = server.files[PATH] = model_bytes(tensors, tmp_path)
    assert_same(load(server, cache, names=["w0"]), {"w0": tensors["w0"]})
    weights = wl.open(server.url(PATH), **FAST, cache=cache)
    (tmp_path / "other").mkdir()
    new = server.files[PATH] = model_bytes(model(8_000_000, seed=5), tmp_path / "other")
    assert len(new) == len(old)
    with pytest.raises(wl.ChangedError):
        weights["w3"][...]


def test_scattered_headers_do_not_drag_their_blocks_along(server: FaultServer, cache: Path, tmp_path: Path) -> None:
    """Listing an npz of large members costs little, with a cache as without; what was loaded is kept."""
    tensors = {f"w{i}": np.full(1 << 18, i, np.float32) for i in range(12)}
    np.savez(tmp_path / "m.npz", **tensors)  # type: ignore[arg-type]
    server.files["/m.npz"] = (tmp_path / "m.npz").read_bytes()
    for _ in range(2):
        server.forget()
        weights = wl.open(server.url("/m.npz"), cache=cache)
        assert list(weights) == list(tensors)
        assert server.body_bytes_sent < 1 << 20 and len(server.requests) <= 7
    assert_same(weights.arrays(), tensors)
    server.forget()
    assert_same(wl.load(server.url("/m.npz"), cache=cache), tensors)
    assert {r.path for r in server.requests if r.method != "HEAD"} == {"/m.npz.crc32c"}, "which is not there"


def test_rows_of_lazy_weights_are_kept_too(server: FaultServer, data: bytes, cache: Path) -> None:
    for expected in (False, True):
        weights = wl.open(server.url(PATH), **FAST, cache=cache)
        server.forget()
        assert np.array_equal(np.asarray(weights["w1"][-2000:-1000]), TENSORS["w1"][-2000:-1000])
        assert (server.body_bytes_sent == 0) is expected


def test_a_user_s_own_folder(server: FaultServer, data: bytes) -> None:
    assert_same(load(server, True), TENSORS)
    files = [p for p in Path(os.environ["HOME"]).rglob("*") if p.is_file()]
    assert files and all("weightlift" in str(p) for p in files)
    assert all(p.stat().st_mode & 0o077 == 0 or p.parent.stat().st_mode & 0o077 == 0 for p in files), "private"


def test_the_size_is_bounded(server: FaultServer, cache: Path, tmp_path: Path) -> None:
    """The oldest goes first; what is in use stays usable."""
    for i in range(8):
        tensors = model(500_000, i)
        server.files[f"/{i}.safetensors"] = model_bytes(tensors, tmp_path)
        loaded = wl.load(server.url(f"/{i}.safetensors"), **FAST, cache=cache, cache_bytes=1_700_000)
        assert_same(loaded, tensors)
    assert size_of(cache) <= 1_800_000
    server.forget()
    wl.load(server.url("/7.safetensors"), **FAST, cache=cache, cache_bytes=1_700_000)
    assert server.body_bytes_sent == 0, "the newest is still there"
    server.forget()
    assert_same(wl.load(server.url("/0.safetensors"), **FAST, cache=cache, cache_bytes=1_700_000), model(500_000, 0))
    assert server.body_bytes_sent > 0, "the oldest is not"


def test_a_file_larger_than_the_cache(server: FaultServer, data: bytes, cache: Path) -> None:
    assert_same(load(server, cache, cache_bytes=100_000), TENSORS)
    assert_same(load(server, cache, cache_bytes=100_000), TENSORS)


@pytest.mark.parametrize("free_pages", [1, 2, 3, 4, 64, 65, 66, 67, 68, 69, 70, 131, 132, 133, 134])
def test_a_full_disk(server: FaultServer, data: bytes, small_disk: Path, free_pages: int) -> None:
    """Wherever the room ends, in the data, their flags or before: then nothing more is kept, and all is read."""
    disk = os.statvfs(small_disk)
    (small_disk / "other things").write_bytes(b"." * (disk.f_bavail - free_pages) * disk.f_frsize)
    for _ in range(2):
        assert_same(load(server, small_disk / "cache"), TENSORS)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped" and data:
        for at in range(len(data) // 20, len(data), max(1, len(data) // 10)):
            data[at] ^= 0xFF
        path.write_bytes(data)
    elif how == "truncated":
        os.truncate(path, len(data) // 2)
    elif how == "emptied":
        os.truncate(path, 0)
    elif how == "removed":
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "removed"])
def test_a_damaged_entry_is_noticed(server: FaultServer, data: bytes, cache: Path, how: str) -> None:
    """Whichever of its files it is: right values in the end, or an error that says so; never false ones."""
    assert_same(load(server, cache), TENSORS)
    kept = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    assert kept
    for path in kept:
        for other, content in kept.items():
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(content)
        damage(path, how)
        try:
            found = load(server, cache)
        except wl.WeightliftError:
            found = load(server, cache)  # what was found to be damaged is not kept
        assert_same(found, TENSORS)


def test_the_server_is_away(server: FaultServer, data: bytes, cache: Path) -> None:
    """Nothing is taken from the cache unasked: it could have changed."""
    assert_same(load(server, cache), TENSORS)
    server.fault = faults.status(503)
    with pytest.raises(wl.TransportError):
        load(server, cache)


def test_secrets_keep_caches_apart_from_wrong_eyes(server: FaultServer, data: bytes, cache: Path) -> None:
    """Who may not read the file does not get it from the cache either."""
    assert_same(load(server, cache, auth="token"), TENSORS)
    server.fault = faults.where(lambda r: r.headers.get("authorization") != "Bearer token", faults.status(403))
    with pytest.raises(wl.AccessError):
        load(server, cache)
    assert_same(load(server, cache, auth="token"), TENSORS)
    assert not any(b"token" in p.read_bytes() for p in cache.rglob("*") if p.is_file() and p.stat().st_size < 10_000)


READER = """
import sys, numpy as np, weightlift as wl
url, cache, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
sums = set()
for _ in range(rounds):
    loaded = wl.load(url, cache=cache, connections=2, part_bytes=65536)
    sums.add(tuple(int(a.sum()) for a in loaded.values()))
assert len(sums) == 1, sums
print(*sums.pop())
"""


def test_several_processes_at_once(server: FaultServer, data: bytes, cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", READER, server.url(PATH), str(cache), "5"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
    expected = " ".join(str(int(a.sum())) for a in TENSORS.values())
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and output.split() == expected.split()
    server.forget()
    assert_same(load(server, cache), TENSORS)
    assert server.body_bytes_sent == 0


def test_somebody_clears_it_all_the_time(server: FaultServer, data: bytes, cache: Path) -> None:
    """Reads go on, of the entry that was opened, of a new one, or without any."""
    done = threading.Event()

    def clear() -> None:
        while not done.is_set():
            shutil.rmtree(cache, ignore_errors=True)

    def read(number: int) -> None:
        for _ in range(30):
            name = f"w{number}"
            assert np.array_equal(load(server, cache, names=name, cache_bytes=300_000)[name], TENSORS[name])

    with ThreadPoolExecutor(5) as pool:
        clearing = pool.submit(clear)
        try:
            for reading in [pool.submit(read, number) for number in range(4)]:
                reading.result()
        finally:
            done.set()
        clearing.result()


def test_a_killed_process_leaves_a_usable_cache(server: FaultServer, data: bytes, cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    server.fault = faults.paced(300_000)
    command = [sys.executable, "-c", READER, server.url(PATH), str(cache), "1"]
    for nbytes in (1, 50_000, 150_000, 200_000):
        server.forget()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            while server.body_bytes_so_far < nbytes and process.poll() is None:
                time.sleep(0.01)
            process.kill()
    server.fault = None
    assert_same(load(server, cache), TENSORS)
