"""npy and npz files of NumPy 1.23 and 2.4, MXNet 2, JAX and TensorFlow, and malformed ones, against their truth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures

import weightlift
from weightlift.errors import FormatError, UnsafeContentError, WeightliftError
from weightlift.formats._npy import NPY
from weightlift.formats._npy_pickle import NPY_PICKLE
from weightlift.formats._npz import NPZ
from weightlift.testing import MemoryFiles, read_tensors

FOLDER = shared_fixtures("frameworks")
ENTRIES = [
    entry
    for entry in json.loads((FOLDER / "manifest.json").read_text())["fixtures"]
    if entry["format"].startswith("np") or entry["id"].startswith(("malformed/npy", "malformed/npz"))
]
NOT_REFUSED_BY_FRAMEWORKS = {
    "malformed/npy_trailing.npy": "bytes after the array",
    "malformed/npz_dup.npz": "two zip members",
    "malformed/npz_entrycount.npz": "cannot hold 60000 entries",
}
"""Malformed, though NumPy loads them (``"recommended"`` in the manifest), and what we say."""


def ids(entries: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("entry", entries, ids=[e["id"] for e in entries])


def read(entry: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    data = (FOLDER / entry["id"]).read_bytes()
    fmt = next((fmt for fmt in (NPY, NPY_PICKLE) if fmt.sniff(data[:4096], len(data))), NPZ)
    assert fmt.sniff(data[:4096], len(data))
    files = MemoryFiles({"file": data})
    layout = fmt.read(files, "file")
    return layout, read_tensors(layout, files)


def loadable(entry: dict[str, Any]) -> bool:
    return not entry["must_be_rejected"] and entry["format"] != "npy-pickle"


@ids([e for e in ENTRIES if loadable(e)])
def test_equals_its_truth(entry: dict[str, Any]) -> None:
    layout, tensors = read(entry)
    refused = set(layout.objects)
    with np.load(FOLDER / entry["truth_npz"]) as truth:
        for name in truth.files:
            if name.split("/")[0] in refused:
                continue
            key = "tensor" if name == "value" and layout.format == "npy" else name
            expected, array = truth[name], tensors[key if key in tensors else key.replace("/", ".")]
            if expected.dtype.names is None:
                expected = expected.astype(expected.dtype.newbyteorder("="))
            assert array.tobytes() == expected.tobytes()
            if array.dtype == expected.dtype:  # else the truth holds raw integers
                assert array.shape == expected.shape


@ids([e for e in ENTRIES if e["format"] == "npy-pickle" and not e["must_be_rejected"]])
def test_pickles_equal_their_truth(entry: dict[str, Any]) -> None:
    """What NumPy, TensorFlow and JAX pickled: every array, bit for bit, by its path."""
    layout, tensors = read(entry)
    assert layout.format == "npy-pickle"
    by_path = {name.replace(".", "/"): array for name, array in tensors.items()}
    with np.load(FOLDER / entry["truth_npz"]) as truth:
        assert truth.files
        for name in truth.files:
            expected, array = truth[name], by_path[name]
            if expected.dtype.names is None:
                expected = expected.astype(expected.dtype.newbyteorder("="))
            assert array.tobytes() == expected.tobytes(), name
            assert array.shape == expected.shape or array.dtype != expected.dtype
    assert not layout.objects


@ids([e for e in ENTRIES if e["format"] == "npy-pickle"])
def test_pickles_are_no_plain_npy(entry: dict[str, Any]) -> None:
    with pytest.raises(UnsafeContentError, match="Python objects"):
        NPY.read(MemoryFiles({"file": (FOLDER / entry["id"]).read_bytes()}), "file")


@ids([e for e in ENTRIES if e["must_be_rejected"]])
def test_malformed_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=NOT_REFUSED_BY_FRAMEWORKS.get(entry["id"])) as caught:
        read(entry)
    assert "byte" in str(caught.value) or "tensor" in str(caught.value)


def test_object_members_of_archives_are_read() -> None:
    for folder in ("numpy-1.23", "numpy-2.4"):
        path = FOLDER / folder / "object.npz"
        layout, tensors = read({"id": f"{folder}/object.npz"})
        with np.load(path, allow_pickle=True) as archive:
            expected = {name: archive[name] for name in archive.files}
        loaded = weightlift.load(path)
        assert repr(loaded["plain"]) == repr(expected["plain"])
        assert repr(loaded["o"]) == repr(expected["o"].tolist())
        assert next(iter(tensors)) == "plain"
        assert not layout.objects


def test_every_error_names_the_file() -> None:
    for entry in ENTRIES:
        try:
            read(entry)
        except WeightliftError as error:
            assert error.path == "file" or error.tensor, entry["id"]
