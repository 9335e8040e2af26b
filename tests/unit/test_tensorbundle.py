"""TensorFlow's checkpoints: what is read from bundles made by hand, and what is written."""

from __future__ import annotations

import struct
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from tests.unit.tensorbundle_support import HEADER, Tensor, bundle, write

import weightlift as wl
from weightlift._strings import decode_varint_strings, encode_varint_strings, masked, unmasked
from weightlift.formats._tensorbundle_names import key_of, readable_names
from weightlift.formats._tensorbundle_proto import field
from weightlift.formats._tensorbundle_slices import slice_boxes, slice_key
from weightlift.formats._tensorbundle_snappy import decompress
from weightlift.formats._tensorbundle_table import build_table, read_table
from weightlift.stores._local import LocalStore

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
BIG = field(1, 1) + field(2, 1) + field(3, field(1, 1))
TENSORS = {"hidden/kernel": np.arange(6, dtype="f4").reshape(2, 3), "hidden/bias": np.array([1, -1], "i8")}


# --- names ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a", "a/b", "b.c/d", "..", "../x", "/abs", ".S", "a..S/.x", "x.OPTIMIZER_SLOT/y", ""])
def test_a_name_comes_back_from_its_key(name: str) -> None:
    assert readable_names([key_of(name)]) == [name]


def test_names_of_what_keras_writes() -> None:
    keys = [
        f"hidden/kernel{VALUE}",
        f"hidden/kernel/.OPTIMIZER_SLOT/optimizer/m{VALUE}",
        f"m/b.Sc..d/0{VALUE}",
        "save_counter/.ATTRIBUTES/OTHER",
    ]
    expected = ["hidden/kernel", "optimizer/m/hidden/kernel", "m/b/c.d/0", "save_counter/.ATTRIBUTES/OTHER"]
    assert readable_names(keys) == expected


def test_keys_that_would_share_a_name_stay_as_they_are() -> None:
    keys = [f"a.Sb{VALUE}", f"a/b{VALUE}", f"c{VALUE}", "d"]
    assert readable_names(keys) == [*keys[:2], "c", "d"]
    tricky = [f"a/..ATTRIBUTES/VARIABLE_VALUE{VALUE}", f"a{VALUE}", "a"]
    assert readable_names(tricky) == tricky


# --- parts of the format ----------------------------------------------------------------------------
def test_slice_keys_order_as_numbers_do() -> None:
    assert slice_key(b"ab\0\xff", [(0, 100), (4273, 16000), (-1, 63)]).hex(" ") == (
        "00 61 62 00 ff ff 00 00 01 01 03 80 c0 64 d0 b1 e0 3e 80 7f bf"
    )


@pytest.mark.parametrize(
    ("slices", "problem"),
    [
        ([[(0, 2), (0, 3)]], "do not make up"),
        ([[(0, 2), (0, 3)], [(1, 2), (0, 3)]], "overlap"),
        ([[(0, 2), (0, -1)], [(2, 3), (0, -1)]], "reaches out"),
        ([[(0, 4)]], "axes"),
        ([[(0, 2), (0, 2)], [(0, 2), (2, 1)], [(1, 3), (0, 1)], [(2, 2), (1, 1)], [(3, 1), (2, 1)]], "overlap"),
    ],
)
def test_slices_must_fill_the_tensor(slices: list[list[tuple[int, int]]], problem: str) -> None:
    with pytest.raises(wl.FormatError, match=problem):
        slice_boxes((4, 3), slices)


def test_snappy() -> None:
    assert decompress(b"\x0b\x08abc\x05\x03\x0a\x03\x00", 100) == b"abcabcabcab"
    long = bytes(range(200)) * 2
    assert (
        decompress(b"\x90\x03" + b"\xf0\xc7" + long[:200] + b"\xfe\xc8\x00\xfe\xc8\x00\xfe\xc8\x00\x1e\xc8\x00", 999)
        == long
    )
    for damaged in (
        b"\x0b\x08ab",
        b"\x0b\x08abc\x0a\x04\x00",
        b"\xff\xff\xff\xff\x0f\x00a",
        b"\x04\x08abc",
        b"\x02\x08abc",
    ):
        with pytest.raises(wl.FormatError, match="Snappy"):
            decompress(damaged, 1 << 40)
    with pytest.raises(wl.FormatError, match="claims"):
        decompress(b"\x08\x00a\x1a\x01\x00", 7)


@pytest.mark.parametrize("count", [1, 16, 17, 9000])
def test_tables_of_any_size(count: int) -> None:
    pairs = [(f"layer/{i:06}/kernel".encode(), bytes([i % 251]) * (i % 40)) for i in range(count)]
    assert read_table(build_table(pairs)) == pairs


def test_masked_checksums() -> None:
    assert masked(0xE3069283) == 0xC78AB0E5
    assert unmasked(masked(0x12345678)) == 0x12345678


def test_strings_carry_two_checksums() -> None:
    values = [b"", b"ab", b"\0\xff" * 200]
    data, crc = encode_varint_strings(values)
    assert decode_varint_strings(data, 3, crc) == values
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(wl.FormatError):
            decode_varint_strings(damaged, 3, crc)
    with pytest.raises(wl.FormatError, match="do not fill"):
        decode_varint_strings(data + b"x", 3, crc)
    with pytest.raises(wl.FormatError, match="at least"):
        decode_varint_strings(b"\0", 1 << 40, crc)


# --- reading ----------------------------------------------------------------------------------------
def test_big_endian_and_sliced(tmp_path: Path) -> None:
    whole = np.arange(24, dtype="i4").reshape(4, 6)
    rows, columns = [[(0, 1), (0, None)], [(1, 3), (0, None)]], [[(0, None), (0, 2)], [(0, None), (2, 4)]]
    parts = {b"rows": [whole[:1], whole[1:]], b"columns": [whole[:, :2], whole[:, 2:]]}
    tensors = {
        b"rows": Tensor(3, whole.shape, slices=rows),
        b"columns": Tensor(3, whole.shape, slices=columns),
        b"z": Tensor(8, [1], np.array([1 + 2j], ">c8").tobytes(), shard=2),
        b"b": Tensor(10, [2], b"\1\0", shard=1),
    }
    for key, slices in ((b"rows", rows), (b"columns", columns)):
        for i, (axes, part) in enumerate(zip(slices, parts[key], strict=True)):
            where = [(begin, -1 if length is None else length) for begin, length in axes]
            tensors[slice_key(key, where)] = Tensor(3, part.shape, part.astype(">i4").tobytes(), shard=2 - i)
    path = write(tmp_path, bundle(tensors, header=BIG.replace(field(1, 1), field(1, 3), 1), shards=3))
    found = wl.load(path)
    assert np.array_equal(found["rows"], whole) and np.array_equal(found["columns"], whole)
    assert found["z"][0] == 1 + 2j and found["b"].tolist() == [True, False]
    assert wl.verify(path).ok
    with wl.open(path) as weights:
        assert np.array_equal(weights["columns"][1:3, 2:], whole[1:3, 2:])
        assert np.array_equal(weights["rows"][...], whole)
    wl.convert(path, tmp_path / "y.safetensors")
    assert np.array_equal(wl.load(tmp_path / "y.safetensors")["columns"], whole)
    data = tmp_path / "x.data-00002-of-00003"
    data.write_bytes(data.read_bytes()[:-1] + b"\xff")
    with pytest.raises(wl.ChecksumError):
        wl.load(path)


def test_a_missing_slice_and_one_too_many(tmp_path: Path) -> None:
    slices = [[(0, 1)], [(1, 1)]]
    first = slice_key(b"a", [(0, 1)])
    half = Tensor(4, [1], b"x")
    with pytest.raises(wl.FormatError, match="slice"):
        wl.load(write(tmp_path, bundle({b"a": Tensor(4, [2], slices=slices), first: half})))
    with pytest.raises(wl.FormatError, match="slice 1 of 2"):
        stray = slice_key(b"b", [(1, 1)])
        wl.load(write(tmp_path, bundle({b"a": Tensor(4, [2], slices=slices), first: half, stray: half})))
    with pytest.raises(wl.FormatError, match="entries of slices"):
        wl.load(write(tmp_path, bundle({b"a": Tensor(4, [1], b"x"), first: half})))


@pytest.mark.parametrize(("number", "name"), [(20, "resource"), (21, "variant"), (33, "float4_e2m1fn")])
def test_types_without_arrays_are_refused_by_name(tmp_path: Path, number: int, name: str) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=f"{name}.*'a'"):
        wl.load(write(tmp_path, bundle({b"a": Tensor(number, [1], b"x")})))


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (field(1, 1) + field(3, field(2, 2)), "version 2"),
        (field(1, 1) + field(2, 7), "byte order 7"),
        (field(3, field(1, 1)), "0 data files"),
        (field(1, 1 << 31), "2147483648 data files"),
        (HEADER + field(29101, b"[]"), "our own field"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, header: bytes, problem: str) -> None:
    with pytest.raises(wl.FormatError, match=problem):
        wl.load(write(tmp_path, bundle({b"a": Tensor(4, [1], b"x")}, header=header)), format="tensorbundle")


def test_an_entry_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(wl.FormatError, match="3 bytes; float32 of shape \\[1\\] takes 4"):
        wl.load(write(tmp_path, bundle({b"a": Tensor(1, [1], b"xxx")})))


def test_a_compressed_index(tmp_path: Path) -> None:
    """Blocks of literals, as a compressor may leave them."""
    files = bundle({b"a": Tensor(4, [2], b"xy")})
    table = bytearray()
    offsets = []

    def append(block: bytes) -> None:
        packed = bytes([len(block), (len(block) - 1) << 2]) + block
        offsets.append((len(table), len(packed)))
        table.extend(packed + b"\1")
        from weightlift import crc32c

        table.extend(struct.pack("<I", masked(crc32c(packed + b"\1"))))

    raw = files["x.index"]
    size = raw.index(b"\0" * 4 + struct.pack("<I", 1)) + 8  # the first block ends with its only restart
    append(raw[:size]) if size < 60 else pytest.fail("the block is too long for one short literal")
    append(b"\0\0\0\0\1\0\0\0")
    append(b"\0\1\2b" + bytes(offsets[0]) + b"\0\0\0\0\1\0\0\0")
    footer = bytes([*offsets[1], *offsets[2]]).ljust(40, b"\0")
    files["x.index"] = bytes(table) + footer + raw[-8:]
    assert wl.load(write(tmp_path, files))["a"].tobytes() == b"xy"


# --- where it is ------------------------------------------------------------------------------------
def test_every_name_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wl.save(TENSORS, tmp_path / "mlp.params", format="tensorbundle")
    monkeypatch.chdir(tmp_path)
    for name in ("mlp.params", "mlp.params.index", "mlp.params.data-00000-of-00001", "checkpoint", "."):
        found = wl.load(name)
        assert list(found) == list(TENSORS)
        assert all(np.array_equal(found[n], TENSORS[n]) for n in TENSORS)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/else/where/mlp.\\160arams"\n')
    assert list(wl.load(".")) == list(TENSORS)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../mlp"\n')
    with pytest.raises(wl.UnsafeContentError):
        wl.load(".")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gone"\n')
    with pytest.raises(wl.NotFoundError, match="'gone', which is not there"):
        wl.load(".")


def test_names_or_keys(tmp_path: Path) -> None:
    wl.save(TENSORS, tmp_path / "x", format="tensorbundle", metadata={"epoch": 3})
    keys = wl.load(tmp_path / "x", format="tensorbundle-keys")
    assert set(keys) == {"_CHECKPOINTABLE_OBJECT_GRAPH", f"hidden/kernel{VALUE}", f"hidden/bias{VALUE}"}
    assert wl.open(tmp_path / "x").metadata == {"epoch": 3}
    assert list(wl.load(tmp_path / "x", names="*/bias")) == ["hidden/bias"]


# --- writing ----------------------------------------------------------------------------------------
def test_nested_containers_become_paths(tmp_path: Path) -> None:
    model = {"hidden": {"kernel": np.ones(2), "0": [np.zeros(1), (np.ones(1),)]}, "b.c": np.ones(3)}
    result = wl.save(model, tmp_path / "x", format="tensorbundle")
    assert set(result.crc32c) == {"hidden/kernel", "hidden/0/0", "hidden/0/1/0", "b.c"}
    found = wl.load(tmp_path / "x")
    assert list(found) == ["hidden", "b.c"]
    assert isinstance(found["hidden"]["0"][1], tuple)
    assert np.array_equal(found["hidden"]["kernel"], np.ones(2))


@pytest.mark.parametrize("obj", [np.arange(3.0), [np.ones(1), np.zeros(2)], {}])
def test_one_tensor_and_a_list(tmp_path: Path, obj: object) -> None:
    wl.save(obj, tmp_path / "x", format="tensorbundle")
    found = wl.load(tmp_path / "x")
    assert type(found) is type(obj)
    assert str(found) == str(obj)


def test_strings_and_small_types(tmp_path: Path) -> None:
    saved = {"s": np.array([["a", b"\xff"]], object), "h": np.ones((2, 2), ml_dtypes.bfloat16), "b": np.array(True)}
    wl.save(saved, tmp_path / "x", format="tensorbundle")
    found = wl.load(tmp_path / "x")
    assert found["s"].tolist() == [[b"a", b"\xff"]]
    assert found["h"].dtype == ml_dtypes.bfloat16 and found["b"].shape == ()
    assert wl.verify(tmp_path / "x").ok
    with pytest.raises(wl.UnsupportedFeatureError, match="'d' \\(float8_e8m0fnu\\)"):
        wl.save({"d": np.ones(1, ml_dtypes.float8_e8m0fnu)}, tmp_path / "y", format="tensorbundle")


def test_shards_and_options(tmp_path: Path) -> None:
    wl.save({f"w{i}": np.full(10, i, "f4") for i in range(5)}, tmp_path / "x", format="tensorbundle", shard_size=80)
    assert sorted(p.name for p in tmp_path.glob("x.data*")) == [f"x.data-0000{i}-of-00003" for i in range(3)]
    assert wl.load(tmp_path / "x")["w4"].tolist() == [4] * 10
    wl.save(TENSORS, tmp_path / "y", format="tensorbundle", checksums=False)  # TensorFlow wants them all the same
    assert wl.verify(tmp_path / "y").ok and wl.open(tmp_path / "y")["hidden/bias"].checksum is not None
    with pytest.raises(wl.UnsupportedFeatureError, match="quantisation"):
        wl.save(TENSORS, tmp_path / "z", format="tensorbundle", quantize="uint8")


def test_saving_again_replaces_the_set(tmp_path: Path) -> None:
    target = tmp_path / "x"
    wl.save(TENSORS, target, format="tensorbundle", shard_size=1)
    result = wl.save({"w": np.ones(2)}, target, format="tensorbundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "x.data-00000-of-00001", "x.index"]
    assert {Path(f).name for f in result.files} == {"checkpoint", "x.data-00000-of-00001", "x.index"}
    with mock.patch.object(LocalStore, "alias", lambda *_: False):  # a file system without hard links
        wl.save({"w": np.zeros(2)}, target, format="tensorbundle")
    assert wl.load(target)["w"].tolist() == [0, 0]
    assert not (tmp_path / "x.data-00000-of-00001").exists()
    wl.save(TENSORS, target, format="tensorbundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "x.data-00000-of-00001", "x.index"]


@pytest.mark.parametrize("step", range(6))
def test_killed_anywhere_a_whole_checkpoint_is_there(tmp_path: Path, step: int) -> None:
    """Each thing that publishing does to the directory, and a failure before it."""
    target = tmp_path / "x"
    wl.save({"w": np.zeros(9)}, target, format="tensorbundle")
    done = 0

    def counted(name: str) -> mock.mock._patch:  # type: ignore[type-arg]
        real = getattr(LocalStore, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal done
            if done == step:
                raise KeyboardInterrupt
            done += 1
            return real(*arguments, **options)

        return mock.patch.object(LocalStore, name, call)

    doing = [counted(name) for name in ("commit_all", "create", "alias", "delete")]
    with doing[0], doing[1], doing[2], doing[3], pytest.raises(KeyboardInterrupt):
        wl.save({"w": np.ones(9)}, target, format="tensorbundle")
    assert set(wl.load(target)["w"].tolist()) in ({0.0}, {1.0})
    assert wl.verify(target).ok


def test_a_checkpoint_file_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"mine")
    result = wl.save(TENSORS, tmp_path / "x", format="tensorbundle")
    assert (tmp_path / "checkpoint").read_bytes() == b"mine"
    assert not any(f.endswith("checkpoint") for f in result.files)


def test_in_memory(tmp_path: Path) -> None:
    wl.save(TENSORS, "memory://m/x", format="tensorbundle")
    assert list(wl.load("memory://m/x")) == list(TENSORS)
    wl.save({"w": np.ones(1)}, "memory://m/x", format="tensorbundle")
    assert list(wl.load("memory://m/x.index")) == ["w"]
