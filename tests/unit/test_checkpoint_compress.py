"""Checkpoints whose arrays are compressed: the same values, in fewer bytes, wherever they are read."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.unit.checkpoint_support import equal, restored, save_all

import weightlift as wl
from weightlift._steps import Frame, Zstd
from weightlift._zstd import compress, place_frames
from weightlift.checkpoint import Checkpointer, PerRank, Sharded
from weightlift.checkpoint import _checkpointer as module
from weightlift.checkpoint import _write as writing
from weightlift.checkpoint._folders import LocalFolder

pytest.importorskip("zstandard", reason="zstandard is not installed")


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def index_of(folder: Path, step: int = 1) -> Path:
    return folder / f"step-{step:08d}" / "model.safetensors.index.json"


TYPES = [
    "f2", "f4", "f8", "c8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
]  # fmt: skip


def test_all_types_are_as_they_were_and_take_less(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    for kind in TYPES:
        dtype = np.dtype(kind)
        state[f"x{dtype.name}{dtype.byteorder}"] = (np.arange(3000).reshape(30, 100) % 2).astype(dtype)
    state |= {"scalar": np.float32(2).reshape(()), "empty": np.zeros((0, 3)), "lr": 0.1, "turned": normal(80, 70).T}
    save_all(tmp_path / "plain", {1: state})
    save_all(tmp_path / "small", {1: state}, compress="zstd")
    assert equal(restored(tmp_path / "small"), restored(tmp_path / "plain"))
    manifest = Checkpointer(tmp_path / "small").manifest()
    assert {name for name, t in manifest.tensors.items() if t.encoded is None} == {"scalar.state", "empty", "xfloat32>"}
    assert manifest.nbytes < Checkpointer(tmp_path / "plain").manifest().nbytes / 4
    assert Checkpointer(tmp_path / "small").verify().ok


@pytest.mark.parametrize("item", [1, 2, 4, 8, 16])
def test_bytes_are_shuffled_by_element(item: int) -> None:
    import zstandard

    data = np.frombuffer(np.random.default_rng(item).bytes(item * 5), np.uint8)
    stored = compress(data.view(f"V{item}"), 1)
    planes = zstandard.ZstdDecompressor().decompress(stored)
    assert planes == b"".join(data[number::item].tobytes() for number in range(item))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    hnp.arrays(
        st.sampled_from(["u1", "f2", "f4", "i8", "c16"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=9),
    ),
    st.integers(1, 4),
)
def test_arrays_come_back(array: np.ndarray, level: int) -> None:
    from weightlift._checksum import crc32c

    stored = compress(array, level)
    raw = np.frombuffer(array.tobytes(), np.uint8)
    frame = Frame(len(stored), array.nbytes, array.itemsize, crc32c(raw))
    plain = Frame(len(raw), len(raw))
    back = place_frames(Zstd((frame, plain, frame)), np.concatenate([stored, raw, stored]))
    assert back.tobytes() == array.tobytes() * 3


def test_what_does_not_become_smaller_is_stored_as_it_is(tmp_path: Path) -> None:
    noise = np.frombuffer(np.random.default_rng(0).bytes(100_000), np.uint8)
    save_all(tmp_path, {1: {"noise": noise, "few": np.zeros(10), "much": np.zeros(10_000)}}, compress="zstd")
    tensors = Checkpointer(tmp_path).manifest().tensors
    assert {name: t.encoded is not None for name, t in tensors.items()} == {"noise": False, "few": False, "much": True}


def test_every_reader_takes_the_values(tmp_path: Path) -> None:
    state = {"w": normal(300, 40), "h": normal(50, 40, dtype="f2"), "n": 3}
    save_all(tmp_path / "s", {1: state}, compress=("zstd", 3))
    folder = tmp_path / "s" / "step-00000001"
    assert equal(wl.load(folder), state)
    assert equal(wl.load(folder, names="h"), {"h": state["h"]})
    assert wl.load(folder, names="h", dtype="float32")["h"].dtype == np.float32
    with wl.open(folder) as weights:
        w = weights["w"]
        assert w.dtype.name == "float32" and w.shape == (300, 40) and w.stored == "zstd" and w.stored_nbytes < w.nbytes
        assert equal(np.asarray(w[7:9]), state["w"][7:9]) and equal(np.asarray(w), state["w"])
    for target in ("m.safetensors", "m.npz", "m.pt"):
        wl.convert(folder, tmp_path / target)
        back = wl.load(tmp_path / target)
        assert equal(back["w"], state["w"]) and equal(back["h"], state["h"])
    into = {"w": np.zeros((300, 40), "f4"), "h": np.zeros((50, 40), "f2"), "n": 0}
    assert equal(Checkpointer(tmp_path / "s").restore(into=into), state) and equal(into["w"], state["w"])
    assert wl.diff(folder, folder).same


def test_what_has_not_changed_is_linked(tmp_path: Path) -> None:
    state = {"a": normal(5 << 20), "b": normal(5 << 20, seed=1)}
    with Checkpointer(tmp_path, compress="zstd", keep_last=None) as checkpointer:
        checkpointer.save(1, state, blocking=True)
        state["b"] = state["b"] + 1
        second = checkpointer.save(2, state)
        checkpointer.wait()
        assert 10 << 20 < second.bytes_written < 19 << 20
    save_all(tmp_path, {3: state}, compress=None)  # what is there stays as it is
    state["a"] = state["a"] + 1
    save_all(tmp_path, {4: state}, compress=None)
    save_all(tmp_path, {5: state}, compress="zstd")
    checkpointer = Checkpointer(tmp_path)
    manifests = {step: checkpointer.manifest(step) for step in range(1, 6)}
    since = {s: {n: m.files[t.file].since for n, t in m.tensors.items()} for s, m in manifests.items()}
    assert since == {1: {"a": 1, "b": 1}, 2: {"a": 1, "b": 2}, 3: {"a": 1, "b": 2}, 4: {"a": 4, "b": 2},
                     5: {"a": 4, "b": 2}}  # fmt: skip
    assert [n for n, t in manifests[5].tensors.items() if t.encoded] == ["b"]
    assert equal(checkpointer.restore(), state) and all(checkpointer.verify(step).ok for step in range(1, 6))
    checkpointer.delete(2)
    assert equal(checkpointer.restore(5), state)
    checkpointer.close()


@pytest.mark.parametrize("shape", [(60, 10), (2, 300)])
def test_pieces_are_compressed_each(tmp_path: Path, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1200)
    noise = np.frombuffer(np.random.default_rng(0).bytes(1200), np.float32)
    array = np.repeat(np.arange(shape[0] * shape[1] // 2, dtype="f4"), 2).reshape(shape)
    array.reshape(-1)[:300] = noise  # a piece of it is stored as it is
    save_all(tmp_path, {1: {"w": array}}, compress="zstd")
    tensors = Checkpointer(tmp_path).manifest().tensors
    assert [t.encoded is not None for t in tensors.values()] == [False, True]
    assert equal(restored(tmp_path), {"w": array}) and wl.verify(index_of(tmp_path)).ok
    with wl.open(index_of(tmp_path)) as weights:
        assert equal(np.asarray(weights["w"][1:2]), array[1:2])
    shard = next((tmp_path / "step-00000001").glob("data-*"))
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(wl.ChecksumError, match="'w'"):
        restored(tmp_path)


def test_every_batch_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH", 1)
    monkeypatch.setattr(LocalFolder, "shard", 1)
    state = {f"w{i}": np.full(1000, i, "f4") for i in range(5)}
    save_all(tmp_path, {1: state}, compress="zstd", bandwidth=1e9)
    assert equal(restored(tmp_path), state)
    assert len(Checkpointer(tmp_path).manifest().files) == 5


def ranks_save(folder: Path, whole: np.ndarray, cuts: list[slice | tuple[slice, ...]], **options: Any) -> None:
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            where = cuts[rank] if isinstance(cuts[rank], tuple) else (cuts[rank], slice(None))
            begin = tuple(s.start or 0 for s in where)
            state = {
                "table": Sharded(whole.shape, [(begin, np.ascontiguousarray(whole[where]))]),
                "same": normal(3000, seed=7),
                "rng": PerRank(np.random.default_rng(rank)),
            }
            with Checkpointer(folder, rank=rank, world_size=len(cuts), timeout=30, **options) as checkpointer:
                checkpointer.save(1, state, blocking=True)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(cuts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("incremental", [True, False])
def test_ranks_compress_their_parts(tmp_path: Path, axis: int, incremental: bool) -> None:
    whole = normal(40, 60)
    halves = [slice(0, 20), slice(20, 40)] if axis == 0 else [(slice(None), slice(0, 30)), (slice(None), slice(30, 60))]
    ranks_save(tmp_path, whole, halves, compress="zstd", incremental=incremental)  # type: ignore[arg-type]
    tensors = Checkpointer(tmp_path).manifest().tensors
    assert {n for n, t in tensors.items() if t.encoded} >= {"same", *(n for n in tensors if n.startswith("table["))}
    assert equal(restored(tmp_path)["table"], whole)
    boxes = [((5, 7), (30, 11)), ((0, 29), (40, 2)), ((20, 0), (1, 60)), ((0, 0), (20, 60)), ((0, 0), (40, 30))]
    for begin, size in boxes:  # of another mesh
        mine = np.zeros(size, "f4")
        into = {"table": Sharded(whole.shape, [(begin, mine)])}
        Checkpointer(tmp_path).restore(into=into, strict=False)
        assert np.array_equal(mine, whole[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))])


def test_ranks_that_differ_are_told(tmp_path: Path) -> None:
    errors = []

    def run(rank: int) -> None:
        try:
            with Checkpointer(tmp_path, rank=rank, world_size=2, compress="zstd", timeout=30) as checkpointer:
                checkpointer.save(1, {"same": np.full(3000, rank, "f4")}, blocking=True)
        except wl.MismatchError as error:
            errors.append(str(error))
        except wl.WeightliftError:
            pass

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any("same" in text and "PerRank" in text for text in errors)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    for wrong in ("gzip", ("zstd", 0), ("zstd", 99)):
        with pytest.raises(ValueError, match="compress"):
            Checkpointer(tmp_path, compress=wrong)


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_all(tmp_path, {1: {"w": np.zeros(5000)}}, compress="zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(wl.UnsupportedFeatureError, match=r"weightlift\[zstd\]"):
        Checkpointer(tmp_path, compress="zstd")
    with pytest.raises(wl.UnsupportedFeatureError, match=r"weightlift\[zstd\]"):
        restored(tmp_path)
    with pytest.raises(wl.UnsupportedFeatureError, match=r"weightlift\[zstd\]"):
        wl.open(index_of(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "lz5"}, "compressed by 'lz5'"),
        ({"shape": [1 << 40]}, "cannot hold"),
        ({"crc32c": -1}, "no checksum"),
        (None, "not in the manifest"),
    ],
)
def test_manifests_that_lie(tmp_path: Path, change: dict[str, Any] | None, message: str) -> None:
    from tests.fuzz.checkpoint_manifest import with_digest

    save_all(tmp_path, {1: {"w": np.zeros(5000)}}, compress="zstd")
    path = tmp_path / "step-00000001" / "manifest.json"
    document = json.loads(path.read_bytes())
    said = document["encoded"].pop("w")
    document["encoded"] = {"other": said} if change is None else {"w": said | change}
    path.write_bytes(with_digest(json.dumps(document).encode()))
    with pytest.raises(wl.FormatError if change != {"codec": "lz5"} else wl.UnsupportedFeatureError, match=message):
        Checkpointer(tmp_path).restore()
