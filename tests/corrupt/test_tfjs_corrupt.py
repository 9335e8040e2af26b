"""TensorFlow.js files that are damaged, mistaken or hostile: the right error, and a message that says where."""

from __future__ import annotations

import json
import os
import random
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift.formats._tfjs import TFJS
from weightlift.testing import MemoryFiles

WEIGHTS = [
    {"name": "a", "shape": [2, 4], "dtype": "float32"},
    {"name": "s", "shape": [2], "dtype": "string"},
    {"name": "b", "shape": [8], "dtype": "float32", "quantization": {"dtype": "uint8", "min": 0.0, "scale": 0.5}},
]
DATA = np.arange(8, dtype="f4").tobytes() + b"\2\0\0\0hi\0\0\0\0" + bytes(range(8))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 50\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A sound model of two shards."""
    (tmp_path / "one.bin").write_bytes(DATA[:20])
    (tmp_path / "two.bin").write_bytes(DATA[20:])
    save(tmp_path, {})
    assert set(wl.load(tmp_path)) == {"a", "s", "b"}
    return tmp_path


def save(folder: Path, changes: dict[str, Any], weights: Any = WEIGHTS, paths: Any = ("one.bin", "two.bin")) -> None:
    document = {"modelTopology": None, "weightsManifest": [{"paths": paths, "weights": weights}], **changes}
    (folder / "model.json").write_text(json.dumps(document))


def refused(folder: Path, error: type[Exception], *parts: str) -> Exception:
    """Loading and opening fail alike, and the message holds every part."""
    with pytest.raises(error) as caught:
        wl.load(folder / "model.json")
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"
    with pytest.raises(error):
        wl.open(folder / "model.json")
    return caught.value


# ---- weight files ------------------------------------------------------------------------------------------
def test_truncated_shard(model: Path) -> None:
    (model / "two.bin").write_bytes(DATA[20:-3])
    refused(model, wl.FormatError, "group 1", "take 50 bytes", "hold 47", "'one.bin' 20, 'two.bin' 27")


def test_extended_shard(model: Path) -> None:
    (model / "two.bin").write_bytes(DATA[20:] + b"\0")
    refused(model, wl.FormatError, "take 50 bytes", "hold 51")


def test_empty_shard(model: Path) -> None:
    (model / "one.bin").write_bytes(b"")
    refused(model, wl.FormatError, "group 1", "'one.bin' is an empty file")


def test_missing_shard(model: Path) -> None:
    (model / "two.bin").unlink()
    error = refused(model, wl.NotFoundError, "'two.bin' (2 of 2 in group 1) is missing")
    assert str(getattr(error, "path", "")).endswith("two.bin")


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>404</html>", b"\n  <html lang=en><body>Not found"])
def test_html_page_in_place_of_a_shard(model: Path, page: bytes) -> None:
    (model / "two.bin").write_bytes(page + b" " * 500)
    refused(model, wl.FormatError, "'two.bin' is an HTML or XML page")


def test_lfs_pointer_in_place_of_a_shard(model: Path) -> None:
    (model / "one.bin").write_bytes(LFS)
    refused(model, wl.FormatError, "'one.bin' is a git-LFS pointer", "git lfs pull")


def test_gzip_in_place_of_a_shard(model: Path) -> None:
    (model / "one.bin").write_bytes(b"\x1f\x8b\x08" + bytes(60))
    refused(model, wl.FormatError, "'one.bin' is gzip-compressed")


def test_shard_that_went_through_text(model: Path) -> None:
    mangled = np.random.default_rng(1).bytes(4000).decode("utf-8", "replace").encode()
    (model / "one.bin").write_bytes(mangled)
    refused(model, wl.FormatError, "'one.bin' is text-mangled", "EF BF BD")


def test_a_directory_in_place_of_a_shard(model: Path) -> None:
    (model / "one.bin").unlink()
    (model / "one.bin").mkdir()
    refused(model, wl.WeightliftError, "one.bin")


def test_a_pipe_in_place_of_a_shard(model: Path) -> None:
    (model / "one.bin").unlink()
    os.mkfifo(model / "one.bin")
    refused(model, wl.WeightliftError, "one.bin")


def test_shards_in_the_wrong_order_are_noticed_by_checksums(tmp_path: Path) -> None:
    wl.save({"w": np.arange(64, dtype="f4")}, tmp_path / "model.json", shard_size=64)
    a, b = tmp_path / "group1-shard1of4.bin", tmp_path / "group1-shard2of4.bin"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(wl.ChecksumError) as caught:
        wl.load(tmp_path)
    assert caught.value.tensor == "w"


@pytest.mark.parametrize("quantize", [None, "uint8", "uint16", "float16"])
def test_every_flipped_bit_of_weights_is_noticed(tmp_path: Path, quantize: str | None) -> None:
    tensors = {"w": np.linspace(-1, 1, 9, dtype="f4"), "s": np.array([b"abc", b""], object)}
    wl.save(tensors, tmp_path / "model.json", quantize=quantize)
    good = (tmp_path / "weights.bin").read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (tmp_path / "weights.bin").write_bytes(bad)
        with pytest.raises((wl.ChecksumError, wl.FormatError)):
            wl.load(tmp_path)
        assert not _verified(tmp_path)


def test_every_flipped_bit_of_the_document_is_noticed(tmp_path: Path) -> None:
    """But for those that only rename our own key, which leaves a sound file without checksums."""
    wl.save({"w": np.arange(3, dtype="f4")}, tmp_path / "model.json", metadata={"epoch": 3}, quantize="uint8")
    good = (tmp_path / "model.json").read_bytes()
    own = range(good.index(b'"weightlift"'), good.index(b'"weightlift"') + 12)
    loaded = []
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (tmp_path / "model.json").write_bytes(bad)
        try:
            wl.load(tmp_path / "model.json")
        except wl.WeightliftError:
            continue
        loaded.append(bit // 8)
    unnoticed = [i for i in loaded if i not in own]
    assert not unnoticed, [good[i - 10 : i + 10] for i in unnoticed]


def _verified(folder: Path) -> bool:
    try:
        return wl.verify(folder).ok
    except wl.WeightliftError:
        return False


# ---- paths -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../one.bin", "leads out of the directory"),
        ("a/../../one.bin", "leads out of the directory"),
        ("a/..", "leads out of the directory"),
        ("/etc/passwd", "absolute"),
        ("//host/share", "absolute"),
        ("..\\one.bin", "backslash"),
        ("one.bin\0.json", "NUL"),
        ("C:/one.bin", "drive letter"),
        ("http://host/one.bin", "URL"),
        ("file:///etc/passwd", "URL"),
    ],
)
def test_paths_that_lead_elsewhere(model: Path, path: str, reason: str) -> None:
    save(model, {}, paths=["one.bin", path])
    refused(model, wl.UnsafeContentError, reason, "group 1")


def test_percent_signs_are_not_decoded(model: Path) -> None:
    save(model, {}, paths=["one.bin", "%2e%2e/two.bin"])
    refused(model, wl.NotFoundError, "%2e%2e/two.bin")


def test_link_out_of_the_directory(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.bin"
    outside.write_bytes(DATA[20:])
    (model / "two.bin").unlink()
    (model / "two.bin").symlink_to(outside)
    refused(model, wl.UnsafeContentError, "two.bin")


def test_link_to_a_folder_outside(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "two.bin").write_bytes(DATA[20:])
    (model / "sub").symlink_to(outside)
    save(model, {}, paths=["one.bin", "sub/two.bin"])
    refused(model, wl.UnsafeContentError, "sub/two.bin")


def test_link_inside_the_directory_is_followed(model: Path) -> None:
    (model / "sub").mkdir()
    (model / "two.bin").rename(model / "sub" / "real.bin")
    (model / "two.bin").symlink_to("sub/real.bin")
    assert set(wl.load(model)) == {"a", "s", "b"}


@pytest.mark.parametrize("paths", [["one.bin", "one.bin"], ["one.bin", "./one.bin"]])
def test_a_shard_listed_twice(model: Path, paths: list[str]) -> None:
    save(model, {}, paths=paths)
    refused(model, wl.FormatError, "'one.bin'", "listed before")


# ---- the manifest ------------------------------------------------------------------------------------------
def test_duplicate_names(model: Path) -> None:
    save(model, {}, weights=[WEIGHTS[0], WEIGHTS[1], WEIGHTS[2] | {"name": "a"}])
    error = refused(model, wl.FormatError, "same name")
    assert getattr(error, "tensor", None) == "a"


def test_duplicate_names_in_two_groups(model: Path) -> None:
    one = {"paths": ["one.bin"], "weights": [{"name": "x", "shape": [5], "dtype": "float32"}]}
    two = {"paths": ["two.bin"], "weights": [{"name": "x", "shape": [30], "dtype": "bool"}]}
    save(model, {"weightsManifest": [one, two]})
    refused(model, wl.FormatError, "same name", "'x'")


@pytest.mark.parametrize(
    "shape",
    [[2**40], [2**62, 2**62], [2**31, 2**31, 4], [3, 4], [7]],
)
def test_shapes_that_the_files_do_not_hold(model: Path, shape: list[int]) -> None:
    save(model, {}, weights=[{**WEIGHTS[0], "shape": shape}, *WEIGHTS[1:]])
    tracemalloc.start()
    refused(model, wl.FormatError, "group 1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("shape", [[-1], [2, -4], [2.0, 4], ["8"], [True, 8], None, {}, 8, [2**63], [2**64]])
def test_shapes_that_are_none(model: Path, shape: Any) -> None:
    save(model, {}, weights=[{**WEIGHTS[0], "shape": shape}, *WEIGHTS[1:]])
    refused(model, wl.FormatError, "the shape is", "'a'")


def test_empty_shape_with_dimensions_beyond_memory(model: Path) -> None:
    save(model, {}, weights=[*WEIGHTS, {"name": "e", "shape": [0, 2**62, 2**62], "dtype": "float32"}])
    refused(model, wl.FormatError, "'e'")


def test_too_many_dimensions(model: Path) -> None:
    save(model, {}, weights=[{**WEIGHTS[0], "shape": [1] * 100_000}, *WEIGHTS[1:]])
    refused(model, wl.UnsupportedFeatureError, "dimensions")


@pytest.mark.parametrize("count", [2**60, 10, 3, 1])
def test_string_counts_that_the_files_do_not_hold(model: Path, count: int) -> None:
    save(model, {}, weights=[WEIGHTS[0], {**WEIGHTS[1], "shape": [count]}, WEIGHTS[2]])
    refused(model, wl.FormatError, "group 1")


def test_string_length_beyond_the_files(model: Path) -> None:
    (model / "two.bin").write_bytes(DATA[20:32] + b"\xff\xff\xff\x7f" + DATA[36:])
    refused(model, wl.FormatError, "group 1", "take at least")


@pytest.mark.parametrize(
    ("quantization", "part"),
    [
        ({"dtype": "uint8", "min": 0.0}, "'scale' is None"),
        ({"dtype": "uint8", "scale": "1", "min": 0.0}, "'scale' is '1'"),
        ({"dtype": "int4", "scale": 1, "min": 0.0}, "unknown quantization 'int4'"),
        ("uint8", "unknown quantization 'uint8'"),
    ],
)
def test_quantizations_that_are_none(model: Path, quantization: Any, part: str) -> None:
    save(model, {}, weights=[*WEIGHTS[:2], {**WEIGHTS[2], "quantization": quantization}])
    refused(model, wl.FormatError, part, "'b'")


def test_unknown_dtype_is_named(model: Path) -> None:
    save(model, {}, weights=[{**WEIGHTS[0], "dtype": "float64"}, *WEIGHTS[1:]])
    refused(model, wl.UnsupportedFeatureError, "unsupported dtype 'float64'", "'a'")


# ---- the JSON ----------------------------------------------------------------------------------------------
def _replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        (_replace(b'"min": 0.0', b'"min": NaN'), wl.FormatError, "NaN"),
        (_replace(b'"scale": 0.5', b'"scale": Infinity'), wl.FormatError, "Infinity"),
        (_replace(b'"scale": 0.5', b'"scale": 1e999'), wl.FormatError, "float64"),
        (_replace(b'"a"', b'"\xff"'), wl.FormatError, "UTF-8"),
        (_replace(b'"a"', b'"\\ud800"'), wl.FormatError, "surrogate"),
        (_replace(b'"shape": [2, 4]', b'"shape": [2, 4], "shape": [8]'), wl.FormatError, "twice"),
        (lambda text: text[:-5], wl.FormatError, "not valid JSON"),
        (lambda text: text + b"{}", wl.FormatError, "not valid JSON"),
        (lambda text: b"", wl.FormatError, "empty"),
        (lambda text: LFS, wl.FormatError, "git-LFS pointer"),
        (lambda text: b"<html>404</html>", wl.FormatError, "HTML"),
        (lambda text: b"{}", wl.FormatError, "neither"),
        (lambda text: b"[" * 100_000, wl.UnsafeContentError, "nested"),
        (_replace(b"null", b"[" * 500 + b"]" * 500), wl.UnsafeContentError, "nested"),
    ],
)
def test_documents_that_are_none(
    model: Path, change: Callable[[bytes], bytes], error: type[Exception], part: str
) -> None:
    path = model / "model.json"
    path.write_bytes(change(path.read_bytes()))
    refused(model, error, part, "model.json")


def test_a_document_too_large_is_not_read(model: Path) -> None:
    with open(model / "model.json", "r+b") as file:
        file.truncate(1 << 33)
    refused(model, wl.UnsafeContentError, str(1 << 33))


def test_no_document(model: Path) -> None:
    (model / "model.json").unlink()
    refused(model, wl.NotFoundError, "model.json")


@pytest.mark.parametrize(
    "record",
    [
        None,
        3,
        {},
        {"version": "1"},
        {"version": 99},
        {"version": 1, "crc32c": {"a": "xyz"}},
        {"version": 1, "crc32c": {"a": 3}},
        {"version": 1, "dtypes": {"a": "int8"}},
        {"version": 1, "dtypes": {"b": "bfloat16"}},
        {"version": 1, "dtypes": {"a": "no such"}},
        {"version": 1},
    ],
)
def test_records_of_ours_that_make_no_sense(model: Path, record: Any) -> None:
    save(model, {"weightlift": record})
    with pytest.raises(wl.FormatError):
        wl.load(model)


# ---- anything at all ---------------------------------------------------------------------------------------
VALUES = (
    b"null", b"true", b"-1", b"0", b"3", b"1e99", b'""', b'"x"', b"[]", b"{}", b"[[]]", b'{"dtype":"uint8"}',
    b'["float32"]', b"18446744073709551616", b'"float16"', b'"string"', b'"../x"', b'{"version":1}',
)  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_documents_with_random_changes_are_read_or_refused(seed: int) -> None:
    """Values swapped for others, bytes dropped, doubled or changed: only errors of ours come out."""
    rng = random.Random(seed)
    record = {"version": 1, "crc32c": {"a": "00000000"}, "dtypes": {"b": "float32"}, "digest": "00000000"}
    groups = [{"paths": ["one.bin", "two.bin"], "weights": WEIGHTS}]
    good = json.dumps({"modelTopology": None, "weightsManifest": groups, "weightlift": record}).encode()
    spans = [m.span() for m in re.finditer(rb'"[^"]*"|-?[\d.]+|null|\[[^\[\]]*\]', good)]
    files = {"one.bin": DATA[:20], "two.bin": DATA[20:]}
    for _ in range(100):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            begin, end = rng.choice(spans) if rng.random() < 0.7 else (rng.randrange(len(bad)),) * 2
            bad[begin : end + (begin == end)] = rng.choice(VALUES) if rng.random() < 0.8 else rng.randbytes(2)
        try:
            TFJS.read(MemoryFiles({**files, "model.json": bytes(bad)}), "model.json")
        except wl.WeightliftError as error:
            assert str(error)
