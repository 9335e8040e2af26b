"""The examples of docs/frameworks run as they are printed, page by page, each in one directory, in order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.frameworks.environments import framework_python, run_script
from tests.test_readme import run_python

PAGES = Path(__file__).resolve().parents[2] / "docs" / "frameworks"


@pytest.mark.parametrize(("page", "framework"), [("pytorch.md", "torch")])
def test_examples(page: str, framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    from weightlift import _modules

    monkeypatch.setattr(_modules, "_MODULES", {})  # what an example registers ends with it
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 7
    for text in blocks:
        run_python(text, names)


def test_examples_beside_mxnet(tmp_path: Path) -> None:
    """In the environment of the framework, which needs its own NumPy."""
    framework_python("mxnet")
    found = run_script("mxnet", Path(__file__).with_name("page_check.py"), PAGES / "mxnet.md", tmp_path)
    assert len(found) >= 5
    for expected, printed in found:
        assert printed == expected
