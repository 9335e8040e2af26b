"""Tensors that an index says are stored in pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.checkpoint_support import equal

import weightlift as wl
from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint import _checkpointer as module

WHOLE = np.arange(60, dtype=np.float32).reshape(6, 10)
OTHER = np.arange(4)


def write(folder: Path, arrays: dict[str, np.ndarray], pieces: Any) -> Path:
    """An index over one shard, without checksums of its own."""
    wl.save(arrays, folder / "shard.safetensors")
    index = folder / "m.safetensors.index.json"
    document = {"metadata": {"weightlift.pieces": pieces}, "weight_map": dict.fromkeys(arrays, "shard.safetensors")}
    index.write_text(json.dumps(document))
    return index


def halves(axis: int) -> tuple[dict[str, np.ndarray], Any]:
    first, second = np.split(WHOLE, 2, axis)
    begin = [first.shape[0], 0] if axis == 0 else [0, first.shape[1]]
    stored = {"x": OTHER, "w.1": np.ascontiguousarray(second), "w.0": np.ascontiguousarray(first)}
    return stored, {"w": {"shape": [6, 10], "pieces": {"w.0": [0, 0], "w.1": begin}}}


@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_make_up_a_tensor(tmp_path: Path, axis: int) -> None:
    index = write(tmp_path, *halves(axis))
    back = wl.load(index)
    assert list(back) == ["x", "w"] and equal(back, {"x": OTHER, "w": WHOLE})
    with wl.open(index) as weights:
        assert equal(np.asarray(weights["w"]), WHOLE) and equal(np.asarray(weights["w"][2:5]), WHOLE[2:5])
    assert wl.verify(index).ok
    data = bytearray((tmp_path / "shard.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "shard.safetensors").write_bytes(data)
    with pytest.raises(wl.ChecksumError, match="'w'"):
        wl.load(index)


GOOD = {"shape": [6, 10], "pieces": {"w.0": [0, 0], "w.1": [3, 0]}}


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "is not an object"),
        ({"w": 3}, "no pieces"),
        ({"w": {"shape": [6, 10], "pieces": {}}}, "no pieces"),
        ({"w": {"shape": "6", "pieces": {"w.0": [0, 0]}}}, "no shape or place"),
        ({"w": {**GOOD, "shape": [6, 10.0]}}, "no shape or place"),
        ({"w": {**GOOD, "shape": [6, -10]}}, "no shape or place"),
        ({"w": {**GOOD, "shape": [1 << 70, 10]}}, "no shape or place"),
        ({"w": {**GOOD, "shape": [60]}}, "another number of axes"),
        ({"w": {"shape": [6, 10], "pieces": {"w.0": [0, 0], "w.1": [4, 0]}}}, "reaches out of"),
        ({"w": {"shape": [6, 10], "pieces": {"w.0": [0, 0], "w.1": [2, 0]}}}, "overlaps"),
        ({"w": {"shape": [9, 10], "pieces": {"w.0": [0, 0], "w.1": [3, 0]}}}, r"no piece has the element at \[6, 0\]"),
        ({"w": {"shape": [6, 10], "pieces": {"w.0": [0, 0], "gone": [3, 0]}}}, "'gone' is not in the shards"),
        ({"w": {"shape": [6, 10], "pieces": {"gone": [0, 0]}}}, "none of its pieces"),
        ({"w": GOOD, "v": GOOD}, "part of 'w', too"),
        ({"x": GOOD}, "stored whole"),
        ({"w": {"shape": [10, 10], "pieces": {"w.0": [0, 0], "w.1": [3, 0], "x": [6, 0]}}}, "others of"),
    ],
)
def test_pieces_that_make_up_nothing(tmp_path: Path, pieces: Any, message: str) -> None:
    index = write(tmp_path, halves(0)[0], pieces)
    with pytest.raises(wl.FormatError, match=message) as error:
        wl.load(index)
    assert "m.safetensors.index.json" in str(error.value)


def test_a_saved_model_may_not_claim_pieces(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="is reserved"):
        wl.save({"w": WHOLE}, tmp_path / "m.safetensors.index.json", metadata={"weightlift.pieces": "{}"})


# --- large tensors of a checkpoint ------------------------------------------------------------------------------------
def test_of_a_large_tensor_only_what_has_changed_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1 << 12)
    monkeypatch.setattr("weightlift.checkpoint._folders.LocalFolder.shard", 1 << 10)
    table = np.random.default_rng(0).random((100, 128), np.float32)  # 13 pieces of up to 8 rows
    line = np.random.default_rng(1).random(5000, np.float32)
    state = {"table": table, "line": line, "deep": np.ones((3, 2, 2000), np.float32), "same": table}
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, state, blocking=True)
        table[42] += 1
        line[-1] += 1
        written = checkpointer.save(2, state, blocking=True).bytes_written
    manifest = Checkpointer(tmp_path / "s").manifest()
    new = {name for name, tensor in manifest.tensors.items() if manifest.files[tensor.file].since == 2}
    assert new == {"table[38:46,0:128]", "same[38:46,0:128]", "line[4000:5000]"}
    assert max(t.nbytes for t in manifest.tensors.values()) <= 1 << 12
    assert written < 60_000
    assert equal(Checkpointer(tmp_path / "s").restore(), state)
    assert equal(wl.load(tmp_path / "s" / "step-00000002"), state)
    into = {name: np.zeros_like(array) for name, array in state.items()}
    Checkpointer(tmp_path / "s").restore(into=into)
    assert equal(into, state)


def test_others_read_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    monkeypatch.setattr(module, "CHUNK", 100)
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, {"w": WHOLE}, blocking=True)
    found = {}
    for shard in (tmp_path / "s" / "step-00000001").glob("*.safetensors"):
        found.update(numpy.load_file(shard))
    assert list(found) == ["w[0:2,0:10]", "w[2:4,0:10]", "w[4:6,0:10]"]
    assert equal(np.concatenate(list(found.values())), WHOLE)
