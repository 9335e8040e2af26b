"""Every format over HTTP is what it is on the disk: same values, or the same error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from tests.conftest import REPOSITORY, shared_folder
from tests.http.servers import Nginx
from tests.http.support import FAST, assert_same, model

import weightlift as wl

SUFFIXES = (
    ".pt",
    ".safetensors",
    ".safetensors.index.json",
    ".npy",
    ".npz",
    ".index",
    "model.json",
    "manifest.json",
    ".json",
)
PLACES = {"golden": REPOSITORY / "tests" / "golden", "fixtures": shared_folder() / "fixtures"}
NOT_MODELS = ("expected.json", "truth.json", "result.json", "localStorage.json", "indexedDB.json")


def candidates() -> Iterator[tuple[str, Path]]:
    """(place, path below it) of everything that is, or should be, a model; those that are not to be read as well."""
    for place, folder in PLACES.items():
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file() and path.name.endswith(SUFFIXES) and not path.name.endswith(NOT_MODELS):
                yield place, path.relative_to(folder)


@pytest.fixture(scope="module")
def places(nginx: Nginx) -> Nginx:
    for place, folder in PLACES.items():
        if folder.is_dir():
            (nginx.files / place).symlink_to(folder)
    return nginx


def outcome(url: str, **options: Any) -> Any:
    try:
        return wl.load(url, **options)
    except wl.WeightliftError as error:
        return error


@pytest.mark.parametrize(("place", "path"), [pytest.param(*c, id=f"{c[0]}/{c[1]}") for c in candidates()])
def test_what_lies_on_the_disk_comes_over_http(places: Nginx, place: str, path: Path) -> None:
    local = outcome(str(PLACES[place] / path))
    remote = outcome(places.url(f"plain/{place}/{quote(path.as_posix())}"), **FAST)
    if isinstance(local, wl.WeightliftError):
        assert type(remote) is type(local), f"{remote!r} but on the disk {local!r}"
        assert remote.url is not None and remote.url.startswith("http://")
    else:
        if isinstance(remote, wl.WeightliftError):
            raise remote
        assert_same(remote, local)


TARGETS = {
    "npy": ("x.npy", {}),
    "npz": ("x.npz", {}),
    "deflated": ("x.npz", {"compression": "deflate"}),
    "torch": ("x.pt", {}),
    "tensorbundle": ("x.index", {}),
    "tensorbundle sharded": ("x.index", {"shard_size": 100_000}),
    "safetensors": ("x.safetensors", {}),
    "safetensors sharded": ("x.safetensors", {"shard_size": 100_000}),
    "tfjs": ("model.json", {}),
    "tfjs sharded": ("model.json", {"shard_size": 50_000}),
    "tfjs quantized": ("model.json", {"quantize": "uint8"}),
}


@pytest.fixture(params=TARGETS)
def saved(request: pytest.FixtureRequest, nginx: Nginx) -> tuple[Path, str]:
    """A model saved in one way: its path, and the path of its URL."""
    name, options = TARGETS[request.param]
    folder = nginx.files / "saved" / request.param.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Any = {n: a for n, a in model(400_000).items() if n != "scalar"}
    tensors["f"] = np.linspace(-1, 1, 999, dtype=np.float32)
    wl.save(tensors["w0"] if name == "x.npy" else tensors, folder / name, durable=False, **options)
    path = folder / (f"{name}.index.json" if request.param == "safetensors sharded" else name)
    return path, f"{folder.relative_to(nginx.files)}/{path.name}"


@pytest.mark.parametrize("service", ["plain", "noranges", "slow", "gzip", "moved"])
def test_every_way_of_saving_on_every_service(nginx: Nginx, saved: tuple[Path, str], service: str) -> None:
    path, name = saved
    if service == "slow" and "sharded" in name:
        return  # the shards come one after the other there; the slow rate is tried by the others
    url = nginx.url(f"{service}/{name}")
    options = {**FAST, "part_bytes": 1 << 20 if service == "slow" else 64 << 10}
    assert_same(wl.load(url, **options), wl.load(path))


def test_verify_diff_convert_and_open(nginx: Nginx, saved: tuple[Path, str], tmp_path: Path) -> None:
    path, name = saved
    url = nginx.url(f"plain/{name}")
    here, there = wl.verify(path), wl.verify(url, **FAST)
    assert (
        [t.status for t in there.tensors] == [t.status for t in here.tensors]
        and there.ok
        and there.nbytes == here.nbytes
    )
    assert not wl.diff(path, url, **FAST).differences
    assert not wl.diff(url, path, **FAST).differences
    wl.convert(url, tmp_path / "back.npz", **FAST)
    assert not wl.diff(tmp_path / "back.npz", path).differences
    local, remote = wl.open(path), wl.open(url, **FAST)
    assert list(remote) == list(local)
    for key in local:
        assert (remote[key].dtype, remote[key].shape) == (local[key].dtype, local[key].shape)
        assert_same(np.asarray(remote[key][...]), np.asarray(local[key][...]))


def test_damage_is_found(nginx: Nginx, tmp_path: Path) -> None:
    path = nginx.files / "damaged.safetensors"
    wl.save(model(300_000), path, durable=False)
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    url = nginx.url("plain/damaged.safetensors")
    with pytest.raises(wl.ChecksumError) as caught:
        wl.load(url, **FAST)
    assert caught.value.url == url
    report = wl.verify(url, **FAST)
    assert not report.ok and report.corrupt


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -1])
def test_truncated_files(nginx: Nginx, tmp_path: Path, keep: int) -> None:
    wl.save(model(100_000), tmp_path / "x.safetensors", durable=False)
    data = (tmp_path / "x.safetensors").read_bytes()[:keep]
    for folder in (tmp_path, nginx.files):
        (folder / "cut.safetensors").write_bytes(data)
    local, remote = outcome(str(tmp_path / "cut.safetensors")), outcome(nginx.url("plain/cut.safetensors"), **FAST)
    assert isinstance(local, wl.WeightliftError) and type(remote) is type(local)


def test_what_is_not_there(nginx: Nginx) -> None:
    for path in ("plain/none.safetensors", "plain/none/model.json", "nowhere"):
        with pytest.raises(wl.NotFoundError, match="404") as caught:
            wl.load(nginx.url(path), **FAST)
        assert caught.value.url == nginx.url(path)


def test_a_shard_that_is_not_there(nginx: Nginx) -> None:
    folder = nginx.files / "incomplete"
    folder.mkdir(exist_ok=True)
    wl.save(model(400_000), folder / "m.safetensors", shard_size=100_000, durable=False)
    shard = sorted(folder.glob("m-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises((wl.NotFoundError, wl.FormatError), match=shard.name):
        wl.load(nginx.url("plain/incomplete/m.safetensors.index.json"), **FAST)


@pytest.mark.parametrize("name", ["with space.npy", "é重み.npy", "100%.npy", "a+b&c=d.npy", "semi;colon.npy"])
def test_names_that_need_escapes(nginx: Nginx, name: str) -> None:
    np.save(nginx.files / name, np.arange(5))
    assert wl.load(nginx.url(f"plain/{quote(name)}"), **FAST).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["a b.npy", "é 重み.npy", "100%.npy", "{x}|^`.npy", 'less<"more">.npy'])
def test_urls_with_characters_that_must_be_escaped(nginx: Nginx, name: str) -> None:
    """They are, as browsers and requests do; once."""
    np.save(nginx.files / name, np.arange(5))
    assert wl.load(nginx.url(f"plain/{name}"), **FAST).tolist() == [0, 1, 2, 3, 4]
    np.savez(nginx.files / f"{name}.npz", *np.arange(6).reshape(2, 3))
    assert sorted(wl.open(nginx.url(f"plain/{name}.npz?of={name}"), **FAST)) == ["arr_0", "arr_1"]


def test_a_model_at_a_url_with_spaces(nginx: Nginx) -> None:
    """Weights lie beside the document, or behind a prefix that has spaces, too."""
    tensors = {"w": np.arange(20_000, dtype=np.float32)}
    wl.save(tensors, nginx.files / "my model" / "model.json", durable=False)
    found = wl.load_model(nginx.url("plain/my model/model.json"), **FAST)
    assert_same({n: np.asarray(a) for n, a in found.weights.items()}, tensors)
    (nginx.files / "my model" / "weights.bin").rename(nginx.files / "weights.bin")
    found = wl.load_model(
        nginx.url("plain/my model/model.json"), weight_path_prefix=nginx.url("plain/my model/.."), **FAST
    )
    assert_same({n: np.asarray(a) for n, a in found.weights.items()}, tensors)


def test_fragments_and_queries(nginx: Nginx) -> None:
    np.save(nginx.files / "q.npy", np.arange(3))
    assert wl.load(nginx.url("plain/q.npy?a=b/c.json#part"), **FAST).tolist() == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_makes_its_own_connections(nginx: Nginx, tmp_path: Path) -> None:
    import multiprocessing as mp

    tensors = model(200_000)
    wl.save(tensors, nginx.files / "forked.safetensors", durable=False)
    url = nginx.url("plain/forked.safetensors")
    weights = wl.open(url, **FAST)
    assert_same(np.asarray(weights["w0"][...]), tensors["w0"])
    context = mp.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=lambda: queue.put(int(weights["w1"][...].sum()))) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert {queue.get() for _ in children} == {int(tensors["w1"].sum())}
    assert_same(np.asarray(weights["w2"][...]), tensors["w2"])
