"""HDF5 and .keras files on a server: listed and loaded in part by few requests."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.http.servers import Nginx

import weightlift as wl

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
LAYERS = 120
SHAPE = (2000, 5000)


def write_keras(path: Path) -> None:
    """5 GB of holes, laid out as Keras does it: structures and weights by turns; one bias has values."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        for i in range(LAYERS):
            group = file.create_group(f"layers/dense_{i}/vars")
            group.attrs["name"] = f"dense_{i}"
            for name, shape in (("0", SHAPE), ("1", SHAPE[1:])):
                space = h5py.h5s.create_simple(shape)
                h5py.h5d.create(group.id, name.encode(), h5py.h5t.IEEE_F32LE, space, plan)
        file["layers/dense_77/vars/1"][:] = np.arange(SHAPE[1])


@pytest.fixture(scope="module")
def served(nginx: Nginx) -> Nginx:
    folder = nginx.files / "hdf5"
    folder.mkdir()
    write_keras(folder / "m.weights.h5")
    small = {f"layers/dense_{i}/vars/0": np.full((30, 40), i, "f4") for i in range(40)}
    wl.save(small, folder / "small.weights.h5")
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", "{}")
        archive.write(folder / "small.weights.h5", "model.weights.h5")
    return nginx


def spent(nginx: Nginx) -> tuple[int, int]:
    """(requests, bytes of bodies) since ``forget``."""
    asked = nginx.requests()
    return len(asked), sum(int(r["bytes"]) for r in asked)


def test_one_layer_of_a_huge_file(served: Nginx) -> None:
    served.forget()
    url = served.url("plain/hdf5/m.weights.h5")
    found = wl.load(url, names="layers/dense_77/vars/1", verify=False)
    assert found["layers/dense_77/vars/1"].tolist() == list(range(SHAPE[1]))
    requests, nbytes = spent(served)
    assert requests <= 14
    assert nbytes < 4 << 20


def test_weights_in_an_archive(served: Nginx) -> None:
    served.forget()
    weights = wl.open(served.url("plain/hdf5/m.keras"))
    assert len(weights) == 40
    assert weights.metadata["keras_version"] == "3.15.1"
    assert (weights["layers/dense_7/vars/0"][...] == 7).all()
    requests, nbytes = spent(served)
    assert requests <= 8
    assert nbytes < 1 << 19
