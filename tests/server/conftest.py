"""Fixtures of the server's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.support import Server, model_artifacts

import weightlift as wl

Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers, of ``tmp_path/root`` unless they are told otherwise; all are stopped at the end."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    started: list[Server] = []

    def start(*options: str, root: Path | None = None, **environment: str) -> Server:
        place = root or tmp_path / "root"
        place.mkdir(exist_ok=True)
        server = Server(place, options, environment)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        if server.process is not None:
            server.process.kill()
            server.process.communicate()


@pytest.fixture
def server(serve: Serve) -> Server:
    """A server with default options (but without a limit on the rate)."""
    return serve("--rate", "0")


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """A model's directory: ``make_model(seed, units...)``; by default without checksums, as TensorFlow.js has it."""

    def make(seed: int = 0, *units: int, checksums: bool = False, **options: Any) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        wl.save_model(model_artifacts(seed, *units), folder, checksums=checksums, durable=False, **options)
        if not checksums:
            document = json.loads((folder / "model.json").read_text())
            document.pop("weightlift", None)
            (folder / "model.json").write_text(json.dumps(document))
        return folder

    return make
