"""Starts the processes of a script of JAX: for scripts that run where this package's tests cannot be imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

__all__ = ["start"]


def start(script: str, folder: Path, count: int) -> None:
    """Run ``script FOLDER RANK ADDRESS`` for each rank, and wait; all must end well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, script, str(folder)]
    processes = [subprocess.Popen([*command, str(k), address], env=environment) for k in range(count)]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * count, codes
