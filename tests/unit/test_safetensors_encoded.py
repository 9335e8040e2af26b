"""Tensors that an index says are stored compressed: what is not as it should be is an error that names the tensor."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.checkpoint_support import equal

import weightlift as wl
from weightlift._checksum import crc32c
from weightlift._zstd import compress

zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")

W = np.arange(6000, dtype=np.float32).reshape(60, 100)
SAID: dict[str, Any] = {
    "codec": "zstd", "dtype": "F32", "shape": [60, 100], "shuffle": 4,
    "crc32c": crc32c(W.tobytes()),
}  # fmt: skip


def write(folder: Path, encoded: Any, stored: np.ndarray | None = None, metadata: dict[str, Any] | None = None) -> Path:
    """An index over one shard, without checksums of its own."""
    arrays = {"w": compress(W, 1) if stored is None else stored, "x": np.arange(4)}
    wl.save(arrays, folder / "shard.safetensors")
    document = {
        "metadata": {"weightlift.encoded": encoded} | (metadata or {}),
        "weight_map": dict.fromkeys(arrays, "shard.safetensors"),
    }
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps(document))
    return index


def test_compressed_bytes_are_a_tensor(tmp_path: Path) -> None:
    index = write(tmp_path, {"w": SAID})
    assert equal(wl.load(index), {"w": W, "x": np.arange(4)}) and wl.verify(index).ok
    raw = wl.load(tmp_path / "shard.safetensors")["w"]  # what other tools see
    assert raw.dtype == np.uint8 and raw.ndim == 1 and raw.nbytes < W.nbytes / 2
    wl.convert(index, tmp_path / "plain.safetensors.index.json")
    assert "weightlift.encoded" not in (tmp_path / "plain.safetensors.index.json").read_text()
    with pytest.raises(wl.UnsupportedFeatureError, match="reserved"):
        wl.save({"w": W}, tmp_path / "r.safetensors.index.json", metadata={"weightlift.encoded": "x"})


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ([], "is not an object"),
        ({"w": 3}, "not an object"),
        ({"y": SAID}, "not in the shards"),
        ({"x": SAID}, "stored as int64"),
        ({"w": SAID | {"dtype": "F33"}}, "the type"),
        ({"w": SAID | {"dtype": ["F32"]}}, "the type"),
        ({"w": SAID | {"dtype": "F4"}}, "the type"),
        ({"w": SAID | {"shape": 6000}}, "is no shape"),
        ({"w": SAID | {"shape": [60, -100]}}, "is no shape"),
        ({"w": SAID | {"shape": [60, 100.0]}}, "is no shape"),
        ({"w": SAID | {"shape": [True] * 2}}, "is no shape"),
        ({"w": SAID | {"shape": [1] * 65}}, "is no shape"),
        ({"w": SAID | {"shape": [60, 0]}}, "cannot hold"),
        ({"w": SAID | {"shape": [1 << 40, 1 << 40]}}, "cannot hold|overflow|too large"),
        ({"w": SAID | {"shape": [1 << 28]}}, "cannot hold"),
        ({"w": SAID | {"shape": [60, 101]}}, "does not say that it holds 24240 bytes"),
        ({"w": SAID | {"shape": [60, 99]}}, "does not say that it holds 23760 bytes"),
        ({"w": SAID | {"shuffle": 2}}, "a shuffle of 2"),
        ({"w": SAID | {"shuffle": True}}, "a shuffle of True"),
        ({"w": {**SAID, "crc32c": None}}, "no checksum"),
        ({"w": SAID | {"crc32c": 1 << 32}}, "no checksum"),
        ({"w": SAID | {"crc32": "1"}}, "no checksum"),
    ],
)
def test_what_the_index_says_is_checked(tmp_path: Path, encoded: Any, message: str) -> None:
    with pytest.raises(wl.FormatError, match=message) as caught:
        wl.load(write(tmp_path, encoded))
    assert caught.value.path is not None and (not encoded or caught.value.tensor in encoded)


def test_another_codec_is_not_supported(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="'lz5'"):
        wl.load(write(tmp_path, {"w": SAID | {"codec": "lz5"}}))


def frame(data: bytes, **options: Any) -> np.ndarray:
    return np.frombuffer(zstandard.ZstdCompressor(level=1, **options).compress(data), np.uint8)


PLANES = W.reshape(-1, 1).view(np.uint8).T.tobytes()
GOOD = frame(PLANES)


def with_size(nbytes: int) -> np.ndarray:
    """The frame with another content size in its header (a field of 2 bytes, of which 256 are taken off)."""
    head = GOOD[4:5].tobytes()[0]
    assert head >> 6 == 1 and head & 0x20  # a field of 2 bytes; a single segment
    changed = bytearray(GOOD.tobytes())
    changed[5:7] = struct.pack("<H", nbytes - 256)
    return np.frombuffer(bytes(changed), np.uint8)


@pytest.mark.parametrize(
    ("stored", "said", "message"),
    [
        (with_size(24004), {"shape": [6001]}, "malformed zstd frame"),
        (with_size(23996), {"shape": [5999]}, "malformed zstd frame"),
        (with_size(24004), {}, "does not say"),
        (GOOD[:-3], {}, "malformed zstd frame"),
        (GOOD[:4], {}, "malformed zstd frame"),
        (np.concatenate([GOOD, GOOD[:1]]), {}, "malformed zstd frame"),
        (np.concatenate([GOOD, GOOD]), {}, "malformed zstd frame"),
        (np.zeros(1000, np.uint8), {}, "malformed zstd frame"),
        (frame(PLANES, write_content_size=False), {}, "does not say"),
        (np.frombuffer(struct.pack("<II", 0x184D2A50, 24000) + bytes(24000), np.uint8), {}, "zstd frame"),
    ],
)
def test_frames_are_checked(tmp_path: Path, stored: np.ndarray, said: Any, message: str) -> None:
    index = write(tmp_path, {"w": SAID | said}, stored)
    with pytest.raises(wl.FormatError, match=message) as caught:
        wl.load(index)
    assert caught.value.tensor == "w" and caught.value.path == str(tmp_path / "shard.safetensors")
    assert not wl.verify(index).ok


def test_a_wide_window_is_refused(tmp_path: Path) -> None:
    # magic, descriptor (a content size of 4 bytes), window of 1 GiB, size, then one raw block
    head = struct.pack("<IBBI", 0xFD2FB528, 0x80, (30 - 10) << 3, 24000)
    stored = np.frombuffer(head + (24000 << 3 | 1).to_bytes(3, "little") + PLANES, np.uint8)
    with pytest.raises(wl.FormatError, match="a window of 1073741824 bytes"):
        wl.load(write(tmp_path, {"w": SAID}, stored))


def test_other_values_are_noticed(tmp_path: Path) -> None:
    index = write(tmp_path, {"w": SAID}, compress(W + 1, 1))
    with pytest.raises(wl.ChecksumError, match="CRC-32C"):
        wl.load(index)
    assert [t.name for t in wl.verify(index).tensors if t.status == "corrupt"] == ["w"]
    assert equal(wl.load(index, verify=False)["w"], W + 1)


def test_a_flipped_byte_is_noticed_before_it_is_decoded(tmp_path: Path) -> None:
    index = write(tmp_path, {"w": SAID})
    shard = tmp_path / "shard.safetensors"
    data = bytearray(shard.read_bytes())
    data[data.index(GOOD.tobytes()) + len(GOOD) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(wl.ChecksumError, match="'w'"):
        wl.load(index)


@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_may_be_compressed(tmp_path: Path, axis: int) -> None:
    first, second = np.split(W, 2, axis)
    stored = {"w.1": compress(second, 1), "w.0": np.ascontiguousarray(first)}
    wl.save(stored, tmp_path / "shard.safetensors")
    begin = [30, 0] if axis == 0 else [0, 50]
    said = SAID | {"shape": list(second.shape), "crc32c": crc32c(np.ascontiguousarray(second).tobytes())}
    index = tmp_path / "m.safetensors.index.json"
    metadata = {
        "weightlift.pieces": {"w": {"shape": [60, 100], "pieces": {"w.0": [0, 0], "w.1": begin}}},
        "weightlift.encoded": {"w.1": said},
    }
    index.write_text(json.dumps({"metadata": metadata, "weight_map": dict.fromkeys(stored, "shard.safetensors")}))
    assert equal(wl.load(index), {"w": W}) and wl.verify(index).ok
    assert wl.load(index, dtype="float64")["w"].tolist() == W.tolist()
