"""The npy format against NumPy itself, both ways."""

from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weightlift._dtypes import DTYPES, from_numpy
from weightlift._packing import PackOptions, TensorSpecs
from weightlift._steps import Byteswap
from weightlift._tree import SINGLE
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._npy import NPY
from weightlift.formats._npy_header import MAGIC, build_header, header_length, parse_header
from weightlift.formats._npy_literal import parse_literal
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.filterwarnings("ignore:Stored array in format")  # NumPy, of versions 2 and 3

SIMPLE = [np.dtype(t) for t in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")]
NUMPY_ONLY = [
    np.dtype(t)
    for t in ("S1", "S7", "U1", "U5", "V3", "M8[ns]", "M8[D]", "M8[25s]", "m8[us]", "M8", np.longdouble, np.clongdouble)
]
STRUCTURED = [
    np.dtype([("a", "<f4"), ("b", ">i2", (2,)), ("c", "S4")]),
    np.dtype([("x", [("y", "<f8"), ("z", [("deep", "?")])]), ("w", "<u4", (2, 3))]),
    np.dtype({"names": ["a", "b"], "formats": ["<f4", "<i2"], "offsets": [0, 8], "itemsize": 16}),
    np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    np.dtype([(("a title", "name"), "<f4"), ("t", "<M8[s]")]),
    np.dtype([("é", "<f4")]),
    np.dtype([("重み", "<f4"), ("b", "S2")]),
    np.dtype([('it\'s "quoted" \\ and\nbroken\t\x01', "<i4")]),
]
ML_DTYPES = [np.dtype(t) for t in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)]


def saved(array: Array) -> bytes:
    """What np.save writes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def load(data: bytes, *, verify: bool = True) -> Array:
    """What our reader makes of a file."""
    files = MemoryFiles({"x.npy": data})
    layout = NPY.read(files, "x.npy")
    assert layout.structure == SINGLE
    assert list(layout.tensors) == [SINGLE]
    return read_tensors(layout, files, verify=verify)[SINGLE]


def write(array: Array) -> bytes:
    """What our writer writes."""
    return write_tensors(NPY, {SINGLE: array}, "x.npy", PackOptions(structure=SINGLE)).files["x.npy"]


def header_file(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """A file with a header as given, not padded."""
    raw = text.encode("utf-8" if version == 3 else "latin-1")
    return MAGIC + bytes([version, 0]) + len(raw).to_bytes(2 if version == 1 else 4, "little") + raw + data


def random_array(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Any bits at all."""
    count = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng(count).integers(0, 256, count, np.uint8)
    if dtype.kind == "b":
        data &= 1
    return np.ndarray(shape, dtype, data.tobytes())


def same(a: Array, b: Array) -> bool:
    """Same shape and bits, byte order aside."""
    return a.shape == b.shape and a.astype(b.dtype).tobytes() == b.tobytes()


# --- against NumPy, both ways ---------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 4), (0,), (3, 0, 2), (1,) * 20])
@pytest.mark.parametrize("dtype", SIMPLE + NUMPY_ONLY + STRUCTURED, ids=str)
def test_writes_what_numpy_writes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    array = random_array(dtype, shape)
    data = saved(array)
    assert write(array) == data
    read = load(data)
    assert read.dtype == array.dtype
    assert read.shape == shape
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ML_DTYPES, ids=str)
def test_ml_dtypes_are_raw_bytes_to_numpy(dtype: np.dtype[Any]) -> None:
    array = random_array(dtype, (3, 5))
    data = write(array)
    assert data[10:].startswith(b"{'descr': '<V%d'" % dtype.itemsize)
    assert np.load(io.BytesIO(data)).tobytes() == array.tobytes()
    assert load(data).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", ["float4_e2m1fn", "int4", "uint4"])
def test_packed_types_are_bytes_to_numpy(name: str) -> None:
    specs = TensorSpecs([SINGLE], [DTYPES[name]], [(3, 8)], np.array([12], np.uint64))
    packing = NPY.pack(specs, "x.npy", PackOptions(structure=SINGLE))
    ((_, header),) = packing.files[0].literals
    assert parse_header(header).shape == (3, 4)
    assert parse_header(header).dtype.name == "uint8"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_reads_any_array_numpy_saves(data: st.DataObject) -> None:
    dtype = data.draw(
        st.one_of(
            hnp.scalar_dtypes().filter(lambda d: d.itemsize > 0),
            hnp.byte_string_dtypes(min_len=1),
            hnp.unicode_string_dtypes(min_len=1),
            hnp.nested_dtypes(hnp.scalar_dtypes(), max_itemsize=64).filter(lambda d: d.subdtype is None),
        )
    )
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
    array = random_array(dtype, shape) if dtype.kind != "U" else np.full(shape, "né", dtype)
    array = np.asarray(array, order=data.draw(st.sampled_from("CF")))
    stored = saved(array)
    assert same(load(stored), array) if dtype.isnative else load(stored).shape == shape
    if array.flags.c_contiguous and dtype.isnative:
        assert write(array) == stored


@pytest.mark.parametrize("dtype", [">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_big_endian_numbers_become_native(dtype: str, order: Any) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    read = load(saved(array))
    assert read.dtype.isnative
    assert np.array_equal(read, array)


def test_big_endian_step_reverses_each_part_of_a_complex_number() -> None:
    header = parse_header(saved(np.zeros(2, ">c16"))[:128])
    assert header.swap == Byteswap(8, 16)


@pytest.mark.parametrize(
    "dtype", [">M8[D]", ">m8[s]", ">U3", [("a", ">f4"), ("b", "<f4")], np.dtype(np.longdouble).newbyteorder()]
)
def test_what_only_numpy_knows_keeps_its_byte_order(dtype: Any) -> None:
    array = random_array(np.dtype(dtype), (3,)) if np.dtype(dtype).kind != "U" else np.full(3, "ab", dtype)
    read = load(saved(array))
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()
    assert write(array) == saved(array)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (1, 3, 1, 2)])
def test_fortran_order_is_kept_as_strides(shape: tuple[int, ...]) -> None:
    array = np.asfortranarray(np.arange(np.prod(shape), dtype="f4").reshape(shape))
    files = MemoryFiles({"x.npy": saved(array)})
    entry = NPY.read(files, "x.npy").tensors[SINGLE]
    assert entry.strides is not None
    assert np.ndarray(shape, "f4", strides=entry.strides, buffer=bytes(array.nbytes)).flags.f_contiguous
    assert np.array_equal(load(saved(array)), array)


@pytest.mark.parametrize("shape", [(), (5,), (1, 5, 1), (0, 3)])
def test_fortran_order_that_is_also_c_order_needs_no_strides(shape: tuple[int, ...]) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}"
    data = header_file(text, bytes(4 * int(np.prod(shape))))
    assert NPY.read(MemoryFiles({"x.npy": data}), "x.npy").tensors[SINGLE].strides is None


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_numpy_writes(version: tuple[int, int]) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(6.0).reshape(2, 3), version=version)
    assert np.array_equal(load(stream.getvalue()), np.arange(6.0).reshape(2, 3))


def test_header_longer_than_64_kib_is_version_2() -> None:
    dtype = np.dtype([(f"field_{i:05}", "<f4") for i in range(3000)])
    data = saved(np.zeros(2, dtype))
    assert data[6] == 2
    assert write(np.zeros(2, dtype)) == data
    assert load(data).dtype == dtype


def test_only_the_header_is_read() -> None:
    files = MemoryFiles({"x.npy": saved(np.zeros(1 << 20))})
    NPY.read(files, "x.npy")
    assert files.readers["x.npy"].bytes_read <= 4096


# --- spellings of the header ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }",
        "{'shape': (4,), 'fortran_order': False, 'descr': '<f4'}",
        '{"descr": "<f4", "fortran_order": False, "shape": (4,)}',
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4L,), }",
        "{'descr': u'<f4', 'fortran_order': False, 'shape': (4,), }  \n",
        "  {  'descr'\t:'<f4','fortran_order':False,\n'shape':(  4 , ) }\r\n",
        "{'descr': 'f4', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '=f4', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '|f4', 'fortran_order': False, 'shape': (4,)}",
        "{'\\x64escr': '<\\u00664', 'fortran_order': False, 'shape': (4,)}",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_accepted_spellings(text: str, version: int) -> None:
    values = np.array([1, 2, 3, 4], "<f4")
    assert np.array_equal(load(header_file(text, values.tobytes(), version)), values)


@pytest.mark.parametrize(
    ("descr", "dtype"), [("'<b2'", "bfloat16"), ("[('bfloat16', '<u2')]", "bfloat16"), ("'<f1'", "float8_e5m2")]
)
def test_spellings_that_numpy_cannot_read(descr: str, dtype: str) -> None:
    expected = np.array([1, -2, 0.5, 4]).astype(DTYPES[dtype].numpy)
    read = load(header_file(f"{{'descr': {descr}, 'fortran_order': False, 'shape': (4,)}}", expected.tobytes()))
    assert read.dtype == expected.dtype
    assert read.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("()", ()),
        ("(1)", 1),
        ("(1,)", (1,)),
        ("[('a', '<f4', (2,)), (('t', 'b'), 'i1'),]", [("a", "<f4", (2,)), (("t", "b"), "i1")]),
        ("{'a': {'b': [True, -3]}}", {"a": {"b": [True, -3]}}),
        (repr("q'\"\\\n\r\t\x00\x7f\xff…\U0001f3cb"), "q'\"\\\n\r\t\x00\x7f\xff…\U0001f3cb"),
    ],
)
def test_literals(text: str, value: object) -> None:
    assert parse_literal(text) == value


@given(
    st.recursive(
        st.one_of(st.booleans(), st.integers(-(10**18), 10**18), st.text(max_size=20)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(st.text(max_size=5), inner, max_size=4),
        ),
        max_leaves=20,
    )
)
def test_literals_are_what_repr_writes(value: object) -> None:
    assert parse_literal(repr(value)) == value


@given(st.text(alphabet="()[]{},:'\"\\ \n-0123456789LTrueFalsxudecrp", max_size=60))
def test_any_text_is_a_literal_or_an_error(text: str) -> None:
    try:
        value = parse_literal(text)
    except FormatError:
        return
    assert parse_literal(repr(value)) == value


def test_header_length_needs_few_bytes() -> None:
    header = build_header(from_numpy(np.dtype("f4")), (3,))
    assert header_length(header[:10]) == len(header) == 128


# --- refusals -------------------------------------------------------------------------------------
def test_list_or_dict_is_refused() -> None:
    for structure in ({"list": [SINGLE]}, None):
        with pytest.raises(UnsupportedFeatureError, match=r"\.npz or \.safetensors"):
            write_tensors(NPY, {SINGLE: np.zeros(1)}, "x.npy", PackOptions(structure=structure))
    with pytest.raises(UnsupportedFeatureError, match="2 in a container"):
        write_tensors(NPY, {"a": np.zeros(1), "b": np.zeros(1)}, "x.npy")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (PackOptions(structure=SINGLE, shard_size=100), "shard_size"),
        (PackOptions(structure=SINGLE, compression="deflate"), "no compression 'deflate'"),
        (PackOptions(structure=SINGLE, extra={"topology": {}}), "topology"),
    ],
)
def test_options_it_has_no_place_for(options: PackOptions, match: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=match):
        write_tensors(NPY, {SINGLE: np.zeros(1)}, "x.npy", options)


def test_quantisation_and_strings_are_refused_by_name() -> None:
    specs = TensorSpecs(["w"], [DTYPES["float32"]], [(1,)], np.array([4], np.uint64))
    with pytest.raises(UnsupportedFeatureError, match="quantize"):
        NPY.encode(specs, "uint8")
    with pytest.raises(UnsupportedFeatureError, match=r"words \(strings\)"):
        write_tensors(NPY, {"words": np.array([b"a"], object)}, "x.npy")


def test_overlapping_fields_are_refused_by_name() -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 0]})
    with pytest.raises(UnsupportedFeatureError, match="union"):
        write_tensors(NPY, {"union": np.zeros(2, dtype)}, "x.npy")


def test_elements_of_no_bytes_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedFeatureError, match=r"nothing .npy elements of no bytes"):
        write_tensors(NPY, {"nothing": np.zeros(3, "V0")}, "x.npy")


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, [("a", "<f4"), ("b", ml_dtypes.bfloat16, (2,))]])
def test_types_that_would_be_forgotten_are_refused_by_name(dtype: Any) -> None:
    with pytest.raises(UnsupportedFeatureError, match=r"nibbles .npy would forget that it is"):
        write_tensors(NPY, {"nibbles": np.zeros(3, dtype)}, "x.npy")


def test_objects_are_refused_and_say_what_to_do() -> None:
    data = saved(np.array([{"a": 1}], object))
    with pytest.raises(UnsafeContentError, match=r"Python objects.*format='npy-pickle'"):
        load(data)


def test_it_has_no_manifest() -> None:
    specs = TensorSpecs([SINGLE], [DTYPES["float32"]], [(1,)], np.array([4], np.uint64))
    packing = NPY.pack(specs, "x.npy", PackOptions(structure=SINGLE))
    assert packing.manifest is None
    assert packing.sidecar


def test_sniff_takes_nothing_else() -> None:
    assert not NPY.sniff(b"<html><body>404</body></html>", 29)
    assert not NPY.sniff(b"", 0)
