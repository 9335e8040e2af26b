"""The frameworks that setup.sh installs, each in an environment of its own, and scripts run in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import weightlift

__all__ = ["framework_python", "run_script"]

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_FOLDER = Path(os.environ.get("WEIGHTLIFT_FRAMEWORKS") or _CACHE / "weightlift" / "frameworks")
_TITLES = {"tensorflow": "TensorFlow", "mxnet": "MXNet", "jax": "JAX"}


def framework_python(name: str) -> Path:
    """The interpreter of a framework's environment: "tensorflow", "mxnet" or "jax"; skips where it is not installed."""
    python = _FOLDER / name / "bin" / "python"
    if not (_FOLDER / name / "installed").is_file():
        title = _TITLES[name]
        pytest.skip(f"{title} is not installed: run tests/frameworks/setup.sh {name}", allow_module_level=True)
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (python.parent / f"python{mine}").exists():
        pytest.skip(f"{_TITLES[name]} is not installed for Python {mine}", allow_module_level=True)
    return python


def run_script(name: str, script: Path, *arguments: str | Path, timeout: float = 240) -> Any:
    """Run a script in a framework's environment, where it can import weightlift; the JSON on its last line.

    Nothing else of this environment is visible there: the framework needs its own NumPy.
    """
    python = framework_python(name)
    with tempfile.TemporaryDirectory(prefix="weightlift-path-") as path:
        (Path(path) / "weightlift").symlink_to(Path(weightlift.__file__).parent, target_is_directory=True)
        done = subprocess.run(
            [python, script, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    assert done.returncode == 0, done.stderr[-8000:]
    return json.loads(done.stdout.splitlines()[-1])
