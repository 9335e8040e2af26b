"""ONNX initialisers: raw, typed and external data, what is refused, what is written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.unit.test_npy_pickle import same

import weightlift as wl
from weightlift._strings import varint
from weightlift.formats._onnx import _field as field
from weightlift.formats._onnx import _number as number

OBJECT: dict[str, Any] = {
    "w": np.arange(6, dtype="f4").reshape(2, 3),
    "b": np.arange(3).astype(ml_dtypes.bfloat16),
    "f8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
    "none": np.zeros((2, 0, 3), "i8"),
    "one": np.array(1.5),
    "flag": np.array([True, False]),
    "c": np.array([1 + 2j], "c8"),
}


def tensor(
    dims: Sequence[int] = (2,), kind: int = 1, name: str = "w", data: bytes = field(9, bytes(8)), rest: bytes = b""
) -> bytes:
    head = b"".join(number(1, n) for n in dims) + number(2, kind) + field(8, name.encode())
    return field(5, head + data + rest)


def model(*tensors: bytes, head: bytes = number(1, 8), rest: bytes = b"") -> bytes:
    return head + field(2, b"test") + field(7, b"".join(tensors)) + rest


def pair(key: str, value: str, field_number: int = 13) -> bytes:
    return field(field_number, field(1, key.encode()) + field(2, value.encode()))


def external(*pairs: tuple[str, str]) -> bytes:
    return b"".join(pair(*p) for p in pairs) + number(14, 1)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "x.onnx"
    path.write_bytes(data)
    return path


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    assert wl.save(OBJECT, path, metadata={"k": "é"}).format == "onnx"
    assert same(OBJECT, wl.load(path))
    with wl.open(path) as weights:
        assert weights.metadata == {"k": "é"}
        assert weights["w"][1:].tolist() == [[3, 4, 5]]
    assert wl.verify(path).ok
    (tmp_path / "x.onnx.crc32c").unlink()
    assert same(OBJECT, wl.load(path))


TYPED: dict[str, tuple[int, bytes, list[Any], str]] = {
    "packed floats": (1, field(4, struct.pack("<2f", 1.5, -2)), [1.5, -2], "float32"),
    "floats one by one": (1, b"".join(b"\x25" + struct.pack("<f", v) for v in (1.5, -2)), [1.5, -2], "float32"),
    "doubles": (11, field(10, struct.pack("<2d", 1.5, -2)), [1.5, -2], "float64"),
    "complex": (14, field(4, struct.pack("<4f", 1, 2, 3, 4)), [1 + 2j, 3 + 4j], "complex64"),
    "negative numbers": (6, field(5, varint(7) + varint((1 << 64) - 3)), [7, -3], "int32"),
    "numbers one by one": (6, number(5, 300) + number(5, 1), [300, 1], "int32"),
    "long numbers": (7, field(7, varint(1 << 40) + varint((1 << 64) - 1)), [1 << 40, -1], "int64"),
    "bytes": (3, field(5, varint(5) + varint((1 << 64) - 128)), [5, -128], "int8"),
    "truths": (9, field(5, b"\x01\x00"), [True, False], "bool"),
    "halves": (10, field(5, varint(0x3C00) + varint(0xC000)), [1, -2], "float16"),
    "bfloat16": (16, field(5, varint(0x3F80) + varint(0xC000)), [1, -2], "bfloat16"),
    "unsigned": (12, field(11, varint(1) + varint(0xFFFFFFFF)), [1, 0xFFFFFFFF], "uint32"),
    "long unsigned": (13, field(11, varint(1) + varint((1 << 64) - 1)), [1, (1 << 64) - 1], "uint64"),
}


@pytest.mark.parametrize("case", TYPED)
def test_typed_fields_are_decoded(case: str, tmp_path: Path) -> None:
    kind, data, values, dtype = TYPED[case]
    found = wl.load(write(tmp_path, model(tensor(kind=kind, data=data))))["w"]
    assert (str(found.dtype), found.tolist()) == (dtype, values)


def test_packed_sizes(tmp_path: Path) -> None:
    head = field(1, b"\x01\x02") + number(2, 1) + field(8, b"w") + field(9, bytes(8))
    assert wl.load(write(tmp_path, model(field(5, head))))["w"].shape == (1, 2)


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "x.onnx_data").write_bytes(bytes(64) + np.arange(4, dtype="f4").tobytes())
    tensors = [
        tensor((4,), name="a", data=external(("location", "x.onnx_data"), ("offset", "64"), ("length", "16"))),
        tensor((2,), name="b", data=external(("location", "x.onnx_data"), ("offset", "64"))),
        tensor((1,), name="c", data=external(("location", "x.onnx_data"))),
        tensor((2,), name="d"),
    ]
    path = write(tmp_path, model(*tensors))
    assert {n: a.tolist() for n, a in wl.load(path).items()} == {"a": [0, 1, 2, 3], "b": [0, 1], "c": [0], "d": [0, 0]}
    with wl.open(path) as weights:
        assert weights["a"].file == str(tmp_path / "x.onnx_data")
    (tmp_path / "x.onnx_data").write_bytes(bytes(72))
    with pytest.raises(wl.FormatError, match="'a'"):
        wl.load(path)
    (tmp_path / "x.onnx_data").unlink()
    with pytest.raises(wl.NotFoundError):
        wl.load(path)


@pytest.mark.parametrize(
    "location", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b", "https://x/y"]
)
def test_external_data_out_of_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    path = write(tmp_path, model(tensor(data=external(("location", location)))))
    with pytest.raises(wl.UnsafeContentError, match="beside the model"):
        wl.load(path)


def test_what_is_no_array_is_left_aside(tmp_path: Path) -> None:
    sparse = field(15, field(1, tensor(name="s")[2:]))
    others = [tensor(kind=8, name="text", data=field(6, b"a") * 2), tensor(kind=99, name="new")]
    odd = tensor((3,), 22, "odd", field(9, bytes(2)))
    path = write(tmp_path, model(tensor(), *others, odd, sparse, field(1, field(4, b"Conv"))))
    assert wl.load(path, names="w")["w"].tolist() == [0, 0]
    for name in ("text", "new", "odd", "s"):
        with pytest.raises(wl.UnsupportedFeatureError):
            wl.load(path, names=[name])


HOSTILE: dict[str, bytes] = {
    "no graph": number(1, 8) + field(2, b"x"),
    "two graphs": model(tensor()) + field(7, b""),
    "a graph that is a number": number(1, 8) + field(2, b"x") + number(7, 1),
    "a graph of 2**63 bytes": number(1, 8) + field(2, b"x") + varint(7 << 3 | 2) + varint(1 << 63),
    "a number without an end": number(1, 8) + field(2, b"x") + b"\xff" * 11,
    "a group": number(1, 8) + field(2, b"x") + b"\x3b\x3c",
    "field 0": number(1, 8) + field(2, b"x") + b"\0\0" + field(7, b""),
    "no name": model(tensor(name="")),
    "a name twice": model(tensor(), tensor()),
    "a name that is not UTF-8": model(field(5, number(2, 1) + field(8, b"\xff\xfe"))),
    "a name of a megabyte": model(tensor(name="x" * (1 << 20))),
    "too few bytes": model(tensor(data=field(9, bytes(7)))),
    "too many bytes": model(tensor(data=field(9, bytes(9)))),
    "bytes beyond the tensor": model(field(5, number(2, 1) + field(8, b"w") + varint(9 << 3 | 2) + varint(8))),
    "raw data twice": model(tensor(data=field(9, bytes(8)) * 2)),
    "no data": model(tensor(data=b"")),
    "a negative size": model(tensor(((1 << 64) - 2,))),
    "sizes that overflow": model(tensor((1 << 40, 1 << 40))),
    "65 axes": model(tensor((1,) * 65)),
    "a thousand packed axes": model(field(5, field(1, b"\x01" * 1000) + field(8, b"w") + number(2, 1))),
    "values of another type": model(tensor(data=field(10, bytes(16)))),
    "values that end within one": model(tensor(kind=6, data=field(5, b"\x01\xff"))),
    "a value of 80 bits": model(tensor(kind=6, data=field(5, b"\xff" * 11 + b"\x01"))),
    "three values for two": model(tensor(kind=6, data=field(5, b"\x01\x02\x03"))),
    "an offset that is negative": model(tensor(data=external(("location", "x.onnx"), ("offset", "-1")))),
    "an offset that is text": model(tensor(data=external(("location", "x.onnx"), ("offset", "0x10")))),
    "an offset of 2**70": model(tensor(data=external(("location", "x.onnx"), ("offset", str(1 << 70))))),
    "an offset beyond the end": model(tensor(data=external(("location", "x.onnx"), ("offset", "999999")))),
    "another length": model(tensor(data=external(("location", "x.onnx"), ("length", "9")))),
    "a location twice": model(tensor(data=external(("location", "x.onnx"), ("location", "x.onnx")))),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_malformed_is_refused(case: str, tmp_path: Path) -> None:
    path = write(tmp_path, HOSTILE[case])
    with pytest.raises(wl.FormatError) as caught:
        wl.load(path)
    assert path.name in str(caught.value)
    assert not wl.verify(path).ok


def test_the_good_one_loads(tmp_path: Path) -> None:
    """What the cases above differ from is right: else they would test nothing."""
    assert wl.load(write(tmp_path, model(tensor())))["w"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("obj", "options", "reason"),
    [
        ({"a": np.array(["x"])}, {}, "cannot hold"),
        ({"a": np.ones(1)}, {"metadata": {"k": 1}}, "metadata are text"),
        ({"a": np.ones(1)}, {"shard_size": 10}, "one file"),
        ({"a": np.ones(1)}, {"quantize": "uint8"}, "as they are"),
    ],
)
def test_what_onnx_has_no_place_for_is_refused(obj: Any, options: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=reason):
        wl.save(obj, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_saved_model_of_tensorflow_is_none(tmp_path: Path) -> None:
    from weightlift.formats._onnx import ONNX

    assert not ONNX.sniff(b"\x08\x01\x12\x10abcdefgh", 100)
