"""Every HDF5 file that Keras, TensorFlow and h5py wrote, and every hostile one beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures

import weightlift as wl

pytest.importorskip("h5py", reason="h5py is not installed")
FOLDER = shared_fixtures("frameworks")
KINDS = ("hdf5", "keras-h5", "keras-weights-h5", "keras-weights-h5-sharded", "keras-zip")
MANIFEST: dict[str, dict[str, Any]] = {
    f["id"]: f
    for f in json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    if f["format"] in KINDS
}
GOOD = [n for n, e in MANIFEST.items() if e["must_be_rejected"] is False and not n.startswith("malformed/")]
BAD = {
    "malformed/h5_btree_count.h5": "number of children",
    "malformed/h5_offset_out.h5": "hidden/vars/0",
    "malformed/h5_shape_bomb.h5": "10000000000000000 bytes by its shape",
}
AGAIN = {"scalar", "lz"}
"""Names by which the truth, which has each dataset once, does not call them: a hard and a soft link."""


def truth_of(name: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor; names of shards are left out."""
    described = json.loads((FOLDER / MANIFEST[name]["truth_json"]).read_text(encoding="utf-8"))["tensors"]
    with np.load(FOLDER / MANIFEST[name]["truth_npz"]) as arrays:
        return {
            key.split(":", 1)[1] if "sharded" in MANIFEST[name]["format"] else key: (
                described[key]["dtype"],
                tuple(described[key].get("logical_shape", described[key]["shape"])),
                arrays[key].astype(arrays[key].dtype.newbyteorder("=")).tobytes(),
            )
            for key in arrays.files
        }


def found_of(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    if array.dtype == object:
        return "opaque", array.shape, b"".join(array.reshape(-1))
    return str(array.dtype), array.shape, array.tobytes()


def test_there_are_fixtures() -> None:
    assert len(GOOD) >= 25
    assert set(BAD) <= set(MANIFEST)


@pytest.mark.parametrize("name", GOOD)
def test_equals_its_truth(name: str) -> None:
    truth = truth_of(name)
    found = {key: found_of(array) for key, array in wl.load(FOLDER / name).items() if key not in AGAIN - truth.keys()}
    assert found == truth


@pytest.mark.parametrize("name", BAD)
def test_malformed_is_refused(name: str) -> None:
    with pytest.raises(wl.FormatError, match=BAD[name]) as caught:
        wl.load(FOLDER / name)
    assert caught.value.path == str(FOLDER / name)


def test_a_group_that_holds_itself_ends() -> None:
    assert list(wl.load(FOLDER / "malformed/h5_hardlink_cycle.h5")) == ["g/x"]


def test_keras_order_of_names() -> None:
    names = list(wl.load(FOLDER / "tf-2.21/small_weights.h5"))
    assert names[:2] == ["fc/fc/kernel:0", "fc/fc/bias:0"], "layer_names and weight_names, not the alphabet"
    many = list(wl.load(FOLDER / "tf-2.4/chunked_attrs.h5"))
    assert len(many) == 34
    numbers = [int("".join(c for c in name.split("/")[0] if c.isdigit()) or 0) for name in many]
    assert numbers == sorted(numbers), "the list is cut into layer_names0 and layer_names1"


def test_configurations_are_text() -> None:
    with wl.open(FOLDER / "keras3-jax/small_legacy.h5") as weights:
        assert json.loads(weights.metadata["model_config"])["class_name"]
        assert any(name.startswith("optimizer_weights/") for name in weights)
        assert next(iter(weights)).startswith("model_weights/")
    with wl.open(FOLDER / "keras3-tf/small.keras") as weights:
        assert json.loads(weights.metadata["config"])["class_name"] == "Functional"
        assert weights.metadata["keras_version"] == "3.15.1"


def test_shards_belong_together(tmp_path: Path) -> None:
    source = FOLDER / "keras3-tf"
    index = json.loads((source / "shard.weights.json").read_text())
    shards = [f"shard_0000{i}.weights.h5" for i in range(3)]
    for shard in shards[:2]:
        (tmp_path / shard).write_bytes((source / shard).read_bytes())
    (tmp_path / "x.weights.json").write_text(json.dumps(index))
    with pytest.raises(wl.NotFoundError, match="shard_00002"):
        wl.load(tmp_path / "x.weights.json")
    index["weight_map"]["/optimizer/vars"] = ["../x.weights.h5"]
    (tmp_path / "x.weights.json").write_text(json.dumps(index))
    with pytest.raises(wl.UnsafeContentError, match="plain file names"):
        wl.load(tmp_path / "x.weights.json")
