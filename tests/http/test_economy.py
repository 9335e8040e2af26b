"""How many requests and bytes things cost, counted at the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.sparse import write_sparse
from tests.http import faults
from tests.http.fault_server import FaultServer
from tests.http.servers import Nginx
from tests.http.support import assert_same

import weightlift as wl
from weightlift._chunks import iter_chunks
from weightlift._dtypes import DTYPES
from weightlift._source import open_source
from weightlift.errors import FormatError, MismatchError
from weightlift.formats._tfjs_manifest import dump

SHAPES: dict[str, tuple[int, ...]] = {}
for _i in range(500):
    SHAPES[f"layer.{_i}.weight"] = (10_000, 5_000)
    SHAPES[f"layer.{_i}.bias"] = (2_500,)
HUGE = {"safetensors": "model.safetensors", "npz": "model.npz", "torch": "model.pt", "tfjs": "model.json"}
REQUESTS = {"safetensors": 3, "npz": 6, "torch": 6, "tfjs": 3}
"""To list a thousand tensors; an npz or torch file has a header in front of each, which are fetched many at a time."""
HEAD = 64 << 10
"""Bytes that come with the first request for a file."""
FILES = {"safetensors": "m.safetensors", "npz": "m.npz", "torch": "m.pt", "npy": "m.npy", "tfjs": "model.json"}


@pytest.fixture(scope="module")
def huge(nginx: Nginx) -> Nginx:
    """100 GB of holes in each format."""
    for format, name in HUGE.items():
        folder = nginx.files / "huge" / format
        folder.mkdir(parents=True)
        write_sparse(folder, format, name, SHAPES)
    return nginx


def spent(nginx: Nginx) -> tuple[int, int]:
    """(requests, bytes of bodies) since ``forget``."""
    asked = nginx.requests()
    return len(asked), sum(int(r["bytes"]) for r in asked)


@pytest.mark.parametrize("format", HUGE)
def test_a_huge_file_is_listed_by_a_handful_of_requests(huge: Nginx, format: str) -> None:
    huge.forget()
    weights = wl.open(huge.url(f"plain/huge/{format}/{HUGE[format]}"))
    assert {name: weights[name].shape for name in weights} == SHAPES
    requests, nbytes = spent(huge)
    assert requests <= REQUESTS[format]
    assert nbytes < 2 << 20


def test_a_torch_file_of_three_hundred_tensors_is_listed_by_four_requests(huge: Nginx) -> None:
    """Its beginning with the pickle, its end with the directory, and all local headers at once."""
    folder = huge.files / "huge" / "layers"
    folder.mkdir()
    write_sparse(folder, "torch", "model.pt", {f"layer.{i}": (5_000, 10_000) for i in range(300)})
    huge.forget()
    weights = wl.open(huge.url("plain/huge/layers/model.pt"))
    assert len(weights) == 300 and weights["layer.299"].shape == (5_000, 10_000)
    requests, nbytes = spent(huge)
    assert requests <= 4
    assert nbytes < 1 << 20


@pytest.mark.parametrize("format", HUGE)
def test_one_tensor_of_a_huge_file(huge: Nginx, format: str) -> None:
    url = huge.url(f"plain/huge/{format}/{HUGE[format]}")
    huge.forget()
    wl.open(url)
    listing, listing_bytes = spent(huge)
    huge.forget()
    loaded = wl.load(url, names=["layer.250.bias"], verify=False)
    assert_same(loaded, {"layer.250.bias": np.zeros(2_500, np.float32)})
    requests, nbytes = spent(huge)
    assert requests <= listing + 2 <= REQUESTS[format] + 2
    assert nbytes < listing_bytes + (1 << 20)


@pytest.mark.parametrize("format", HUGE)
@pytest.mark.parametrize("name", ["layer.0.bias", "layer.250.bias", "layer.499.bias"])
def test_one_tensor_of_a_huge_file_costs_three_requests(huge: Nginx, format: str, name: str) -> None:
    """Its beginning, its directory or weight file, and the tensor with all headers that it has."""
    huge.forget()
    loaded = wl.load(huge.url(f"plain/huge/{format}/{HUGE[format]}"), names=[name], verify=False)
    assert_same(loaded, {name: np.zeros(2_500, np.float32)})
    requests, nbytes = spent(huge)
    assert requests <= 3
    assert nbytes < 1 << 20


@pytest.mark.parametrize(("format", "compression"), [("npz", None), ("npz", "deflate"), ("torch", None)])
def test_chosen_tensors_are_the_right_ones_and_verified(
    server: FaultServer, tmp_path: Path, format: str, compression: str | None
) -> None:
    rng = np.random.default_rng(1)
    tensors = {f"w{i:03}": rng.integers(0, 1 << 30, (64, 257 + i), np.int32) for i in range(300)}
    path = tmp_path / FILES[format]
    wl.save(tensors, path, **({"compression": compression} if compression else {}))
    server.files["/m"] = path.read_bytes()
    names = ["w007", "w2[0-4]?", "w007"]
    wanted = {n: a for n, a in tensors.items() if n == "w007" or "w200" <= n <= "w249"}
    assert_same(wl.load(server.url("/m"), names=iter(names), format=format), wanted)
    assert "/m.crc32c" not in {r.path for r in server.requests}
    server.forget()
    assert_same(wl.load(server.url("/m"), names="w123", format=format), {"w123": tensors["w123"]})
    assert len(server.requests) == 3
    with pytest.raises(MismatchError, match="the file has 300"):
        wl.load(server.url("/m"), names=["w007", "none*"], format=format)
    with wl.open(path) as weights:
        at = weights["w123"].offset
    assert at is not None
    damaged = bytearray(server.files["/m"])
    damaged[at + 4000] ^= 16
    server.files["/m"] = bytes(damaged)
    with pytest.raises(FormatError, match="w123"):
        wl.load(server.url("/m"), names="w123", format=format)
    assert_same(wl.load(server.url("/m"), names="w124", format=format), {"w124": tensors["w124"]})


def test_a_large_tensor_goes_straight_into_its_place(server: FaultServer, tmp_path: Path) -> None:
    """Only its headers are read apart: 16 MiB need not lie in memory twice."""
    tensors = {"small": np.arange(9, dtype=np.int32), "large": np.arange(4 << 20, dtype=np.int32)}
    wl.save(tensors, tmp_path / "m.npz")
    server.files["/m.npz"] = (tmp_path / "m.npz").read_bytes()
    assert_same(wl.load(server.url("/m.npz"), names="large"), {"large": tensors["large"]})
    assert server.body_bytes_sent < (16 << 20) + (256 << 10)


def test_types_that_only_the_sidecar_knows(server: FaultServer, tmp_path: Path) -> None:
    """NumPy's header says of a bfloat16 that it is two bytes: then the sidecar is asked, and the file read for it."""
    halves = np.linspace(-2, 2, 4096).astype(DTYPES["bfloat16"].numpy)
    wl.save({f"w{i}": halves + i for i in range(40)} | {"plain": np.arange(4096)}, tmp_path / "m.npz")
    server.files = {f"/{p.name}": p.read_bytes() for p in tmp_path.glob("m.npz*")}
    assert len(server.files) == 2
    assert_same(wl.load(server.url("/m.npz"), names="w7"), {"w7": halves + 7})
    assert "/m.npz.crc32c" in {r.path for r in server.requests}
    server.forget()
    assert_same(wl.load(server.url("/m.npz"), names="plain"), {"plain": np.arange(4096)})
    assert "/m.npz.crc32c" not in {r.path for r in server.requests}


def test_members_that_overlap_are_noticed_without_their_headers(server: FaultServer, tmp_path: Path) -> None:
    """The directory says enough: the neighbour's bytes reach into the chosen member."""
    np.savez(tmp_path / "m.npz", *(np.full(20_000, i) for i in range(4)))
    data = bytearray((tmp_path / "m.npz").read_bytes())
    entry = data.rindex(b"PK\1\2", 0, data.rindex(b"PK\1\2"))  # of arr_2
    for field in (20, 24):
        size = int.from_bytes(data[entry + field : entry + field + 4], "little")
        data[entry + field : entry + field + 4] = (size + 4096).to_bytes(4, "little")
    server.files["/m.npz"] = bytes(data)
    with pytest.raises(FormatError, match="overlap"):
        wl.load(server.url("/m.npz"), names="arr_3")


@pytest.mark.parametrize("format", HUGE)
def test_some_rows_of_a_huge_tensor(huge: Nginx, format: str) -> None:
    weights = wl.open(huge.url(f"plain/huge/{format}/{HUGE[format]}"), verify=False)
    huge.forget()
    rows = weights["layer.250.weight"][5_000:5_010]
    assert rows.shape == (10, 5_000) and not rows.any()
    requests, nbytes = spent(huge)
    assert requests <= (2 if format == "tfjs" else 1), "TensorFlow.js's weight file is opened when it is touched"
    assert 200_000 <= nbytes <= 200_001


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A model of 64 tensors of 64 KiB in each format, served under its name."""
    rng = np.random.default_rng(0)
    tensors = {f"w{i:02}": rng.integers(0, 1 << 31, (128, 128), np.int32) for i in range(64)}
    found = {}
    for format, name in FILES.items():
        (tmp_path / format).mkdir()
        wl.save(np.stack(list(tensors.values())) if format == "npy" else tensors, tmp_path / format / name)
        found |= {f"/{format}/{p.name}": p.read_bytes() for p in (tmp_path / format).iterdir()}
    return found


@pytest.mark.parametrize("several", [True, False], ids=["several ranges", "one range a request"])
@pytest.mark.parametrize("format", FILES)
def test_a_whole_load_asks_for_each_byte_about_once(
    server: FaultServer, files: dict[str, bytes], format: str, several: bool
) -> None:
    server.files = dict(files)
    path = f"/{format}/{FILES[format]}"
    server.fault = faults.where(lambda r: len(r.ranges) > 1 and not several, faults.whole_file(files[path]))
    wl.load(server.url(f"/{format}/{FILES[format]}"))
    total = sum(len(data) for path, data in files.items() if path.startswith(f"/{format}/"))
    # The answer to the vain request for a list of ranges, the whole file, may be in the sockets' buffers before the
    # client hangs up.
    twice = format in ("npz", "torch") and not several
    assert sum(len(r.ranges) > 1 for r in server.requests) == (format in ("npz", "torch"))
    assert total * 0.98 <= server.body_bytes_sent <= total * (1 + twice) + (1 << 19)


@pytest.mark.parametrize("most", [1, 200, 1000])
def test_a_server_may_limit_the_ranges_of_a_request(server: FaultServer, tmp_path: Path, most: int) -> None:
    """Headers of 600 members, 4 KiB apart, by two lists; by four shorter ones (Apache); or by the stretch."""
    np.savez(tmp_path / "m.npz", *np.zeros((600, 1024), np.float32))  # type: ignore[arg-type]
    data = server.files["/m.npz"] = (tmp_path / "m.npz").read_bytes()
    server.fault = faults.where(lambda r: len(r.ranges) > most, faults.whole_file(data))
    assert len(wl.open(server.url("/m.npz"))) == 600
    lists = [len(r.ranges) for r in server.requests if len(r.ranges) > 1]
    if most == 1:
        assert len(lists) == 2 and len(server.requests) <= 8
    elif most == 200:
        assert max(lists[1:]) <= 200 < lists[0] and len(lists) == 5 and len(server.requests) <= 8
    else:
        assert len(lists) == 2 and len(server.requests) <= 5
    if most > 1:
        assert all(len(r.headers.get("range", "")) < 8192 - len("range: ") for r in server.requests)


@pytest.mark.parametrize("format", [f for f in FILES if f != "npy"])
def test_names_fetch_only_their_bytes(server: FaultServer, files: dict[str, bytes], format: str) -> None:
    server.files = dict(files)
    url = server.url(f"/{format}/{FILES[format]}")
    wl.open(url)
    listing, listing_bytes = len(server.requests), server.body_bytes_sent
    server.forget()
    assert list(wl.load(url, names=["w40", "w60"])) == ["w40", "w60"]
    assert len(server.requests) <= listing + (3 if format == "tfjs" else 2)
    assert server.body_bytes_sent <= listing_bytes + 2 * (64 << 10) + (1 << 10)


@pytest.mark.parametrize("format", [f for f in FILES if f != "npy"])
def test_neighbours_are_fetched_together(server: FaultServer, files: dict[str, bytes], format: str) -> None:
    """Ten tensors that lie side by side are one stretch of the file, not ten requests."""
    server.files = dict(files)
    url = server.url(f"/{format}/{FILES[format]}")
    wl.open(url)
    listing = len(server.requests)
    server.forget()
    wl.load(url, names=[f"w{i}" for i in range(30, 40)], connections=1)
    assert len(server.requests) <= listing + (2 if format == "tfjs" else 1)


@pytest.fixture
def shards(server: FaultServer, tmp_path: Path) -> str:
    """The URL of a model of 64 tensors of 64 KiB in 16 files; w40 is cut in mid-element, between the 10th and 11th."""
    wl.save({f"w{i:02}": np.full((128, 128), i, np.int32) for i in range(64)}, tmp_path / "whole" / "model.json")
    document = json.loads((tmp_path / "whole" / "model.json").read_bytes())
    data, size = (tmp_path / "whole" / "weights.bin").read_bytes(), (256 << 10) + 1
    server.files = {f"/{i:02}.bin": data[at : at + size] for i, at in enumerate(range(0, len(data), size), 1)}
    document["weightsManifest"][0]["paths"] = [path[1:] for path in server.files]
    record = {key: value for key, value in document.pop("weightlift").items() if key != "digest"}
    server.files["/model.json"] = dump(document, record)
    return server.url("/model.json")


def chunks(url: str, tmp_path: Path, **options: Any) -> None:
    source = open_source(url, store_options=options)
    assert all((chunk == 40).all() for chunk in iter_chunks(source, source.table.index("w40")))


def conversion(url: str, tmp_path: Path, **options: Any) -> None:
    wl.convert(url, tmp_path / "some.npz", names=["w40", "w41"], **options)
    assert [(a == a[0, 0]).all() and a[0, 0] for a in wl.load(tmp_path / "some.npz").values()] == [40, 41]


@pytest.mark.parametrize("cached", [False, True], ids=["", "cache"])
@pytest.mark.parametrize("job", [chunks, conversion])
def test_only_files_that_are_needed_are_opened(
    server: FaultServer, shards: str, tmp_path: Path, job: Callable[..., None], cached: bool
) -> None:
    """The model, the first file (whose size says how all were cut), and those that hold what is wanted."""
    job(shards, tmp_path, **({"cache": tmp_path / "cache"} if cached else {}))
    opened = sorted(r.path for r in server.requests if r.range is not None and r.range[0] == 0)
    wanted = ["/01.bin", "/10.bin", "/11.bin", "/model.json"]
    assert sorted({r.path for r in server.requests}) == wanted
    assert cached or opened == wanted, "each is opened once"
    assert server.body_bytes_sent <= len(server.files["/model.json"]) + 3 * HEAD + 2 * (256 << 10)


def test_what_was_opened_lazily_is_fetched_when_it_is_touched(server: FaultServer, files: dict[str, bytes]) -> None:
    server.files = dict(files)
    weights = wl.open(server.url("/safetensors/m.safetensors"))
    server.forget()
    assert weights["w60"].shape == (128, 128) and not server.requests
    row = np.asarray(weights["w60"][3])
    assert row.shape == (128,) and len(server.requests) == 1 and server.body_bytes_sent < 4096
    server.forget()
    again = np.asarray(weights["w60"][...])
    assert np.array_equal(again[3], row) and len(server.requests) == 1


def test_connections_are_used_again(server: FaultServer, files: dict[str, bytes]) -> None:
    server.files = dict(files)
    wl.load(server.url("/safetensors/m.safetensors"), connections=2, part_bytes=64 << 10)
    assert len(server.requests) > 20
    assert server.connections <= 4


def test_no_more_connections_than_asked_for(server: FaultServer, files: dict[str, bytes]) -> None:
    server.files = dict(files)
    most = 0

    def watch(request: Any, answer: Any) -> Any:
        nonlocal most
        most = max(most, server.open_connections)
        return answer

    server.fault = watch
    wl.load(server.url("/safetensors/m.safetensors"), connections=3, part_bytes=16 << 10)
    assert 1 <= most <= 3


def test_identity_is_asked_for_and_no_head_request_is_made(server: FaultServer, files: dict[str, bytes]) -> None:
    server.files = dict(files)
    wl.load(server.url("/safetensors/m.safetensors"))
    assert {r.method for r in server.requests} == {"GET"}
    assert {r.headers.get("accept-encoding", "identity") for r in server.requests} == {"identity"}
    first, *parts = server.requests
    assert first.range is not None and first.range[0] == 0
    assert parts and {part.path for part in parts} == {first.path}
    assert all("if-range" in part.headers or "if-match" in part.headers for part in parts)


def test_a_tensor_of_a_checkpoint_of_tensorflow_costs_three_requests(nginx: Nginx) -> None:
    """The index, the data file it lies in, and its bytes; the other data files are not touched."""
    tensors = {f"layer{i}/kernel": np.full((100, 100), i, "f4") for i in range(30)}
    wl.save(tensors, nginx.files / "bundle" / "x", format="tensorbundle", shard_size=400_000)
    nginx.forget()
    with wl.open(nginx.url("plain/bundle/x.index")) as weights:
        assert len(weights) == 30
        assert spent(nginx)[0] == 1
        assert np.array_equal(weights["layer29/kernel"][...], tensors["layer29/kernel"])
    requests, nbytes = spent(nginx)
    assert requests <= 3
    assert nbytes < 200_000
    assert_same(wl.load(nginx.url("plain/bundle/x"), names="layer3/*"), {"layer3/kernel": tensors["layer3/kernel"]})
