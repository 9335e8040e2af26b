"""Every file that PyTorch wrote, and every hostile one beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures

import weightlift as wl

FOLDER = shared_fixtures("frameworks")
KINDS = ("torch-zip", "torch-legacy", "torchscript-zip")
MANIFEST: dict[str, dict[str, Any]] = {
    f["id"]: f
    for f in json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    if f["format"] in KINDS
}

REFUSED_BY_CHOICE = {
    "malformed/torch_build_tensor.pt": "sets attributes",
    "malformed/torch_dup_record.pt": "two zip members",
    "malformed/torch_two_tops.pt": "one folder",
    "malformed/torch_laughs.pt": "on its stack",
}
"""torch loads some of them, or crashes; two readers could see two things in each."""
IN_PARTS = {"sparse_coo.pt", "sparse_csr.pt", "sparse_csr.pt.legacy", "meta.pt"}
"""Tensors that are no arrays."""


def rejected(entry: dict[str, Any]) -> bool:
    return entry["must_be_rejected"] is True or entry["id"] in REFUSED_BY_CHOICE


GOOD = [n for n, e in MANIFEST.items() if not rejected(e) and Path(n).name not in IN_PARTS]
BAD = [n for n, e in MANIFEST.items() if rejected(e)]


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arrays in an object, by paths as the truth spells them."""
    if isinstance(value, dict):
        return {n: a for key, item in value.items() for n, a in leaves(item, (*path, str(key))).items()}
    if isinstance(value, (list, tuple)):
        return {n: a for i, item in enumerate(value) for n, a in leaves(item, (*path, str(i))).items()}
    return {"/".join(path) or "value": value} if isinstance(value, np.ndarray) else {}


def plain(node: Any) -> Any:
    """The truth's structure as the object that it describes, arrays left out."""
    if isinstance(node, list):
        raise AssertionError("the truth has no bare lists")
    if not isinstance(node, dict):
        return node
    ((kind, items), *_) = node.items()
    if kind in ("$dict", "$OrderedDict", "$Counter"):
        pairs = items.items() if isinstance(items, dict) else items
        return {key: plain(item) for key, item in pairs}
    if kind in ("$list", "$tuple", "$Size"):
        found = [plain(item) for item in items]
        return found if kind == "$list" else tuple(found)
    if kind == "$set":
        return set(items)
    if kind in ("$bytes", "$bytearray"):
        return bytes.fromhex(items)
    if kind == "$complex":
        return complex(items)
    if kind == "$device":
        return items.split("'")[1]
    return float(items) if kind == "$float" else ... if kind == "$tensor" else items


def without_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_arrays(item) for item in value)
    return ... if isinstance(value, np.ndarray) else value


def test_there_are_fixtures_of_both_kinds() -> None:
    assert len(GOOD) >= 35 and len(BAD) >= 35


@pytest.mark.parametrize("name", GOOD)
def test_loads_equal_to_its_truth(name: str) -> None:
    loaded = wl.load(FOLDER / name)
    truth = np.load(FOLDER / f"{name}.truth.npz")
    described = json.loads((FOLDER / f"{name}.truth.json").read_text(encoding="utf-8"))
    found = leaves(loaded)
    if "storages.pt" in name:
        (bare,) = set(found) - set(truth.files)
        assert np.array_equal(found.pop(bare), found["t"]), "a storage that was saved by itself comes as its bytes"
    assert set(found) == set(truth.files) == set(described["tensors"])
    for key, array in found.items():
        assert array.shape == truth[key].shape, key
        assert array.tobytes() == truth[key].tobytes(), key
        kind = described["tensors"][key]
        if "npz_holds_raw_view" not in kind or str(array.dtype) not in ("float16", "uint8", "int8", "int32"):
            assert str(array.dtype) == kind["dtype"], key
    assert wl.verify(FOLDER / name).ok


@pytest.mark.parametrize("name", [n for n in GOOD if "nested" in n or "optim" in n])
def test_what_is_no_tensor_comes_too(name: str) -> None:
    described = json.loads((FOLDER / f"{name}.truth.json").read_text(encoding="utf-8"))
    expected = plain(described["structure"])
    assert repr(without_arrays(wl.load(FOLDER / name))) == repr(expected)


@pytest.mark.parametrize("name", [n for n in GOOD if MANIFEST[n]["format"] != "torchscript-zip"])
@pytest.mark.parametrize("target", ["out.safetensors", "out.npz", "out.pt"])
def test_converts_and_stays_the_same(name: str, target: str, tmp_path: Path) -> None:
    source = FOLDER / name
    try:
        wl.convert(source, tmp_path / target)
    except wl.UnsupportedFeatureError as error:
        assert target == "out.safetensors" and "complex128" in str(error)
        return
    assert wl.verify(tmp_path / target).ok
    original, converted = wl.load(source), wl.load(tmp_path / target)
    assert repr(without_arrays(converted)) == repr(without_arrays(original))
    arrays, same = leaves(original), leaves(converted)
    assert list(arrays) == list(same)
    assert all(a.dtype == same[n].dtype and a.tobytes() == same[n].tobytes() for n, a in arrays.items())


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    with pytest.raises((wl.FormatError, wl.TruncatedError)) as caught:
        wl.open(FOLDER / name, format="torch")
    assert Path(name).name in str(caught.value), "the error names the file"
    if name in REFUSED_BY_CHOICE:
        assert REFUSED_BY_CHOICE[name] in str(caught.value)


@pytest.mark.parametrize("name", ["torch-2.13/reject_numpy.pt", "torch-2.13/reject_numpy.pt.legacy"])
def test_arrays_of_numpy_are_read_if_asked_for(name: str) -> None:
    found = wl.load(FOLDER / name, skip_unsafe=True)
    assert found["n"] == 3 and type(found["n"]) is float
    assert found["a"].dtype == np.int64 and found["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", [n for n in MANIFEST if "sparse" in n])
def test_a_sparse_tensor_comes_in_its_parts(name: str) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="sparse tensor") as caught:
        wl.load(FOLDER / name)
    assert caught.value.tensor == "sp"
    names = list(wl.open(FOLDER / name))
    parts = wl.load(FOLDER / name, names=names)
    assert all(part in str(caught.value) for part in names)
    truth = np.load(FOLDER / f"{name}.truth.npz")["sp"]
    dense = np.zeros_like(truth)
    values = parts["sp.values"]
    if "coo" in name:
        dense[tuple(parts["sp.indices"])] = values
    else:
        rows = np.repeat(np.arange(len(truth)), np.diff(parts["sp.crow_indices"]))
        dense[rows, parts["sp.col_indices"]] = values
    assert np.array_equal(dense, truth)


def test_a_meta_tensor_is_refused_by_name() -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="meta tensor") as caught:
        wl.load(FOLDER / "torch-2.13/meta.pt")
    assert caught.value.tensor == "m"


def test_the_scale_of_a_quantised_tensor_is_kept() -> None:
    from weightlift._source import open_source

    extra = open_source(FOLDER / "torch-2.13/quantized.pt").layout.extra
    assert extra["quantization"] == {"q": ["per_tensor_affine", "0.1", "10"]}
