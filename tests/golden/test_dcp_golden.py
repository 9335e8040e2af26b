"""Checkpoints of torch.distributed.checkpoint that must always load as torch wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

FOLDER = Path(__file__).parent / "dcp"


def check(folder: Path) -> None:
    """A checkpoint of ``make_dcp.py`` has the bytes, types, shapes and values that are noted beside it."""
    truth = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, np.ndarray):
            tensors[path] = [str(value.dtype), list(value.shape), value.tobytes().hex()]
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                visit(item, f"{path}.{i}")
        else:
            values[path] = value

    visit(wl.load(folder), "")
    assert tensors == truth["tensors"]
    assert values == truth["values"]


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_golden_checkpoints_load(name: str) -> None:
    check(FOLDER / name)
    report = wl.verify(FOLDER / name)
    assert report.ok and report.format == "dcp"
    assert {tensor.status for tensor in report.tensors if tensor.nbytes} <= {"ok", "unchecked"}
