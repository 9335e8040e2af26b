"""What all tests share: where the fixtures are that real frameworks wrote.

They are kept beside the repository, not in it: in ``$WEIGHTLIFT_SHARED``, else in ``../shared``. Tests that use
them are skipped, with this reason, where they are absent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell starts what it runs in the background with SIGINT ignored, and so would be what the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    """The folder that holds ``fixtures/``, whether it exists or not."""
    return Path(os.environ.get("WEIGHTLIFT_SHARED") or REPOSITORY.parent / "shared")


def shared_fixtures(part: str = "") -> Path:
    """The folder ``fixtures/<part>``; skips the test, or the module at import, where there is none."""
    folder = shared_folder() / "fixtures" / part
    if not folder.is_dir():
        pytest.skip(
            f"fixtures/{part} not found beside the repository; set WEIGHTLIFT_SHARED to the folder that has them",
            allow_module_level=True,
        )
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_databases_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``localstorage://`` and ``indexeddb://`` of the tests are not those of who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTLIFT_BROWSER_DATA", str(tmp_path_factory.mktemp("browser-data")))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of files that real frameworks wrote."""
    return shared_fixtures()


@pytest.fixture(scope="session")
def framework_fixtures() -> Path:
    """``fixtures/frameworks``: safetensors, NumPy, PyTorch, MXNet … with ``manifest.json``."""
    return shared_fixtures("frameworks")


@pytest.fixture(scope="session")
def tfjs_fixtures() -> Path:
    """``fixtures/tfjs``: models written by TensorFlow.js and its converter."""
    return shared_fixtures("tfjs")
