"""What it costs to list a remote file of MXNet's, whose headers lie between the data: counted at the server."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bench.sparse import write_sparse
from tests.http.fault_server import FaultServer
from tests.http.servers import Nginx
from tests.http.support import FAST, assert_same

import weightlift as wl
from weightlift.formats._mxnet_trail import Trail

Shapes = Mapping[str, tuple[int, ...]]


def transformer(layers: int) -> Shapes:
    """An embedding, twelve tensors a layer, and a head."""
    shapes: dict[str, tuple[int, ...]] = {"embedding": (32_000, 1024), "position": (2048, 1024)}
    for i in range(layers):
        for part, shape in (("qkv", (3072, 1024)), ("out", (1024, 1024)), ("up", (4096, 1024)), ("down", (1024, 4096))):
            shapes[f"h.{i}.{part}.weight"] = shape
            shapes[f"h.{i}.{part}.bias"] = shape[:1]
        for part in ("ln1", "ln2"):
            shapes[f"h.{i}.{part}.gamma"] = shapes[f"h.{i}.{part}.beta"] = (1024,)
    return {**shapes, "norm": (1024,), "head": (32_000, 1024)}


def irregular() -> Shapes:
    rng = random.Random(1)
    return {f"w{i}": (rng.randrange(200_000, 2_000_000),) for i in range(300)}


CASES: dict[str, tuple[Shapes, int, int]] = {
    "of a transformer": (transformer(25), 20, 2 << 20),
    "of one size": ({f"layer.{i}": (5_000, 1_000) for i in range(300)}, 10, 1 << 20),
    "that are small": ({f"layer.{i}": (50, 64) for i in range(300)}, 9, 5 << 20),
    "of any size": (irregular(), 303, 6 << 20),
}
"""Of three hundred arrays: shapes, requests, bytes."""


@pytest.mark.parametrize("case", CASES)
def test_listing_three_hundred_arrays(case: str, nginx: Nginx) -> None:
    shapes, requests, nbytes = CASES[case]
    assert 300 <= len(shapes) <= 304
    folder = nginx.files / case.replace(" ", "-")
    folder.mkdir()
    write_sparse(folder, "mxnet", "m.params", shapes)
    nginx.forget()
    weights = wl.open(nginx.url(f"plain/{folder.name}/m.params"))
    assert {name: weights[name].shape for name in weights} == dict(shapes)
    asked = nginx.requests()
    assert len(asked) <= requests
    assert sum(int(r["bytes"]) for r in asked) <= nbytes
    nginx.forget()
    assert not weights[list(shapes)[150]][3:5].any()
    assert len(nginx.requests()) <= 1, "some rows are one request"


def test_a_server_without_lists_of_ranges(server: FaultServer, tmp_path: Path) -> None:
    """A request for each guess: no more than there are headers, and few in a row."""
    shapes = {f"layer.{i}": (300, 1_000) for i in range(60)}
    (path,) = write_sparse(tmp_path, "mxnet", "m.params", shapes)
    server.files["/m.params"] = path.read_bytes()
    weights = wl.open(server.url("/m.params"), **FAST)
    assert {name: weights[name].shape for name in weights} == shapes
    assert len(server.requests) <= 75


def test_with_its_sidecar(server: FaultServer, tmp_path: Path) -> None:
    """All bytes between the data are hashed to see whether the sidecar fits, and fetched together."""
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.integers(0, 99, (64, 2000), np.int32) for i in range(40)}
    wl.save(tensors, tmp_path / "m.params", metadata={"note": "é"}, durable=False)
    for name in ("m.params", "m.params.crc32c"):
        server.files[f"/{name}"] = (tmp_path / name).read_bytes()
    weights = wl.open(server.url("/m.params"), **FAST)
    assert weights.metadata == {"note": "é"}
    assert len(server.requests) <= 100
    assert_same(np.asarray(weights["w7"]), tensors["w7"])
    assert_same(wl.load(server.url("/m.params"), **FAST), tensors)


class Counting:
    """A remote reader of a file in memory that counts its round trips."""

    name = "x"

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.trips = 0
        self.held: dict[int, int] = {}

    def read_at(self, offset: int, nbytes: int) -> bytes:
        if not any(at <= offset and offset + nbytes <= at + n for at, n in self.held.items()):
            self.trips += 1
        assert offset + nbytes <= self.size
        return self.data[offset : offset + nbytes]

    def preload(self, ranges: list[tuple[int, int]]) -> None:
        self.trips += 1
        assert all(0 <= at < self.size for at, _ in ranges)
        self.held = dict(ranges)


@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_a_trail_of_headers_that_repeat(period: int) -> None:
    """Whatever is guessed, what is read is what is there."""
    rng = random.Random(period)
    distances = [rng.randrange(300_000, 400_000) for _ in range(period)] * (100 // period)
    data = rng.randbytes(sum(distances) + 500)
    reader = Counting(data)
    trail, at = Trail(reader, len(distances)), 0
    for distance in distances:
        trail.header_at(at)
        assert trail.read(at, 64) == data[at : at + 64]
        at += distance
    trail.header_at(at)
    assert trail.read(at, 500) == data[at:]
    assert reader.trips <= 2 * period + 8


def test_a_trail_that_stops_repeating() -> None:
    rng = random.Random(5)
    distances = [300_000] * 30 + [rng.randrange(300_000, 400_000) for _ in range(30)] + [300_000] * 30
    data = rng.randbytes(sum(distances) + 100)
    reader = Counting(data)
    trail, at = Trail(reader, len(distances)), 0
    for distance in distances:
        trail.header_at(at)
        assert trail.read(at, 64) == data[at : at + 64]
        at += distance
    assert reader.trips < 60
