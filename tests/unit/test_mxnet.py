"""The mxnet format: every version and kind of record, lists and dicts, what is written, what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.mxnet_support import CODES, NONE, V3, dense, listed, named, shape_of, sparse

import weightlift as wl
from weightlift.formats import by_name
from weightlift.testing import MemoryFiles

Array = npt.NDArray[Any]
X = np.arange(6, dtype="f4").reshape(2, 3)


def write(folder: Path, data: bytes, name: str = "x-file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    elif expected is not None:
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


# --- reading ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_version_and_type(version: int, tmp_path: Path) -> None:
    types = [np.dtype(code) for code in CODES] + [np.dtype(ml_dtypes.bfloat16)]
    arrays = {f"arg:{dtype.name}": np.arange(6).reshape(1, 6).astype(dtype) for dtype in types}
    path = write(tmp_path, named({name: dense(array, version) for name, array in arrays.items()}))
    same(wl.load(path), arrays)
    weights = wl.open(path)
    assert weights.format == "mxnet"
    assert weights.source.layout.extra == {"versions": [version]}
    assert wl.verify(path).unchecked == tuple(arrays)


def test_a_list_and_a_list_of_one(tmp_path: Path) -> None:
    same(wl.load(write(tmp_path, listed([dense(X), dense(X[0])]))), [X, X[0]])
    same(wl.load(write(tmp_path, listed([dense(X)]))), [X])
    assert list(wl.open(write(tmp_path, listed([dense(X), dense(X)])))) == ["0", "1"]
    assert wl.load(write(tmp_path, listed([]))) == {}


def test_versions_may_be_mixed(tmp_path: Path) -> None:
    path = write(tmp_path, listed([dense(X, version) for version in (3, 0, 2, 1)]))
    same(wl.load(path), [X] * 4)
    assert wl.open(path).source.layout.extra["versions"] == [0, 1, 2, 3]


def test_scalars_and_empty_arrays(tmp_path: Path) -> None:
    arrays = {"scalar": np.array(1.5, "f4"), "empty": np.zeros((0, 3), "f4"), "axes": np.ones((1,) * 32, "u1")}
    same(wl.load(write(tmp_path, named({n: dense(a) for n, a in arrays.items()}))), arrays)
    same(wl.load(write(tmp_path, named({"e": dense(np.zeros((2, 0), "f4"), 2)}))), {"e": np.zeros((2, 0), "f4")})


@pytest.mark.parametrize(
    "nothing",
    [
        NONE,
        struct.pack("<Iii", 0xF993FAC9, -1, 0),
        struct.pack("<Ii", 0xF993FAC8, 0),
        struct.pack("<I", 0),
        struct.pack("<Iii", V3, 0, -1),
        struct.pack("<Ii", V3, 0) + shape_of((2, -1)),
        struct.pack("<Ii", 0xF993FAC9, 1) + shape_of(()) + shape_of(()),
    ],
)
def test_an_array_without_values_is_none(nothing: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, named({"a": dense(X), "none": nothing, "b": dense(X[0])}))
    same(wl.load(path), {"a": X, "none": None, "b": X[0]})
    assert list(wl.open(path)) == ["a", "b"]
    same(wl.load(write(tmp_path, listed([nothing, dense(X)]))), [None, X])


def test_names(tmp_path: Path) -> None:
    names = ["arg:fc1_weight", "aux:bn_moving_mean", "näme/with.sep", "hidden.0.weight", "a b", "x" * 5000]
    path = write(tmp_path, named({name: dense(X) for name in names}))
    assert list(wl.load(path)) == names
    short = wl.load(path, names=["ar[g]:*", "aux:*"], rename=[("^(arg|aux):", "")])
    assert list(short) == ["fc1_weight", "bn_moving_mean"]
    same(wl.load(path, names="hidden.*"), {"hidden.0.weight": X})


@pytest.mark.parametrize("name", ["x-file", "mlp.params", "data.npz"])
def test_content_decides_not_the_name(name: str, tmp_path: Path) -> None:
    assert wl.open(write(tmp_path, listed([dense(X)]), name)).format == "mxnet"


def test_lazy_and_partial(tmp_path: Path) -> None:
    big = np.arange(1 << 16, dtype="f8").reshape(256, 256)
    path = write(tmp_path, named({"a": dense(big), "b": dense(X)}))
    for memory in ("map", "arena"):
        view = wl.open(path, memory=memory)["a"]
        assert (view.shape, str(view.dtype), view.stored_nbytes) == ((256, 256), "float64", big.nbytes)
        same(np.array(view[3:5]), big[3:5])
        same(np.array(view[-1]), big[-1])
    assert wl.open(path)["b"].parts() == {}
    same(wl.load(path, memory="map")["b"], X)
    out = {"a": np.zeros((256, 256), "f4"), "b": np.zeros((2, 3), "f4")}
    wl.load(path, out=out)
    same(out["a"], big.astype("f4"))


def test_headers_only_are_read() -> None:
    large = listed([dense(np.zeros(1 << 18, "f4"))] * 4)
    files = MemoryFiles({"x": large})
    by_name("mxnet").read(files, "x")
    assert files.readers["x"].bytes_read < 40_000


# --- sparse -----------------------------------------------------------------------------------------
ROWS = sparse(1, (5, 3), X, [1, 4])
MATRIX = sparse(2, (3, 4), np.array([1, 2, 3], "f8"), [0, 2, 2, 3], [0, 3, 1])
ROWS_WHOLE = np.zeros((5, 3), "f4")
ROWS_WHOLE[[1, 4]] = X
MATRIX_WHOLE = np.array([[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]], "f8")


def test_sparse_arrays_come_whole(tmp_path: Path) -> None:
    path = write(tmp_path, named({"r": ROWS, "x": dense(X), "m": MATRIX}))
    same(wl.load(path), {"r": ROWS_WHOLE, "x": X, "m": MATRIX_WHOLE})
    assert wl.open(path).source.layout.extra["sparse"] == {"r": "row_sparse", "m": "csr"}
    assert wl.verify(path).ok
    view = wl.open(path)["m"]
    assert (view.shape, view.nbytes, view.stored_nbytes, view.stored) == ((3, 4), 96, 3 * 8 + 4 * 8 + 3 * 8, "sparse")
    same(np.array(view[0]), MATRIX_WHOLE[0])


def test_parts_of_sparse_arrays(tmp_path: Path) -> None:
    weights = wl.open(write(tmp_path, named({"r": ROWS, "m": MATRIX})))
    same(weights["r"].parts(), {"data": X, "indices": np.array([1, 4])})
    same(
        weights["m"].parts(),
        {"data": np.array([1.0, 2, 3]), "indptr": np.array([0, 2, 2, 3]), "indices": np.array([0, 3, 1])},
    )


def test_empty_sparse_arrays(tmp_path: Path) -> None:
    none = np.zeros(0, "f4")
    records = {
        "rows": sparse(1, (5, 3), np.zeros((0, 3), "f4"), []),
        "matrix": sparse(2, (5, 3), none, [0] * 6, []),
        "bare": sparse(2, (5, 3), none, [], []),
    }
    same(wl.load(write(tmp_path, named(records))), dict.fromkeys(records, np.zeros((5, 3), "f4")))


def test_sparse_arrays_are_converted_and_cast(tmp_path: Path) -> None:
    path = write(tmp_path, named({"r": ROWS, "m": MATRIX}))
    same(wl.load(path, dtype="float16"), {"r": ROWS_WHOLE.astype("f2"), "m": MATRIX_WHOLE.astype("f2")})
    wl.convert(path, tmp_path / "x.safetensors")
    same(wl.load(tmp_path / "x.safetensors"), {"r": ROWS_WHOLE, "m": MATRIX_WHOLE})
    wl.convert(path, tmp_path / "x.params")
    assert not wl.diff(path, tmp_path / "x.params").differences


BAD_SPARSE = {
    "a row that is not there": sparse(1, (5, 3), X, [1, 5]),
    "a negative row": sparse(1, (5, 3), X, [-1, 4]),
    "rows that descend": sparse(1, (5, 3), X, [4, 1]),
    "a row twice": sparse(1, (5, 3), X, [1, 1]),
    "a column that is not there": sparse(2, (2, 2), X[0, :2], [0, 1, 2], [0, 2]),
    "an element twice": sparse(2, (2, 2), X[0, :2], [0, 2, 2], [1, 1]),
    "rows that begin later": sparse(2, (2, 2), X[0, :2], [1, 1, 2], [0, 1]),
    "rows that begin before": sparse(2, (2, 2), X[0, :2], [0, 2, 1], [0, 1]),
    "more elements than there are": sparse(2, (2, 2), X[0, :2], [0, 9, 2], [0, 1]),
    "more rows than the array": sparse(1, (1, 3), X, [0, 1]),
    "rows of another length": sparse(1, (5, 4), X, [1, 4]),
    "fewer indices": sparse(1, (5, 3), X, [1]),
    "three axes": sparse(2, (2, 2, 1), X[0, :2], [0, 1, 2], [0, 1]),
    "an index of a column too few": sparse(2, (2, 2), X[0, :2], [0, 1, 2], [0]),
    "too few rows": sparse(2, (2, 2), X[0, :2], [0, 2], [0, 1]),
    "an unknown kind": sparse(3, (2, 2), X[0, :2], [0, 1, 2]),
    "indices of fractions": ROWS.replace(struct.pack("<ii", 6, 1), struct.pack("<ii", 1, 1)),
    "sparse in version 3": ROWS.replace(struct.pack("<I", 0xF993FAC9), struct.pack("<I", V3)),
}


@pytest.mark.parametrize("case", BAD_SPARSE)
def test_malformed_sparse_array(case: str, tmp_path: Path) -> None:
    path = write(tmp_path, named({"w": BAD_SPARSE[case]}))
    with pytest.raises(wl.FormatError, match="x-file"):
        wl.load(path)
    assert not wl.verify(path).ok


def test_sparse_arrays_that_mxnet_wrote_too_early(tmp_path: Path) -> None:
    """Their stored shape says 0, and MXNet itself goes by the indices."""
    records = {
        "r": sparse(1, (5, 3), X, [1, 4], early=True),
        "m": sparse(2, (3, 4), np.array([1, 2, 3], "f8"), [0, 2, 2, 3], [0, 3, 1], early=True),
    }
    same(wl.load(write(tmp_path, named(records))), {"r": ROWS_WHOLE, "m": MATRIX_WHOLE})


def test_elements_of_a_row_in_any_order(tmp_path: Path) -> None:
    matrix = sparse(2, (2, 3), np.array([1, 2, 3], "f4"), [0, 2, 3], [2, 0, 1])
    same(wl.load(write(tmp_path, listed([matrix]))), [np.array([[2, 0, 1], [0, 3, 0]], "f4")])


def test_a_few_bytes_do_not_become_terabytes(tmp_path: Path) -> None:
    bomb = sparse(1, (1 << 40, 1 << 10), np.ones((1, 1 << 10), "f4"), [7])
    path = write(tmp_path, named({"bomb": bomb, "r": ROWS}))
    with pytest.raises(wl.UnsafeContentError, match=r"bomb/\*"):
        wl.load(path)
    same(wl.load(path, names="r"), {"r": ROWS_WHOLE})
    parts = wl.load(path, names="bomb/*")
    same(parts, {"bomb/data": np.ones((1, 1 << 10), "f4"), "bomb/indices": np.array([7])})


# --- writing ----------------------------------------------------------------------------------------
OBJECTS: dict[str, Any] = {
    "one": X,
    "list": [X, X[0].astype(ml_dtypes.bfloat16)],
    "tuple": (X, X[0]),
    "dict": {"arg:w": X, "b": X[0]},
    "nested": {"a": {"w": X}, "b": [X[0], (X[1],)]},
    "empty list": [],
    "empty dict": {},
}


@pytest.mark.parametrize("format", ["mxnet", "mxnet-v2"])
@pytest.mark.parametrize("kind", OBJECTS)
def test_what_was_saved_comes_back(kind: str, format: str, tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    result = wl.save(OBJECTS[kind], path, format=format, metadata={"note": "é"})
    same(wl.load(path), OBJECTS[kind])
    weights = wl.open(path)
    assert (weights.format, weights.metadata) == ("mxnet", {"note": "é"})
    assert weights.source.layout.extra["versions"] == ([] if "empty" in kind else [2 if format == "mxnet-v2" else 3])
    report = wl.verify(path)
    assert report.ok and not report.unchecked
    assert result.tensors == len(weights)


def test_the_bytes_are_those_of_mxnet(tmp_path: Path) -> None:
    cpu = {n: dense(a).replace(struct.pack("<ii", 2, 3), struct.pack("<ii", 1, 0)) for n, a in (("a", X), ("b", X[0]))}
    wl.save({"a": X, "b": X[0]}, tmp_path / "x.params", checksums=False)
    assert (tmp_path / "x.params").read_bytes() == named(cpu)
    wl.save([X, X[0]], tmp_path / "y.params", checksums=False)
    assert (tmp_path / "y.params").read_bytes() == listed(list(cpu.values()))
    wl.save(X, tmp_path / "z.params", checksums=False)
    assert (tmp_path / "z.params").read_bytes() == listed([cpu["a"]])


def test_without_the_sidecar_it_is_what_mxnet_would_see(tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    wl.save(X, path, checksums=False)
    (tmp_path / "x.params.crc32c").unlink(missing_ok=True)
    same(wl.load(path), [X])


def test_damage_is_found_by_the_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    wl.save({"a": X, "b": X[0]}, path)
    data = bytearray(path.read_bytes())
    data[66] ^= 1
    path.write_bytes(data)
    with pytest.raises(wl.ChecksumError, match="tensor 'a'"):
        wl.load(path)
    assert wl.verify(path).corrupt == ("a",)


def test_what_it_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    bad = {"z": np.zeros(2, "c8"), "s": np.array(["a"], object), "ok": X, "t": np.zeros(1, "M8[s]")}
    with pytest.raises(wl.UnsupportedFeatureError, match=r"'z' \(complex64\), 's' \(strings\), 't'"):
        wl.save(bad, tmp_path / "x.params")
    for array in (np.array(1.0, "f4"), np.zeros((0, 2), "f4")):
        with pytest.raises(wl.UnsupportedFeatureError, match="format='mxnet'"):
            wl.save({"w": array}, tmp_path / "x.params", format="mxnet-v2")
        wl.save({"w": array}, tmp_path / "x.params")
    for options in ({"compression": "deflate"}, {"shard_size": 100}, {"quantize": "uint8"}):
        with pytest.raises(wl.UnsupportedFeatureError):
            wl.save({"w": X}, tmp_path / "x.params", **options)  # type: ignore[arg-type]
    with pytest.raises(wl.UnsupportedFeatureError, match="not text"):
        wl.save({"\ud800": X}, tmp_path / "x.params")
    with pytest.raises(wl.FormatError, match="mxnet-v2"):
        wl.save({"w": X}, tmp_path / "x.params", format="mxnet-v9")
