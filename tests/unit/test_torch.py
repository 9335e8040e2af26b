"""The torch format by itself: names, structures, plain values, records, the decoder, and what is read to list it."""

from __future__ import annotations

import json
import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.torch_support import archive, name, numbers, pickled, storage, tensor, text

import weightlift as wl
from weightlift._tree import encode_value, flatten, unflatten
from weightlift.formats._pickle import PickleEnded, decode_pickle
from weightlift.formats._torch import TORCH
from weightlift.formats._torch_vocabulary import TorchVocabulary
from weightlift.testing import MemoryFiles

FOUR = {"0": np.arange(4, dtype="<f4").tobytes()}


def loaded(body: bytes, folder: Path, **members: Any) -> Any:
    (folder / "x.pt").write_bytes(archive(pickled(body), FOUR, **members))
    return wl.load(folder / "x.pt")


PLAIN: list[Any] = [
    None, True, False, 0, 255, 256, 65_535, 65_536, -1, -(1 << 31), 1 << 31, (1 << 63), -(1 << 900),
    0.0, -0.0, 0.1, float("inf"), float("-inf"), "", "é\U0001f3cb", "x" * 70_000, b"", b"\0\xff", 1 - 2j,
    [], (), {}, [1, [2, (3,)]], {"a": {3: None, 2.5: "x", None: 1, True: 2}}, {1, 2}, {"a"}, {None}, {(1, "x")},
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: repr(v)[:30])
def test_plain_values_come_back(value: Any, tmp_path: Path) -> None:
    """Alone, in a container, and next to a tensor."""
    for obj in (value, [value], {"v": value, "w": np.ones(2)}):
        wl.save(obj, tmp_path / "x.pt", durable=False)
        assert repr(wl.load(tmp_path / "x.pt")) == repr(obj)
        assert wl.verify(tmp_path / "x.pt").ok


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: repr(v)[:30])
def test_what_we_write_is_a_pickle_as_python_knows_it(value: Any, tmp_path: Path) -> None:
    import zipfile

    wl.save(value, tmp_path / "x.pt", durable=False)
    with zipfile.ZipFile(tmp_path / "x.pt") as found:
        assert repr(pickle.loads(found.read("archive/data.pkl"))) == repr(value)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_python_are_decoded(protocol: int) -> None:
    """In every protocol that torch.save takes; a bytearray comes as bytes, dicts of any kind as dicts."""
    obj = [*PLAIN, OrderedDict(a=1), Counter("aab"), defaultdict(list, {"k": [1]}), complex(1, 2)]
    value, end = decode_pickle(data := pickle.dumps(obj, protocol), TorchVocabulary())
    assert end == len(data)
    expected = [dict(v) if isinstance(v, dict) else v for v in obj]
    assert repr([dict(v) if isinstance(v, dict) else v for v in value]) == repr(expected)  # type: ignore[attr-defined]
    with pytest.raises(PickleEnded):
        decode_pickle(data[:-1], TorchVocabulary())
    if protocol < 5:
        assert decode_pickle(pickle.dumps(bytearray(b"\0\xff"), protocol), TorchVocabulary())[0] == b"\0\xff"


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: repr(v)[:30])
def test_values_in_a_structure(value: Any) -> None:
    names, leaves, structure = flatten([value], values=True)
    assert names == leaves == []
    assert repr(unflatten(structure, {})) == repr([value])


def test_only_some_formats_keep_values(tmp_path: Path) -> None:
    """Others make arrays of numbers, as ever."""
    assert encode_value(np.float32(1)) is None
    wl.save({"w": np.ones(2), "lr": 0.5}, tmp_path / "x.safetensors")
    assert wl.load(tmp_path / "x.safetensors")["lr"].shape == ()
    wl.save({"w": np.ones(2), "lr": 0.5, "n": np.float32(2)}, tmp_path / "x.pt")
    found = wl.load(tmp_path / "x.pt")
    assert found["lr"] == 0.5 and isinstance(found["lr"], float) and found["n"].shape == ()
    assert list(wl.open(tmp_path / "x.pt")) == ["w", "n"]


@pytest.mark.parametrize(
    "node", [{"value": []}, {"float": "x"}, {"complex": ["1"]}, {"bytes": "0"}, {"set": [{"list": []}]}, {"set": ["w"]}]
)
def test_malformed_values_are_refused(node: Any) -> None:
    with pytest.raises(wl.FormatError, match="malformed structure"):
        unflatten(node, {})


def test_paths_that_give_one_name_are_told_apart(tmp_path: Path) -> None:
    one = tensor() + b"q\0"
    body = b"}(" + text("a.b") + one + text("a") + b"}" + text("b") + b"h\0s" + text("") + b"h\0" + text("#") + b"h\0u"
    found = loaded(body, tmp_path)
    assert list(found) == ["a.b", "a", "", "#"] and found["a"]["b"].tolist() == found[""].tolist() == [0, 1, 2, 3]
    assert list(wl.open(tmp_path / "x.pt")) == ["a.b", "a.b#2", "tensor", "#"]


def test_names_that_paths_do_not_give_are_kept(tmp_path: Path) -> None:
    wl.save({"p": np.ones(2), "q": np.zeros(3)}, tmp_path / "x.safetensors")
    wl.save([np.ones(2), np.zeros(3)], tmp_path / "x.npz")
    wl.convert(tmp_path / "x.npz", tmp_path / "x.pt")
    assert list(wl.open(tmp_path / "x.pt")) == ["arr_0", "arr_1"]
    assert [a.shape for a in wl.load(tmp_path / "x.pt")] == [(2,), (3,)]


def test_tensors_that_share_a_storage_are_views_of_one_piece(tmp_path: Path) -> None:
    held = storage()
    body = b"](" + tensor((2,), (1,), 1, held) + tensor((2, 2), (1, 2), 0, held) + tensor((3,), (0,), 2, held) + b"e"
    found = loaded(body, tmp_path)
    assert [a.tolist() for a in found] == [[1, 2], [[0, 2], [1, 3]], [2, 2, 2]]
    with wl.open(tmp_path / "x.pt") as weights:
        assert [view.stored for view in weights.values()] == ["float32", "float32", "strided"]
        assert [view.stored_nbytes for view in weights.values()] == [8, 16, 4]
        assert weights["1"].checksum is not None and weights["0"].checksum is None


def test_a_zero_crc_is_none(tmp_path: Path) -> None:
    """torch can be told not to compute any."""
    data = archive(pickled(tensor()), FOUR)
    crc = __import__("zlib").crc32(FOUR["0"]).to_bytes(4, "little")
    assert data.count(crc) == 2
    (tmp_path / "x.pt").write_bytes(data.replace(crc, bytes(4)))
    assert wl.load(tmp_path / "x.pt").tolist() == [0, 1, 2, 3]
    assert wl.verify(tmp_path / "x.pt").unchecked == ("tensor",)


def test_a_damaged_storage_is_found(tmp_path: Path) -> None:
    data = archive(pickled(tensor()), FOUR).replace(FOUR["0"], FOUR["0"][::-1])
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(wl.ChecksumError):
        wl.load(tmp_path / "x.pt")
    assert wl.verify(tmp_path / "x.pt").corrupt == ("tensor",)


def test_other_kinds_of_tensors(tmp_path: Path) -> None:
    """Parameters, subclasses' wrappers and old tensors are tensors."""
    parameter = name("torch._utils", "_rebuild_parameter_with_state") + b"(" + tensor() + b"\x88N}tR"
    typed = (
        name("torch._tensor", "_rebuild_from_type_v2")
        + b"("
        + name("torch._utils", "_rebuild_parameter")
        + name("torch.nn.parameter", "Parameter")
        + b"("
        + tensor()
        + b"\x88NtNtR"
    )
    oldest = name("torch._utils", "_rebuild_tensor") + b"(" + storage() + b"K\0" + numbers(4) + numbers(1) + b"tR"
    cuda = tensor(held=storage(kind=name("torch.cuda", "FloatStorage")))
    found = loaded(b"](" + parameter + typed + oldest + cuda + storage() + b"e", tmp_path)
    assert [a.tolist() for a in found] == [[0, 1, 2, 3]] * 5


@pytest.mark.parametrize("option", [{"compression": "deflate"}, {"shard_size": 100}, {"quantize": "uint8"}])
def test_what_the_format_cannot_do_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError):
        wl.save({"w": np.ones(2, "f4")}, tmp_path / "x.pt", **option)
    assert not list(tmp_path.iterdir())


def test_listing_reads_headers_only(tmp_path: Path) -> None:
    wl.save({f"w{i}": np.zeros(1 << 18, "f4") for i in range(20)}, tmp_path / "x.pt", durable=False)
    memory = MemoryFiles({"x.pt": (tmp_path / "x.pt").read_bytes()})
    assert len(TORCH.read(memory, "x.pt").tensors) == 20
    assert memory.readers["x.pt"].bytes_read < 200_000


@pytest.mark.parametrize(
    ("suffix", "head", "reason"),
    [
        (".pt", b"\0" * 257 + b"ustar\0" + b"\0" * 300, "tar"),
        (".pth", pickle.dumps({"a": 1}, 2), "bare pickle"),
        (".ckpt", b"hello", "begins with"),
        (".bin", b"<html>404", "HTML"),
    ],
)
def test_what_is_something_else(suffix: str, head: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(head)
    with pytest.raises(wl.FormatError, match=reason):
        wl.load(path)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "x-file").write_bytes(archive(pickled(tensor()), FOUR))
    assert wl.load(tmp_path / "x-file").tolist() == [0, 1, 2, 3]
    wl.save({"w": np.ones(1)}, tmp_path / "pytorch_model.bin")
    assert wl.open(tmp_path / "pytorch_model.bin").format == "torch"


def test_a_file_of_anything_does_not_hide_the_model_of_a_directory(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", w=np.ones(2))
    (tmp_path / "group1-shard1of1.bin").write_bytes(b"x")
    assert list(wl.load(tmp_path)) == ["w"]


def sharded(folder: Path, **changes: Any) -> Path:
    """A model of two files, one of them with views; ``changes`` of the index's weight map."""
    (folder / "a.bin").write_bytes(
        archive(pickled(b"}(" + text("w") + tensor() + text("v") + tensor((2,), (2,)) + b"u"), FOUR)
    )
    wl.save({"b": np.arange(3), "unused": np.zeros(1)}, folder / "b.bin")
    index = folder / "pytorch_model.bin.index.json"
    weights = {"b": "b.bin", "v": "a.bin", "w": "a.bin", **changes}
    index.write_text(
        json.dumps({"metadata": {"total_size": 48, "k": 1}, "weight_map": {k: v for k, v in weights.items() if v}})
    )
    return index


def test_a_sharded_model_is_one(tmp_path: Path) -> None:
    expected = {"b": [0, 1, 2], "v": [0, 2], "w": [0, 1, 2, 3]}
    index = sharded(tmp_path)
    for place in (index, tmp_path):
        assert {n: a.tolist() for n, a in wl.load(place).items()} == expected
    weights = wl.open(index)
    assert weights.format == "torch" and weights.metadata == {"k": 1}
    assert [Path(weights[n].file).name for n in weights] == ["b.bin", "a.bin", "a.bin"]
    assert wl.verify(index).ok
    wl.convert(index, tmp_path / "one.safetensors", metadata={})
    assert {n: a.tolist() for n, a in wl.load(tmp_path / "one.safetensors").items()} == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"w": "b.bin"}, r"maps it to 'b\.bin'"),
        ({"x": "a.bin"}, "are not in the file"),
        ({"x": "c.bin"}, r"'c\.bin', which is not there"),
        ({"x": "../a.bin"}, "plain file names"),
        ({"x": "/etc/passwd"}, "plain file names"),
        ({"w": 3}, "not a file name"),
        ({"n": "nested.bin"}, "flat dict"),
        ({"n": "pytorch_model.bin.index.json"}, "not a torch file"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    wl.save({"n": {"w": np.ones(2)}}, tmp_path / "nested.bin")
    index = sharded(tmp_path, **changes)
    with pytest.raises((wl.FormatError, wl.NotFoundError), match=reason):
        wl.load(index)
