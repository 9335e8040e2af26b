"""What the fuzzers of the Python parsers call: bytes become files, which are then verified, loaded and opened.

The property of every target: nothing but WeightliftError comes out, and what loads also verifies. ``fuzz.py`` adds
limits of time and memory.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import weightlift as wl
from weightlift._sidecar import record as sidecar_record

Target = Callable[[bytes, Path], Path]
SEPARATOR = b"\0\0"
"""Ends the JSON in inputs that hold a weight file too; JSON holds no NUL."""

TENSORS = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array([1, -1], "i8")}


def npy(data: bytes, folder: Path) -> Path:
    """The input is an npy file."""
    return _write(folder / "x.npy", data)


def zip_directory(data: bytes, folder: Path) -> Path:
    """The input is an archive."""
    return _write(folder / "x.npz", data)


def npz(data: bytes, folder: Path) -> Path:
    """The input is a way to store it, and a member of an archive that is otherwise right."""
    how, member = (data[0], data[1:]) if data else (0, b"")
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        for i in range(1 + (how >> 1 & 1)):
            method = zipfile.ZIP_DEFLATED if how & 1 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"w{i}.npy"), member[i:], method)
    return folder / "x.npz"


def tfjs(data: bytes, folder: Path) -> Path:
    """The input is a model.json, and weights.bin behind a separator."""
    text, _, weights = data.partition(SEPARATOR)
    _write(folder / "weights.bin", weights)
    return _write(folder / "model.json", text)


def safetensors(data: bytes, folder: Path) -> Path:
    """The input is a file."""
    return _write(folder / "x.safetensors", data)


def safetensors_index(data: bytes, folder: Path) -> Path:
    """The input is an index; its shards are right."""
    for name, tensor in TENSORS.items():
        if not (folder / f"{name}.safetensors").exists():
            wl.save({name: tensor}, folder / f"{name}.safetensors", durable=False)
    return _write(folder / "model.safetensors.index.json", data)


def sidecar(data: bytes, folder: Path) -> Path:
    """The input is the sidecar of an archive that is right."""
    if not (folder / "x.npz").exists():
        wl.save(TENSORS, folder / "x.npz", durable=False)
    _write(folder / "x.npz.crc32c", data)
    return folder / "x.npz"


TARGETS: dict[str, Target] = {
    f.__name__: f for f in (npy, zip_directory, npz, tfjs, safetensors, safetensors_index, sidecar)
}


def run(target: Target, data: bytes, folder: Path) -> bool:
    """Check the property for one input; returns whether it loads. The folder may hold files of earlier inputs."""
    path = target(data, folder)
    try:
        verified = wl.verify(path).ok
    except wl.WeightliftError:
        verified = False
    try:
        wl.load(path)
    except wl.WeightliftError:
        return False
    assert verified, "it loads, but does not verify"
    with wl.open(path) as weights:
        for view in weights.values():
            assert view[...].size or not view.nbytes
            assert view.stored_nbytes >= 0
            repr(view)
    return True


def seeds() -> dict[str, list[bytes]]:
    """Inputs that load, from which fuzzers start, by target."""
    return {
        "npy": [_npy(a) for a in _arrays()],
        "zip_directory": [_npz(compressed=c) for c in (False, True)],
        "npz": [bytes([how]) + _npy(a) for how in (0, 1) for a in _arrays()],
        "tfjs": [_tfjs_model(), _tfjs_of_others()],
        "safetensors": [_saved("x.safetensors", "x.safetensors")],
        "safetensors_index": [
            b'{"metadata": {"total_size": 40}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}',
            b'{"weight_map": {}}',
        ],
        "sidecar": [_saved("x.npz", "x.npz.crc32c"), _sidecar_without_sums()],
    }


def _arrays() -> list[np.ndarray]:  # type: ignore[type-arg]
    return [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
        np.array(1 + 2j),
        np.zeros((0, 3), "S4"),
        np.zeros(2, [("x", "<i2"), ("y", "U3", (2,))]),
        np.array(["2020-01-01", "NaT"], "M8[D]"),
    ]


def _npy(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(*, compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **TENSORS)
    return file.getvalue()


def _tfjs_model() -> bytes:
    tensors = {"a": TENSORS["a"], "h": TENSORS["a"].astype("f2"), "s": np.array([True])}
    return _saved("model.json", "model.json", tensors) + SEPARATOR + b"".join(t.tobytes() for t in tensors.values())


def _tfjs_of_others() -> bytes:
    """Without our own key, whose digest would refuse whatever a fuzzer changes."""
    weights = [
        {"name": "a", "shape": [2, 3], "dtype": "float32"},
        {"name": "s", "shape": [2], "dtype": "string"},
        {"name": "q", "shape": [2], "dtype": "float32", "quantization": {"dtype": "uint8", "min": -1, "scale": 0.5}},
    ]
    document = {"modelTopology": {}, "weightsManifest": [{"paths": ["./weights.bin"], "weights": weights}]}
    return json.dumps(document).encode() + SEPARATOR + TENSORS["a"].tobytes() + b"\2\0\0\0hi\0\0\0\0" + b"\7\377"


def _sidecar_without_sums() -> bytes:
    (record,) = json.loads(_saved("x.npz", "x.npz.crc32c"))["records"]
    plain = sidecar_record(record["nbytes"], None, None, {"b": "uint64"}, {"list": ["a", "b"]}, {"k": 1})
    return json.dumps({"weightlift": 1, "records": [plain]}).encode()


def _saved(target: str, wanted: str, tensors: dict[str, np.ndarray] = TENSORS) -> bytes:  # type: ignore[type-arg]
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        wl.save(tensors, Path(folder) / target)
        return (Path(folder) / wanted).read_bytes()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
