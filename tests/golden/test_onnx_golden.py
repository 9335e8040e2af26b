"""A file that once loaded must always load, and what we write must not change by accident."""

from __future__ import annotations

from pathlib import Path

from tests.golden.make_onnx import FOLDER, TENSORS, write

import weightlift as wl


def test_golden_file_loads() -> None:
    assert repr(wl.load(FOLDER / "x.onnx")) == repr(TENSORS)
    assert wl.verify(FOLDER / "x.onnx").ok


def test_what_we_write_has_not_changed(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("x.onnx", "x.onnx.crc32c"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
