"""The README's examples run as they are printed, in one directory, in order.

The output of a line ``print(...)  # text`` must be ``text``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def blocks() -> list[tuple[str, str]]:
    """(language, text) of the README's code blocks."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def run_python(text: str, names: dict[str, Any]) -> None:
    """Run a block; what it prints must be what its comments say."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(text, "README.md", "exec"), names)
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", text, re.M)
    assert output.getvalue().splitlines() == expected


def run_shell(line: str) -> None:
    """Run one command line, with this interpreter's weightlift as the command."""
    command = f'weightlift() {{ "{sys.executable}" -m weightlift "$@"; }}\n{line}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert done.stdout, f"{line} printed nothing"


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    python, shell = 0, 0
    for language, text in blocks():
        if language == "python":
            run_python(text, names)
            python += 1
        for line in text.splitlines() if language == "bash" else ():
            if line.startswith("weightlift "):
                run_shell(line)
                shell += 1
    assert python >= 4
    assert shell >= 5


def test_scripts_that_it_names_exist() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"(?:scripts|bench)/\w+\.(?:sh|py)", text):
        assert (REPOSITORY / name).is_file(), name
        assert not name.startswith("scripts/") or os.access(REPOSITORY / name, os.X_OK), f"{name} is not executable"


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/README.md", "docs/architecture.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    path = REPOSITORY / page
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}, which is not there"
