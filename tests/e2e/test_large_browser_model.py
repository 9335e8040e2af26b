"""A model of more than 4 GiB in indexeddb://: offsets beyond 32 bits, bounded memory, reads of what is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import psutil
import pytest

import weightlift as wl

GIB = 1 << 30


@pytest.mark.timeout(1800)
def test_a_model_of_more_than_4_gib(tmp_path: Path) -> None:
    if os.environ.get("WEIGHTLIFT_LARGE") != "1":
        pytest.skip("a model of 4 GiB is saved only where WEIGHTLIFT_LARGE=1 asks for it")
    weights = {
        "zeros": np.zeros(GIB + 1000, "f4"),  # pages that are never written take no memory
        "tail": np.random.default_rng(0).random(100_000).astype("f4"),
    }
    process, place = psutil.Process(), {"database": tmp_path / "large.db"}
    before = process.memory_info().rss
    wl.save_model(wl.ModelArtifacts({"class_name": "Sequential"}, weights), "indexeddb://large", **place)
    assert process.memory_info().rss - before < 300 << 20
    model = wl.load_model("indexeddb://large", **place)
    assert np.array_equal(model.weights["tail"][...], weights["tail"])
    assert process.memory_info().rss - before < 300 << 20
    assert wl.verify("indexeddb://large", **place).ok
    assert process.memory_info().rss - before < 300 << 20
    (info,) = wl.list_models("indexeddb://", **place).values()
    assert info.weight_data_bytes == sum(w.nbytes for w in weights.values()) > 4 * GIB
    wl.remove_model("indexeddb://large", **place)
    assert (tmp_path / "large.db").stat().st_size < 1 << 20
