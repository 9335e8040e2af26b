"""Fixtures of the server's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.browser import Open, chromium, tabs
from tests.server.support import HIDDEN, Server, model_artifacts

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
        server.kill()


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The process behind ``server``."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    server = Server(tmp_path_factory.mktemp("served") / "root", ("--rate", "0"))
    server.root.mkdir()
    yield server
    server.kill()


@pytest.fixture
def server(long_lived: Server) -> Server:
    """A server of an empty directory with default options, but without a limit on the rate."""
    for entry in long_lived.root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            if entry.name != HIDDEN:
                shutil.rmtree(entry)
        else:
            entry.unlink()
    return long_lived if long_lived.runs else long_lived.start()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Any) -> Iterator[Open]:
    """Open pages of servers; none may have complained at the end."""
    with tabs(browser) as make:
        yield make


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
