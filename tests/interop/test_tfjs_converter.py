"""TensorFlow.js's Python converter: same bytes, scales and shards; what either writes the other reads.

Only its arithmetic and file modules are used; the TensorFlow that the package wants beside them is not needed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import weightlift as wl

SPEC = importlib.util.find_spec("tensorflowjs")
if SPEC is None or not SPEC.submodule_search_locations:
    pytest.skip("tensorflowjs is not installed", allow_module_level=True)

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def converter() -> Iterator[types.SimpleNamespace]:
    """Its modules, with a shell in place of the package and of TensorFlow, whose imports are slow or missing."""
    assert SPEC is not None
    shell = types.ModuleType("tensorflowjs")
    shell.__path__ = list(SPEC.submodule_search_locations or ())
    tensorflow = types.ModuleType("tensorflow")
    gfile = types.SimpleNamespace(GFile=open, exists=os.path.exists, makedirs=os.makedirs)
    tensorflow.io = types.SimpleNamespace(gfile=gfile)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflowjs", shell)
        patch.setitem(sys.modules, "tensorflow", tensorflow)
        names = ("quantization", "read_weights", "write_weights")
        yield types.SimpleNamespace(**{n: importlib.import_module(f"tensorflowjs.{n}") for n in names})
        for name in names:
            sys.modules.pop(f"tensorflowjs.{name}", None)


def tensors() -> dict[str, Array]:
    rng = np.random.default_rng(11)
    strings = np.empty(3, object)
    strings[:] = [b"ab", b"", "日本".encode()]
    return {
        "a/kernel": rng.normal(size=(50, 7)).astype("f4"),
        "a/bias": rng.random(13).astype("f4") + 2,
        "constant": np.full((4, 4), -0.25, "f4"),
        "ids": rng.integers(-9, 9, 11, dtype="i4"),
        "mask": rng.random(6) < 0.5,
        "wave": (rng.normal(size=3) + 1j).astype("c8"),
        "words": strings,
    }


def equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and (a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes())


QUANTIZE = [None, {"uint8": True}, {"uint16": True}, {"float16": True}, {"uint8": "a/*", "float16": ["const*"]}]


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("shard_size", [256, 4 << 20])
def test_it_reads_what_we_write(
    converter: types.SimpleNamespace, tmp_path: Path, quantize: Any, shard_size: int
) -> None:
    wl.save(tensors(), tmp_path / "model.json", quantize=quantize, shard_size=shard_size)
    manifest = json.loads((tmp_path / "model.json").read_text())["weightsManifest"]
    (group,) = converter.read_weights.read_weights(manifest, str(tmp_path))
    loaded = wl.load(tmp_path)
    assert [entry["name"] for entry in group] == list(loaded)
    for entry in group:
        assert equal(np.asarray(entry["data"]), loaded[entry["name"]]), entry["name"]


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="under NumPy 1 the converter works in float32"
)
@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("shard_size", [256, 1000, 4 << 20])
def test_we_write_the_same_files(
    converter: types.SimpleNamespace, tmp_path: Path, quantize: Any, shard_size: int
) -> None:
    plain = {n: a for n, a in tensors().items() if n not in ("mask", "words")}  # nothing that leaves elements unaligned
    wl.save(plain, tmp_path / "ours" / "model.json", quantize=quantize, shard_size=shard_size)
    (tmp_path / "theirs").mkdir()
    manifest = converter.write_weights.write_weights(
        [[{"name": n, "data": a.copy()} for n, a in plain.items()]],
        str(tmp_path / "theirs"),
        shard_size_bytes=shard_size,
        quantization_dtype_map=quantize,
    )
    (ours,) = json.loads((tmp_path / "ours" / "model.json").read_text())["weightsManifest"]
    (theirs,) = json.loads(json.dumps(manifest))
    assert ours["weights"] == theirs["weights"]
    whole = {who: b"".join((tmp_path / who / p).read_bytes() for p in g["paths"]) for who, g in
             (("ours", ours), ("theirs", theirs))}  # fmt: skip
    assert whole["ours"] == whole["theirs"]
    if not quantize:
        assert ours["paths"] == theirs["paths"]


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("shard_size", [100, 4 << 20])
def test_we_read_what_it_writes(
    converter: types.SimpleNamespace, tmp_path: Path, quantize: Any, shard_size: int
) -> None:
    everything = [{"name": n, "data": a.copy()} for n, a in tensors().items()]
    converter.write_weights.write_weights(
        [everything[:3], everything[3:]],
        str(tmp_path),
        shard_size_bytes=shard_size,
        quantization_dtype_map=quantize,
    )
    manifest = json.loads((tmp_path / "weights_manifest.json").read_text())
    expected = converter.read_weights.read_weights(manifest, str(tmp_path), flatten=True)
    loaded = wl.load(tmp_path / "weights_manifest.json")
    assert list(loaded) == [e["name"] for e in expected]
    for entry in expected:
        assert equal(np.asarray(entry["data"]), loaded[entry["name"]]), entry["name"]


def test_its_plain_uint8_is_read(converter: types.SimpleNamespace, tmp_path: Path) -> None:
    array = np.arange(5, dtype="u1")
    converter.write_weights.write_weights([[{"name": "u", "data": array}]], str(tmp_path))
    loaded = wl.load(tmp_path / "weights_manifest.json")["u"]
    assert loaded.dtype == np.uint8 and loaded.tolist() == array.tolist()
