"""Files that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.golden.make_mxnet import FOLDER, SCALE, ours, tensors

import weightlift as wl

SPARSE = np.array([[1, 0, 2], [0, 0, 0], [0, 0, 0], [0, 3, 0]], "f4")
EXPECTED: dict[str, Any] = {
    "x-file": [np.arange(4, dtype="f4")],
    "list.nd": [SCALE, np.array([1, 2], "i8")],
    "mydict": {"scalar": np.array(1.5, "f4"), "empty": np.zeros((0, 3), "f4")},
    "sparse.nd": {"rows": SPARSE, "matrix": SPARSE},
    "ours-mxnet.params": tensors(),
    "ours-mxnet-v2.params": tensors(),
}


def described(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, list):
        return [described(item) for item in value]
    return str(value.dtype), value.shape, value.tobytes()


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_loads(name: str) -> None:
    assert described(wl.load(FOLDER / name)) == described(EXPECTED[name])
    assert wl.verify(FOLDER / name).ok


@pytest.mark.parametrize("version", ["mxnet", "mxnet-v2"])
def test_what_we_write_has_not_changed(version: str) -> None:
    assert ours(version) == (FOLDER / f"ours-{version}.params").read_bytes()


def test_every_golden_file_is_expected() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(EXPECTED)
