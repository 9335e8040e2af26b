"""GGUF files: every type, metadata, shards, blocks and their values, what is written and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.conftest import shared_fixtures

import weightlift as wl
from weightlift._ggml import BLOCKS, DEQUANTIZED, quantize_q8_0

METADATA: dict[str, Any] = {
    "general.architecture": "none", "n": 5, "minus": -1, "large": 1 << 40, "least": -(1 << 40), "yes": True,
    "half": 0.5, "tenth": 0.1, "list": [1, 2], "signed": [-1, 2], "words": ["a", "é", ""], "flags": [True, False],
    "rates": [0.5, 0.1], "none": [],
}  # fmt: skip
TENSORS: dict[str, Any] = {
    "f32": np.arange(6, dtype="f4").reshape(2, 3),
    "f16": np.arange(7, dtype="f2"),
    "bf16": np.arange(4).astype(ml_dtypes.bfloat16),
    "f64": np.array(1.5),
    "i8": np.arange(3, dtype="i1"),
    "i16": np.arange(3, dtype="i2"),
    "i32": np.arange(3, dtype="i4"),
    "i64": np.zeros((2, 0, 3), "i8"),
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def info(name: str = "a", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def number(key: str, value: int, kind: int = 4, code: str = "I") -> bytes:
    return text(key) + struct.pack(f"<I{code}", kind, value)


def made(
    pairs: list[bytes], infos: list[bytes], data: bytes = bytes(32), *, version: int = 3, alignment: int = 32
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(pairs)) + b"".join(pairs + infos)
    return head + bytes(-len(head) % alignment) + data


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    assert wl.save(TENSORS, path, metadata=METADATA).format == "gguf"
    found = wl.load(path)
    assert list(found) == list(TENSORS)
    for name, array in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with wl.open(path) as weights:
        assert weights.metadata == METADATA
        assert [type(v) for v in weights.metadata.values()] == [type(v) for v in METADATA.values()]
        assert all(view.offset % 32 == 0 for view in weights.values())
    assert wl.verify(path).ok


def test_the_order_of_a_list_is_kept(tmp_path: Path) -> None:
    wl.save([np.ones(2, "f4"), {"x": np.zeros(3, "f4")}], tmp_path / "x.gguf")
    first, second = wl.load(tmp_path / "x.gguf")
    assert (first.tolist(), second["x"].tolist()) == ([1, 1], [0, 0, 0])


def test_matrices_become_blocks(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype("f4")
    obj = {"w": values, "v": np.ones(64, "f4"), "odd": np.ones((2, 33), "f4"), "h": values.astype(ml_dtypes.bfloat16)}
    wl.save(obj, tmp_path / "x.gguf", quantize="Q8_0", metadata={"k": 1})
    with wl.open(tmp_path / "x.gguf") as weights:
        assert weights.metadata == {"k": 1, "gguf.types": {"w": "Q8_0", "h": "Q8_0"}}
        assert {n: (str(v.dtype), v.shape) for n, v in weights.items()} == {
            "w": ("uint8", (4, 68)), "v": ("float32", (64,)), "odd": ("float32", (2, 33)), "h": ("uint8", (4, 68)),
        }  # fmt: skip
        assert np.array_equal(weights["w"][...], quantize_q8_0(values))
    found = wl.load(tmp_path / "x.gguf", dequantize=True)
    scale = np.abs(values.reshape(4, 2, 32)).max(axis=2).repeat(32, axis=1) / 127
    assert found["w"].dtype == np.float32
    assert np.all(np.abs(found["w"] - values) <= 0.51 * scale.reshape(4, 64))
    with wl.open(tmp_path / "x.gguf", dequantize=True) as weights:
        assert np.array_equal(weights["w"][1:3], found["w"][1:3])
    assert wl.load(tmp_path / "x.gguf", names=["w"], dequantize=True, dtype="float16")["w"].dtype == np.float16
    assert wl.verify(tmp_path / "x.gguf").ok


def test_blocks_are_copied_as_they_are(tmp_path: Path) -> None:
    wl.save({"w": np.arange(64, dtype="f4").reshape(2, 32)}, tmp_path / "x.gguf", quantize={"Q8_0": "w*"})
    wl.convert(tmp_path / "x.gguf", tmp_path / "y.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()
    wl.convert(tmp_path / "x.gguf", tmp_path / "z.safetensors", dequantize=True)
    assert wl.load(tmp_path / "z.safetensors")["w"].dtype == np.float32
    wl.convert(tmp_path / "z.safetensors", tmp_path / "q.gguf", quantize="Q8_0")
    assert wl.load(tmp_path / "q.gguf")["w"].shape == (2, 34)


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        ({"w": np.ones(3, "u1")}, {}, "gguf.types"),
        ({"w": np.ones(3, bool)}, {}, "bool"),
        ({"w": np.ones(3, "u1")}, {"metadata": {"gguf.types": {"w": "Q8_0"}}}, "whole blocks"),
        ({"w" * 64: np.ones(3, "f4")}, {}, "63 bytes"),
        ({"w": np.ones((1,) * 5, "f4")}, {}, "4 axes"),
        ({"w": np.ones(33, "f4")}, {"quantize": {"Q8_0": "w"}}, "blocks of 32"),
        ({"w": np.ones(33, "f4")}, {"quantize": "uint8"}, "Q8_0"),
        ({"w": np.ones(3, "f4")}, {"metadata": {"k": None}}, "metadata 'k'"),
        ({"w": np.ones(3, "f4")}, {"metadata": {"k": [1, "a"]}}, "metadata 'k'"),
        ({"w": np.ones(3, "f4")}, {"metadata": {"": 1}}, "empty key"),
        ({"w": np.ones(3, "f4")}, {"metadata": {"general.alignment": 33}}, "power of two"),
        ({"w": np.ones(3, "f4")}, {"shard_size": 10}, "one file"),
    ],
)
def test_what_ggml_has_no_place_for_is_refused(values: Any, options: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=reason):
        wl.save(values, tmp_path / "x.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_alignment_is_the_files_own(tmp_path: Path) -> None:
    obj = {"a": np.ones(3, "f4"), "b": np.ones(5, "f4")}
    wl.save(obj, tmp_path / "x.gguf", metadata={"general.alignment": 256})
    with wl.open(tmp_path / "x.gguf") as weights:
        assert [view.offset % 256 for view in weights.values() if view.offset is not None] == [0, 0]
    assert wl.load(tmp_path / "x.gguf")["b"].tolist() == [1] * 5


def shard(tensors: dict[str, int], number_of: int, count: int, total: int) -> bytes:
    pairs = [
        number("split.no", number_of, 2, "H"), number("split.count", count, 2, "H"),
        number("split.tensors.count", total, 5, "i"), number("k", 7 + number_of),
    ]  # fmt: skip
    infos = [info(name, offset=32 * i) for i, name in enumerate(tensors)]
    return made(pairs, infos, b"".join(np.full(8, v, "f4").tobytes() for v in tensors.values()))


def test_shards_are_one_file(tmp_path: Path) -> None:
    names = [f"m-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    for i, held in enumerate(({"a": 1, "b": 2}, {"c": 3}, {"d": 4})):
        (tmp_path / names[i]).write_bytes(shard(held, i, 3, 4))
    for name in names[:2]:
        found = wl.load(tmp_path / name)
        assert {key: array[0] for key, array in found.items()} == {"a": 1, "b": 2, "c": 3, "d": 4}
    with wl.open(tmp_path / names[0]) as weights:
        assert weights.metadata == {"k": 7}
        assert weights["c"].file == str(tmp_path / names[1])
    (tmp_path / names[2]).write_bytes(shard({"d": 4}, 1, 3, 4))
    with pytest.raises(wl.FormatError, match="shard 2 of 3"):
        wl.load(tmp_path / names[0])
    (tmp_path / names[2]).write_bytes(shard({"a": 4}, 2, 3, 4))
    with pytest.raises(wl.FormatError, match="two shards"):
        wl.load(tmp_path / names[0])
    (tmp_path / names[2]).write_bytes(shard({}, 2, 3, 4))
    with pytest.raises(wl.FormatError, match="3 tensors"):
        wl.load(tmp_path / names[0])
    (tmp_path / names[2]).unlink()
    with pytest.raises(wl.NotFoundError, match="00003-of-00003"):
        wl.load(tmp_path / names[0])
    (tmp_path / names[0]).rename(tmp_path / "other.gguf")
    with pytest.raises(wl.FormatError, match="must be called"):
        wl.load(tmp_path / "other.gguf")


HOSTILE: dict[str, bytes] = {
    "no bytes": b"GGUF",
    "version 0": made([], [], version=0),
    "version 1": made([], [], version=1),
    "2**63 tensors": b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 0) + bytes(64),
    "2**63 pairs": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63) + bytes(64),
    "a key of 2**61 bytes": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 61) + bytes(64),
    "an array of 2**61 numbers": made([text("k") + struct.pack("<IIQ", 9, 4, 1 << 61)], []),
    "an array of 2**61 strings": made([text("k") + struct.pack("<IIQ", 9, 8, 1 << 61)], []),
    "an array of arrays": made([text("k") + struct.pack("<IIQIQ", 9, 9, 1, 4, 0)], []),
    "an array of an unknown type": made([text("k") + struct.pack("<IIQ", 9, 99, 1)], []),
    "a value of an unknown type": made([number("k", 1, 13)], []),
    "an empty key": made([number("", 1)], []),
    "a key twice": made([number("k", 1), number("k", 2)], []),
    "a key that is not UTF-8": made([struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1)], []),
    "an alignment of 0": made([number("general.alignment", 0)], [info()]),
    "an alignment of 33": made([number("general.alignment", 33)], [info()]),
    "an alignment that is text": made([text("general.alignment") + struct.pack("<I", 8) + text("32")], [info()]),
    "no name": made([], [info("")]),
    "a long name": made([], [info("x" * 2000)]),
    "a name twice": made([], [info(), info(offset=32)], bytes(64)),
    "5 axes": made([], [info(shape=(1, 1, 1, 1, 8))]),
    "2**32 - 1 axes": made([], [text("a") + struct.pack("<I", 0xFFFFFFFF)]),
    "sizes that overflow": made([], [info(shape=(1 << 40, 1 << 40))]),
    "sizes that overflow to nothing": made([], [info(shape=(1 << 32, 1 << 32))]),
    "a removed type": made([], [info(kind=4)]),
    "part of a block": made([], [info(shape=(33,), kind=8)], bytes(64)),
    "blocks along the wrong axis": made([], [info(shape=(2, 32), kind=8)], bytes(96)),
    "a gap": made([], [info(), info("b", offset=64)], bytes(96)),
    "an overlap": made([], [info(), info("b", offset=0)]),
    "out of order": made([], [info(offset=32), info("b", offset=0)], bytes(64)),
    "an offset of 2**64 - 32": made([], [info(offset=(1 << 64) - 32)]),
    "cut off": made([], [info()], bytes(31)),
    "bytes behind": made([], [info()], bytes(64)),
    "65,536 shards": made([number("split.count", 65535, 2, "H")], [info()]),
    "shards under another name": made([number("split.count", 2, 2, "H")], [info()]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_malformed_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(wl.FormatError) as caught:
        wl.load(path, format="gguf")
    assert str(path) in str(caught.value)
    assert not wl.verify(path, format="gguf").ok


def test_the_good_one_loads(tmp_path: Path) -> None:
    """What the cases above differ from is right: else they would test nothing."""
    (tmp_path / "x.gguf").write_bytes(made([number("k", 1)], [info()]))
    assert wl.load(tmp_path / "x.gguf")["a"].tolist() == [0] * 8


def test_types_that_are_not_computed_can_be_left(tmp_path: Path) -> None:
    blocks = made([], [info("x", (256,), 23), info("w", (32,), 8, 160)], bytes(160 + 64))
    (tmp_path / "x.gguf").write_bytes(blocks)
    assert wl.load(tmp_path / "x.gguf")["x"].shape == (136,)
    assert wl.load(tmp_path / "x.gguf", names="w", dequantize=True)["w"].tolist() == [0] * 32
    with pytest.raises(wl.UnsupportedFeatureError, match="IQ4_XS"):
        wl.load(tmp_path / "x.gguf", dequantize=True)


# --- files of gguf-py, and what it computes ----------------------------------------------------------
FOLDER = shared_fixtures("frameworks") / "gguf-0.19"


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.gguf")))
def test_fixture(name: str) -> None:
    path = FOLDER / f"{name}.gguf"
    if name.startswith("bad_") or name == "v1":
        with pytest.raises(wl.FormatError):
            wl.load(path)
        return
    found = wl.load(path)
    with np.load(f"{path}.truth.npz") as truth:
        for key in truth.files:
            if not key.endswith(".dequantized"):
                assert found[key].tobytes() == truth[key].tobytes()
    assert wl.verify(path).ok


@pytest.mark.parametrize("name", ["quant", "kquant"])
def test_values_are_those_of_gguf_py(name: str) -> None:
    path = FOLDER / f"{name}.gguf"
    seen = 0
    with np.load(f"{path}.truth.npz") as truth, wl.open(path, dequantize=True) as weights:
        for key in DEQUANTIZED:
            if key in truth.files:
                want = truth[f"{key}.dequantized"]
                assert weights[key].shape == want.shape
                assert np.array_equal(weights[key][...].view("u4"), want.view("u4")), key
                seen += 1
    assert seen == 6


def test_big_endian_metadata_are_numbers() -> None:
    with wl.open(FOLDER / "bigendian.gguf") as weights:
        assert weights.metadata["t.u32"] == 0xFFFFFFFF
        assert weights.metadata["general.name"] == "héllo"


def test_every_block_is_known_by_number() -> None:
    assert len({block.number for block in BLOCKS.values()}) == len(BLOCKS)
    assert set(DEQUANTIZED) <= set(BLOCKS)
