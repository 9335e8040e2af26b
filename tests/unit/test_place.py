"""Where tensors land in one arena."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl
from weightlift._plan import arrays_over, place
from weightlift._source import open_source


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order_of_rows_fits_without_overlap(order: tuple[int, ...], tmp_path: Path) -> None:
    tensors = {"a": np.ones(16, "f4"), "empty": np.zeros((0, 4), "f4"), "b": np.ones(4096, "f4"), "c": np.ones(3, "f4")}
    wl.save(tensors, tmp_path / "m.safetensors")
    table = open_source(tmp_path / "m.safetensors").table
    rows = np.array(order, np.uint32)
    sizes = table.nbytes[rows]
    placed = place(table, rows, sizes, np.ones(4, bool))
    spans = sorted((int(o), int(o + n)) for o, n in zip(placed.offset, sizes, strict=True) if n)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert spans[-1][1] <= placed.nbytes
    assert not np.any(placed.offset[sizes > 0] % 64)
    base = np.zeros(placed.nbytes, np.uint8)
    shapes = [a.shape for a in arrays_over(base, table, rows, placed.offset, {}, writeable=False)]
    assert shapes == [table.shapes[r] for r in order]
