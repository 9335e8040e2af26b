"""Hostile and damaged pickles in npy and npz files; and proof that the corpus would run, where pickles are run."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.corrupt.hostile_pickles import PICKLES, SENTINEL, python_pickles, wait_for_nothing
from tests.unit.torch_support import archive, name, number, numbers, pickled, storage, text

import weightlift as wl
from weightlift.formats._npy_header import build_object_header

RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
FROM_BUFFER = name("numpy.core.numeric", "_frombuffer")
TO_TENSOR = name("tensorflow.python.framework.ops", "convert_to_tensor")
VARIABLE = name("tensorflow.python.ops.resource_variable_ops", "ResourceVariable")
OBJECTS = (
    RECONSTRUCT + name("numpy", "ndarray") + b"K\0\x85U\x01b\x87R(K\x01)"
    + name("numpy", "dtype") + b"(" + text("O8") + b"\x89\x88tR(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xff"
    + b"J\xff\xff\xff\xffK?tb\x89]"
)  # fmt: skip
"""An array of objects of no axes, up to its one item."""


def of_type(code: str, order: str = "<", rest: bytes = b"NNN") -> bytes:
    """An element type."""
    state = b"(K\x03" + text(order) + rest + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    return name("numpy", "dtype") + b"(" + text(code) + b"\x89\x88tR" + state


def array(shape: bytes = numbers(2), kind: bytes = of_type("f4"), data: bytes = b"C\x08" + bytes(8)) -> bytes:
    """An array."""
    begin = RECONSTRUCT + name("numpy", "ndarray") + b"K\0\x85C\x01b\x87R"
    return begin + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


ARRAYS: dict[str, bytes] = {
    "an array of another class": RECONSTRUCT + name("numpy", "matrix") + b")C\x01b\x87R",
    "an array that is never set": RECONSTRUCT + name("numpy", "ndarray") + b")C\x01b\x87R",
    "an array set twice": array() + b"(K\x01" + numbers(2) + of_type("f4") + b"\x89C\x08" + bytes(8) + b"tb",
    "an array of another version": array().replace(b"(K\x01", b"(K\x07"),
    "too few bytes": array(data=b"C\x07" + bytes(7)),
    "too many bytes": array(data=b"C\x09" + bytes(9)),
    "elements that are a list": array(data=b"]"),
    "elements that are a dict": array(data=b"}"),
    "bytes beyond the end": array(data=b"B\xff\xff\xff\xff" + bytes(8)),
    "bytes of 2**63 bytes": array(data=b"\x8e" + b"\xff" * 7 + b"\x7f" + bytes(8)),
    "a negative size": array(numbers(-2)),
    "a size of 2**63": array(numbers(1 << 63)),
    "a product that overflows": array(numbers(1 << 40, 1 << 40)),
    "65 axes": array(numbers(*[1] * 65)),
    "a shape that is text": array(text("2")),
    "a shape of text": array(b"(" + text("2") + b"t"),
    "a type that is text": array(kind=text("f4")),
    "a type that nobody knows": array(kind=of_type("q9")),
    "a type of a gigabyte of digits": array(kind=of_type("S4000000000")),
    "a type with a comma": array(kind=of_type("f4,f4")),
    "a type in no order": array(kind=of_type("f4", "?")),
    "a type made of a number": array(kind=name("numpy", "dtype") + b"(K\x04\x89\x88tR"),
    "a type without state": array(kind=name("numpy", "dtype") + b"(" + text("f4") + b"\x89\x88tR}b"),
    "a sub-array of itself": array(kind=of_type("V8", "|", of_type("f4") + b"]\x86NN")),
    "a huge sub-array": array(kind=of_type("V8", "|", of_type("f4") + numbers(1 << 60) + b"\x86NN")),
    "fields without a dict": array(kind=of_type("V8", "|", b"N" + b"(" + text("a") + b"t" + b"N")),
    "objects for elements": array(kind=of_type("O8", "|"), data=b"C\x08" + bytes(8)),
    "more objects than elements": array(kind=of_type("O8", "|"), data=b"](NNNe"),
    "a scalar of text": name("numpy.core.multiarray", "scalar") + b"(" + text("f4") + b"tR",
    "a scalar of no bytes": name("numpy.core.multiarray", "scalar") + b"(" + of_type("f4") + b"C\x00tR",
    "a buffer in the order of code": FROM_BUFFER + b"(C\x00" + of_type("f4") + b")" + text("K") + b"tR",
    "a tensor of TensorFlow by code": TO_TENSOR + b"(" + name("os", "system") + b"tR",
    "a variable of TensorFlow": name("functools", "partial") + b"(" + VARIABLE + b"tR",
    "an array of JAX by code": name("jax._src.array", "_reconstruct_array") + b"(" + text("os.system") + b")))tR",
    "elements of MXNet": name("mxnet.ndarray.ndarray", "NDArray") + b")\x81",
    "a storage of torch": storage(),
    "a key that is an array": b"}" + array() + b"Ns",
    "a list that is code": b"](" + name("posix", "system") + b"e",
}  # fmt: skip


def npy(body: bytes) -> bytes:
    """A file whose one object is what ``body`` makes."""
    return build_object_header(()) + pickled(OBJECTS + body + b"atb")


def write(folder: Path, data: bytes, suffix: str = ".npy") -> Path:
    path = folder / f"x{suffix}"
    path.write_bytes(data)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(data: bytes, folder: Path) -> wl.WeightliftError:
    path = write(folder, data)
    assert not wl.verify(path).ok
    wait_for_nothing(lambda: wl.open(path))
    error = wait_for_nothing(lambda: wl.load(path))
    assert str(path) in str(error)
    return error


@pytest.mark.parametrize("case", {**PICKLES, **ARRAYS})
def test_hostile_pickle(case: str, tmp_path: Path) -> None:
    data = npy({**PICKLES, **ARRAYS}[case])
    refused(data, tmp_path)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as out:  # beside a good one, which can be had
        out.writestr("bad.npy", data, zipfile.ZIP_DEFLATED)
        out.writestr("good.npy", plain(np.arange(3)))
    wait_for_nothing(lambda: wl.load(tmp_path / "x.npz"))
    assert wl.load(tmp_path / "x.npz", names="good")["good"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("case", python_pickles())
def test_pickle_that_runs_code(case: str, tmp_path: Path) -> None:
    """As the whole pickle, where np.load would run it before it looks at what comes out."""
    error = refused(build_object_header(()) + python_pickles()[case], tmp_path)
    if "protocol 0" not in case and "protocol 1" not in case:
        assert isinstance(error, wl.UnsafeContentError)
        assert "names" in str(error)


@pytest.mark.parametrize("case", [*python_pickles(), *PICKLES])
def test_skip_unsafe_runs_nothing_either(case: str, tmp_path: Path) -> None:
    """Whether something is left of the file or not."""
    whole = python_pickles().get(case)
    files = [
        write(tmp_path, npy(PICKLES[case]) if whole is None else build_object_header(()) + whole),
        write(tmp_path, archive(pickled(PICKLES[case]) if whole is None else whole), ".pt"),
    ]
    for path in files:
        with contextlib.suppress(wl.WeightliftError):
            wl.load(path, skip_unsafe=True)
        assert not Path(SENTINEL).exists()


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(PICKLES) >= 80
    assert len(PICKLES) + len(ARRAYS) + len(python_pickles()) >= 170


def test_the_corpus_runs_where_pickles_are_run(tmp_path: Path) -> None:
    """Else its sentinel would prove nothing: np.load(allow_pickle=True) leaves the file that no test above finds."""
    path = write(tmp_path, npy(PICKLES["reduce"]))
    code = f"import numpy; numpy.load({str(path)!r}, allow_pickle=True)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)
    assert (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("good_first", [True, False])
def test_an_archive_with_two_pickles(good_first: bool, tmp_path: Path) -> None:
    """Scanners look at one of them, loaders at the other."""
    pickles = [pickled(b"N"), pickled(PICKLES["reduce"])]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for data in pickles if good_first else pickles[::-1]:
            with pytest.warns(UserWarning) if out.namelist() else contextlib.nullcontext():
                out.writestr("x/data.pkl", data)
        out.writestr("x/version", b"3\n")
    path = write(tmp_path, file.getvalue(), ".pt")
    assert "two" in str(wait_for_nothing(lambda: wl.load(path)))


def test_a_pickle_under_two_names(tmp_path: Path) -> None:
    """The directory calls it what the header in front of it does not."""
    data = archive(pickled(PICKLES["reduce"]))
    path = write(tmp_path, data.replace(b"x/data.pkl", b"x/data.pki", 1), ".pt")
    wait_for_nothing(lambda: wl.load(path))


def plain(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_the_good_ones_load(tmp_path: Path) -> None:
    """What the cases above differ from is right: else they would test nothing."""
    assert wl.load(write(tmp_path, npy(array()))).tolist() == [0, 0]
    assert wl.load(write(tmp_path, npy(b"](" + array() + number(7) + b"e")))[1] == 7


def test_the_headers_shape_must_be_the_pickles(tmp_path: Path) -> None:
    data = build_object_header((1,)) + pickled(OBJECTS + array() + b"atb")
    assert "the header says [1]" in str(refused(data, tmp_path))


def test_bytes_after_the_pickle_are_refused(tmp_path: Path) -> None:
    assert "1 bytes after the pickle" in str(refused(npy(array()) + b"x", tmp_path))


def test_one_array_named_a_million_times(tmp_path: Path) -> None:
    big = array(numbers(1 << 18), data=b"B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20))
    body = big + b"q\x070](" + b"h\x07" * 20_000 + b"e"
    assert "again and again" in str(refused(npy(body), tmp_path))


def test_an_object_array_of_no_elements_and_huge_axes(tmp_path: Path) -> None:
    body = array(numbers(1 << 40, 0), of_type("O8", "|"), b"]")
    assert wl.load(write(tmp_path, npy(body))) == []


def test_a_pickle_may_not_be_huge(tmp_path: Path) -> None:
    assert "beside its arrays" in str(refused(npy(text("x" * (65 << 20))), tmp_path))


SAMPLE = {"a": np.arange(5, dtype="f4"), "n": {"b": np.array([[1, 2]]), "epoch": 3, "note": "é"}}


def test_cut_off_anywhere(tmp_path: Path) -> None:
    wl.save(SAMPLE, tmp_path / "y.npy", format="npy-pickle", durable=False)
    data = (tmp_path / "y.npy").read_bytes()
    for length in range(6, len(data), 3):
        with pytest.raises((wl.FormatError, wl.TruncatedError)):
            wl.load(write(tmp_path, data[:length]))


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """In our own files, by the sidecar or because it breaks something."""
    path = tmp_path / "x.npy"
    wl.save(SAMPLE, path, format="npy-pickle", durable=False)
    data = path.read_bytes()
    for at in range(0, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(wl.WeightliftError):
            wl.load(path)
