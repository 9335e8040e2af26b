"""Run beside a framework, with a page of docs/frameworks and an empty folder: its examples, as they are printed.

Prints, as JSON, for each example what its comments say and what it printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any


def main(page: Path, folder: str) -> list[list[list[str]]]:
    warnings.simplefilter("ignore")
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "page"}
    found = []
    for text in blocks:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, page.name, "exec"), names)
        found.append([re.findall(r"^\s*print\(.*\)  # (.*)$", text, re.M), output.getvalue().splitlines()])
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
