"""The real TensorFlow.js, which setup_node.sh installs outside the checkout, and Node.js to run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

__all__ = ["BUNDLE", "NODE_ENVIRONMENT", "run_node", "tensorflow_js_or_skip"]

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_MODULES = Path(os.environ.get("WEIGHTLIFT_NODE") or _CACHE / "weightlift" / "node") / "node_modules"

BUNDLE = _MODULES / "@tensorflow" / "tfjs" / "dist" / "tf.min.js"
"""What a browser loads."""

NODE_ENVIRONMENT = {**os.environ, "NODE_PATH": str(_MODULES)}
"""In which Node.js finds it."""


def tensorflow_js_or_skip(*, node: bool = True) -> None:
    """Skip the module where TensorFlow.js, or the Node.js to run it, is not installed."""
    if node and shutil.which("node") is None:
        pytest.skip("Node.js is not installed", allow_module_level=True)
    if not BUNDLE.is_file():
        pytest.skip("TensorFlow.js is not installed: run tests/interop/setup_node.sh", allow_module_level=True)


def run_node(script: Path, *arguments: str) -> Any:
    """The last line that a script prints, which is JSON."""
    done = subprocess.run(
        ["node", str(script), *arguments], capture_output=True, text=True, timeout=240, env=NODE_ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
