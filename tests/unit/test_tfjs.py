"""The TensorFlow.js format: documents, decode rules, checksums, against the plain reference."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.tfjs_support import TENSORS, document, equal, layout_of, objects, read, weight, write

from weightlift._checksum import crc32c
from weightlift._dtypes import DTYPES
from weightlift._layout import Chain, Extent
from weightlift._steps import AffineDecode, Cast, Strings
from weightlift._strings import encode_strings
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats import by_suffix
from weightlift.formats._tfjs import TFJS
from weightlift.testing import MemoryFiles


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
