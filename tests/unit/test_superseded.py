"""What a save leaves of the model that it replaces: nothing of its own, and everything of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift import _superseded
from weightlift._superseded import marked, unmarked

TARGETS = {"tfjs": "model.json", "safetensors": "m.safetensors"}


def tensors(count: int, value: float = 0.0) -> dict[str, Any]:
    return {f"w{i}": np.full(100, value, np.float32) for i in range(count)}


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_fewer_shards(target: str, tmp_path: Path) -> None:
    wl.save(tensors(6), tmp_path / target, shard_size=400)
    assert len(names(tmp_path)) == 7
    result = wl.save(tensors(3, 1.0), tmp_path / target, shard_size=400)
    assert names(tmp_path) == {Path(f).name for f in result.files}
    assert len(names(tmp_path)) == 4
    assert wl.load(tmp_path / target)["w2"][0] == 1


def test_one_weight_file_for_many(tmp_path: Path) -> None:
    wl.save(tensors(6), tmp_path / "model.json", shard_size=400)
    wl.save(tensors(6), tmp_path / "model.json")
    assert names(tmp_path) == {"model.json", "weights.bin"}
    wl.save({}, tmp_path / "model.json")
    assert names(tmp_path) == {"model.json"}


def test_one_safetensors_file_and_shards_replace_each_other(tmp_path: Path) -> None:
    wl.save(tensors(6), tmp_path / "model.safetensors", shard_size=400)
    wl.save(tensors(6, 1), tmp_path / "model.safetensors")
    assert names(tmp_path) == {"model.safetensors"}
    assert wl.load(tmp_path)["w0"][0] == 1
    wl.save(tensors(2, 2), tmp_path / "model.safetensors", shard_size=400)
    assert names(tmp_path) == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    }  # fmt: skip
    assert wl.load(tmp_path / "model.safetensors")["w0"][0] == 2


def test_a_target_called_index_leaves_the_single_file(tmp_path: Path) -> None:
    wl.save(tensors(1), tmp_path / "model.safetensors")
    wl.save(tensors(2), tmp_path / "model.safetensors.index.json", shard_size=400)
    assert "model.safetensors" in names(tmp_path)


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_shards_that_another_manifest_names_stay(target: str, escape: bool, tmp_path: Path) -> None:
    wl.save(tensors(6), tmp_path / target, shard_size=400)
    manifest = tmp_path / ("model.json" if target == "model.json" else "m.safetensors.index.json")
    text = manifest.read_text()
    last = sorted(names(tmp_path) - {manifest.name})[-1]
    if escape:
        text = text.replace(last, "".join(f"\\u{ord(c):04x}" for c in last))
    (tmp_path / "other.json").write_text(text)
    others = names(tmp_path)
    wl.save(tensors(3, 1.0), tmp_path / target, shard_size=400)
    assert last in names(tmp_path)
    assert escape or others <= names(tmp_path)


def test_an_unreadable_manifest_may_name_anything(tmp_path: Path) -> None:
    wl.save(tensors(6), tmp_path / "model.json", shard_size=400)
    (tmp_path / "other.json").write_bytes(b"")
    with (tmp_path / "other.json").open("r+b") as file:
        file.truncate((256 << 20) + 1)
    before = names(tmp_path)
    wl.save(tensors(3), tmp_path / "model.json", shard_size=400)
    assert before < names(tmp_path)


def test_files_under_other_names_stay(tmp_path: Path) -> None:
    """A manifest can come from anyone: what it names is not therefore ours to remove."""
    (tmp_path / "sub").mkdir()
    paths = ["thesis.bin", "sub/group1-shard1of9", "../weights.bin", "/weights.bin", "link.weights.bin", "weights.bin"]
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in ("thesis.bin", "sub/group1-shard1of9", "weights.bin"):
        (folder / path).write_bytes(b"precious")
    (tmp_path / "weights.bin").write_bytes(b"precious")
    (folder / "link.weights.bin").symlink_to(tmp_path / "weights.bin")
    document = {"modelTopology": None, "weightsManifest": [{"paths": paths, "weights": []}]}
    before = names(folder)
    (folder / "model.json").write_text(json.dumps(document))
    wl.save(tensors(2), folder / "model.json", shard_size=400)
    assert before < names(folder)  # one path is refused, so the whole manifest is not trusted
    paths[2:4] = []
    (folder / "model.json").write_text(json.dumps(document))
    wl.save(tensors(2), folder / "model.json", shard_size=400)
    assert before - names(folder) == {"weights.bin"}
    assert (tmp_path / "weights.bin").exists()


def test_a_folder_in_the_place_of_a_shard(tmp_path: Path) -> None:
    wl.save(tensors(6), tmp_path / "model.json", shard_size=400)
    shard = tmp_path / "group1-shard6of6.bin"
    shard.unlink()
    shard.mkdir()
    wl.save(tensors(3), tmp_path / "model.json", shard_size=400)
    assert shard.is_dir()


def test_onto_itself(tmp_path: Path) -> None:
    wl.save(tensors(6, 3.0), tmp_path / "model.json", shard_size=400)
    wl.convert(tmp_path / "model.json", tmp_path / "model.json", shard_size=1200)
    assert names(tmp_path) == {"model.json", "group1-shard1of2.bin", "group1-shard2of2.bin"}
    assert wl.load(tmp_path)["w5"][99] == 3


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_a_killed_save_left(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data files whose manifest was never published go with a later save, but not those of one under way."""
    wl.save(tensors(3), tmp_path / target, shard_size=400)
    shard = sorted(n for n in names(tmp_path) if not n.endswith(".json"))[0]
    left, other = both = (marked(shard), marked("thesis.bin"))
    for name in both:
        (tmp_path / name).write_bytes(b"left")
    wl.save(tensors(2), tmp_path / target, shard_size=400)
    assert {left, other} < names(tmp_path)
    monkeypatch.setattr(_superseded, "ABANDONED_AFTER", -1.0)
    wl.save(tensors(2), tmp_path / target, shard_size=400)
    assert other in names(tmp_path) and left not in names(tmp_path)
    assert len(names(tmp_path)) == 4


def test_marks() -> None:
    for name in ("weights.bin", "m.weights.bin", "m-00001-of-00002.safetensors", "weights", "weights-20260101.bin"):
        assert unmarked(marked(name)) == name
        assert unmarked(name) is None
