"""Lists and dicts in npy files, as np.save makes them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import weightlift as wl
from weightlift.formats._npy_header import build_object_header

STRUCT = np.array([(1, ["a", "b"])], [("x", "<i2"), ("y", "<U3", (2,))])
OBJECT: dict[str, Any] = {
    "w": np.arange(6, dtype="f4").reshape(2, 3),
    "n": {"b": np.arange(3).astype(ml_dtypes.bfloat16), "l": [np.array(1.5), (np.ones(2, "i1"), None), []]},
    "values": [3, 2.5, "é", b"\0\xff", True, None, 1 + 2j, {1, 2}, 1 << 70],
    "struct": STRUCT,
    "text": np.array(["ab", "c"]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[3D]"),
    "none": np.zeros((0, 3), "c8"),
    "f8": np.arange(4).astype(ml_dtypes.float8_e5m2),
    "flag": np.array([True, False]),
}


def same(a: Any, b: Any) -> bool:
    """Types, shapes, bytes and nesting."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_dict_is_what_np_load_and_we_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    assert wl.save(OBJECT, path, format="npy-pickle").format == "npy-pickle"
    found = np.load(path, allow_pickle=True)
    assert (found.shape, found.dtype) == ((), np.dtype(object))
    assert same(OBJECT, found.item())
    assert same(OBJECT, wl.load(path))
    assert wl.verify(path).ok
    (tmp_path / "x.npy.crc32c").unlink()
    assert same(OBJECT, wl.load(path)), "types of ml_dtypes are kept without the sidecar"


def test_a_list_is_an_array_of_objects_to_numpy(tmp_path: Path) -> None:
    path, equal = tmp_path / "x.pickle.npy", [np.ones(2), np.zeros(2)]
    wl.save(equal, path)
    found = np.load(path, allow_pickle=True)
    assert found.shape == (2,)
    assert same(equal, list(found))
    assert same(equal, wl.load(path))


@pytest.mark.parametrize("obj", [(np.ones(2), 3), {}, [], {"a": 1}, [[np.ones(1)]], {3: np.ones(1), None: 2}])
def test_what_was_saved_comes_back(obj: Any, tmp_path: Path) -> None:
    wl.save(obj, tmp_path / "x.npy", format="npy-pickle")
    assert same(obj, wl.load(tmp_path / "x.npy"))
    found = np.load(tmp_path / "x.npy", allow_pickle=True)
    assert same(list(obj) if isinstance(obj, (list, tuple)) else obj, list(found) if found.shape else found.item())


def test_one_array_needs_no_pickle(tmp_path: Path) -> None:
    wl.save(np.ones(3), tmp_path / "x.npy", format="npy-pickle")
    assert np.load(tmp_path / "x.npy").tolist() == [1, 1, 1]
    assert wl.load(tmp_path / "x.npy", format="npy-pickle").tolist() == [1, 1, 1]


def test_without_being_asked_no_pickle_is_written(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="npy-pickle"):
        wl.save({"a": np.ones(2)}, tmp_path / "x.npy")


def test_a_dict_of_another_order_than_its_file(tmp_path: Path) -> None:
    """safetensors sorts by size of element; the dict keeps its order all the same."""
    obj = {"a": np.ones(2, "i1"), "l": [np.ones(3, "f8"), np.ones(2, "f2")]}
    wl.save(obj, tmp_path / "x.safetensors")
    wl.convert(tmp_path / "x.safetensors", tmp_path / "y.npy", format="npy-pickle")
    assert same(obj, wl.load(tmp_path / "y.npy"))
    assert same(obj, np.load(tmp_path / "y.npy", allow_pickle=True).item())
    assert wl.verify(tmp_path / "y.npy").ok


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_python_pickles_itself(protocol: int, tmp_path: Path) -> None:
    """Fortran order, other byte orders, NumPy's scalars, shared arrays; protocols 4 and 5 by the stack."""
    shared = np.arange(4000, dtype="f8")
    obj = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "be": np.arange(3, dtype=">i4"),
        "scalar": np.float32(1.5),
        "twice": [shared, shared],
        "o": np.array([[np.ones(1), None], [2, "x"]], object),
    }
    box = np.empty((), object)
    box[()] = obj
    (tmp_path / "x.npy").write_bytes(build_object_header(()) + pickle.dumps(box, protocol))
    found = wl.load(tmp_path / "x.npy")
    assert found["f"].flags.f_contiguous
    assert same(obj["f"].copy(), np.ascontiguousarray(found["f"]))
    assert same(np.arange(3, dtype="i4"), found["be"])
    assert same(np.array(1.5, "f4"), found["scalar"])
    assert same(obj["twice"], found["twice"])
    assert same([[np.ones(1), None], [2, "x"]], found["o"])
    if protocol > 2:
        with wl.open(tmp_path / "x.npy") as weights:
            assert weights["twice.0"].extents == weights["twice.1"].extents
            assert weights["twice.0"][10:12].tolist() == [10, 11]


def test_only_what_lies_between_arrays_is_read(tmp_path: Path) -> None:
    wl.save({str(i): np.zeros(1 << 18) for i in range(4)}, tmp_path / "x.npy", format="npy-pickle", durable=False)
    from weightlift.formats._npy_pickle import NPY_PICKLE
    from weightlift.testing import MemoryFiles

    files = MemoryFiles({"x": (tmp_path / "x.npy").read_bytes()})
    NPY_PICKLE.read(files, "x")
    assert sum(reader.bytes_read for reader in files.readers.values()) < 1 << 16


class Odd:
    """A class of the user's own."""

    def __init__(self) -> None:
        self.x = [1]


def test_skip_unsafe_takes_the_arrays(tmp_path: Path) -> None:
    box = np.empty((), object)
    box[()] = {"a": np.ones(2), "odd": Odd(), "list": [Odd(), np.zeros(1)]}
    np.save(tmp_path / "x.npy", box)
    with pytest.raises(wl.UnsafeContentError, match=r"Odd.*skip_unsafe=True"):
        wl.load(tmp_path / "x.npy")
    found = wl.load(tmp_path / "x.npy", skip_unsafe=True)
    assert same({"a": np.ones(2), "list": [None, np.zeros(1)]}, found)
    with wl.open(tmp_path / "x.npy", skip_unsafe=True) as weights:
        assert list(weights.source.layout.extra["skipped"]) == ["odd", "list.0"]


def test_skip_unsafe_of_nothing_but_code_is_an_error(tmp_path: Path) -> None:
    box = np.empty((), object)
    box[()] = Odd()
    np.save(tmp_path / "x.npy", box)
    with pytest.raises(wl.UnsafeContentError, match="never made"):
        wl.load(tmp_path / "x.npy", skip_unsafe=True)


def test_skip_unsafe_of_torch(tmp_path: Path) -> None:
    from tests.unit.torch_support import archive, name, pickled, tensor, text

    body = b"}(" + text("w") + tensor() + text("odd") + name("my.module", "Odd") + b")\x81}bu"
    (tmp_path / "x.pt").write_bytes(archive(pickled(body), {"0": np.arange(4, dtype="<f4").tobytes()}))
    with pytest.raises(wl.UnsafeContentError, match=r"my\.module\.Odd"):
        wl.load(tmp_path / "x.pt")
    assert wl.load(tmp_path / "x.pt", skip_unsafe=True)["w"].tolist() == [0, 1, 2, 3]
