"""``framework="jax"`` and ``"tensorflow"``: tensors over the loaded memory, in these frameworks' own environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.frameworks.environments import run_script

import weightlift as wl

TENSORS = {
    name: np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name, name))
    for name in ("float32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "int32", "int64", "bool")
}


@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_tensors_are_the_loaded_memory(framework: str, tmp_path: Path) -> None:
    wl.save(TENSORS, tmp_path / "all.safetensors")
    answer: dict[str, Any] = run_script(
        framework, Path(__file__).with_name("tensors_of.py"), framework, tmp_path / "all.safetensors"
    )
    want = {n: [str(a.dtype), list(a.shape), a.tobytes().hex()] for n, a in TENSORS.items()}
    if framework == "jax":
        del want["int64"]  # which JAX has only with jax_enable_x64: never cut to 32 bits silently
        assert "jax_enable_x64" in answer["refused"]
    else:
        assert "refused" not in answer
    assert answer["kinds"] == [framework]
    assert answer["loaded"] == answer["opened"] == want
    assert answer["mapped"] == "map"
    assert answer["span"] < 1 << 13 and answer["aligned"]  # all in one arena
    assert answer["row"] == ["float32", [3], TENSORS["float32"][1].tobytes().hex()]
