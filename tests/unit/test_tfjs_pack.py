"""Writing TensorFlow.js: files and shards, what can be stored, quantisation."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.tfjs_support import TENSORS, Array, Files, document, equal, layout_of, objects, read, write

from weightlift._dtypes import DTYPES, STRING, from_numpy
from weightlift._packing import Checksums, Encoding, PackOptions, TensorSpecs
from weightlift._steps import Cast
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._tfjs import TFJS
from weightlift.formats._tfjs_manifest import Entries, _document_text
from weightlift.testing import MemoryFiles


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
    for part in ("'d' (float64)", "'i' (int64)", "'t' (datetime64[s])", "'s'", "dtype={'d': 'float32', 'i': 'int32'"):
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


# ---- the document's text -----------------------------------------------------------------------------------
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))
plain = st.fixed_dictionaries(
    {"name": st.text(), "shape": st.lists(st.integers(0)), "dtype": st.sampled_from(["bool"])}
)
odd = st.fixed_dictionaries({"name": scalars, "shape": st.lists(scalars), "dtype": scalars})
finite = st.floats(allow_nan=False, allow_infinity=False)
affine = {"dtype": st.text(), "min": finite, "scale": finite, "original_dtype": st.text()}
quantizations = st.fixed_dictionaries(affine) | st.fixed_dictionaries(dict.fromkeys(affine, scalars)) | values
quantised = st.builds(lambda entry, more: {**entry, "quantization": more}, plain, quantizations)
entries = st.lists(plain | quantised | odd | values, max_size=4)
groups = st.lists(st.fixed_dictionaries({"paths": values, "weights": entries | values}) | values, max_size=3)
documents = st.fixed_dictionaries({"b": values, "weightsManifest": groups | values, "a": values})


@given(documents)
def test_the_text_is_what_json_dumps_makes(made: dict[str, Any]) -> None:
    def text(canonical: bool) -> str:
        return json.dumps(made, separators=(",", ":"), ensure_ascii=canonical, sort_keys=canonical)

    assert _document_text(made, canonical=True) == text(True)
    assert _document_text(made, canonical=False) == text(False)
    for group in made["weightsManifest"] if isinstance(made["weightsManifest"], list) else ():
        if isinstance(group, dict) and isinstance(group.get("weights"), list):
            group["weights"] = Entries(group["weights"])
    for _ in range(2):  # the second time from what was kept
        assert _document_text(made, canonical=True) == text(True)
        assert _document_text(made, canonical=False) == text(False)
