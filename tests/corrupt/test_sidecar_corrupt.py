"""Sidecars whose JSON is right and whose content is not: each is an error when verified, and never anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift._sidecar import _own_digest

TENSORS = {"a": np.arange(3), "b": np.ones(2)}


def damaged(folder: Path, *, resealed: bool, **changes: Any) -> Path:
    """An archive whose sidecar's record has other values, with a digest that fits them or not."""
    wl.save(TENSORS, folder / "x.npz")
    sidecar = folder / "x.npz.crc32c"
    (record,) = json.loads(sidecar.read_text())["records"]
    record |= changes
    if resealed:
        record["self"] = _own_digest(record)
    sidecar.write_text(json.dumps({"weightlift": 1, "records": [record]}))
    return folder / "x.npz"


@pytest.mark.parametrize("key", ["nbytes", "digest", "crc32c", "dtypes", "structure", "metadata", "self"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {}, ["a"], {"a": 1}, {"a": {}}])
def test_any_change_is_damage(key: str, value: Any, tmp_path: Path) -> None:
    path = damaged(tmp_path, resealed=False, **{key: value})
    with pytest.raises(wl.ChecksumError, match=r"digest|fits|one checksum"):
        wl.load(path)
    with pytest.raises(wl.ChecksumError):
        wl.convert(path, tmp_path / "y.npz")
    assert not wl.verify(path).ok
    assert np.array_equal(wl.load(path, verify=False)["a"], TENSORS["a"])


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"list": ["a", "z"]}, "not in the file"),
        ({"list": ["a", "a"]}, "twice"),
        ({"list": ["a"]}, "leaves out"),
        ({"dict": [["k", "a"], ["k", "b"]]}, "key 'k' twice"),
        ({"dict": [["k"]]}, "dict item"),
        (5, "malformed"),
    ],
)
def test_structures_of_other_tensors(structure: Any, message: str, tmp_path: Path) -> None:
    path = damaged(tmp_path, resealed=True, structure=structure)
    with pytest.raises(wl.FormatError, match=message):
        wl.load(path)
    with pytest.raises(wl.FormatError, match=message):
        wl.convert(path, tmp_path / "y.npz")
    assert not (tmp_path / "y.npz").exists()
    assert np.array_equal(wl.load(path, names="b")["b"], TENSORS["b"])


def test_dtypes_that_are_none(tmp_path: Path) -> None:
    for dtypes in ([1], {"a": {}}, {"a": []}, {"a": "float33"}, {"z": "int8"}):
        path = damaged(tmp_path, resealed=True, dtypes=dtypes)
        assert wl.load(path)["a"].dtype == np.int64


@pytest.mark.parametrize("name", ["x.npy", "x.params"])
def test_a_save_that_was_killed_before_its_file_had_its_name(name: str, tmp_path: Path) -> None:
    """Two models that differ in their values alone: both records fit all that is not values."""
    path, sidecar = tmp_path / name, tmp_path / f"{name}.crc32c"
    versions = []
    for value in (1.0, 2.0, 3.0):
        tensors = {"same": np.zeros(4), "w": np.full(3, value)}
        wl.save(tensors["w"] if name.endswith("npy") else tensors, path)
        versions.append((path.read_bytes(), json.loads(sidecar.read_text())["records"][0]))
    records = [record for _, record in reversed(versions)]
    sidecar.write_text(json.dumps({"weightlift": 1, "records": records}))
    for number, (data, _) in enumerate(versions):
        path.write_bytes(data)
        found = wl.load(path)
        assert (found if name.endswith("npy") else found["w"]).tolist() == [number + 1.0] * 3
        assert wl.verify(path).ok
    path.write_bytes(data[:-1] + b"\x01")
    with pytest.raises(wl.ChecksumError):
        wl.load(path)
