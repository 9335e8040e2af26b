"""Micro-benchmarks of the parts that cost time a tensor or a byte (pytest-benchmark): to see what a change did.

    python -m pytest bench/micro                                  # a table of times
    python -m pytest bench/micro --benchmark-autosave             # keep it ...
    python -m pytest bench/micro --benchmark-compare              # ... and compare with the last one kept

Times depend on the machine, so nothing is asserted about them; each result is checked. Claims about speed are the
programs in ``bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import weightlift as wl
from weightlift._dtypes import from_numpy
from weightlift._layout import Layout
from weightlift._packing import PackOptions, TensorSpecs
from weightlift._plan import decoded_sizes, place, plain_rows
from weightlift._source import open_source
from weightlift.formats import by_name

Benchmark = Callable[..., Any]
MANY = 5_000
NAMES = [f"blocks.{i // 10}.layer.{i % 10}.weight" for i in range(MANY)]
SMALL = {name: np.full(16, i, np.float32) for i, name in enumerate(NAMES)}
VALUES = np.linspace(-8, 8, 1 << 20, dtype=np.float32)
FORMATS = {"safetensors": "m.safetensors", "npz": "m.npz", "tfjs": "model.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The many small tensors in every format."""
    folder = tmp_path_factory.mktemp("many")
    for name in FORMATS.values():
        wl.save(SMALL, folder / name, durable=False)
    return folder


# --- kernels: 4 MiB of float32 --------------------------------------------------------------------
def test_crc32c(benchmark: Benchmark) -> None:
    assert benchmark(wl.crc32c, VALUES) == wl.crc32c(VALUES.tobytes())


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float8_e4m3fn"])
def test_cast(benchmark: Benchmark, target: str) -> None:
    result = benchmark(wl.cast, VALUES, target)
    assert np.array_equal(result, VALUES.astype(getattr(ml_dtypes, target, target)))


def test_quantize(benchmark: Benchmark) -> None:
    stored, scale, low = benchmark(wl.quantize, VALUES, "uint8")
    assert np.abs(wl.dequantize(stored, scale, low) - VALUES).max() <= scale


# --- many tensors ---------------------------------------------------------------------------------
@pytest.mark.parametrize("fmt", FORMATS)
def test_open_and_parse(benchmark: Benchmark, fmt: str, folder: Path) -> None:
    source = benchmark(open_source, folder / FORMATS[fmt])
    assert source.table.names == NAMES


@pytest.mark.parametrize("fmt", FORMATS)
def test_pack(benchmark: Benchmark, fmt: str) -> None:
    def pack() -> Any:
        dtypes = [from_numpy(a.dtype) for a in SMALL.values()]
        sizes = np.array([a.nbytes for a in SMALL.values()], np.uint64)
        specs = TensorSpecs(list(SMALL), dtypes, [a.shape for a in SMALL.values()], sizes)
        return by_name(fmt).pack(specs, FORMATS[fmt], PackOptions())

    assert len(benchmark(pack).placements.tensor) == MANY


def test_place(benchmark: Benchmark, folder: Path) -> None:
    layout: Layout = open_source(folder / "m.safetensors").layout
    rows = np.arange(MANY, dtype=np.uint32)

    def plan() -> Any:
        return place(
            layout.tensors, rows, decoded_sizes(layout.tensors, rows, {}), plain_rows(layout.tensors, rows, {})
        )

    assert benchmark(plan).nbytes >= sum(a.nbytes for a in SMALL.values())


@pytest.mark.parametrize("fmt", FORMATS)
def test_load(benchmark: Benchmark, fmt: str, folder: Path) -> None:
    loaded = benchmark(wl.load, folder / FORMATS[fmt])
    assert list(loaded) == NAMES and loaded[NAMES[-1]][0] == MANY - 1


@pytest.mark.parametrize("fmt", FORMATS)
def test_save(benchmark: Benchmark, fmt: str, tmp_path: Path) -> None:
    result = benchmark(wl.save, SMALL, tmp_path / FORMATS[fmt], durable=False)
    assert result.tensors == MANY
