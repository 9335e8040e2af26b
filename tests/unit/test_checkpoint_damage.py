"""Steps that are damaged, and manifests that lie."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.checkpoint_support import equal, restored, save_all

import weightlift as wl
from weightlift.checkpoint import Checkpointer, Manifest


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE = ["manifest", "no manifest", "index", "no index", "shard", "no shard", "short shard", "another shard"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_told(tmp_path: Path, damage: str) -> None:
    save_all(tmp_path / "s", {1: {"a": np.zeros(99)}, 2: {"a": np.ones(99)}, 3: {"a": np.full(99, 2.0), "n": 3}})
    folder = tmp_path / "s" / "step-00000003"
    (shard,) = folder.glob("data-*")
    (other,) = (tmp_path / "s" / "step-00000001").glob("data-*")
    {
        "manifest": lambda: flip(folder / "manifest.json", 60),
        "no manifest": (folder / "manifest.json").unlink,
        "index": lambda: flip(folder / "model.safetensors.index.json", 80),
        "no index": (folder / "model.safetensors.index.json").unlink,
        "shard": lambda: flip(shard, -9),
        "no shard": shard.unlink,
        "short shard": lambda: os.truncate(shard, shard.stat().st_size - 1),
        "another shard": lambda: shard.write_bytes(other.read_bytes()),
    }[damage]()
    checkpointer = Checkpointer(tmp_path / "s")
    report = checkpointer.verify(3)
    assert not report.ok
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((wl.FormatError, wl.StorageError)) as found:
            checkpointer.restore()
    assert "step-00000003" in str(found.value)
    with pytest.warns(UserWarning, match="step 3 is damaged .* step 2 is taken instead"):
        assert equal(checkpointer.restore(fallback=True), {"a": np.ones(99)})
    flip(next((tmp_path / "s" / "step-00000002").glob("data-*")), -1)
    with pytest.warns(UserWarning, match="step 1 is taken instead"):
        assert equal(checkpointer.restore(fallback=True), {"a": np.zeros(99)})
    with Checkpointer(tmp_path / "s") as writer:  # a damaged step is no obstacle
        if damage != "shard":  # a link is made without reading what is linked
            writer.save(4, {"a": np.full(99, 2.0), "n": 3}, blocking=True)
            assert writer.verify(4).ok
        writer.save(5, {"a": np.full(99, 5.0)}, blocking=True)
        assert writer.verify(5).ok


def test_what_cannot_be_filled_is_no_damage(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"a": 1}, 2: {"a": 2}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(wl.UnsupportedFeatureError, match="into= holds a"):
            Checkpointer(tmp_path / "s").restore(into={"a": object()}, fallback=True)


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"a": np.zeros(3), "b": np.ones((2, 2), np.int8)}})
    data = (tmp_path / "s" / "step-00000001" / "manifest.json").read_bytes()
    assert Manifest.from_json(data).to_json() == data
    for at in range(len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 4
        with pytest.raises((wl.FormatError, wl.UnsupportedFeatureError)):
            Manifest.from_json(bytes(damaged))
        with pytest.raises((wl.FormatError, wl.UnsupportedFeatureError)):
            Manifest.from_json(data[:at])


def forged(change: Any) -> bytes:
    """A manifest with a field changed and a right digest: what an attacker writes."""
    from weightlift.checkpoint._manifest import _digest

    document: dict[str, Any] = {
        "format": "weightlift-checkpoint", "version": 1, "step": 1, "created": 0.0, "world_size": 1, "metrics": {},
        "metadata": {}, "index_crc32c": 0, "files": [["a.safetensors", 100, 1]],
        "tensors": [["t", "float32", [2, 3], 0, 8, 24, 0, 0]],
    }  # fmt: skip
    change(document)
    document["digest"] = _digest(document)
    return json.dumps(document).encode()


FORGED = {
    "format": lambda d: d.update(format="x"),
    "version": lambda d: d.update(version=2),
    "step": lambda d: d.update(step=-1),
    "step type": lambda d: d.update(step=True),
    "created": lambda d: d.update(created="x"),
    "created infinite": lambda d: d.update(created="inf"),
    "no files": lambda d: d.pop("files"),
    "file path": lambda d: d.update(files=[["../a.safetensors", 100, 1]]),
    "file dots": lambda d: d.update(files=[["..safetensors", 100, 1]]),
    "file type": lambda d: d.update(files=[[3, 100, 1]]),
    "file other": lambda d: d.update(files=[["a.bin", 100, 1]]),
    "file twice": lambda d: d.update(files=[["a.safetensors", 100, 1]] * 2),
    "file size": lambda d: d.update(files=[["a.safetensors", -1, 1]]),
    "file fields": lambda d: d.update(files=[["a.safetensors"]]),
    "tensor twice": lambda d: d.update(tensors=d["tensors"] * 2),
    "tensor name": lambda d: d["tensors"][0].__setitem__(0, 3),
    "dtype": lambda d: d["tensors"][0].__setitem__(1, "float33"),
    "shape": lambda d: d["tensors"][0].__setitem__(2, [2, -3]),
    "huge shape": lambda d: d["tensors"][0].__setitem__(2, [1 << 61, 1 << 61]),
    "file number": lambda d: d["tensors"][0].__setitem__(3, 1),
    "offset": lambda d: d["tensors"][0].__setitem__(4, 77),
    "nbytes": lambda d: d["tensors"][0].__setitem__(5, 25),
    "crc32c": lambda d: d["tensors"][0].__setitem__(6, 1 << 32),
    "crc32": lambda d: d["tensors"][0].__setitem__(7, "0"),
    "metrics": lambda d: d.update(metrics=[]),
    "metric": lambda d: d.update(metrics={"loss": None}),
    "metadata": lambda d: d.update(metadata=3),
    "tensors": lambda d: d.update(tensors={"a": 1}),
}


@pytest.mark.parametrize("field", FORGED)
def test_hostile_manifests(field: str) -> None:
    assert Manifest.from_json(forged(lambda d: None)).step == 1
    data = forged(FORGED[field])
    with pytest.raises((wl.FormatError, wl.UnsupportedFeatureError)):
        Manifest.from_json(data)


def test_a_manifest_of_another_step(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"a": 1}})
    (tmp_path / "s" / "step-00000001").rename(tmp_path / "s" / "step-00000007")
    with pytest.raises(wl.FormatError, match="the manifest is of step 1, not of 7"):
        restored(tmp_path / "s")
