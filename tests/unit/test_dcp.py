"""Checkpoints of torch.distributed.checkpoint: reading, and what is refused; made by hand, see ``dcp_support``."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.golden.test_dcp_golden import FOLDER
from tests.unit import torch_support as made
from tests.unit.dcp_support import OBJECT, Raw, index, metadata, place, record, saved, tensor, value, write
from tests.unit.http_server import Exchange, serve

import weightlift as wl
from weightlift._layout import Chain
from weightlift.formats import by_suffix
from weightlift.formats._dcp import DCP
from weightlift.formats._dcp_tree import structure_of

Box = tuple[Sequence[int], Sequence[int]]


def chunked(folder: Path, array: np.ndarray[Any, Any], boxes: Sequence[Box], **props: str) -> Path:
    """A checkpoint of one tensor, ``w``, in these chunks."""
    parts, keys = {}, {}
    for number, (begin, size) in enumerate(boxes):
        where = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
        parts[str(number)] = saved(size, np.ascontiguousarray(array[where], "f4").tobytes())
        keys[str(number)] = index("w", begin)
    return write(folder, parts, {"w": tensor(array.shape, boxes, **props)}, keys)


ARRAY = np.arange(24, dtype="f4").reshape(4, 6)
TILINGS: dict[str, list[Box]] = {
    "whole": [((0, 0), (4, 6))],
    "rows": [((0, 0), (1, 6)), ((1, 0), (3, 6))],
    "rows, not in order": [((3, 0), (1, 6)), ((0, 0), (3, 6))],
    "columns": [((0, 0), (4, 2)), ((0, 2), (4, 4))],
    "a grid": [((i, j), (2, 3)) for i in (0, 2) for j in (0, 3)],
    "no grid": [((0, 0), (1, 4)), ((0, 4), (3, 2)), ((1, 0), (3, 3)), ((1, 3), (2, 1)), ((3, 3), (1, 3))],
    "an empty one behind the end": [((0, 0), (4, 6)), ((4, 0), (0, 6))],
}


@pytest.mark.parametrize("boxes", TILINGS.values(), ids=TILINGS)
def test_tensors_are_put_together_of_their_chunks(tmp_path: Path, boxes: list[Box]) -> None:
    folder = chunked(tmp_path / "c", ARRAY, boxes)
    loaded = wl.load(folder)
    np.testing.assert_array_equal(loaded["w"], ARRAY)
    assert wl.verify(folder).ok
    with wl.open(folder) as weights:
        np.testing.assert_array_equal(weights["w"][1:3], ARRAY[1:3])


def test_chunks_by_rows_are_one_run_with_one_checksum(tmp_path: Path) -> None:
    folder = chunked(tmp_path / "c", ARRAY, TILINGS["rows, not in order"])
    with wl.open(folder) as weights:
        assert weights["w"].stored_nbytes == ARRAY.nbytes
    data = bytearray((folder / "__0_0.distcp").read_bytes())
    at = data.find(ARRAY[3].tobytes())
    data[at] ^= 1
    (folder / "__0_0.distcp").write_bytes(bytes(data))
    assert [report.status for report in wl.verify(folder).tensors] == ["corrupt"]
    with pytest.raises(wl.ChecksumError, match="'w'"):
        wl.load(folder)


BAD: dict[str, tuple[list[Box], str]] = {
    "hole": ([((0, 0), (4, 2)), ((0, 3), (4, 3))], r"no chunk has the element at \[0, 2\]"),
    "hole, as large as the overlap": ([((0, 0), (3, 6)), ((2, 0), (1, 6))], r"\[1, 6\] at \[2, 0\] overlaps"),
    "overlap": ([((0, 0), (4, 4)), ((0, 3), (4, 3))], r"\[4, 3\] at \[0, 3\] overlaps the chunk of shape \[4, 4\]"),
    "out of bounds": ([((0, 0), (4, 6)), ((4, 0), (1, 6))], r"chunk 1, \[1, 6\] at \[4, 0\], reaches out"),
    "nothing": ([], r"no chunk has the element at \[0, 0\]"),
    "other axes": ([((0,), (4,))], "chunk 0 has 1 offsets"),
}


@pytest.mark.parametrize(("boxes", "message"), BAD.values(), ids=BAD)
def test_chunks_that_do_not_fill_their_tensor_are_refused(tmp_path: Path, boxes: list[Box], message: str) -> None:
    keys = {str(i): index("w", begin) for i, (begin, _) in enumerate(boxes)}
    parts = {str(i): saved(size, bytes(4 * int(np.prod(size)))) for i, (_, size) in enumerate(boxes)}
    folder = write(tmp_path / "c", parts, {"w": tensor((4, 6), boxes)}, keys)
    with pytest.raises(wl.FormatError, match=message) as caught:
        wl.load(folder)
    assert caught.value.tensor == "w"
    assert caught.value.path == str(folder / ".metadata")


@pytest.mark.parametrize("file", ["../x", "/etc/passwd", "a/b", "..", "", "c:x", "a\\b", "a\0"])
def test_files_elsewhere_are_refused(tmp_path: Path, file: str) -> None:
    content = metadata({"w": tensor((1,), [((0,), (1,))])}, {index("w", (0,)): place(file, 0, 1)})
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(wl.UnsafeContentError, match="only files beside"):
        wl.open(tmp_path)


def test_what_is_stored_must_be_what_the_metadata_say(tmp_path: Path) -> None:
    one = {"w": index("w", (0,))}
    folder = write(tmp_path / "c", {"w": saved((2,), bytes(8))}, {"w": tensor((3,), [((0,), (3,))])}, one)
    with pytest.raises(wl.FormatError, match=r"float32 of shape \[2\]; float32 was to be there"):
        wl.load(folder)
    other = tensor((2,), [((0,), (2,))], dtype="int32")
    folder = write(tmp_path / "c", {"w": saved((2,), bytes(8))}, {"w": other}, one)
    with pytest.raises(wl.FormatError, match="int32 was to be there"):
        wl.load(folder)
    no_tensor = made.archive(made.pickled(b"K\1"))
    folder = write(tmp_path / "c", {"w": no_tensor}, {"w": tensor((2,), [((0,), (2,))])}, one)
    with pytest.raises(wl.FormatError, match="stored as a int, not as a tensor"):
        wl.load(folder)
    folder = write(tmp_path / "c", {"w": b"RAW"}, {"w": tensor((2,), [((0,), (2,))])}, one)
    with pytest.raises(wl.FormatError, match="not a torch file"):
        wl.load(folder)


def test_places_out_of_the_file_and_missing_files(tmp_path: Path) -> None:
    folder = chunked(tmp_path / "c", ARRAY, TILINGS["rows"])
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(data[:-1])
    with pytest.raises(wl.FormatError, match=f"the file has {len(data) - 1}") as caught:
        wl.load(folder)
    assert caught.value.tensor == "w" and caught.value.path == str(folder / "__0_0.distcp")
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(wl.NotFoundError, match=r"name the file '__0_0\.distcp'"):
        wl.load(folder)


def test_a_chunk_that_is_stored_nowhere_or_twice(tmp_path: Path) -> None:
    entry = {"w": tensor((2,), [((0,), (2,))])}
    (tmp_path / ".metadata").write_bytes(metadata(entry, {}))
    with pytest.raises(wl.FormatError, match="do not say where chunk 0"):
        wl.load(tmp_path)
    twice = Raw(b"}(" + (index("w", (0,)) + place("a", 0, 1)) * 2 + b"u")
    state = {"state_dict_metadata": entry, "storage_data": twice}
    (tmp_path / ".metadata").write_bytes(made.pickled(record("Metadata", state)))
    with pytest.raises(wl.FormatError, match="stored twice"):
        wl.load(tmp_path)


def test_code_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    entry, keys = {"w": tensor((1,), [((0,), (1,))]), "o": OBJECT}, {"w": index("w", (0,)), "o": index("o")}
    parts = {"w": saved((1,), bytes(4)), "o": made.archive(pickle.dumps(Evil()))}
    folder = write(tmp_path / "c", parts, entry, keys)
    with pytest.raises(wl.UnsafeContentError, match=r"pathlib.*touch|getattr") as caught:
        wl.load(folder)
    assert caught.value.tensor == "o"
    assert wl.load(folder, skip_unsafe=True) == {"w": 0}
    code = Raw(made.name("os", "system") + value(("touch ran",)) + b"R")
    write(tmp_path / "c", {"w": parts["w"]}, {"w": entry["w"]}, keys, storage_meta=code)
    with pytest.raises(wl.UnsafeContentError, match=r"os\.system"):
        wl.load(folder)
    assert wl.load(folder, skip_unsafe=True) == {"w": 0}
    assert not (tmp_path / "ran").exists()


def test_the_object_that_was_saved_comes_back(tmp_path: Path) -> None:
    array = np.arange(2, dtype="f4")
    held = made.tensor((2,), (1,), 0, made.storage(numel=2))
    inner = made.archive(made.pickled(b"(" + held + b"K\5t"), {"0": array.tobytes()})
    parts = {"a": saved((2,), array.tobytes()), "b": made.archive(made.pickled(b"K\7")), "c": inner}
    keys = {"a": index("l.1.w", (0,)), "b": index("l.0"), "c": index("t")}
    entries = {"l.0": OBJECT, "l.1.w": tensor((2,), [((0,), (2,))]), "t": OBJECT}
    paths = {"l.1.w": ("l", 1, "w"), "l.0": ("l", 0), "t": ("t",)}
    folder = write(tmp_path / "c", parts, entries, keys, planner=paths)
    found = wl.load(folder)
    assert repr(found) == repr({"l": [7, {"w": array}], "t": (array, 5)})
    assert set(wl.open(folder)) == {"l.1.w", "t.0"}
    flat = wl.load(write(tmp_path / "c", parts, entries, keys))
    assert repr(flat) == repr({"l.0": 7, "l.1.w": array, "t": (array, 5)})
    for wrong in ({"l.1.w": ("l", "k"), "l.0": ("l", 0)}, {"t": ("l.0",)}, {"t": ("l.0", "x")}, {"t": ("l", 10**9)}):
        write(tmp_path / "c", parts, entries, keys, planner=wrong)
        with pytest.raises(wl.FormatError, match="path"):
            wl.load(folder)


def test_elements_of_lists_that_have_no_path() -> None:
    """Empty dicts, of which the planner keeps nothing; what was left out of the checkpoint is None."""
    paths: dict[str, tuple[str | int, ...]] = {"m.1": ("m", 1), "m.2.a": ("m", 2, "a"), "m.4": ("m", 4)}
    structure = structure_of({"m.1": "m.1", "m.4": "m.4"}, paths)
    none = {"value": None}
    elements = [{"dict": []}, "m.1", none, {"dict": []}, "m.4"]
    assert structure == {"dict": [["m", {"list": elements}]]}
    with pytest.raises(wl.FormatError, match="not all others"):
        structure_of({"m": "m"}, {"m": ("m", 10**9)})


def test_older_and_other_metadata(tmp_path: Path) -> None:
    old = "torch.distributed._shard.sharded_tensor.metadata"
    folder = chunked(tmp_path / "c", ARRAY, TILINGS["whole"], module=old, enum="MEM_FORMAT_ENCODING")
    np.testing.assert_array_equal(wl.load(folder)["w"], ARRAY)
    entries = {"w": tensor((1,), [((0,), (1,))]), "v": tensor((1,), [((0,), (1,))])}
    data = saved((1,), bytes(4))
    storage = {
        index("w", (0,)): place("f", 0, len(data)),
        index("v", (0,)): place("f", 0, len(data), transform_descriptors=["zstd"]),
    }
    (folder / "f").write_bytes(data)
    (folder / ".metadata").write_bytes(metadata(entries, storage))
    assert wl.load(folder, names="w") == {"w": 0}
    with pytest.raises(wl.UnsupportedFeatureError, match="transformed by zstd"):
        wl.load(folder)


def test_chunks_in_other_orders(tmp_path: Path) -> None:
    """By rows each is a piece of its own; by columns it is refused by name."""
    turned = saved((2, 3), ARRAY[:2, :3].T.tobytes(), (1, 2))
    straight = saved((2, 3), ARRAY[2:, :3].tobytes())
    boxes: list[Box] = [((0, 0), (2, 3)), ((2, 0), (2, 3))]
    keys = {"a": index("w", (0, 0)), "b": index("w", (2, 0))}
    folder = write(tmp_path / "c", {"a": turned, "b": straight}, {"w": tensor((4, 3), boxes)}, keys)
    with pytest.raises(wl.UnsupportedFeatureError, match="not in C order"):
        wl.load(folder)
    alone = write(tmp_path / "d", {"a": turned}, {"w": tensor((2, 3), boxes[:1])}, keys)
    np.testing.assert_array_equal(wl.load(alone)["w"], ARRAY[:2, :3])


def test_any_file_of_it_stands_for_the_checkpoint(tmp_path: Path) -> None:
    folder = chunked(tmp_path / "c", ARRAY, TILINGS["columns"])
    for name in (".", ".metadata", "__0_0.distcp"):
        assert wl.open(folder / name).url == str(folder / name)
        np.testing.assert_array_equal(wl.load(folder / name)["w"], ARRAY)
    np.testing.assert_array_equal(wl.load(folder.as_uri())["w"], ARRAY)
    assert by_suffix("x/.metadata") is DCP


def test_it_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="read, not written"):
        wl.save({"w": ARRAY}, tmp_path / "x", format="dcp")
    assert not list(tmp_path.iterdir())


def test_remotely_only_what_is_asked_for_is_fetched() -> None:
    """Of a checkpoint in two files: the metadata, and the headers and bytes of one tensor."""
    folder = FOLDER / "sharded"
    asked: list[str] = []

    def answer(handler: Exchange) -> None:
        file = folder / handler.path.rpartition("/")[2]
        asked.append(file.name)
        if file.is_file():
            handler.reply_range(file.read_bytes())
        else:
            handler.reply(404)

    expected = wl.load(folder)
    with serve(answer) as server:
        found = wl.load(f"{server.url}/c/", names="tensors.whole")
        np.testing.assert_array_equal(found["tensors.whole"], expected["tensors"]["whole"])
        assert "__1_0.distcp" in asked and "__0_0.distcp" not in asked
        asked.clear()
        both = wl.load(f"{server.url}/c/.metadata")
        assert sorted(asked) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    np.testing.assert_array_equal(both["tensors"]["columns"], expected["tensors"]["columns"])
    assert both["epoch"] == 3


def test_the_layout_of_sharded_tensors() -> None:
    from weightlift._source import open_source

    layout = open_source(FOLDER / "sharded").layout
    (piece,) = layout.tensors["tensors.rows"].pieces
    assert isinstance(piece.where, Chain)
    assert [extent.source for extent in piece.where.extents] == [0, 1]
    assert layout.sources == ("__0_0.distcp", "__1_0.distcp")


LONG = {  # boxes whose rows are long enough to be read into their place
    "columns": ((8, 4096), [((0, 2048), (8, 2048)), ((0, 0), (8, 2048))]),
    "a grid": ((8, 2048), [((i, j), (4, 1024)) for i in (4, 0) for j in (0, 1024)]),
    "middle": ((3, 4, 2048), [((0, 0, 0), (3, 1, 2048)), ((0, 1, 0), (3, 3, 2048))]),
    "some short": ((4, 2000), [((0, 0), (4, 1990)), ((0, 1990), (4, 10))]),
}


@pytest.mark.parametrize(("shape", "boxes"), LONG.values(), ids=LONG)
def test_long_rows_of_chunks_go_into_their_place(tmp_path: Path, shape: tuple[int, ...], boxes: list[Box]) -> None:
    array = np.random.default_rng(1).normal(size=shape).astype("f4")
    folder = chunked(tmp_path / "c", array, boxes)
    for memory in ("arena", "tensor", "map"):
        np.testing.assert_array_equal(wl.load(folder, memory=memory)["w"], array)
    out = {"w": np.zeros(shape, "f8")}
    wl.load(folder, out=out)
    np.testing.assert_array_equal(out["w"], array)
    with wl.open(folder) as weights:
        np.testing.assert_array_equal(weights["w"][1:3], array[1:3])
    assert wl.verify(folder).ok
    asked: list[str] = []

    def answer(handler: Exchange) -> None:
        file = folder / handler.path.rpartition("/")[2]
        asked.append(file.name)
        handler.reply_range(file.read_bytes()) if file.is_file() else handler.reply(404)

    with serve(answer) as server:
        np.testing.assert_array_equal(wl.load(f"{server.url}/c/.metadata")["w"], array)
    assert len(asked) <= 5, "a request is of many rows"

    file = folder / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    begin, size = boxes[-1]
    where = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
    data[data.find(array[where].tobytes()) + 5] ^= 1
    file.write_bytes(data)
    with pytest.raises(wl.ChecksumError) as caught:
        wl.load(folder)
    assert caught.value.tensor == "w"
    wl.load(folder, verify=False)
