"""``.keras`` files that Keras wrote, read without it: the same artifacts as of the live model."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_graphs import MODELS, make
from tests.interop.keras_support import keras_or_skip

import weightlift as wl
from weightlift._weights import TensorView

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
keras = keras_or_skip()


def live(model: Any) -> wl.ModelArtifacts:
    kept: list[wl.ModelArtifacts] = []
    wl.save_model(model, wl.with_save_handler(kept.append))
    return kept[0]


def assert_same(a: wl.ModelArtifacts, b: wl.ModelArtifacts) -> None:
    assert a.model_topology == b.model_topology
    assert list(a.weights) == list(b.weights)
    for name in a.weights:
        np.testing.assert_array_equal(a.weights[name], b.weights[name], err_msg=name)
    assert (a.user_defined_metadata, a.generated_by, a.format) == (b.user_defined_metadata, b.generated_by, b.format)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_read_as_its_live_model_is_saved(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save(tmp_path / "m.keras")
    assert_same(wl.load_model(tmp_path / "m.keras"), live(model))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make("mlp").save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def test_the_options_of_load_model(saved: Path) -> None:
    seen: list[Any] = []
    artifacts = wl.load_model(saved, weight_names="*/kernel", progress=lambda *a: seen.append(a))
    assert list(artifacts.weights) == ["dense/kernel", "dense_1/kernel"]
    assert seen[-1] == (4 * (4 * 8 + 8 * 3),) * 2
    with pytest.raises(wl.MismatchError):
        wl.load_model(saved, weight_names=["gone"])
    with pytest.raises(wl.NotFoundError):
        wl.load_model(saved.with_name("gone.keras"))


def test_convert(saved: Path, tmp_path: Path) -> None:
    result = wl.convert(saved, tmp_path / "out", quantize="uint8", shard_size=64)
    assert result.format == "tfjs" and len(result.files) > 2
    document = json.loads((tmp_path / "out" / "model.json").read_text())
    assert document["modelTopology"]["class_name"] == "Sequential"
    assert document["weightsManifest"][0]["weights"][0]["quantization"]["dtype"] == "uint8"
    with pytest.raises(wl.UnsupportedFeatureError, match="names"):
        wl.convert(saved, tmp_path / "other", names="dense*")
    with pytest.raises(wl.UnsupportedFeatureError, match="source_format"):
        wl.convert(saved, tmp_path / "other", source_format="tfjs")


def test_convert_passes_what_is_switched_off_on(saved: Path, tmp_path: Path) -> None:
    assert len(wl.convert(saved, tmp_path / "with").crc32c) == 4
    assert wl.convert(saved, tmp_path / "without", checksums=False, durable=False).crc32c == {}
    assert "weightlift" not in json.loads((tmp_path / "without" / "model.json").read_text())


def test_the_command_converts(saved: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightlift", "convert", str(saved), str(tmp_path / "out"), "--quantize", "uint8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4 tensors" in done.stdout
    assert set(wl.load_model(tmp_path / "out").weights) == set(wl.load_model(saved).weights)


def test_reading_needs_no_keras(saved: Path) -> None:
    code = "import sys, weightlift as wl; wl.load_model(sys.argv[1]); assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True, timeout=120)


# --- hostile and damaged files --------------------------------------------------------------------
def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], *, compression: int = 0) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_weights(path: Path, change: Callable[[Any], None]) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        buffer = io.BytesIO(members["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            change(file)
        members["model.weights.h5"] = buffer.getvalue()

    return rewritten(path, edit)


def replace(file: Any, value: Any) -> None:
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = value


def remote(file: Any) -> None:
    del file["layers/dense/vars/0"]
    file["layers/dense/vars"].create_dataset("0", (4, 8), "f4", external=[("other.bin", 0, 128)])


def virtual(file: Any) -> None:
    del file["layers/dense/vars/0"]
    layout = h5py.VirtualLayout((4, 8), "f4")
    layout[...] = h5py.VirtualSource("other.h5", "x", (4, 8))
    file["layers/dense/vars"].create_virtual_dataset("0", layout)


def huge(file: Any) -> None:
    del file["layers/dense/vars/0"]
    file["layers/dense/vars"].create_dataset("0", (1 << 40, 8), "f4", chunks=(1024, 8), compression="gzip")


HOSTILE: dict[str, tuple[Callable[[Any], None], type[Exception], str]] = {
    "soft link": (lambda f: replace(f, h5py.SoftLink("/layers/dense_1/vars/0")), wl.UnsafeContentError, "SoftLink"),
    "external link": (lambda f: replace(f, h5py.ExternalLink("o.h5", "/x")), wl.UnsafeContentError, "ExternalLink"),
    "external data": (remote, wl.UnsafeContentError, "other files"),
    "virtual data": (virtual, wl.UnsafeContentError, "other files"),
    "huge": (huge, wl.FormatError, "are stored"),
    "text": (lambda f: replace(f, ["a", "b"]), wl.UnsupportedFeatureError, "are no numbers"),
    "a group": (lambda f: replace(f, h5py.SoftLink("/layers")), wl.UnsafeContentError, "SoftLink"),
    "missing variable": (lambda f: f.pop("layers/dense/vars/0"), wl.FormatError, "expected variables 0 to 0"),
    "missing layer": (lambda f: f.pop("layers/dense"), wl.MismatchError, "layer dense .* has 0 weights"),
    "missing layers": (lambda f: f.pop("layers"), wl.MismatchError, "has 0 weights"),
    "wrong shape": (lambda f: replace(f, np.zeros((4, 9), "f4")), wl.MismatchError, "expected .*8"),
    "wrong rank": (lambda f: replace(f, np.zeros((4, 8, 1), "f4")), wl.MismatchError, "expected 2 dimensions"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_are_refused(name: str, saved: Path) -> None:
    change, error, text = HOSTILE[name]
    with pytest.raises(error, match=text) as caught:
        wl.load_model(with_weights(saved, change))
    assert str(saved) in str(caught.value)


def cut(members: dict[str, bytes]) -> None:
    members["model.weights.h5"] = members["model.weights.h5"][:1500]


DAMAGED: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "no config": (lambda m: m.pop("config.json"), "config.json missing"),
    "no weights": (lambda m: m.pop("model.weights.h5"), "model.weights.h5 missing"),
    "config is no JSON": (lambda m: m.update({"config.json": b"{"}), "config.json cannot be read"),
    "config is a list": (lambda m: m.update({"config.json": b"[]"}), "not a JSON object"),
    "config is deep": (lambda m: m.update({"config.json": b"[" * 10**6}), "config.json cannot be read"),
    "weights are no HDF5": (lambda m: m.update({"model.weights.h5": b"x" * 100}), "HDF5 file cannot be read"),
    "weights are cut": (cut, "HDF5 file cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_archives_are_refused(name: str, saved: Path) -> None:
    change, text = DAMAGED[name]
    with pytest.raises(wl.FormatError, match=text):
        wl.load_model(rewritten(saved, change))


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        data[archive.getinfo("model.weights.h5").header_offset + 5000] ^= 1
    saved.write_bytes(data)
    with pytest.raises(wl.FormatError, match="CRC"):
        wl.load_model(saved)


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"<html>not found</html>")
    with pytest.raises(wl.FormatError, match=r"no \.keras file"):
        wl.load_model(tmp_path / "m.keras")


def test_weights_are_views_until_they_are_touched(saved: Path) -> None:
    lazy, read = wl.load_model(saved), wl.load_model(saved, lazy=False)
    name = "dense/kernel"
    assert isinstance(lazy.weights[name], TensorView) and isinstance(read.weights[name], np.ndarray)
    np.testing.assert_array_equal(lazy.weights[name], read.weights[name])
    later = wl.load_model(saved)
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(wl.ChangedError):
        np.asarray(later.weights[name])


def test_weights_alone_are_converted_where_the_target_holds_no_model(saved: Path, tmp_path: Path) -> None:
    expected = {"layers/dense/vars/0", "layers/dense/vars/1", "layers/dense_1/vars/0", "layers/dense_1/vars/1"}
    wl.convert(saved, tmp_path / "m.safetensors")
    assert set(wl.load(tmp_path / "m.safetensors")) == expected
    wl.convert(tmp_path / "m.safetensors", tmp_path / "back.weights.h5")
    make("mlp").load_weights(tmp_path / "back.weights.h5")
    wl.convert(tmp_path / "back.weights.h5", tmp_path / "m.npz", names="*/1")
    assert set(wl.load(tmp_path / "m.npz")) == {"layers/dense/vars/1", "layers/dense_1/vars/1"}
    wl.save_model(wl.load_model(saved), tmp_path / "tfjs")
    with pytest.raises(wl.UnsupportedFeatureError, match=r"\.keras, not as \.h5"):
        wl.convert(tmp_path / "tfjs" / "model.json", tmp_path / "m.h5")


def test_a_zip_bomb_is_refused(saved: Path) -> None:
    bomb = rewritten(saved, lambda m: m.update({"model.weights.h5": bytes(1 << 27)}), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(wl.UnsafeContentError, match="inflates from"):
        wl.load_model(bomb)


def test_a_compressed_archive_is_read(saved: Path) -> None:
    before = wl.load_model(saved, lazy=False)
    assert_same(wl.load_model(rewritten(saved, lambda m: None, compression=zipfile.ZIP_DEFLATED)), before)


def test_code_is_refused_and_never_run(tmp_path: Path) -> None:
    layer = keras.layers.Lambda(lambda x: x + 1, output_shape=(4,), name="code")
    keras.Sequential([keras.Input((4,)), layer]).save(tmp_path / "m.keras")
    with pytest.raises(wl.UnsupportedFeatureError, match=r"code \(Lambda\)"):
        wl.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("name", ["keras3-tf/small.keras", "tf-2.21/small_k2.keras"])
def test_files_of_others(name: str, framework_fixtures: Path) -> None:
    """What TensorFlow and Keras 2 wrote: the weights are those of the truth."""
    artifacts = wl.load_model(framework_fixtures / name)
    with np.load(framework_fixtures / f"{name}.truth.npz") as truth:
        known = {array.tobytes() for array in truth.values()}
    assert artifacts.weights
    assert all(np.asarray(w).tobytes() in known for w in artifacts.weights.values())


def test_a_subclassed_model_is_refused(framework_fixtures: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="a subclassed model is code"):
        wl.load_model(framework_fixtures / "keras3-jax" / "mlp.keras")
