"""Makes the files in ``hdf5/``: ``python -m tests.golden.make_hdf5`` (h5py 3.16 made those that are here)."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import weightlift as wl

FOLDER = Path(__file__).parent / "hdf5"
WEIGHTS = {
    "dense/kernel:0": np.arange(6, dtype="f4").reshape(2, 3),
    "dense/bias:0": np.array([1, -1, 0.5], ml_dtypes.bfloat16),
    "norm/scale:0": np.array(2.0),
}


def described(tensors: Any) -> dict[str, Any]:
    """Type, shape and bytes of every tensor, in order."""
    return {n: [str(a.dtype), list(a.shape), a.tobytes().hex()] for n, a in tensors.items()}


def chunks() -> bytes:
    """What h5py has beyond contiguous datasets."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w", libver="latest", userblock_size=512) as root:
        numbers = np.arange(35, dtype=">i4").reshape(5, 7)
        options = {"chunks": (2, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}
        root.create_dataset("g/packed", data=numbers, track_times=False, **options)
        root["tied"] = root["g/packed"]
        root.attrs["note"] = "é"
    return file.getvalue()


def main() -> None:
    """Write all."""
    FOLDER.mkdir(exist_ok=True)
    wl.save(WEIGHTS, FOLDER / "ours.h5", metadata={"note": "é"})
    (FOLDER / "chunks.h5").write_bytes(chunks())
    with zipfile.ZipFile(FOLDER / "archive.keras", "w") as archive:
        archive.writestr(zipfile.ZipInfo("metadata.json"), json.dumps({"keras_version": "3.15.1"}))
        archive.writestr(zipfile.ZipInfo("config.json"), "{}")
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), (FOLDER / "ours.h5").read_bytes())
    expected = {p.name: described(wl.load(p)) for p in sorted(FOLDER.iterdir()) if p.suffix in (".h5", ".keras")}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
