"""Runs a program with ``record_io.cc`` between it and the system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run_recorded(program: str, folder: Path, place: Path) -> str:
    """Run a Python program on ``folder``; what it prints. ``place / "log"`` and ``"data"`` are the record."""
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    shim, source = place / "record_io.so", Path(__file__).with_name("record_io.cc")
    subprocess.run([compiler, "-std=c++20", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    environment = {
        **os.environ, "LD_PRELOAD": str(shim), "PYTHONDONTWRITEBYTECODE": "1",
        "WEIGHTLIFT_IO_LOG": str(place / "log"), "WEIGHTLIFT_IO_DATA": str(place / "data"),
    }  # fmt: skip
    command = [sys.executable, "-c", program, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout
