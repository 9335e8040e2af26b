"""The npz format against NumPy and Python's zipfile, both ways (what deflates is in test_npz_deflate.py)."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weightlift._dtypes import DTYPES, from_numpy
from weightlift._layout import Layout
from weightlift._packing import Checksums, PackOptions, TensorSpecs
from weightlift._steps import Byteswap, Deflate
from weightlift._tree import SINGLE, flatten, unflatten
from weightlift.errors import ChecksumError, FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._npz import NPZ
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

Array = np.ndarray[Any, Any]

ARRAYS: dict[str, Array] = {
    "weight": np.arange(12, dtype="f4").reshape(3, 4),
    "a/b c": np.arange(5),
    "é重み": np.array([True, False]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3), "f2"),
    "large": np.random.default_rng(0).integers(0, 255, (1500, 1000), np.uint8),
    "struct": np.zeros(3, [("a", "<f4"), ("b", ">i2")]),
    "date": np.array(["2026-01-01"], "M8[D]"),
    "x.npy": np.ones(1),
}


def load(data: bytes) -> tuple[Layout, dict[str, Array]]:
    """What our reader makes of a file."""
    files = MemoryFiles({"x.npz": data})
    layout = NPZ.read(files, "x.npz")
    return layout, read_tensors(layout, files)


def write(arrays: dict[str, Array], compression: str | None = None, structure: Any = None) -> bytes:
    """What our writer writes."""
    return write_tensors(NPZ, arrays, "x.npz", PackOptions(compression=compression, structure=structure)).files["x.npz"]


def saved(arrays: dict[str, Array], compressed: bool = False) -> bytes:
    """What NumPy writes."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def assert_same(found: Any, expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(array).tobytes(), name


# --- against NumPy, both ways ---------------------------------------------------------------------
@pytest.mark.parametrize("compressed", [False, True])
def test_reads_what_numpy_writes(compressed: bool) -> None:
    layout, tensors = load(saved(ARRAYS, compressed))
    assert_same(tensors, ARRAYS)
    assert all(tensors[name].dtype == array.dtype for name, array in ARRAYS.items())
    assert layout.structure is None


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_numpy_and_zipfile_read_what_we_write(compression: str | None) -> None:
    data = write(ARRAYS, compression)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert [i.filename for i in archive.infolist()] == [f"{name}.npy" for name in ARRAYS]
    with np.load(io.BytesIO(data)) as arrays:
        assert_same({name: arrays[name] for name in arrays}, ARRAYS)
    assert_same(load(data)[1], ARRAYS)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
        hnp.arrays(
            hnp.scalar_dtypes().filter(lambda d: d.itemsize > 0), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
        ),
        max_size=5,
    ),
    st.sampled_from([None, "deflate"]),
    st.booleans(),
)
def test_any_arrays_in_either_direction(arrays: dict[str, Array], compression: str | None, fortran: bool) -> None:
    if fortran:
        arrays = {name: np.asfortranarray(a) if a.ndim else a for name, a in arrays.items()}
    native = {name: a.astype(from_numpy(a.dtype).numpy) for name, a in arrays.items()}
    assert_same(load(write(arrays, compression))[1], native)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compression else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    assert_same(load(stream.getvalue())[1], native)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_number_of_members(count: int) -> None:
    arrays = {f"t{i}": np.full(i, i) for i in range(count)}
    for data in (saved(arrays), write(arrays), write(arrays, "deflate")):
        assert NPZ.sniff(data[:4096], len(data))
        assert_same(load(data)[1], arrays)


def test_ml_dtypes_are_raw_bytes_to_numpy() -> None:
    array = np.arange(4).astype(ml_dtypes.bfloat16)
    with np.load(io.BytesIO(write({"w": array}))) as arrays:
        assert np.array_equal(arrays["w"].view(ml_dtypes.bfloat16), array)


# --- how it lies in the file ----------------------------------------------------------------------
def test_stored_members_are_plain_extents_with_their_crc() -> None:
    table = load(write(ARRAYS))[0].tensors
    assert not table.pieces
    assert {entry.checksum.kind for entry in table.values() if entry.checksum} == {"crc32"}
    assert all(entry.checksum for entry in table.values())


def test_deflated_members_are_pieces_that_check_themselves() -> None:
    table = load(saved({"w": np.arange(100, dtype=">f4").reshape(10, 10)}, compressed=True))[0].tensors
    (piece,) = table["w"].pieces
    inflate, swap = piece.steps
    assert isinstance(inflate, Deflate)
    assert (inflate.nbytes, inflate.skip) == (128 + 400, 128)
    assert inflate.crc32 is not None
    assert swap == Byteswap(4, 4)


def test_data_is_aligned() -> None:
    table = load(write(ARRAYS))[0].tensors
    offsets = dict(zip(table.names, table.offset.tolist(), strict=True))
    assert all(offset % 64 == 0 for offset in offsets.values())
    assert offsets["large"] % 4096 == 0


def test_a_large_file_costs_few_bytes_to_open() -> None:
    arrays = {f"t{i}": np.zeros(1 << 18) for i in range(4)}
    for data in (saved(arrays), write(arrays)):
        files = MemoryFiles({"x.npz": data})
        NPZ.read(files, "x.npz")
        assert files.readers["x.npz"].bytes_read < 1 << 17


def test_many_small_members_are_read_in_few_large_pieces() -> None:
    arrays = {f"t{i}": np.zeros(16) for i in range(2000)}
    files = MemoryFiles({"x.npz": saved(arrays)})
    reader = files.open("x.npz")
    calls = []
    read_at = reader.read_at
    reader.read_at = lambda offset, nbytes: calls.append(nbytes) or read_at(offset, nbytes)  # type: ignore[method-assign,func-returns-value]
    NPZ.read(files, "x.npz")
    assert len(calls) < 10


def test_equal_content_gives_equal_files() -> None:
    assert write(ARRAYS) == write(ARRAYS)
    assert write(ARRAYS, "deflate") == write(ARRAYS, "deflate")


def test_big_endian_and_fortran_members() -> None:
    arrays = {
        "swap": np.arange(6, dtype=">i4").reshape(2, 3),
        "both": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    }
    for compressed in (False, True):
        _, tensors = load(saved(arrays, compressed))
        for name, array in arrays.items():
            assert tensors[name].dtype.isnative
            assert np.array_equal(tensors[name], array)


# --- structure ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "names"),
    [
        (np.zeros(2), ["arr_0"]),
        ([np.zeros(2), np.ones(3)], ["arr_0", "arr_1"]),
        ((np.zeros(2), np.ones(3)), ["arr_0", "arr_1"]),
        ([], []),
        ({"b": np.zeros(2), "a": np.ones(3)}, ["b", "a"]),
        ({"l": [np.zeros(2)], "d": {"x": np.ones(1)}}, ["l.0", "d.x"]),
        ([np.zeros(1), [np.ones(1)]], ["0", "1.0"]),
    ],
)
def test_names_are_those_of_savez(value: Any, names: list[str]) -> None:
    keys, leaves, structure = flatten(value)
    arrays = [np.asarray(leaf) for leaf in leaves]
    specs = TensorSpecs(
        keys,
        [from_numpy(a.dtype) for a in arrays],
        [a.shape for a in arrays],
        np.array([a.nbytes for a in arrays], np.uint64),
    )
    packing = NPZ.pack(specs, "x.npz", PackOptions(structure=structure))
    assert specs.names == names
    back = unflatten(packing.structure, dict(zip(specs.names, leaves, strict=True)))
    assert str(back) == str(value)
    assert type(back) is type(value)
    with np.load(io.BytesIO(write(dict(zip(keys, arrays, strict=True)), structure=structure))) as read:
        assert list(read) == names


def test_rows_may_stand_in_another_order_than_the_list() -> None:
    specs = TensorSpecs(["1", "0"], [DTYPES["int8"]] * 2, [(1,)] * 2, np.ones(2, np.uint64))
    packing = NPZ.pack(specs, "x.npz", PackOptions(structure={"list": ["0", "1"]}))
    assert specs.names == ["arr_1", "arr_0"]
    assert packing.structure == {"list": ["arr_0", "arr_1"]}


# --- what else archives hold ----------------------------------------------------------------------
def archive_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_other_members_are_named_and_left_alone() -> None:
    layout, tensors = load(archive_of({"readme.txt": b"hello", "folder/": b"", "folder/w.npy": npy(np.ones(2))}))
    assert list(tensors) == ["folder/w"]
    assert layout.extra["other_members"] == ["readme.txt", "folder/"]


def test_object_member_is_an_error_only_when_asked_for() -> None:
    layout, tensors = load(saved({"plain": np.ones(2), "bad": np.array([print], object)}))
    assert list(tensors) == ["plain"]
    error = layout.objects["bad"]
    assert isinstance(error, UnsafeContentError)
    assert (error.tensor, error.path) == ("bad", "x.npz")


def mxnet_word(word: bytes) -> bytes:
    """MXNet 2.0 writes the name of the sparse format after a header that is no literal."""
    text = f"{{'descr': '|s{len(word)}{{'descr': '<i8', 'fortran_order': False, 'shape': (), }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + word


def sparse_of_mxnet(name: str, kind: bytes, method: int = zipfile.ZIP_STORED, **parts: Any) -> bytes:
    """An archive of a sparse array and a dense one."""
    members = {f"{name}/{part}.npy": npy(np.asarray(array)) for part, array in parts.items()}
    return archive_of({"first.npy": npy(np.ones(2)), **members, f"{name}/format.npy": mxnet_word(kind)}, method)


ROWS = {"data": np.ones((2, 3), "f4"), "indices": [0, 4], "shape": [6, 3]}
MATRIX = {"data": np.array([1.0, 2, 3]), "indptr": [0, 2, 2, 3], "indices": [0, 3, 1], "shape": [3, 4]}


def test_sparse_arrays_of_mxnet_2_come_whole() -> None:
    layout, tensors = load(sparse_of_mxnet("a/w", b"row_sparse", **ROWS))
    whole = np.zeros((6, 3), "f4")
    whole[[0, 4]] = 1
    assert_same(tensors, {"first": np.ones(2), "a/w": whole})
    assert (layout.objects, layout.extra) == ({}, {"sparse": {"a/w": "row_sparse"}})
    data = sparse_of_mxnet("w", b"csr", **MATRIX)
    matrix = np.array([[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0.0]])
    assert_same(load(data)[1], {"first": np.ones(2), "w": matrix})
    at = data.index(np.array([1.0, 2, 3]).tobytes())
    with pytest.raises(ChecksumError):
        load(data[:at] + b"\1" + data[at + 1 :])


def test_sparse_arrays_of_mxnet_2_that_are_compressed_are_read_in_parts() -> None:
    parts = {part: np.asarray(array) for part, array in ROWS.items()}
    data = archive_of({f"w/{part}.npy": npy(array) for part, array in parts.items()}, zipfile.ZIP_DEFLATED)
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("w/format.npy", mxnet_word(b"row_sparse"))
    layout, tensors = load(stream.getvalue())
    assert_same(tensors, {f"w/{part}": array for part, array in parts.items()})
    assert layout.objects == {"w/format": "row_sparse"}


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        (b"unheard_of", {}, "header"),
        (b"row_sparse", {"indices": [0, 6]}, "row 6 of 6"),
        (b"row_sparse", {"indices": [0, 1, 2]}, "with the parts"),
        (b"row_sparse", {"indices": [0.0, 4.0]}, "with the parts"),
        (b"row_sparse", {"shape": [-6, 3]}, "shape"),
        (b"row_sparse", {"shape": [6, 4]}, "with the parts"),
        (b"row_sparse", {"shape": [6.0, 3.0]}, "float64"),
        (b"csr", {}, "no member w/indptr.npy"),
    ],
)
def test_malformed_sparse_array_of_mxnet_2(kind: bytes, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        load(sparse_of_mxnet("w", kind, **{**ROWS, **change}))


def test_a_few_bytes_in_an_archive_do_not_become_terabytes() -> None:
    data = sparse_of_mxnet("w", b"row_sparse", **{**ROWS, "shape": [1 << 40, 3]})
    layout, tensors = load(data)
    assert list(tensors) == ["first", "w/data", "w/indices", "w/shape"]
    assert isinstance(layout.objects["w"], UnsafeContentError)


def test_comment_after_the_archive() -> None:
    stream = io.BytesIO(saved({"w": np.ones(2)}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = b"a comment " * 1000
    assert_same(load(stream.getvalue())[1], {"w": np.ones(2)})


def test_names_in_code_page_437() -> None:
    data = archive_of({"w~.npy": npy(np.ones(2))}).replace(b"w~.npy", b"w\x81.npy")
    assert list(load(data)[1]) == ["wü"]


def test_sizes_after_the_data() -> None:
    class Unseekable(io.RawIOBase):
        """Makes zipfile write data descriptors."""

        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.parts.append(bytes(data))
            return len(data)

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = Unseekable()
        with zipfile.ZipFile(stream, "w", method) as archive:  # type: ignore[call-overload]
            for name in ("a", "b"):
                with archive.open(f"{name}.npy", "w") as member:
                    member.write(npy(np.ones(100)))
        assert_same(load(b"".join(stream.parts))[1], {"a": np.ones(100), "b": np.ones(100)})


# --- ZIP64 ----------------------------------------------------------------------------------------
class Sparse:
    """A reader of literals in a file of any size; the rest is zeros."""

    name = "sparse"

    def __init__(self, size: int, literals: dict[int, bytes]) -> None:
        self.size = size
        self.literals = literals

    def read_at(self, offset: int, nbytes: int) -> bytes:
        assert 0 <= offset <= offset + nbytes <= self.size
        data = bytearray(nbytes)
        for at, literal in self.literals.items():
            low, high = max(at, offset), min(at + len(literal), offset + nbytes)
            if low < high:
                data[low - offset : high - offset] = literal[low - at : high - at]
        return bytes(data)

    def open(self, relative: str) -> Sparse:
        return self


def packed(sizes: list[int]) -> Sparse:
    """An archive of byte arrays of such sizes, headers only."""
    specs = TensorSpecs(
        [f"t{i}" for i in range(len(sizes))],
        [DTYPES["uint8"]] * len(sizes),
        [(n,) for n in sizes],
        np.array(sizes, np.uint64),
    )
    packing = NPZ.pack(specs, "x.npz", PackOptions())
    (file,) = packing.files
    literals = dict(file.literals)
    crc = np.arange(len(sizes), dtype=np.uint32)
    for offset, patch in NPZ.seal(packing, Checksums(crc, crc))[0]:
        (at,) = [a for a, literal in literals.items() if a <= offset and offset + len(patch) <= a + len(literal)]
        literal = literals[at]
        literals[at] = literal[: offset - at] + patch + literal[offset - at + len(patch) :]
    return Sparse(file.nbytes, literals)


@pytest.mark.parametrize(
    ("sizes", "wide"),
    [
        ([10, (1 << 32) - 200, 10], False),  # the next member begins before 4 GiB
        ([10, (1 << 32) - 130, 10], True),
        ([10, (1 << 32) - 1 - 128, 10], True),
        ([10, 1 << 33, 10, 1 << 40, 0, 7], True),
        ([1 << 31, 1 << 31, 1 << 31], True),
    ],
)
def test_zip64_only_where_it_must_be(sizes: list[int], wide: bool) -> None:
    file = packed(sizes)
    table = NPZ.read(file, "x.npz").tensors
    assert table.nbytes.tolist() == sizes
    assert all(
        offset % (4096 if n >= 1 << 20 else 64) == 0 for offset, n in zip(table.offset.tolist(), sizes, strict=True)
    )
    tail = file.read_at(file.size - 42, 42)
    assert (tail.startswith(b"PK\6\7")) == wide or not wide
    found = zipfile.ZipFile(SparseStream(file)).infolist()  # type: ignore[call-overload]
    assert [i.file_size for i in found] == [n + 128 for n in sizes]
    assert [i.header_offset for i in found] == list(file.literals)[:-1]


class SparseStream(io.RawIOBase):
    """A Sparse as a seekable stream."""

    def __init__(self, file: Sparse) -> None:
        self.file = file
        self.at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.file.size)[whence]
        return self.at

    def read(self, nbytes: int = -1) -> bytes:
        left = self.file.size - self.at
        data = self.file.read_at(self.at, left if nbytes < 0 else min(nbytes, left))
        self.at += len(data)
        return data


def test_more_than_65535_members() -> None:
    names = [f"t{i}" for i in range(66_000)]
    specs = TensorSpecs(names, [DTYPES["uint8"]] * len(names), [(0,)] * len(names), np.zeros(len(names), np.uint64))
    packing = NPZ.pack(specs, "x.npz", PackOptions())
    (file,) = packing.files
    data = bytearray(file.nbytes)
    for offset, literal in file.literals:
        data[offset : offset + len(literal)] = literal
    assert len(zipfile.ZipFile(io.BytesIO(data)).namelist()) == len(names)
    assert NPZ.read(MemoryFiles({"x.npz": bytes(data)}), "x.npz").tensors.names == names


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "match"),
    [
        (PackOptions(shard_size=100), "shard_size"),
        (PackOptions(compression="zstd"), "known are deflate"),
        (PackOptions(extra={"topology": {}}), "topology"),
    ],
)
def test_options_it_has_no_place_for(options: PackOptions, match: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=match):
        write_tensors(NPZ, {"w": np.zeros(1)}, "x.npz", options)


@pytest.mark.parametrize("name", ["nul\0", "x" * 70_000, "\ud800"])
def test_names_that_zip_cannot_hold(name: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match="zip cannot hold"):
        write({name: np.zeros(1)})


def test_single_array_is_arr_0() -> None:
    with np.load(io.BytesIO(write({SINGLE: np.ones(2)}, structure=SINGLE))) as arrays:
        assert list(arrays) == ["arr_0"]


@pytest.mark.parametrize(
    "head",
    [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"PK\3\4" + bytes(22) + b"\x09\0\0\0x/data.pkl", b"PK\5\6" + bytes(30)],
)
def test_sniff_takes_nothing_else(head: bytes) -> None:
    assert not NPZ.sniff(head, len(head))
