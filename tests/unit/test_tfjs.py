"""The TensorFlow.js format: documents, decode rules, shards, quantisation, against the plain reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from weightlift._checksum import crc32c
from weightlift._dtypes import DTYPES, STRING, from_numpy
from weightlift._layout import AffineDecode, Cast, Chain, Extent, Strings
from weightlift._packing import Checksums, Encoding, PackOptions, TensorSpecs
from weightlift._strings import decode_strings, encode_strings
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats import by_suffix
from weightlift.formats._tfjs import TFJS
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

Array = npt.NDArray[Any]
Files = dict[str, bytes]


def objects(*strings: bytes) -> Array:
    array = np.empty(len(strings), object)
    array[:] = strings
    return array


TENSORS: dict[str, Array] = {
    "dense/kernel": np.arange(12, dtype="f4").reshape(3, 4) - 5.5,
    "flags": np.array([True, False, True]),
    "half": np.array([1.5, -0.0, np.inf, 6e-8], np.float16),
    "brain": np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
    "e4": np.array([0.5, -448], ml_dtypes.float8_e4m3fn),
    "ids": np.array([-(2**31), 2**31 - 1], "i4"),
    "tiny": np.array([-128, 127], "i1"),
    "byte": np.array([0, 255], "u1"),
    "short": np.array([-32768], "i2"),
    "word": np.array([65535], "u2"),
    "wave": np.array([1 + 2j, -3.5j], "c8"),
    "text": objects(b"ab", b"", "é".encode(), b"\0\xff"),
    "scalar": np.float32(3.25).reshape(()),
    "empty": np.zeros((0, 3), "f4"),
    "no text": np.empty((2, 0), object),
    "last": np.array([7.0], "f4"),
}


def write(tensors: Mapping[str, Array] = TENSORS, name: str = "model.json", **options: Any) -> Files:
    return write_tensors(TFJS, tensors, name, PackOptions(**options))


def read(files: Files, name: str = "model.json") -> dict[str, Array]:
    memory = MemoryFiles(files)
    return read_tensors(TFJS.read(memory, name), memory)


def document(files: Files, name: str = "model.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(files[name])
    return value


def equal(a: Array, b: Array) -> bool:
    if a.dtype.hasobject:
        return a.shape == b.shape and a.ravel().tolist() == b.ravel().tolist()
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def layout_of(weights: list[dict[str, Any]], data: bytes = b"", *, shards: tuple[int, ...] = ()) -> Any:
    """The layout of one group of ``weights`` over ``data`` cut at ``shards``."""
    cuts = [0, *shards, len(data)]
    files = {f"s{i}": data[a:b] for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))}
    files["m.json"] = json.dumps([{"paths": list(files), "weights": weights}]).encode()
    return TFJS.read(MemoryFiles(files), "m.json")


def weight(dtype: str, shape: list[int], **rest: Any) -> dict[str, Any]:
    return {"name": "w", "shape": shape, "dtype": dtype, **rest}


# ---- round trips -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shard_size", [None, 16, 17, 40, 1 << 20])
def test_every_dtype_comes_back_bit_for_bit(shard_size: int | None) -> None:
    loaded = read(write(shard_size=shard_size))
    assert list(loaded) == list(TENSORS)
    for name, array in TENSORS.items():
        assert equal(loaded[name], array), name


def test_manifest_says_what_tensorflow_js_will_decode() -> None:
    entries = {e["name"]: e for e in document(write())["weightsManifest"][0]["weights"]}
    dtypes = {name: e["dtype"] for name, e in entries.items()}
    assert dtypes == {
        "dense/kernel": "float32", "flags": "bool", "half": "float32", "brain": "float32", "e4": "float32",
        "ids": "int32", "tiny": "int32", "byte": "int32", "short": "int32", "word": "int32", "wave": "complex64",
        "text": "string", "scalar": "float32", "empty": "float32", "no text": "string", "last": "float32",
    }  # fmt: skip
    assert entries["half"]["quantization"] == {"dtype": "float16", "original_dtype": "float16"}
    assert [n for n, e in entries.items() if "quantization" in e] == ["half"]
    assert list(entries["half"]) == ["name", "shape", "dtype", "quantization"]
    assert entries["scalar"]["shape"] == []


def test_stored_bytes_are_tensorflow_js_s_own() -> None:
    """The vector of docs/formats/tfjs.md, which TensorFlow.js itself wrote."""
    tensors = {
        "a": np.array([1, 2], "f4"),
        "s": objects(b"ab", b"", "é".encode()),
        "b": np.array([True, False]),
        "c": np.array([1 + 3j, 2 + 4j], "c8"),
        "i": np.array([1, -2], "i4"),
    }
    files = write(tensors)
    assert files["weights.bin"].hex() == (
        "0000803f000000400200000061620000000002000000c3a901000000803f00004040000000400000804001000000feffffff"
    )
    assert document(files)["weightsManifest"][0]["weights"] == [
        {"name": "a", "shape": [2], "dtype": "float32"},
        {"name": "s", "shape": [3], "dtype": "string"},
        {"name": "b", "shape": [2], "dtype": "bool"},
        {"name": "c", "shape": [2], "dtype": "complex64"},
        {"name": "i", "shape": [2], "dtype": "int32"},
    ]


def test_nothing_to_save_names_no_weight_file() -> None:
    for tensors in ({}, {"empty": np.zeros((0, 3), "f4")}):
        files = write(tensors)
        assert list(files) == ["model.json"]
        assert document(files)["weightsManifest"][0]["paths"] == []
        assert list(read(files)) == list(tensors)


# ---- the document ------------------------------------------------------------------------------------------
MODEL = {
    "initializerSignature": {"outputs": {}},
    "modelInitializer": {"node": []},
    "userDefinedMetadata": {"naïve": "日本"},
    "signature": {"inputs": {}},
    "trainingConfig": {"loss": "mean_squared_error"},
    "convertedBy": None,
    "generatedBy": "TensorFlow.js tfjs-layers v4.22.0",
    "format": "layers-model",
    "modelTopology": {"class_name": "Sequential", "config": {"rate": 1.0}},
    "ourOwn": [1, 2],
}


def test_keys_are_ordered_as_tfjs_node_has_them_and_ours_is_last() -> None:
    files = write({"w": np.zeros(2, "f4")}, extra=MODEL)
    assert list(document(files)) == [
        "modelTopology", "weightsManifest", "format", "generatedBy", "convertedBy", "trainingConfig", "signature",
        "userDefinedMetadata", "modelInitializer", "initializerSignature", "ourOwn", "weightlift",
    ]  # fmt: skip
    assert "日本".encode() in files["model.json"]
    assert b'": ' not in files["model.json"] and b'", ' not in files["model.json"]


def test_extra_keys_come_back() -> None:
    layout = TFJS.read(MemoryFiles(write({"w": np.zeros(2, "f4")}, extra=MODEL)), "model.json")
    assert {k: layout.extra[k] for k in MODEL} == MODEL
    assert layout.metadata == {"naïve": "日本"}
    assert layout.extra["weightSpecs"] == [{"name": "w", "shape": [2], "dtype": "float32"}]
    assert "weightlift" not in layout.extra


def test_optimizer_group_tags_survive() -> None:
    specs = [{"name": "w/m", "shape": [2], "dtype": "float32", "group": "optimizer"}]
    files = write({"w": np.zeros(2, "f4"), "w/m": np.zeros(2, "f4")}, extra={"weightSpecs": specs})
    entries = document(files)["weightsManifest"][0]["weights"]
    assert entries[1] == specs[0]
    assert "group" not in entries[0]


def test_metadata_overrides_the_model_s() -> None:
    files = write({}, extra={"userDefinedMetadata": {"a": 1}}, metadata={"b": 2})
    assert document(files)["userDefinedMetadata"] == {"b": 2}


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
def test_metadata_that_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedFeatureError, match="cannot be written as JSON"):
        write({}, metadata={"a": value})


def test_weights_alone_have_a_null_topology_and_no_record_without_checksums() -> None:
    assert document(write({"w": np.zeros(2, "f4")}, checksums=False)) == {
        "modelTopology": None,
        "weightsManifest": [{"paths": ["weights.bin"], "weights": [{"name": "w", "shape": [2], "dtype": "float32"}]}],
    }


def test_structure_is_kept() -> None:
    structure = {"list": ["0", "1"]}
    files = write({"0": np.zeros(1, "f4"), "1": np.ones(1, "f4")}, structure=structure)
    assert TFJS.read(MemoryFiles(files), "model.json").structure == structure


# ---- checksums ---------------------------------------------------------------------------------------------
def test_checksums_cover_the_stored_bytes() -> None:
    files = write({"half": TENSORS["half"], "w": TENSORS["dense/kernel"]}, shard_size=16)
    layout = TFJS.read(MemoryFiles(files), "model.json")
    for name in ("half", "w"):
        checksum = layout.tensors[name].checksum
        assert checksum is not None and checksum.kind == "crc32c"
        assert checksum.value == crc32c(TENSORS["half" if name == "half" else "dense/kernel"].tobytes())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"name":"dense/kernel"', b'"name":"dense/kerneL"'),
        (b'"shape":[3,4]', b'"shape":[4,3]'),
        (b'"relu"', b'"selu"'),
        (b'"digest"', b'"digesu"'),
        (b'"user":1', b'"user":3'),
    ],
)
def test_a_changed_document_is_noticed(old: bytes, new: bytes) -> None:
    files = write(
        {"dense/kernel": TENSORS["dense/kernel"]},
        extra={"modelTopology": {"activation": "relu"}, "userDefinedMetadata": {"user": 1}},
    )
    assert TFJS.read(MemoryFiles(files), "model.json").damaged is None
    assert files["model.json"].count(old) == 1
    files["model.json"] = files["model.json"].replace(old, new, 1)
    assert "edited or damaged" in str(TFJS.read(MemoryFiles(files), "model.json").damaged)


def test_reformatting_is_no_damage() -> None:
    extra = {"modelTopology": {"rate": 1.0, "é": [2.5, 1e-7, "1.0,"]}}
    files = write({"w": np.zeros(2, "f4")}, extra=extra)
    value = document(files)
    value["modelTopology"]["rate"] = 1  # as JavaScript writes 1.0
    for text in (json.dumps(value, indent=2), json.dumps(value, sort_keys=True)):
        files["model.json"] = text.encode()
        assert TFJS.read(MemoryFiles(files), "model.json").damaged is None


# ---- decode rules ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("entry", "dtype", "steps"),
    [
        (weight("float32", [2]), "float32", ()),
        (weight("int32", [2]), "int32", ()),
        (weight("bool", [2]), "bool", ()),
        (weight("complex64", [2]), "complex64", ()),
        (weight("uint8", [2]), "uint8", ()),
        (weight("uint16", [2]), "uint16", ()),
        (weight("float32", [2], quantization=None), "float32", ()),
        (
            weight("float32", [2], quantization={"dtype": "uint8", "scale": 2, "min": -1.5}),
            "float32",
            (AffineDecode("uint8", "float32", 2.0, -1.5),),
        ),
        (
            weight("int32", [2], quantization={"dtype": "uint16", "scale": 1e-3, "min": 0}),
            "int32",
            (AffineDecode("uint16", "int32", 1e-3, 0.0),),
        ),
        (
            weight("float32", [2], quantization={"dtype": "float16", "original_dtype": "float32"}),
            "float32",
            (Cast("float16", "float32"),),
        ),
    ],
)
def test_steps(entry: dict[str, Any], dtype: str, steps: tuple[Any, ...]) -> None:
    stored = entry["quantization"]["dtype"] if entry.get("quantization") else dtype
    row = layout_of([entry], bytes(2 * DTYPES[stored].bits // 8)).tensors["w"]
    assert (row.dtype.name, row.pieces[0].steps) == (dtype, steps)


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (weight("float32", [1], quantization={"dtype": "uint8", "min": 0}), FormatError, "'scale' is None"),
        (weight("float32", [1], quantization={"dtype": "uint8", "scale": 1}), FormatError, "'min' is None"),
        (
            weight("float32", [1], quantization={"dtype": "uint8", "scale": True, "min": 0}),
            FormatError,
            "'scale' is True",
        ),
        (
            weight("float32", [1], quantization={"dtype": "uint8", "scale": 10**400, "min": 0}),
            FormatError,
            "digits|finite",
        ),
        (
            weight("int32", [1], quantization={"dtype": "float16"}),
            UnsupportedFeatureError,
            "float16, which goes with float32",
        ),
        (
            weight("bool", [1], quantization={"dtype": "uint8", "scale": 1, "min": 0}),
            UnsupportedFeatureError,
            "not with 'bool'",
        ),
        (
            weight("float32", [1], quantization={"dtype": "int8"}),
            UnsupportedFeatureError,
            "unknown quantization 'int8'",
        ),
        (weight("float32", [1], quantization={}), UnsupportedFeatureError, "unknown quantization"),
        (weight("float32", [1], quantization=[]), UnsupportedFeatureError, "unknown quantization"),
        (weight("float16", [1]), UnsupportedFeatureError, "unsupported dtype 'float16'"),
        (weight("int64", [1]), UnsupportedFeatureError, "unsupported dtype 'int64'"),
        (weight(None, [1]), UnsupportedFeatureError, "unsupported dtype None"),  # type: ignore[arg-type]
        (weight(["float32"], [1]), UnsupportedFeatureError, "unsupported dtype"),  # type: ignore[arg-type]
        (weight("float32", [-1]), FormatError, "the shape is"),
        (weight("float32", [True]), FormatError, "the shape is"),
        (weight("float32", [1.0]), FormatError, "the shape is"),  # type: ignore[list-item]
        (weight("float32", [2**63]), FormatError, "the shape is"),
        (weight("float32", "11"), FormatError, "the shape is"),  # type: ignore[arg-type]
        (weight("float32", [1] * 65), UnsupportedFeatureError, "65 dimensions"),
        ({"name": "w", "dtype": "float32"}, FormatError, "the shape is None"),
        ({"shape": [1], "dtype": "float32"}, FormatError, "weight 1 of group 1 has no name"),
        ({"name": "", "shape": [1], "dtype": "float32"}, FormatError, "weight 1 of group 1 has no name"),
        ("w", FormatError, "weight 1 of group 1 is a string"),
    ],
)
def test_entries_that_break_the_rules(entry: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        layout_of([entry], bytes(4))
    if "group 1" not in message and "digits" not in message:
        assert caught.value.tensor == "w"  # type: ignore[attr-defined]


def test_weights_straddle_shards_anywhere() -> None:
    half = np.arange(5, dtype=np.float16)
    data = b"\x01" + half.tobytes() + encode_strings(objects(b"abc", b"d")) + b"\x00"
    weights = [
        {"name": "b", "shape": [1], "dtype": "bool"},
        {"name": "h", "shape": [5], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "s", "shape": [2], "dtype": "string"},
        {"name": "e", "shape": [0], "dtype": "float32"},
        {"name": "z", "shape": [], "dtype": "bool"},
    ]
    for shards in [(), (4,), (4, 4, 13), (1, 2, 3), tuple(range(1, len(data)))]:
        layout = layout_of(weights, data, shards=shards)
        for name, begin, end in (("h", 1, 11), ("s", 11, 23)):
            (piece,) = layout.tensors[name].pieces
            cuts = [0, *shards, len(data)]
            joined = b"".join(data[cuts[e.source] + e.offset :][: e.nbytes] for e in piece.extents)
            assert joined == data[begin:end]
            assert isinstance(piece.where, Chain) == (len(piece.extents) > 1)
            assert all(isinstance(e, Extent) and e.nbytes > 0 for e in piece.extents)
        assert layout.tensors["s"].pieces[0].steps == (Strings(2),)
        assert layout.tensors["z"].plain is not None


def test_groups_have_bytes_of_their_own() -> None:
    files = {
        "a": b"\1\0\0\0",
        "sub/b": b"\2\0\0\0\3\0\0\0",
        "weights_manifest.json": json.dumps(
            [
                {"paths": ["./a"], "weights": [{"name": "a", "shape": [1], "dtype": "int32"}]},
                {"paths": [], "weights": []},
                {"paths": ["sub/./b"], "weights": [{"name": "b", "shape": [2], "dtype": "int32"}]},
            ]
        ).encode(),
    }
    layout = TFJS.read(MemoryFiles(files), "weights_manifest.json")
    assert layout.sources == ("a", "sub/b")
    assert {n: a.tolist() for n, a in read(files, "weights_manifest.json").items()} == {"a": [1], "b": [2, 3]}


def test_shards_are_beside_the_document() -> None:
    files = {"dir/" + n: data for n, data in write({"w": np.zeros(2, "f4")}).items()}
    assert TFJS.read(MemoryFiles(files), "dir/model.json").sources == ("dir/weights.bin",)


def test_a_model_without_weights() -> None:
    files = {"model.json": b'{"modelTopology":{"node":[]},"weightsManifest":[{"paths":["./model.weights.bin"]}]}'}
    layout = TFJS.read(MemoryFiles(files), "model.json")
    assert len(layout.tensors) == 0 and layout.extra["modelTopology"] == {"node": []}
    assert len(TFJS.read(MemoryFiles({"model.json": b'{"modelTopology":{}}'}), "model.json").tensors) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "the JSON is a number"),
        ('{"weight_map":{}}', "contains neither model topology nor weights manifest; it has 'weight_map'"),
        ('{"modelTopology":"x"}', "modelTopology is a string"),
        ('{"weightsManifest":{}}', "weightsManifest is an object"),
        ('["a"]', "group 1 of the weights manifest is a string"),
        ('[{"paths":"a","weights":[]}]', "'paths' is a string"),
        ('[{"paths":[],"weights":{}}]', "'weights' is an object"),
        ('[{"weights":[]}]', "'paths' is missing"),
        ('[{"paths":[3],"weights":[]}]', "names a weight file 3"),
        ('{"modelTopology":null,"weightlift":1}', "'weightlift' is not an object"),
        ('{"modelTopology":null,"weightlift":{"version":2}}', "version 2"),
        ('{"modelTopology":null,"weightlift":{"version":1,"crc32c":{"a":"1"}}}', "hexadecimal"),
        ('{"modelTopology":null,"weightlift":{"version":1,"dtypes":[]}}', "table of dtype names"),
    ],
)
def test_documents_that_break_the_rules(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        TFJS.read(MemoryFiles({"model.json": text.encode()}), "model.json")


# ---- finding it --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b'{"modelTopology":', True),
        (b' \n{\n "format": "graph-model",', True),
        (b'[\n{"weights":\n [', True),
        (b'{"metadata":{},"weight_map":{}}', False),
        (b"[1,2]", False),
        (b"", False),
        (b"PK\3\4", False),
        (b"\x93NUMPY", False),
    ],
)
def test_sniff(head: bytes, found: bool) -> None:
    assert TFJS.sniff(head, len(head)) is found


def test_suffix_belongs_to_it_but_for_safetensors_indexes() -> None:
    assert by_suffix("models/model.json") is TFJS
    other = by_suffix("model.safetensors.index.json")
    assert other is not None and other.name == "safetensors"


# ---- files and shards --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("target", "shard_size", "names"),
    [
        ("model.json", None, ["weights.bin"]),
        ("model.json", 32, ["group1-shard1of2.bin", "group1-shard2of2.bin"]),
        ("model.json", 48, ["group1-shard1of1.bin"]),
        ("twin.json", None, ["twin.weights.bin"]),
        ("twin.json", 32, ["twin.group1-shard1of2.bin", "twin.group1-shard2of2.bin"]),
    ],
)
def test_names_of_weight_files(target: str, shard_size: int | None, names: list[str]) -> None:
    files = write({"w": TENSORS["dense/kernel"]}, target, shard_size=shard_size)
    assert list(files) == [*names, target]
    assert document(files, target)["weightsManifest"][0]["paths"] == names


def shard_sizes(files: Files) -> list[int]:
    return [len(files[p]) for p in document(files)["weightsManifest"][0]["paths"]]


def test_shards_are_cut_as_the_converter_does() -> None:
    assert shard_sizes(write({"a": np.zeros(5, "f4"), "b": np.zeros(6, "f4")}, shard_size=16)) == [16, 16, 12]


@pytest.mark.parametrize("seed", range(30))
def test_shard_lists_are_safe_for_tensorflow_js(seed: int) -> None:
    """Never an empty shard, an element cut in two, or equal shards with a larger last one."""
    rng = np.random.default_rng(seed)
    kinds = ["bool", "f4", "c8", "f2", "i4"]
    tensors = {str(i): np.zeros(rng.integers(0, 30), rng.choice(kinds)) for i in range(rng.integers(1, 12))}
    tensors["strings"] = objects(*(b"x" * int(n) for n in rng.integers(0, 9, 3)))
    size = int(rng.integers(16, 70))
    files = write(tensors, shard_size=size)
    sizes = shard_sizes(files)
    assert all(0 < s <= size for s in sizes)
    assert not (len(sizes) > 1 and len(set(sizes[:-1])) == 1 and sizes[-1] > sizes[0])
    layout = TFJS.read(MemoryFiles(files), "model.json")
    for name, entry in layout.tensors.items():
        if name != "strings":
            item = entry.dtype.bits // 8
            assert all(e.nbytes % item == 0 for piece in entry.pieces for e in piece.extents), name
    for name, array in read(files).items():
        assert equal(array, tensors[name])


def test_equal_shards_with_a_larger_last_one_are_cut_again() -> None:
    # The odd start puts the first cut at 15 bytes, so that exactly 16 would be left.
    tensors = {"b": np.zeros(3, bool), "f": np.zeros(7, "f4")}
    assert shard_sizes(write(tensors, shard_size=16)) == [15, 12, 4]


@pytest.mark.parametrize("shard_size", [0, -1, 15, 4.5, True])
def test_shard_sizes_that_are_none(shard_size: Any) -> None:
    with pytest.raises(FormatError, match="shard_size is"):
        write({"w": np.zeros(2, "f4")}, shard_size=shard_size)


def test_compression_is_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match="no compression"):
        write({}, compression="deflate")


# ---- what can be stored ------------------------------------------------------------------------------------
def specs_of(**tensors: Array) -> TensorSpecs:
    return TensorSpecs(
        list(tensors),
        [STRING if a.dtype.hasobject else from_numpy(a.dtype) for a in tensors.values()],
        [a.shape for a in tensors.values()],
        np.array([a.nbytes for a in tensors.values()], np.uint64),
        strings=frozenset(i for i, a in enumerate(tensors.values()) if a.dtype.hasobject),
    )


def test_what_it_cannot_hold_is_listed_at_once_with_advice() -> None:
    specs = specs_of(
        ok=np.zeros(1, "f4"), d=np.zeros(1, "f8"), i=np.zeros(1, "i8"), t=np.zeros(1, "M8[s]"), s=np.zeros(1, "S3")
    )
    with pytest.raises(UnsupportedFeatureError) as caught:
        TFJS.encode(specs, None)
    message = str(caught.value)
    assert "cannot hold 4 of 5 tensors" in message
    for part in ("'d' (float64)", "'i' (int64)", "'t' (datetime64[s])", "'s'", "dtype='float32' or dtype='int32'"):
        assert part in message


# ---- quantisation ------------------------------------------------------------------------------------------
def quantized(specs: TensorSpecs, quantize: Any) -> dict[str, str]:
    affine = TFJS.encode(specs, quantize)
    found = {specs.names[i]: kind for i, kind in affine.items()}
    return found | {specs.names[i]: str(e.quantization) for i, e in specs.encodings.items() if e.quantization}


@pytest.mark.parametrize(
    ("quantize", "found"),
    [
        ("uint8", {"a/kernel": "uint8", "a/bias": "uint8", "b/kernel": "uint8"}),
        ("float16", {"a/kernel": "float16", "a/bias": "float16", "b/kernel": "float16"}),
        ({"uint16": True}, {"a/kernel": "uint16", "a/bias": "uint16", "b/kernel": "uint16"}),
        ({"uint8": "*kernel"}, {"a/kernel": "uint8", "b/kernel": "uint8"}),
        ({"uint8": ["a/*", "b/kernel"]}, {"a/kernel": "uint8", "a/bias": "uint8", "b/kernel": "uint8"}),
        ({"uint8": "a/bias", "float16": True}, {"a/kernel": "float16", "a/bias": "uint8", "b/kernel": "float16"}),
        ({"uint8": "[ab]/kernel", "uint16": "?/bias"}, {"a/kernel": "uint8", "b/kernel": "uint8", "a/bias": "uint16"}),
        ({"uint8": "nothing*"}, {}),
    ],
)
def test_quantization_map(quantize: Any, found: dict[str, str]) -> None:
    specs = specs_of(**{n: np.ones(3, "f4") for n in ("a/kernel", "a/bias", "b/kernel")}, ids=np.ones(3, "i4"))
    assert quantized(specs, quantize) == found
    for i, name in enumerate(specs.names[:3]):
        assert specs.nbytes[i] == 3 * {"uint8": 1, "uint16": 2, "float16": 2}.get(found.get(name, ""), 4)


@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        ("int4", "unknown quantization 'int4'"),
        ({"uint8": True, "uint16": True}, "say True once"),
        ({"uint8": "a", "uint16": "*"}, "both 'uint8' and 'uint16'"),
        ({"uint8": False}, "give True, a pattern"),
        ({"uint8": [1]}, "give True, a pattern"),
        ({"uint8": "b"}, "no such tensor"),
    ],
)
def test_quantization_maps_that_make_no_sense(quantize: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        TFJS.encode(specs_of(a=np.ones(3, "f4")), quantize)


def test_only_float32_is_quantized_and_only_where_there_is_something() -> None:
    specs = specs_of(i=np.ones(2, "i4"), h=np.ones(2, "f2"), b=np.ones(2, ml_dtypes.bfloat16), e=np.zeros(0, "f4"))
    assert TFJS.encode(specs, "uint8") == {}
    assert specs.encodings[1] == Encoding(DTYPES["float16"], (), "float16")
    assert specs.encodings[2] == Encoding(DTYPES["float32"], (Cast("bfloat16", "float32"),))
    assert set(specs.encodings) == {1, 2}


def test_affine_entries() -> None:
    specs = specs_of(w=np.ones(3, "f4"))
    assert TFJS.encode(specs, "uint8") == {0: "uint8"}
    specs.encodings[0] = Encoding(DTYPES["uint8"], (), "uint8", 0.0050980394085248315, -0.10196078817049663)
    packing = TFJS.pack(specs, "model.json", PackOptions())
    assert [(f.name, f.nbytes) for f in packing.files] == [("weights.bin", 3)]
    text = TFJS.manifest(packing, Checksums(np.zeros(1, np.uint32), np.zeros(1, np.uint32)), {"weights.bin": "w2.bin"})
    assert json.loads(text)["weightsManifest"] == [
        {
            "paths": ["w2.bin"],
            "weights": [
                {
                    "name": "w",
                    "shape": [3],
                    "dtype": "float32",
                    "quantization": {
                        "dtype": "uint8",
                        "min": -0.10196078817049663,
                        "scale": 0.0050980394085248315,
                        "original_dtype": "float32",
                    },
                }
            ],
        }
    ]


def test_a_range_that_is_not_finite_is_refused() -> None:
    specs = specs_of(w=np.ones(3, "f4"))
    TFJS.encode(specs, "uint8")
    specs.encodings[0] = Encoding(DTYPES["uint8"], (), "uint8", float("nan"), 0.0)
    with pytest.raises(UnsupportedFeatureError, match="NaN or infinite"):
        TFJS.pack(specs, "model.json", PackOptions())


@pytest.mark.parametrize(
    ("quantize", "affine", "stored"),
    [
        (None, {}, ["uint8", "uint8"]),
        ("uint8", {}, ["uint8", "uint8"]),
        ({"uint8": "i"}, {}, ["uint8", "uint8"]),
        ("float16", {}, ["float16", "uint8"]),
        ("uint16", {0: "uint16"}, ["uint8", "uint8"]),  # the caller fills in the first one's encoding
    ],
)
def test_rows_that_are_quantized_already_stay_so_unless_told_otherwise(
    quantize: Any, affine: dict[int, str], stored: list[str]
) -> None:
    specs = specs_of(w=np.ones(3, "f4"), i=np.ones(3, "i4"))
    for i in range(2):
        specs.encodings[i] = Encoding(DTYPES["uint8"], (), "uint8", 0.5, 0.0)
        specs.nbytes[i] = 3
    assert TFJS.encode(specs, quantize) == affine
    assert [specs.stored(i).name for i in range(2)] == stored
    assert specs.nbytes.tolist() == [6 if quantize in ("float16", "uint16") else 3, 3]
    packing = TFJS.pack(specs, "model.json", PackOptions())
    assert [e["dtype"] for e in packing.state.entries] == ["float32", "int32"]


def test_what_can_be_taken_over_as_it_is_stored() -> None:
    weights = [
        {"name": "q", "shape": [1], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 2, "min": 1}},
        {"name": "h", "shape": [1], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "f", "shape": [1], "dtype": "float32"},
    ]
    tensors = layout_of(weights, bytes(7)).tensors
    assert TFJS.keep(tensors["q"]) == Encoding(DTYPES["uint8"], (), "uint8", 2.0, 1.0)
    assert TFJS.keep(tensors["h"]) == Encoding(DTYPES["float16"], (), "float16")
    assert TFJS.keep(tensors["f"]) is None


# ---- strings -----------------------------------------------------------------------------------------------
def test_strings_come_back() -> None:
    strings = [b"", b"a", "日本".encode(), b"\0" * 300]
    data = encode_strings(objects(*strings))
    assert decode_strings(memoryview(data), 4) == strings
    assert encode_strings(np.array([["a"], ["é"]], object)) == encode_strings(objects(b"a", "é".encode()))
    assert decode_strings(b"", 0) == []


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"\2\0\0\0ab", 2, "need at least 8 bytes"),
        (b"\2\0\0\0abc\0\0", 2, "has no length"),
        (b"\3\0\0\0ab", 1, "says it has 3 bytes, but 2 are left"),
        (b"\xff\xff\xff\xffab", 1, "4294967295 bytes"),
        (b"\1\0\0\0ab", 1, "1 bytes are left"),
        (b"a", 0, "1 bytes are left"),
    ],
)
def test_strings_that_do_not_fit(data: bytes, count: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode_strings(data, count)


@pytest.mark.parametrize("value", [3, None, "\ud800"])
def test_only_strings_are_strings(value: Any) -> None:
    with pytest.raises(UnsupportedFeatureError):
        encode_strings(np.array([value], object))
