"""The parts that need no server: names, ranges, conditions, buckets, the exchange of directories."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anyio
import numpy as np
import pytest
from starlette.types import Message

import weightlift as wl
from weightlift.errors import UnsafeContentError
from weightlift.server._bucket import Buckets
from weightlift.server._conditions import may_write, ranges_of
from weightlift.server._describe import Catalogue, topology_summary
from weightlift.server._errors import HTTPException
from weightlift.server._exchange import exchange
from weightlift.server._library import Library
from weightlift.server._names import check_file, is_model_name, is_weights_file
from weightlift.server._responses import Compressed, accepts_gzip
from weightlift.server._settings import Settings, SettingsError, check_binding
from weightlift.server._upload import FileSink, receive_into


@pytest.mark.parametrize("name", ["m", "my model", "Ünïcode", "日本語", "a.b-c_d+e@f=g,(h)", "0", "x" * 120])
def test_names_that_models_may_have(name: str) -> None:
    assert is_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "a/b", "a\\b", "a\0", "a\n", " a", "a ", "a.", "-a", "a:b", "a?b", "a#b", "a%b", "x" * 121,
     "e\u0301", "日" * 70, "a\u202eb"],
)  # fmt: skip
def test_names_that_models_may_not_have(name: str) -> None:
    assert not is_model_name(name)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a\\b", "a\0b", "a\nb", "x" * 1001]
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(UnsafeContentError):
        check_file(path)


def test_what_is_a_weights_file() -> None:
    for name in ("a.safetensors", "A.NPZ", "a/b.npy", "model.json", "w.bin", "group1-shard2of3", "x.npz.crc32c"):
        assert is_weights_file(name), name
    for name in ("a.txt", "bin", "a.py", "a.bin.exe", "group1-shard2of3.sh", "id_rsa"):
        assert not is_weights_file(name), name


def test_ranges_never_leave_the_file() -> None:
    for size in (0, 1, 10):
        for header in ("bytes=0-0", "bytes=0-", "bytes=-1", "bytes=5-100", "bytes=0-0,-1", "bytes=9-9,20-30"):
            for begin, end in ranges_of(header, size) or []:
                assert 0 <= begin < end <= size
    assert ranges_of("bytes=0-0,-1", 10) == [(0, 1), (9, 10)]
    assert ranges_of("bytes=0-9,0-9", 10) is None
    assert ranges_of("bytes=20-", 10) == []
    assert ranges_of("bytes=١-٢", 10) is None  # digits, but not these


def test_may_write() -> None:
    tag, other = '"a"', '"b"'
    for match, none_match, current, allowed in (
        (None, None, None, True), (None, None, tag, True),
        ("*", None, tag, True), ("*", None, None, False), (tag, None, tag, True), (other, None, tag, False),
        (f"{other}, {tag}", None, tag, True), (f"W/{tag}", None, tag, False), (tag, None, None, False),
        (None, "*", None, True), (None, "*", tag, False), (None, tag, tag, False), (None, other, tag, True),
        (None, f"W/{tag}", tag, False), (None, tag, None, True), ("garbage", None, tag, False),
    ):  # fmt: skip
        headers = {k: v for k, v in (("if-match", match), ("if-none-match", none_match)) if v is not None}
        assert may_write(headers, current) is allowed, (headers, current)


def test_accepts_gzip() -> None:
    for header in ("gzip", "GZIP", "br, gzip", "gzip;q=0.1", "*", "identity;q=0.5, *;q=0.1"):
        assert accepts_gzip(header), header
    for header in ("", "br", "gzip;q=0", "*;q=0", "identity", "gzip;q=x"):
        assert not accepts_gzip(header), header


def test_json_is_compressed_once_and_not_without_bound(tmp_path: Path) -> None:
    library, compressed = Library(tmp_path, read_only=True), Compressed(max_bytes=3000)
    noise = np.random.default_rng(0)

    def get(name: str) -> bytes | None:
        file = library.open(tmp_path / name)
        try:
            return compressed.get(file)
        finally:
            file.close()

    for i in range(4):
        (tmp_path / f"{i}.json").write_text(json.dumps(noise.integers(0, 10**6, 500).tolist()))
    first = get("0.json")
    assert first is not None and gzip.decompress(first) == (tmp_path / "0.json").read_bytes()
    assert get("0.json") is first
    held = [get(f"{i}.json") for i in range(4)]
    assert get("3.json") is held[3] and get("0.json") is not first
    (tmp_path / "noise.json").write_bytes(noise.bytes(5000))
    (tmp_path / "small.json").write_text("{}")
    assert get("noise.json") is None and get("small.json") is None


def test_an_upload_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """Though something comes all the time."""

    async def receive() -> Message:
        await anyio.sleep(0.001)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def upload() -> None:
        settings = Settings(tmp_path, idle_timeout=60, upload_timeout=0.05)
        await receive_into(FileSink(tmp_path / "x"), receive, 1 << 30, settings)

    with pytest.raises(HTTPException, match="too long") as caught:
        anyio.run(upload)
    assert caught.value.status_code == 408


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlift.server._describe._MAX_CACHED_TENSORS", 25)
    catalogue = Catalogue(tmp_path)
    for i in range(5):
        wl.save({f"w{j}": np.ones(1) for j in range(10)}, tmp_path / f"{i}.safetensors", durable=False)
        assert len(catalogue.details(tmp_path / f"{i}.safetensors")["table"]) == 10
    assert catalogue._held == 20 and len([k for k in catalogue._cache if k[0] == "details"]) == 2


def test_buckets() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 4.0, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    now[0] = 0.5
    assert buckets.take("a") == 0 and buckets.take("a") == 0.5
    now[0] = 100
    assert [buckets.take("a") > 0 for _ in range(5)] == [False] * 4 + [True]
    buckets.charge("a", 3)
    assert buckets.take("a") == 2.0  # 3 that were owed, and 1
    assert Buckets(0).take("a", 1e9) == 0


def test_buckets_forget_clients_that_are_gone() -> None:
    now = [0.0]
    buckets = Buckets(1.0, 2.0, clock=lambda: now[0])
    for i in range(10_000):
        buckets.take(f"old{i}")
    now[0] = 10
    buckets.take("new")
    assert len(buckets._buckets) == 1
    for i in range(30_000):
        buckets.take(f"many{i}")
    assert len(buckets._buckets) <= 10_001


def test_exchange(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if exchange(str(tmp_path / "a"), str(tmp_path / "b")):
        assert (tmp_path / "a/b").exists() and (tmp_path / "b/a").exists()
    else:
        assert (tmp_path / "a/a").exists()
    with pytest.raises(FileNotFoundError):
        exchange(str(tmp_path / "a"), str(tmp_path / "none"))


def test_publishing_without_an_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no such step."""
    monkeypatch.setattr("weightlift.server._library.exchange", lambda a, b: False)
    library = Library(tmp_path)
    library.start()
    for text in ("old", "new"):
        with library.workplace() as place:
            staged = place / "model"
            staged.mkdir()
            (staged / "model.json").write_text(text)
            assert library.publish_model(staged, "m", lambda tag: None) is (text == "new")
    assert (tmp_path / "m/model.json").read_text() == "new"
    assert [p.name for p in (tmp_path / ".weightlift-server/old").iterdir()] == []
    library.stop()


def test_binding() -> None:
    settings = Settings(Path())
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"):
        check_binding(settings, host, insecure=False)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", "127.0.0.1.example.org"):
        with pytest.raises(SettingsError):
            check_binding(settings, host, insecure=False)
        check_binding(settings, host, insecure=True)
        check_binding(Settings(Path(), token="t"), host, insecure=False)


def test_topologies() -> None:
    assert topology_summary(None) is None
    assert topology_summary([1]) is None
    layers = [
        {"class_name": "Dense", "config": {"name": "d", "units": 3}},
        {"class_name": "Model", "config": {"layers": [1, 2]}},
    ]
    wrapped = topology_summary({"model_config": {"class_name": "Sequential", "config": layers}})
    assert wrapped is not None and wrapped["layers"] == [
        {"name": "d", "class": "Dense", "facts": {"units": 3}},
        {"name": "None", "class": "Model", "facts": {"layers": 2}},
    ]
    for strange in ({}, {"config": 3}, {"config": {"layers": 3}}, {"model_config": 3}, {"node": [3, {"op": None}]}):
        topology_summary(strange)


def test_files_in_hidden_places_stay_there(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.start()
    assert (tmp_path / ".weightlift-server").stat().st_mode & 0o077 == 0
    assert library.files() == [] and library.models() == []
    library.stop()
