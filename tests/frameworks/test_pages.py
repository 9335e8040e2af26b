"""The examples of docs/frameworks run as they are printed, page by page, in order.

Those of docs/checkpoints.md, which need more libraries, are run by test_checkpoint_callbacks.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.frameworks.environments import framework_python, run_script
from tests.interop.keras_support import keras_or_skip
from tests.test_readme import run_python

PAGES = Path(__file__).resolve().parents[2] / "docs" / "frameworks"


@pytest.mark.parametrize(("page", "framework", "count"), [("pytorch.md", "torch", 7), ("keras.md", "keras", 7)])
def test_examples(page: str, framework: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if framework == "keras":
        keras_or_skip()
        pytest.importorskip("h5py", reason="h5py is not installed")
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    from weightlift import _modules

    monkeypatch.setattr(_modules, "_MODULES", {})  # what an example registers ends with it
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= count
    for text in blocks:
        run_python(text, names)


@pytest.mark.parametrize(
    ("page", "framework", "count"), [("mxnet.md", "mxnet", 5), ("tensorflow.md", "tensorflow", 9), ("jax.md", "jax", 8)]
)
def test_examples_beside(
    page: str, framework: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment of the framework, which needs its own NumPy."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes nearly all of the time
    framework_python(framework)
    found = run_script(framework, Path(__file__).with_name("page_check.py"), PAGES / page, tmp_path)
    assert len(found) >= count
    for expected, printed in found:
        assert printed == expected
