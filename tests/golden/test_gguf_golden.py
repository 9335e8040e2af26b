"""A file that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.golden.make_gguf import FOLDER, TENSORS, write

import weightlift as wl


def test_golden_file_loads() -> None:
    found = wl.load(FOLDER / "x.gguf", dequantize=True)
    assert wl.verify(FOLDER / "x.gguf").ok
    for name, array in TENSORS.items():
        if name != "w":
            assert found[name].tobytes() == array.tobytes()
    assert np.abs(found["w"] - TENSORS["w"]).max() < 4 / 127


def test_what_we_write_has_not_changed(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("x.gguf", "x.gguf.crc32c"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
