"""The main job on real files: inspect, load, convert to every format and back, verify, diff."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.conftest import shared_fixtures

import weightlift as wl
from weightlift.cli._app import app

FRAMEWORKS = shared_fixtures("frameworks")
TFJS = shared_fixtures("tfjs")
TARGETS = {"safetensors": "out.safetensors", "npz": "out.npz", "tfjs": "out/model.json"}


def manifest() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((FRAMEWORKS / "manifest.json").read_text())["fixtures"]
    return entries


def loadable() -> list[str]:
    wanted = ("safetensors-0.8/", "numpy-1.23/", "numpy-2.4/")
    refused = {"safetensors-0.8/bad_dupkey.safetensors"}  # names a tensor twice: refused on purpose
    return [
        e["id"] for e in manifest()
        if e["id"].startswith(wanted) and e["must_be_rejected"] is False and e["id"] not in refused
        and e["format"] in ("safetensors", "safetensors-hf-sharded", "npy", "npz")
        and e["container"] in ("tensor", "dict")
    ]  # fmt: skip


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal shape and bytes; bfloat16 and float8 truths are kept as raw integers, long doubles as bytes."""
    if a.dtype == np.longdouble and b.dtype == np.uint8:
        return bool(np.array_equal(a, np.ascontiguousarray(b).view(np.longdouble).reshape(a.shape)))
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize("name", loadable())
def test_equals_truth(name: str) -> None:
    path = FRAMEWORKS / name
    truth = dict(np.load(FRAMEWORKS / f"{name}.truth.npz"))
    loaded = wl.load(path)
    tensors = loaded if isinstance(loaded, dict) else {"value": loaded}
    assert set(tensors) == set(truth)
    for key, array in tensors.items():
        native = truth[key].astype(truth[key].dtype.newbyteorder("=")) if truth[key].dtype.names is None else truth[key]
        assert same_bytes(array, native), key


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", loadable())
def test_convert_and_back(name: str, target: str, tmp_path: Path) -> None:
    source, there, back = FRAMEWORKS / name, tmp_path / TARGETS[target], tmp_path / "back.npz"
    original = wl.load(source)
    original = original if isinstance(original, dict) else {"tensor": original}
    try:
        wl.convert(source, there)
    except wl.UnsupportedFeatureError as error:
        assert not list(tmp_path.rglob("*.*")), "a refused conversion leaves nothing"
        assert any(n in str(error) for n in original), "the error names the tensor"
        return
    report = wl.verify(there)
    assert report.ok and not report.unchecked
    assert wl.verify(source).ok
    assert wl.diff(source, there).same
    converted = wl.load(there)
    converted = converted if isinstance(converted, dict) else {"tensor": converted}
    assert {k: v.dtype for k, v in converted.items()} == {k: v.dtype for k, v in original.items()}
    assert all(same_bytes(converted[k], original[k]) for k in original)
    wl.convert(there, back)
    again = wl.load(back)
    again = again if isinstance(again, dict) else {"tensor": again}
    assert all(same_bytes(a, b) for a, b in zip(again.values(), converted.values(), strict=True))


@pytest.mark.parametrize("name", loadable())
def test_inspect(name: str) -> None:
    done = CliRunner().invoke(app, ["inspect", "--json", str(FRAMEWORKS / name)], catch_exceptions=False)
    assert done.exit_code == 0
    listed = {t["name"]: t for t in json.loads(done.stdout)["tensors"]}
    with wl.open(FRAMEWORKS / name) as weights:
        assert {n: (t["dtype"], tuple(t["shape"])) for n, t in listed.items()} == {
            n: (str(v.dtype), v.shape) for n, v in weights.items()
        }


@pytest.mark.parametrize("model", ["selfie.json", "tiny_face_detector_model-weights_manifest.json"])
def test_published_tfjs_models(model: str, tmp_path: Path) -> None:
    source = TFJS / "real" / model
    truth_file = next(p for p in (TFJS / "truth").glob("*.json") if model.split("-")[0].split(".")[0] in p.name)
    truth = {w["name"]: w for w in json.loads(truth_file.read_text())["weights"]}
    loaded = wl.load(source)
    assert set(loaded) == set(truth)
    for name, array in loaded.items():
        assert list(array.shape) == truth[name]["shape"]
        assert hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() == truth[name]["sha256"], name
    for number, target in enumerate(("m.safetensors", "m.npz", "again/model.json")):
        wl.convert(source, tmp_path / target)
        report = wl.diff(source, tmp_path / target)
        assert report.same and report.equal == len(truth), (number, report.differences[:3])
        assert wl.verify(tmp_path / target).ok


@pytest.mark.parametrize(
    "entry",
    [e for e in manifest() if e["format"] in ("safetensors", "npy", "npz") and e["must_be_rejected"] is True],
    ids=lambda e: str(e["id"]),
)
def test_rejected_by_manifest(entry: dict[str, Any]) -> None:
    with pytest.raises((wl.FormatError, wl.TruncatedError)) as error:
        wl.load(FRAMEWORKS / entry["id"])
    assert entry["id"].rpartition("/")[2] in str(error.value), "the error names the file"
