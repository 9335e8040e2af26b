"""A real S3-compatible server for the tests of object stores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.objects.ceph import Gateway, run_gateway

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Ceph's gateway, with an empty bucket."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    with run_gateway(tmp_path_factory.mktemp("ceph")) as gateway:
        yield gateway


@pytest.fixture
def place(gateway: Gateway) -> str:
    """A URL that no other test uses."""
    return gateway.url(f"test-{next(_NUMBERS)}")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither proxies nor credentials of the machine take part."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
