"""Weights in object stores, against Ceph's gateway."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.http.servers import program
from tests.objects.ceph import KEY, SECRET, Gateway

import weightlift as wl
from weightlift.protocols import Store
from weightlift.stores._object import Bucket, ObjectStore
from weightlift.testing import StoreContract

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

TENSORS: dict[str, Any] = {
    "layer.weight": np.arange(3_000_000, dtype=np.float32).reshape(1000, 3000),
    "layer.bias": np.linspace(-1, 1, 77, dtype=np.float32),
    "empty": np.zeros((0, 3), np.int32),
}


class TestObjectStore(StoreContract):
    @pytest.fixture
    def store(self, gateway: Gateway, place: str) -> ObjectStore:
        return ObjectStore(Bucket(place, gateway.options), place.rpartition("/")[2])

    def test_parts_may_be_written_in_any_order_and_at_once(self, store: Store) -> None:
        """An object is sent in order; several threads may write, and what is early waits."""
        data = bytes(range(256)) * 4000
        writer = store.create("f", len(data))
        starts = list(range(0, len(data), 70_001))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda at: writer.write_at(at, data[at : at + 70_001]), reversed(starts)))
        writer.commit()
        assert self.get(store, "f") == data


def same(loaded: Any) -> bool:
    return list(loaded) == list(TENSORS) and all(np.array_equal(loaded[n], TENSORS[n]) for n in TENSORS)


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "b/model.json", "a space+%.safetensors", "é.safetensors"])
def test_saved_and_loaded(gateway: Gateway, place: str, name: str) -> None:
    result = wl.save(TENSORS, f"{place}/{name}", **gateway.options)
    assert result.files[0] == f"{place}/{name}"
    assert same(wl.load(f"{place}/{name}", **gateway.options))
    assert wl.verify(f"{place}/{name}", **gateway.options).ok
    assert wl.load(f"{place}/{name}", names="layer.bias", **gateway.options).keys() == {"layer.bias"}


def test_shards(gateway: Gateway, place: str) -> None:
    result = wl.save(TENSORS, f"{place}/m.safetensors", shard_size=1 << 20, **gateway.options)
    assert len(result.files) == 3
    assert same(wl.load(f"{place}/m.safetensors.index.json", **gateway.options))


def test_it_is_what_others_read(gateway: Gateway, place: str) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    wl.save(TENSORS, f"{place}/a.safetensors", **gateway.options)
    key = f"{place.rpartition('/')[2]}/a.safetensors"
    found = safetensors.load(bytes(obstore.get(gateway.store, key).bytes()))
    assert all(np.array_equal(found[name], TENSORS[name]) for name in TENSORS)
    obstore.put(gateway.store, f"{key}.2", safetensors.save(TENSORS))
    loaded = wl.load(f"{place}/a.safetensors.2", **gateway.options)
    assert all(np.array_equal(loaded[name], TENSORS[name]) for name in TENSORS)


def test_rows_of_a_lazy_tensor(gateway: Gateway, place: str) -> None:
    wl.save(TENSORS, f"{place}/a.safetensors", **gateway.options)
    with wl.open(f"{place}/a.safetensors", **gateway.options) as weights:
        assert np.array_equal(weights["layer.weight"][10:12], TENSORS["layer.weight"][10:12])


def test_what_is_replaced_midway(gateway: Gateway, place: str) -> None:
    wl.save(TENSORS, f"{place}/a.safetensors", **gateway.options)
    with wl.open(f"{place}/a.safetensors", **gateway.options) as weights:
        wl.save({name: tensor + 1 for name, tensor in TENSORS.items()}, f"{place}/a.safetensors", **gateway.options)
        with pytest.raises(wl.ChangedError):
            weights["layer.weight"][10:12]


def test_models_in_parts_larger_than_a_request(gateway: Gateway, place: str) -> None:
    large = {"w": np.random.default_rng(0).integers(0, 255, 100 << 20, np.uint8)}
    wl.save(large, f"{place}/large.safetensors", **gateway.options)
    assert np.array_equal(wl.load(f"{place}/large.safetensors", **gateway.options)["w"], large["w"])


def test_files_that_go_side_by_side(gateway: Gateway, place: str) -> None:
    many = {f"t{i}": np.full(6 << 20, i, np.uint8) for i in range(8)}
    seen: list[tuple[int, int]] = []
    options = {"shard_size": 6 << 20, **gateway.options}
    wl.save(many, f"{place}/m.safetensors", progress=lambda done, total: seen.append((done, total)), **options)
    assert len(seen) == 8 and seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 48 << 20
    loaded = wl.load(f"{place}/m.safetensors.index.json", **gateway.options)
    assert all(np.array_equal(loaded[name], many[name]) for name in many)

    def fails(done: int, total: int) -> None:
        raise RuntimeError(f"after {done}")

    with pytest.raises(RuntimeError, match="after"):
        wl.save(many, f"{place}/n.safetensors", progress=fails, **options)
    names = [o["path"] for o in obstore.list(gateway.store, f"{place.rpartition('/')[2]}/n").collect()]
    assert len(names) < 8 and not any(name.endswith("index.json") for name in names)


def test_a_save_that_fails_leaves_no_object(gateway: Gateway, place: str) -> None:
    def fails(done: int, total: int) -> None:
        if done > total // 2:
            raise RuntimeError("enough")

    large = {"w": np.zeros(40 << 20, np.uint8), "v": np.ones(40 << 20, np.uint8)}
    with pytest.raises(RuntimeError, match="enough"):
        wl.save(large, f"{place}/a.safetensors", progress=fails, **gateway.options)
    assert not obstore.list(gateway.store, f"{place.rpartition('/')[2]}/").collect()


def test_errors_say_where_and_keep_secrets(gateway: Gateway, place: str) -> None:
    wl.save(TENSORS, f"{place}/a.safetensors", **gateway.options)
    wrong = {**gateway.options, "config": {**gateway.options["config"], "secret_access_key": "wr0ng-secret"}}
    attempts = [
        (wl.NotFoundError, lambda: wl.load(f"{place}/none.safetensors", **gateway.options)),
        (wl.NotFoundError, lambda: wl.load("s3://no-such-bucket/a.safetensors", **gateway.options)),
        (wl.NotFoundError, lambda: wl.save(TENSORS, "s3://no-such-bucket/a.safetensors", **gateway.options)),
        (wl.AccessError, lambda: wl.load(f"{place}/a.safetensors", **wrong)),
        (wl.AccessError, lambda: wl.save(TENSORS, f"{place}/b.safetensors", **wrong)),
        (wl.RoutingError, lambda: wl.load("s3:///a.safetensors", **gateway.options)),
        (TypeError, lambda: wl.load(f"{place}/a.safetensors", nonsense=1, **gateway.options)),
        (wl.UnsafeContentError, lambda: wl.load(f"{place}/../a.safetensors", **gateway.options)),
    ]
    for kind, attempt in attempts:
        with pytest.raises(kind) as caught:
            attempt()
        text = "".join(traceback.format_exception(caught.value))
        assert SECRET not in text and "wr0ng-secret" not in text and "Signature=" not in text
        if isinstance(caught.value, wl.StorageError):
            assert ".safetensors" in str(caught.value)


def test_objects_that_anybody_may_read(gateway: Gateway, place: str, tmp_path: Path) -> None:
    wl.save(TENSORS, tmp_path / "a.safetensors")
    wl.save(TENSORS, f"{place}/private.safetensors", **gateway.options)
    address = f"{gateway.endpoint}/models/{place.rpartition('/')[2]}/a.safetensors"
    signing = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{KEY}:{SECRET}", "-H", "x-amz-acl: public-read"]
    body = ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-T", str(tmp_path / "a.safetensors")]
    subprocess.run([program("curl"), "-sSf", *signing, *body, address], check=True)
    nobody = {"endpoint": gateway.endpoint, "skip_signature": True}
    anonymous = {"config": nobody, "client_options": {"allow_http": True}}
    assert same(wl.load(f"{place}/a.safetensors", **anonymous))
    for name in ("private", "none"):
        with pytest.raises((wl.AccessError, wl.NotFoundError)):
            wl.load(f"{place}/{name}.safetensors", **anonymous)


def test_credentials_of_the_environment(gateway: Gateway, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    wl.save(TENSORS, f"{place}/a.safetensors")
    assert same(wl.load(f"{place}/a.safetensors"))


def test_converted_from_one_bucket_to_a_file_and_back(gateway: Gateway, place: str, tmp_path: Path) -> None:
    wl.save(TENSORS, f"{place}/a.safetensors", **gateway.options)
    wl.convert(f"{place}/a.safetensors", tmp_path / "a.npz", **gateway.options)
    wl.convert(tmp_path / "a.npz", f"{place}/b.safetensors", **gateway.options)
    assert same(wl.load(f"{place}/b.safetensors", **gateway.options))


@pytest.fixture
def without_obstore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "obstore", None)
    yield


def test_without_the_library(without_obstore: None) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=r"pip install 'weightlift\[object\]'"):
        wl.load(f"s3://bucket/{KEY}.safetensors")
