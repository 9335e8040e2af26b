"""The hdf5 format: what h5py writes is read, what we write h5py reads."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import weightlift as wl
from weightlift._unchunk import fletcher32
from weightlift.formats._hdf5 import HDF5
from weightlift.testing import MemoryFiles

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
RNG = np.random.default_rng(5)


def made(write: Any, **options: Any) -> bytes:
    """The bytes of an HDF5 file that ``write`` fills."""
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        write(root)
    return file.getvalue()


def load(tmp_path: Path, data: bytes, name: str = "x.h5", **options: Any) -> Any:
    (tmp_path / name).write_bytes(data)
    return wl.load(tmp_path / name, **options)


# --- chunks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"fletcher32": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"shuffle": True},
    ],
    ids=lambda o: "+".join(o) or "plain",
)
def test_chunks_are_decoded(tmp_path: Path, libver: str, options: dict[str, Any]) -> None:
    arrays = {
        "f4": RNG.standard_normal((7, 33), np.float32),
        "be": RNG.integers(0, 99, (5, 4, 3)).astype(">i8"),
        "odd": RNG.integers(0, 2, 13).astype(np.int8),
        "complex": RNG.standard_normal((6, 2)) + 1j,
    }

    def write(root: Any) -> None:
        for name, array in arrays.items():
            root.create_dataset(name, data=array, chunks=tuple(max(1, n // 2) for n in array.shape), **options)

    found = load(tmp_path, made(write, libver=libver, userblock_size=512))
    for name, array in arrays.items():
        assert np.array_equal(found[name], array), name
        assert found[name].dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(load(tmp_path, made(write), names="f4", dtype="float16")["f4"], arrays["f4"].astype("f2"))


def test_chunks_that_are_not_there_are_the_fill_value(tmp_path: Path) -> None:
    def write(root: Any) -> None:
        sparse = root.create_dataset("sparse", (8, 8), "f4", chunks=(4, 4), fillvalue=2.5)
        sparse[:3, :3] = 1
        root.create_dataset("none", (3, 3), ">i2", chunks=(2, 2), fillvalue=7)
        root.create_dataset("unwritten", (5,), "i8", fillvalue=-1)

    found = load(tmp_path, made(write))
    assert found["sparse"][0, 0] == 1 and found["sparse"][7, 7] == 2.5 and found["sparse"][3, 3] == 2.5
    assert (found["none"] == 7).all() and (found["unwritten"] == -1).all()


def test_fletcher32_of_any_length() -> None:
    for n in (0, 1, 2, 3, 4, 1001):
        data = bytes(RNG.integers(0, 256, n, np.uint8))
        low = high = 0
        for i in range(0, n, 2):
            low += data[i] << 8 | (data[i + 1] if i + 1 < n else 0)
            low = (low & 0xFFFF) + (low >> 16)
            high += low
            high = (high & 0xFFFF) + (high >> 16)
        assert fletcher32(data) == high << 16 | low


def test_damaged_chunks_are_errors(tmp_path: Path) -> None:
    numbers = np.arange(400, dtype="i4")
    summed = bytearray(made(lambda root: root.create_dataset("w", data=numbers, chunks=(100,), fletcher32=True)))
    at = summed.find(numbers[100:].tobytes()[:40])
    summed[at] ^= 1
    with pytest.raises(wl.ChecksumError, match="Fletcher-32"):
        load(tmp_path, bytes(summed))
    packed = bytearray(made(lambda root: root.create_dataset("w", data=numbers, chunks=(100,), compression="gzip")))
    for at in [i for i in range(len(packed) - 1) if packed[i] == 0x78 and packed[i + 1] in (0x5E, 0x9C, 0x01, 0xDA)]:
        packed[at + 8] ^= 0xFF
    with pytest.raises(wl.FormatError, match="chunk at"):
        load(tmp_path, bytes(packed))


def test_a_bomb_in_a_chunk_ends_early(tmp_path: Path) -> None:
    def write(root: Any) -> None:
        w = root.create_dataset("w", (64,), "u1", chunks=(64,), compression="gzip")
        import zlib

        w.id.write_direct_chunk((0,), zlib.compress(bytes(64 << 20), 9))

    with pytest.raises(wl.FormatError, match="larger than it should be"):
        load(tmp_path, made(write))


LZF: dict[str, Any] = {
    "runs": np.repeat(np.arange(50, dtype="i2"), 700).reshape(70, 500),
    "noise": np.random.default_rng(0).normal(size=(64, 65)),
    "some of both": np.concatenate([np.zeros(5000), np.random.default_rng(1).normal(size=5000), np.ones(5000)]),
    "text": np.frombuffer(b"".join(f"layer {i} of {i * 7 % 13}; ".encode() for i in range(3000)), "u1"),
}


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "fletcher32": True}])
@pytest.mark.parametrize("case", LZF)
def test_lzf(case: str, options: Any, tmp_path: Path) -> None:
    """As h5py packs it; chunks that do not become smaller are left as they are."""
    data = LZF[case]
    chunks = tuple(-(-n // 2) for n in data.shape)
    whole = made(lambda root: root.create_dataset("w", data=data, chunks=chunks, compression="lzf", **options))
    found = load(tmp_path, whole)["w"]
    assert found.dtype == data.dtype and found.tobytes() == data.tobytes()


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (b"\x1fab", "inside a run"),
        (b"\x02abc\xe0", "inside a repetition"),
        (b"\x02abc\xe0\xff", "inside a repetition"),
        (b"\x02abc\x20\x03", "4 bytes back, of 3"),
        (b"\x00a" + b"\xe0\xff\x00" * 5, "more than 72"),
        (b"\x02abc", "has 3 bytes, expected 64"),
    ],
)
def test_malformed_lzf(packed: bytes, problem: str, tmp_path: Path) -> None:
    def write(root: Any) -> None:
        w = root.create_dataset("w", (64,), "u1", chunks=(64,), compression="lzf")
        w.id.write_direct_chunk((0,), packed)

    with pytest.raises(wl.FormatError, match=problem):
        load(tmp_path, made(write))


def test_other_filters_are_refused_by_name(tmp_path: Path) -> None:
    def write(root: Any) -> None:
        root["good"] = np.arange(3)
        root.create_dataset("packed", data=np.arange(100), chunks=(10,), scaleoffset=0)

    with pytest.raises(wl.UnsupportedFeatureError, match=r"scaleoffset \(number 6\)"):
        load(tmp_path, made(write))
    assert load(tmp_path, made(write), names="good")["good"].tolist() == [0, 1, 2]


# --- links, types, other files ----------------------------------------------------------------------
def test_links_that_lead_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.h5").write_bytes(made(lambda root: root.create_dataset("w", data=np.ones(3))))
    (tmp_path / "raw").write_bytes(bytes(64))

    def write(root: Any) -> None:
        root["here"] = np.arange(3)
        root["link"] = h5py.ExternalLink("secret.h5", "/w")
        root.create_dataset("stored", (8,), "f4", external=[(str(tmp_path / "raw"), 0, 32)])
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "w", (3,))
        root.create_virtual_dataset("virtual", layout)
        root["dangling"] = h5py.SoftLink("/link/w")

    data = made(write)
    for name in ("link", "stored", "virtual"):
        with pytest.raises(wl.UnsafeContentError) as caught:
            load(tmp_path, data, names=name)
        assert caught.value.tensor == name
    with pytest.raises(wl.UnsupportedFeatureError, match="soft link"):
        load(tmp_path, data, names="dangling")
    assert load(tmp_path, data, names="here")["here"].tolist() == [0, 1, 2]
    with pytest.raises(wl.FormatError):
        load(tmp_path, data)


def test_groups_that_are_reached_twice_are_listed_once(tmp_path: Path) -> None:
    def write(root: Any) -> None:
        root["a/b/w"] = np.arange(2)
        for i in range(20):
            root[f"level{i}/left"] = root["a"] if i == 0 else root[f"level{i - 1}"]
            root[f"level{i}/right"] = root[f"level{i}/left"]
        root["a/up"] = root["/"]
        root["tied"] = root["a/b/w"]
        root["soft"] = h5py.SoftLink("a/b/w")

    found = load(tmp_path, made(write))
    assert list(found) == ["a/b/w", "soft", "tied"]
    assert all(array.tolist() == [0, 1] for array in found.values())


def test_types(tmp_path: Path) -> None:
    values = np.array([1.5, -2, 3], ml_dtypes.bfloat16)

    def write(root: Any) -> None:
        root.create_dataset("bf16", data=values.view("V2")).attrs["dtype"] = "bfloat16"
        root["raw"] = values.view("V2")
        root["bool"] = np.array([True, False])
        root["text"] = np.array([b"ab", b"c"])
        root["texts"] = [["a", "bé"], ["", "c"]]
        root["half"] = np.array([1, 2], ">f2")
        root["struct"] = np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")])
        root["empty"] = np.zeros((0, 4), "f4")
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        h5py.Dataset(h5py.h5d.create(root.id, b"compact", h5py.h5t.STD_I16BE, space, compact))[:] = [1, 2, 3]

    found = load(tmp_path, made(write))
    assert found["bf16"].dtype == ml_dtypes.bfloat16 and found["bf16"].tobytes() == values.tobytes()
    assert found["raw"].dtype == np.dtype("V2")
    assert found["bool"].dtype == bool and found["bool"].tolist() == [True, False]
    assert found["text"].tolist() == [b"ab", b"c"]
    assert found["texts"].tolist() == [[b"a", "bé".encode()], [b"", b"c"]]
    assert found["half"].tolist() == [1, 2]
    assert found["struct"]["b"].tolist() == [2.5]
    assert found["empty"].shape == (0, 4)
    assert found["compact"].tolist() == [1, 2, 3]


def test_types_that_no_array_has_are_refused_by_name(tmp_path: Path) -> None:
    def write(root: Any) -> None:
        root["good"] = np.arange(2)
        root["null"] = h5py.Empty("f4")
        root.create_dataset("ragged", (2,), h5py.vlen_dtype(np.int32))
        root.create_dataset("reference", (1,), h5py.ref_dtype)

    data = made(write)
    for name in ("null", "ragged", "reference"):
        with pytest.raises(wl.UnsupportedFeatureError):
            load(tmp_path, data, names=name)
    assert load(tmp_path, data, names="good")["good"].tolist() == [0, 1]


def test_only_structures_are_read() -> None:
    data = made(lambda root: root.create_dataset("a/b/w", data=np.zeros(1 << 20)))
    files = MemoryFiles({"x.h5": data})
    layout = HDF5.read(files, "x.h5")
    assert layout.tensors["a/b/w"].plain is not None
    assert files.open("x.h5").bytes_read < 1 << 16


def test_strings_that_name_one_text_again_and_again_are_bounded(tmp_path: Path) -> None:
    """16 bytes an element, each of which may be the largest text in the file."""
    text = "x" * (4 << 20)

    def write(root: Any) -> None:
        root["big"] = text
        root["many"] = ["y"] * 4000

    data = bytearray(made(write))
    with h5py.File(io.BytesIO(data)) as root:
        big, many = root["big"].id.get_offset(), root["many"].id.get_offset()
    for i in range(4000):
        data[many + 16 * i : many + 16 * i + 16] = data[big : big + 16]
    with pytest.raises(wl.FormatError, match="strings"):
        load(tmp_path, bytes(data), names="many")


# --- .keras -----------------------------------------------------------------------------------------
def keras_file(weights: bytes, *, compression: int = zipfile.ZIP_STORED, name: str = "model.weights.h5") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0"}))
        archive.writestr("config.json", "{}")
        archive.writestr(name, weights)
    return file.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_keras_archive(tmp_path: Path, compression: int) -> None:
    values = {"layers/dense/vars/0": np.arange(6.0).reshape(2, 3), "layers/dense/vars/1": np.ones(3, "f4")}
    weights = made(lambda root: [root.create_dataset(n, data=a) for n, a in values.items()])
    found = load(tmp_path, keras_file(weights, compression=compression), "x.keras")
    assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in values.items()}
    with wl.open(tmp_path / "x.keras") as opened:
        assert opened.metadata == {"keras_version": "3.0", "config": "{}"}


def test_keras_archive_with_npz(tmp_path: Path) -> None:
    npz = io.BytesIO()
    np.savez(npz, w=np.arange(3.0))
    data = keras_file(npz.getvalue(), name="model.weights.npz")
    assert load(tmp_path, data, "x.keras")["w"].tolist() == [0, 1, 2]


def test_keras_archive_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(wl.FormatError, match=r"model\.weights\.h5 missing"):
        load(tmp_path, keras_file(b"", name="other.h5"), "x.keras")
    bomb = keras_file(bytes(80 << 20), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(wl.UnsafeContentError, match="inflates"):
        load(tmp_path, bomb, "x.keras")


# --- writing ----------------------------------------------------------------------------------------
def test_h5py_reads_what_we_write(tmp_path: Path) -> None:
    tensors = {
        "a/w": RNG.standard_normal((64, 513), np.float32),
        "a/b": np.array([True, False]),
        "c": np.array(1 + 2j, np.complex64),
        "é/0": np.zeros((0, 3), "i8"),
        "big": np.arange(1 << 16, dtype="u2"),
        "bf": np.arange(5, dtype=ml_dtypes.bfloat16),
    }
    wl.save(tensors, tmp_path / "x.hdf5", metadata={"note": "é", "n": 3, "deep": {"a": [1]}})
    with h5py.File(tmp_path / "x.hdf5") as root:
        for name, array in tensors.items():
            stored = root[name]
            assert stored.id.get_storage_size() == array.nbytes and stored.chunks is None
            if name == "bf":
                assert stored.attrs["dtype"] == "bfloat16"
                assert stored[()].tobytes() == array.tobytes()
            else:
                assert stored.dtype == array.dtype and np.array_equal(stored[()], array)
        assert root.attrs["note"] == "é" and root.attrs["n"] == 3
        assert root["big"].id.get_offset() % 4096 == 0
    found = wl.load(tmp_path / "x.hdf5")
    assert all(found[n].dtype == a.dtype and found[n].tobytes() == a.tobytes() for n, a in tensors.items())
    assert list(found) == list(tensors)
    assert wl.open(tmp_path / "x.hdf5").metadata == {"note": "é", "n": 3, "deep": {"a": [1]}}
    assert wl.verify(tmp_path / "x.hdf5").ok


def test_every_flipped_bit_of_what_we_wrote_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    wl.save({"d/w": np.arange(6, dtype="f4"), "d/b": np.array([1, -1], "i2")}, path, durable=False)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.choice(8 * len(data), 100, replace=False).tolist():
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert not wl.verify(path).ok, at
        with pytest.raises(wl.WeightliftError):
            wl.load(path)


def test_structure_comes_back(tmp_path: Path) -> None:
    tree = {"a": [np.arange(3), np.ones(2)], "b": (np.zeros(1),)}
    wl.save(tree, tmp_path / "x.h5")
    found = wl.load(tmp_path / "x.h5")
    assert [a.tolist() for a in found["a"]] == [[0, 1, 2], [1, 1]] and isinstance(found["b"], tuple)


@pytest.mark.parametrize("name", ["a//b", "/a", "a/", ".", "a/./b", "a\0b"])
def test_names_that_hdf5_would_change_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="called"):
        wl.save({name: np.ones(2)}, tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="below that path"):
        wl.save({"a": np.ones(2), "a/b": np.ones(2)}, tmp_path / "x.h5")
    with pytest.raises(wl.UnsupportedFeatureError, match="save_model"):
        wl.save({"a": np.ones(2)}, tmp_path / "x.keras")
    with pytest.raises(wl.UnsupportedFeatureError, match=r"int4.*npz"):
        wl.save({"a": np.ones(2, ml_dtypes.int4)}, tmp_path / "x.h5")
    with pytest.raises(wl.UnsupportedFeatureError, match="quantisation"):
        wl.save({"a": np.ones(2, "f4")}, tmp_path / "x.h5", quantize="uint8")


def test_lists_of_keras_are_cut_where_they_are_long(tmp_path: Path) -> None:
    names = [f"{'layer' * 400}{i}/kernel" for i in range(60)]
    wl.save({name: np.full(2, i, "f4") for i, name in enumerate(names)}, tmp_path / "x.h5", durable=False)
    with h5py.File(tmp_path / "x.h5") as root:
        assert "layer_names" not in root.attrs and "layer_names1" in root.attrs
        assert root[names[7].split("/")[0]].attrs["weight_names"].tolist() == [b"kernel"]
    (tmp_path / "x.h5.crc32c").unlink()
    assert list(wl.load(tmp_path / "x.h5")) == names
