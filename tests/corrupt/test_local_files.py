"""What is not a weights file, through the public API: each has its error, which says where and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not found</body></html>\n"
NAMES = ["x.safetensors", "x.npy", "x.npz", "x.json", "x.safetensors.index.json", "noname"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "hint"), [(LFS, "LFS"), (HTML, "HTML"), (b"", "empty"), (b"\0" * 100, ""), (b"\xff\xfe" * 50, "")]
)
def test_something_else_in_place_of_weights(content: bytes, hint: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (wl.load, wl.open):
        with pytest.raises((wl.FormatError, wl.TruncatedError)) as error:
            read(path)
        assert name in str(error.value)
        assert hint.lower() in str(error.value).lower()
    assert not wl.verify(path).ok


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(wl.NotFoundError, match=r"nothing\.safetensors"):
        wl.load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError):
        wl.open(tmp_path / "no" / "dir" / "x.npz")


def test_directory_and_special_files(tmp_path: Path) -> None:
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(wl.NotFoundError, match="directory"):
        wl.load(tmp_path / "d.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(wl.FormatError, match=r"FIFO|pipe"):
        wl.load(tmp_path / "pipe.safetensors")
    with pytest.raises(wl.WeightliftError):
        wl.load("/dev/zero", format="safetensors")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(wl.StorageError):
        wl.load(tmp_path / "loop")


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.npy", "m/model.json"])
def test_every_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    """A flip anywhere gives an error, or changes nothing that is loaded (JSON's white space, say)."""
    path = tmp_path / name
    values = np.arange(40, dtype=np.float32)
    obj = values if name.endswith("npy") else {"weight": values, "b": values[:3].astype(np.float16)}
    result = wl.save(obj, path)
    want = wl.load(path)
    want = want if isinstance(want, dict) else {"": want}
    sidecar = path.with_name(f"{path.name}.crc32c")
    for file in [*map(Path, result.files), *([sidecar] if sidecar.exists() else [])]:
        good = file.read_bytes()
        for position in range(0, len(good), 1 if len(good) < 1500 else 3):
            bad = bytearray(good)
            bad[position] ^= 1 << (position % 8)
            file.write_bytes(bad)
            try:
                got = wl.load(path)
            except (wl.FormatError, wl.TruncatedError, wl.StorageError):
                continue
            got = got if isinstance(got, dict) else {"": got}
            same = list(got) == list(want) and all(
                np.array_equal(got[k], want[k]) and got[k].dtype == want[k].dtype for k in want
            )
            assert same, f"flipped byte {position} of {file.name} loads as something else"
        file.write_bytes(good)


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.npy", "m/model.json"])
def test_every_truncation_is_noticed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    values = np.arange(20, dtype=np.float32)
    result = wl.save(values if name.endswith("npy") else {"weight": values}, path)
    for file in map(Path, result.files):
        good = file.read_bytes()
        for size in range(len(good)):
            file.write_bytes(good[:size])
            with pytest.raises((wl.FormatError, wl.TruncatedError)):
                wl.load(path)
        file.write_bytes(good + b"more")
        if file.suffix != ".json":
            with pytest.raises(wl.FormatError):
                wl.load(path)
        file.write_bytes(good)


def test_checksum_error_names_file_tensor_and_range(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    wl.save({"a": np.zeros(100, np.float32), "b": np.ones(100, np.float32)}, path)
    with wl.open(path) as weights:
        at = weights["b"].offset
    assert at is not None
    data = bytearray(path.read_bytes())
    data[at + 7] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(wl.ChecksumError) as error:
        wl.load(path)
    assert error.value.tensor == "b" and error.value.path == str(path)
    assert (error.value.offset, error.value.end) == (at, at + 400)
    report = wl.verify(path)
    assert report.corrupt == ("b",) and not report.ok and report.tensors[0].status == "ok"
    assert wl.load(path, names="a")["a"].sum() == 0, "other tensors still load"
    assert wl.load(path, verify=False)["b"].size == 100
    with pytest.raises(wl.ChecksumError):
        wl.convert(path, tmp_path / "y.npz")
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("change", ["truncate", "overwrite"])
def test_file_that_changes_while_it_is_read(change: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    wl.save({"a": np.zeros(1 << 16, np.float32)}, path)
    weights = wl.open(path, memory="arena")
    if change == "truncate":
        os.truncate(path, 5000)
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-4] + b"\1\2\3\4")
        os.utime(path, ns=(1, 1))
    with pytest.raises((wl.ChangedError, wl.TruncatedError)):
        weights["a"][...]


def test_index_must_stay_in_its_directory(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    wl.save({"w": np.ones(4, np.float32)}, tmp_path / "secret.safetensors")
    for shard in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "", "a/../../secret.safetensors"):
        (inside / "model.safetensors.index.json").write_text('{"metadata":{},"weight_map":{"w":"' + shard + '"}}')
        with pytest.raises(wl.UnsafeContentError):
            wl.load(inside / "model.safetensors.index.json")
    (inside / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (inside / "model.safetensors.index.json").write_text('{"metadata":{},"weight_map":{"w":"link.safetensors"}}')
    with pytest.raises(wl.UnsafeContentError, match="link"):
        wl.load(inside / "model.safetensors.index.json")


def test_links_of_a_download_cache_are_followed(tmp_path: Path) -> None:
    """The Hugging Face cache: every file of a snapshot is a link into one directory of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    result = wl.save(
        {"a": np.ones(4000, np.float32), "b": np.zeros(4000, np.float32)},
        blobs / "model.safetensors",
        shard_size=20_000,
    )
    for number, file in enumerate(map(Path, result.files)):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    assert set(wl.load(snapshot / "model.safetensors.index.json")) == {"a", "b"}


@pytest.mark.parametrize("save", [lambda p: wl.save({"w": np.ones(3)}, p), lambda p: wl.save(np.ones(3), p)])
def test_save_into_what_is_not_a_place(save: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((wl.StorageError, OSError)):
        save(tmp_path / "file" / "x.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(wl.WeightliftError):
        save(tmp_path / "pipe.safetensors")
