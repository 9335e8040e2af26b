"""safetensors: what we write the reference library reads, what it writes we read, and the rules between."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import weightlift as wl
from weightlift._dtypes import DTYPES, from_name, from_numpy
from weightlift._packing import PackOptions, TensorSpecs
from weightlift.errors import (
    FormatError,
    NotFoundError,
    UnsafeContentError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.formats._safetensors_file import SPELLING
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

Array = np.ndarray[Any, Any]

HELD = [d for d in DTYPES.values() if d.name in SPELLING and not d.packed]
NUMPY_ONLY = [np.dtype(t) for t in ("?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8")]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = texts.filter(lambda key: not key.startswith("weightlift."))  # ours
names = texts.filter(lambda name: name not in ("", "__metadata__"))
shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def arrays(dtypes: list[np.dtype[Any]]) -> st.SearchStrategy[Array]:
    """Arrays of any bytes, so that NaNs and padding bits are kept too."""

    def of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
        size = int(np.prod(shape)) * dtype.itemsize
        data = st.binary(min_size=size, max_size=size)
        if dtype.kind == "b":
            data = data.map(lambda b: bytes(x & 1 for x in b))
        return data.map(lambda b: np.frombuffer(b, dtype).reshape(shape))

    return st.tuples(st.sampled_from(dtypes), shapes).flatmap(lambda pair: of(*pair))


def assert_same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


def load(contents: Mapping[str, bytes], name: str = "m.safetensors", *, verify: bool = True) -> dict[str, Array]:
    files = MemoryFiles(contents)
    layout = SAFETENSORS.read(files, name)
    assert layout.damaged is None
    layout.validate([files.open(source).size for source in layout.sources])
    return read_tensors(layout, files, verify=verify)


def hand_made(header: Any, data: bytes = b"", *, pad: bytes = b"") -> bytes:
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + pad
    return len(text).to_bytes(8, "little") + text + data


def header_of(file: bytes) -> dict[str, Any]:
    return dict(json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")]))


# --- against the reference library ------------------------------------------------------------------
@given(
    tensors=st.dictionaries(names, arrays([d.numpy for d in HELD]), max_size=8), metadata=st.dictionaries(keys, texts)
)
def test_the_library_reads_what_we_write(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    file = write_tensors(SAFETENSORS, tensors, "m.safetensors", PackOptions(metadata=metadata)).files["m.safetensors"]
    loaded = dict(safetensors.deserialize(file))
    assert set(loaded) == set(tensors)
    for name, array in tensors.items():
        assert loaded[name]["dtype"] == SPELLING[from_numpy(array.dtype).name]
        assert loaded[name]["shape"] == list(array.shape)
        assert bytes(loaded[name]["data"]) == array.tobytes()
    files = MemoryFiles({"m.safetensors": file})
    layout = SAFETENSORS.read(files, "m.safetensors")
    assert layout.metadata == metadata
    assert_same(read_tensors(layout, files), tensors)
    if tensors:
        assert np.all(layout.tensors.check_kind == 1)


@given(
    tensors=st.dictionaries(names, arrays(NUMPY_ONLY), max_size=8),
    metadata=st.none() | st.dictionaries(keys, texts, min_size=1),  # of two empty dicts it makes broken JSON
)
def test_we_read_what_the_library_writes(tensors: dict[str, Array], metadata: dict[str, str] | None) -> None:
    files = MemoryFiles({"m.safetensors": safetensors.numpy.save(tensors, metadata)})
    layout = SAFETENSORS.read(files, "m.safetensors")
    assert layout.metadata == (metadata or {})
    assert layout.structure is None and layout.damaged is None
    assert not layout.tensors.check_kind.any()
    assert_same(read_tensors(layout, files), tensors)


@given(
    tensors=st.dictionaries(names, arrays(NUMPY_ONLY), min_size=1, max_size=12),
    shard_size=st.integers(1, 600),
)
def test_shards_hold_everything_once(tensors: dict[str, Array], shard_size: int) -> None:
    contents = write_tensors(SAFETENSORS, tensors, "m.safetensors", PackOptions(shard_size=shard_size)).files
    assert_same(load(contents), tensors)
    loaded: dict[str, Array] = {}
    for name, content in contents.items():
        if name.endswith(".json"):
            continue
        shard = safetensors.numpy.load(content)
        assert not set(shard) & set(loaded)
        loaded.update(shard)
        assert sum(a.nbytes for a in shard.values()) <= shard_size or sum(a.nbytes > 0 for a in shard.values()) == 1
    assert_same(loaded, tensors)
    if len(contents) > 1:
        index = json.loads(contents["m.safetensors.index.json"])
        assert index["metadata"]["total_size"] == sum(a.nbytes for a in tensors.values())
        assert list(index["weight_map"]) == list(tensors)


@pytest.mark.parametrize("dtype", HELD, ids=str)
def test_every_dtype_is_spelled_as_the_library_does(dtype: Any) -> None:
    array = np.arange(8, dtype=np.uint8).repeat(dtype.bits // 8).view(dtype.numpy)
    if dtype.name == "bool":
        array = np.array([True, False] * 4)
    file = write_tensors(SAFETENSORS, {"a": array}, "m.safetensors").files["m.safetensors"]
    ((name, entry),) = safetensors.deserialize(file)
    assert (name, entry["shape"], bytes(entry["data"])) == ("a", [8], array.tobytes())
    assert_same(load({"m.safetensors": file}), {"a": array})


def test_float4_is_packed() -> None:
    file = hand_made({"a": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}, b"\x01\x23\x45\x67")
    assert safetensors.deserialize(file)[0][1]["shape"] == [2, 4]
    files = MemoryFiles({"m": file})
    layout = SAFETENSORS.read(files, "m")
    assert layout.tensors["a"].dtype == from_name("float4_e2m1fn")
    assert layout.tensors["a"].shape == (2, 4)
    assert read_tensors(layout, files)["a"].tolist() == [[0x01, 0x23], [0x45, 0x67]]
    specs = TensorSpecs(["a"], [from_name("float4_e2m1fn")], [(2, 4)], np.array([4], np.uint64))
    SAFETENSORS.encode(specs, None)
    packing = SAFETENSORS.pack(specs, "m", PackOptions(checksums=False))
    assert header_of(packing.files[0].literals[0][1])["a"] == header_of(file)["a"]


# --- the header we write --------------------------------------------------------------------------
def pack(tensors: Mapping[str, Array], name: str = "m.safetensors", **options: Any) -> dict[str, bytes]:
    return write_tensors(SAFETENSORS, tensors, name, PackOptions(**options)).files


def test_header_is_in_the_callers_order_and_data_by_item_size() -> None:
    tensors = {
        "b": np.zeros(3, "u1"), "a": np.zeros(1, "f4"), "d": np.zeros(1, "c8"),
        "c": np.zeros(2, "f8"), "e": np.zeros(0, "i2"),
    }  # fmt: skip
    file = pack(tensors, metadata={"format": "pt"})["m.safetensors"]
    header = header_of(file)
    assert list(header) == ["__metadata__", *tensors]
    assert list(header["__metadata__"]) == ["weightlift.crc32c", "format"]
    begin = {name: entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    assert begin == {"e": 0, "d": 0, "c": 8, "a": 24, "b": 28}
    data = 8 + int.from_bytes(file[:8], "little")
    assert all((data + at) % tensors[name].itemsize == 0 for name, at in begin.items())


@given(tensors=st.dictionaries(names, arrays(NUMPY_ONLY), max_size=8), shard_size=st.none() | st.integers(1, 600))
def test_the_callers_order_comes_back(tensors: dict[str, Array], shard_size: int | None) -> None:
    contents = pack(tensors, shard_size=shard_size)
    layout = SAFETENSORS.read(MemoryFiles(contents), "m.safetensors")
    rows = range(len(layout.tensors)) if layout.order is None else layout.order
    assert [layout.tensors.names[row] for row in rows] == list(tensors)


@pytest.mark.parametrize(("nbytes", "alignment"), [((1 << 20) - 1, 8), (1 << 20, 4096)])
def test_data_begins_where_direct_io_can(nbytes: int, alignment: int) -> None:
    tensors = {f"layer.{i}": np.zeros(nbytes if i == 0 else 0, "u1") for i in range(100)}
    file = pack(tensors)["m.safetensors"]
    begin = 8 + int.from_bytes(file[:8], "little")
    assert begin % alignment == 0 and begin + nbytes == len(file)
    assert begin % 4096 == 0 or alignment == 8
    assert len(file[8:begin]) - len(file[8:begin].rstrip(b" ")) < alignment


def test_without_checksums_the_header_is_the_librarys() -> None:
    tensors = {'é\n"': np.ones((), "f8"), "w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.arange(3, dtype="f2")}
    for metadata in ({}, {"format": "pt"}):
        ours = pack(tensors, checksums=False, metadata=metadata)["m.safetensors"]
        assert ours == safetensors.numpy.save(tensors, metadata or None)


def test_no_tensors() -> None:
    assert pack({}, checksums=False)["m.safetensors"] == hand_made({}, pad=b" " * 6)
    for options in ({}, {"checksums": False}, {"metadata": {"a": "b"}}, {"shard_size": 10}):
        contents = pack({}, **options)
        assert load(contents) == {}
        assert safetensors.numpy.load(contents["m.safetensors"]) == {}


def test_structure_and_metadata_come_back() -> None:
    structure = {"dict": [["é", {"list": ["b", "a"]}], [3, {"tuple": []}]]}
    tensors = {"a": np.zeros(2), "b": np.ones(3)}
    for shard_size in (None, 20):
        contents = pack(tensors, structure=structure, metadata={"format": "pt"}, shard_size=shard_size)
        layout = SAFETENSORS.read(MemoryFiles(contents), "m.safetensors")
        assert layout.structure == structure
        assert layout.metadata == {"format": "pt"}
        assert layout.damaged is None


def test_one_request_reads_a_header_and_no_payload() -> None:
    files = MemoryFiles(pack({"a": np.zeros(1 << 20)}))
    SAFETENSORS.read(files, "m.safetensors")
    assert files.readers["m.safetensors"].bytes_read == 64 << 10
    many = MemoryFiles(pack({f"a.very.long.name.of.layer.{i}": np.zeros(100) for i in range(1000)}))
    SAFETENSORS.read(many, "m.safetensors")
    content = many.contents["m.safetensors"]
    assert many.readers["m.safetensors"].bytes_read == 8 + int.from_bytes(content[:8], "little")


# --- what cannot be written -----------------------------------------------------------------------
def specs_of(*dtypes: str) -> TensorSpecs:
    found = [DTYPES.get(name) or from_numpy(np.dtype(name)) for name in dtypes]
    return TensorSpecs(
        [f"t{i}" for i in range(len(found))],
        found,
        [(8,)] * len(found),
        np.array([d.bits for d in found], np.uint64),
    )


def test_encode_lists_everything_that_cannot_be_held() -> None:
    specs = specs_of("float32", "complex128", "int4", "uint4", "datetime64[s]", "S3", "float32")
    specs.strings = frozenset([6])
    with pytest.raises(UnsupportedFeatureError) as caught:
        SAFETENSORS.encode(specs, None)
    for part in ("'t1' (complex128)", "'t2' (int4)", "'t3' (uint4)", "datetime64[s]", "'t5' (|S3)", "'t6' (strings)"):
        assert part in str(caught.value)
    assert "'t0'" not in str(caught.value) and "dtype=" in str(caught.value)


def test_encode_accepts_what_it_can_hold() -> None:
    assert SAFETENSORS.encode(specs_of(*SPELLING), None) == {}


@pytest.mark.parametrize("quantize", ["uint8", {"t0": "uint16"}])
def test_quantisation_is_refused_by_name(quantize: Any) -> None:
    with pytest.raises(UnsupportedFeatureError, match="no quantisation"):
        SAFETENSORS.encode(specs_of("float32"), quantize)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": {"epoch": 3}}, "'epoch' is int; store json.dumps"),
        ({"metadata": {"a": {"b": "c"}}}, "'a' is dict"),
        ({"metadata": {1: "x"}}, "strings to strings"),
        ({"metadata": {"weightlift.crc32c": "x"}}, "reserved"),
        ({"metadata": {"weightlift.structure": "x"}}, "reserved"),
        ({"metadata": {"total_size": "x"}, "shard_size": 1}, "reserved"),
        ({"metadata": {"\ud800": "x"}}, "surrogate"),
        ({"compression": "deflate"}, "cannot compress"),
        ({"structure": {"dict": [[float("nan"), "a"]]}}, "JSON"),
        ({"structure": {"dict": [["\ud800", "a"]]}, "shard_size": 1}, "JSON"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=message):
        pack({"a": np.zeros(2), "b": np.zeros(2)}, **options)


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match="__metadata__"):
        pack({"__metadata__": np.zeros(2)})
    with pytest.raises(UnsupportedFeatureError, match="surrogate"):
        pack({"a\udc00": np.zeros(2)})
    with pytest.raises(FormatError, match="shard_size"):
        pack({"a": np.zeros(2)}, shard_size=0)


# --- shards ---------------------------------------------------------------------------------------
TENSORS = {name: np.full(10, i, "f4") for i, name in enumerate(string.ascii_lowercase[:5])}


@pytest.mark.parametrize(
    ("target", "stem"),
    [
        ("model.safetensors", "model"),
        ("model.safetensors.index.json", "model"),
        ("model", "model"),
        ("model.bin", "model.bin"),
        ("m.v1.SafeTensors", "m.v1"),
    ],
)
def test_shards_are_named_as_transformers_does(target: str, stem: str) -> None:
    contents = pack(TENSORS, target, shard_size=80)
    index = f"{stem}.safetensors.index.json"
    assert list(contents) == [*(f"{stem}-{i:05}-of-00003.safetensors" for i in (1, 2, 3)), index]
    assert json.loads(contents[index]) == {
        "metadata": {
            "total_size": 200,
            "weightlift.crc32c": json.loads(contents[index])["metadata"]["weightlift.crc32c"],
        },
        "weight_map": {n: f"{stem}-{i // 2 + 1:05}-of-00003.safetensors" for i, n in enumerate(TENSORS)},
    }
    assert_same(load(contents, index), TENSORS)


def test_a_large_tensor_gets_its_own_shard() -> None:
    tensors = {"a": np.zeros(2, "u1"), "b": np.zeros(50, "u1"), "c": np.zeros(3, "u1"), "d": np.zeros(5, "u1")}
    contents = pack(tensors, shard_size=8)
    assert [list(safetensors.numpy.load(contents[f"m-{i:05}-of-00003.safetensors"])) for i in (1, 2)] == [["a"], ["b"]]
    assert_same(load(contents), tensors)


def test_what_fits_one_shard_has_no_index_unless_it_was_asked_for() -> None:
    assert list(pack(TENSORS, shard_size=200)) == ["m.safetensors"]
    contents = pack(TENSORS, "m.safetensors.index.json")
    assert list(contents) == ["m-00001-of-00001.safetensors", "m.safetensors.index.json"]
    assert_same(load(contents, "m.safetensors.index.json"), TENSORS)


def test_the_index_uses_the_names_that_files_really_got() -> None:
    specs = specs_of("float32", "float32")
    packing = SAFETENSORS.pack(specs, "m.safetensors", PackOptions(shard_size=1, checksums=False))
    assert packing.manifest is not None and packing.manifest.name == "m.safetensors.index.json"
    renamed = {
        "m-00001-of-00002.safetensors": "m-abc-1.safetensors",
        "m-00002-of-00002.safetensors": "m-abc-2.safetensors",
    }
    index = json.loads(SAFETENSORS.manifest(packing, None, renamed))  # type: ignore[arg-type]
    assert index["weight_map"] == {"t0": "m-abc-1.safetensors", "t1": "m-abc-2.safetensors"}


def sharded(**changes: Any) -> dict[str, bytes]:
    """Two shards by the library, and an index with ``changes``."""
    contents = {
        "a.safetensors": safetensors.numpy.save(
            {"x": np.zeros(2, "f4"), "y": np.ones(3, "f8")}, {"format": "pt", "n": "1"}
        ),
        "b.safetensors": safetensors.numpy.save({"z": np.ones(4, "i4")}, {"n": "2", "format": "pt"}),
    }
    index = {
        "metadata": {"total_size": 48, "total_parameters": 9, "who": {"me": 1}},
        "weight_map": {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"},
    }
    index["weight_map"].update(changes)
    contents["m.safetensors.index.json"] = json.dumps(index).encode()
    return contents


def test_an_index_of_others() -> None:
    files = MemoryFiles(sharded())
    layout = SAFETENSORS.read(files, "m.safetensors.index.json")
    assert layout.sources == ("a.safetensors", "b.safetensors")
    assert layout.metadata == {"format": "pt", "who": {"me": 1}}
    assert list(layout.tensors) == ["y", "x", "z"]
    assert layout.tensors.dtype(2).name == "int32"
    assert_same(read_tensors(layout, files), {"x": np.zeros(2, "f4"), "y": np.ones(3, "f8"), "z": np.ones(4, "i4")})


def test_a_single_name_stands_for_its_index() -> None:
    contents = sharded()
    assert set(load(contents, "m.safetensors")) == {"x", "y", "z"}
    with pytest.raises(NotFoundError) as caught:
        SAFETENSORS.read(MemoryFiles(contents), "n.safetensors")
    assert caught.value.path == "n.safetensors"
    with pytest.raises(NotFoundError):
        SAFETENSORS.read(MemoryFiles(contents), "m")


def test_tensors_that_the_index_does_not_map_are_left_out() -> None:
    contents = sharded()
    index = json.loads(contents["m.safetensors.index.json"])
    del index["weight_map"]["y"]
    contents["m.safetensors.index.json"] = json.dumps(index).encode()
    assert_same(load(contents), {"x": np.zeros(2, "f4"), "z": np.ones(4, "i4")})


def test_a_tensor_in_another_shard_than_mapped_is_refused() -> None:
    with pytest.raises(FormatError, match="the index maps it to 'b") as caught:
        SAFETENSORS.read(MemoryFiles(sharded(y="b.safetensors")), "m.safetensors")
    assert caught.value.tensor == "y"


def test_absent_tensors_are_listed() -> None:
    absent = {f"w{i:02}": "a.safetensors" for i in range(12)}
    with pytest.raises(FormatError, match="12 tensors of the index") as caught:
        SAFETENSORS.read(MemoryFiles(sharded(**absent)), "m.safetensors")
    assert "'w09' (a.safetensors)" in str(caught.value) and "w10" not in str(caught.value)


def test_a_missing_shard_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"'c.safetensors', which is not there"):
        SAFETENSORS.read(MemoryFiles(sharded(x="c.safetensors")), "m.safetensors")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a.safetensors", "/a.safetensors", "d/a.safetensors", "d\\a", "C:a", "a\0b", "file:a"]
)
def test_shard_names_that_reach_out_are_refused(name: str) -> None:
    with pytest.raises(UnsafeContentError, match="plain file names"):
        SAFETENSORS.read(MemoryFiles(sharded(x=name)), "m.safetensors")


def test_shards_of_two_saves_are_not_mixed() -> None:
    first = pack(TENSORS, shard_size=80)
    second = pack({name: array + 1 for name, array in TENSORS.items()}, shard_size=80)
    shard = "m-00002-of-00003.safetensors"
    layout = SAFETENSORS.read(MemoryFiles({**first, shard: second[shard]}), "m.safetensors")
    assert layout.damaged is not None and "does not belong to these shards" in layout.damaged


def test_an_index_written_differently_is_the_same_index() -> None:
    contents = pack(TENSORS, shard_size=80, metadata={"é": "1"})
    index = json.loads(contents["m.safetensors.index.json"])
    reordered = {key: dict(reversed(index[key].items())) for key in reversed(index)}
    contents["m.safetensors.index.json"] = json.dumps(reordered).encode()
    assert_same(load(contents), TENSORS)
    index["metadata"]["é"] = "2"
    contents["m.safetensors.index.json"] = json.dumps(index).encode()
    assert SAFETENSORS.read(MemoryFiles(contents), "m.safetensors").damaged is not None


# --- checksums ------------------------------------------------------------------------------------
def test_every_flipped_bit_is_noticed_or_means_nothing() -> None:
    tensors = {"a": np.arange(3, dtype="f4"), "b": np.ones(2, "u1"), "é": np.zeros(0)}
    good = pack(tensors, metadata={"k": "v"}, structure={"list": ["a"]})["m.safetensors"]
    unnoticed = set()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        files = MemoryFiles({"m.safetensors": bytes(bad)})
        try:
            layout = SAFETENSORS.read(files, "m.safetensors")
            if layout.damaged is not None:
                continue
            found = read_tensors(layout, files)
        except WeightliftError:
            continue
        assert_same(found, tensors)
        assert layout.metadata["k"] == "v" and layout.structure == {"list": ["a"]}
        unnoticed.add(bit // 8)
    # Only the key that announces the checksums: another key is nobody's.
    assert unnoticed <= set(range(good.index(b"weightlift.crc32c"), good.index(b'":"')))


def test_a_checksum_of_the_wrong_length_is_damage() -> None:
    header: dict[str, Any] = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    for stored in ("", "00", "0" * 8, "0" * 24, "0" * 15 + "g", "0" * 15 + "A", " " * 16, "0 " * 8):
        header["__metadata__"] = {"weightlift.crc32c": stored}
        layout = SAFETENSORS.read(MemoryFiles({"m": hand_made(header, b"x")}), "m")
        assert layout.damaged is not None, stored
        assert not layout.tensors.check_kind.any()
        assert layout.metadata == {}


# --- recognising -----------------------------------------------------------------------------------
def test_sniff() -> None:
    good = pack(TENSORS)["m.safetensors"]
    assert SAFETENSORS.sniff(good[:4096], len(good))
    assert SAFETENSORS.sniff(hand_made(b"  {}"), 12)
    assert SAFETENSORS.sniff(sharded()["m.safetensors.index.json"], 300)
    for other in (
        b"", b"{}", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04" + bytes(20), b'{"weightsManifest": []}',
        b"\x12\x01" + bytes(20), b"<html>", b"version https://git-lfs", bytes(20), b"GGUF\x03\0\0\0{",
    ):  # fmt: skip
        assert not SAFETENSORS.sniff(other, len(other))


def test_header_length_needs_no_alignment_and_space_is_allowed_around() -> None:
    entry = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    for text in (json.dumps(entry).encode() + b" ", b" \n" + json.dumps(entry).encode() + b"\t\r\n   "):
        file = hand_made(text, b"hi")
        assert bytes(safetensors.deserialize(file)[0][1]["data"]) == b"hi"
        assert load({"m.safetensors": file})["a"].tobytes() == b"hi"


def test_four_bits_in_a_byte_each_are_not_taken_for_packed(tmp_path: Path) -> None:
    array = np.arange(4).astype(ml_dtypes.float4_e2m1fn)
    with pytest.raises(wl.UnsupportedFeatureError, match="one a byte, and files two"):
        wl.save({"w": array}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
