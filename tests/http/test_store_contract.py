"""The HTTP store over nginx with DAV keeps the promises of ``StoreContract``, as far as HTTP has the means."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from tests.http.servers import Nginx
from tests.http.support import FAST

from weightlift.protocols import Store
from weightlift.stores._http import HttpOptions, HttpStore
from weightlift.testing import StoreContract


class DavStore(HttpStore):
    """The HTTP store, and nginx's own listing of a folder, which HTTP does not have."""

    def list(self) -> Iterator[str]:
        return iter(sorted(self._below("")))

    def _below(self, folder: str) -> Iterator[str]:
        with urllib.request.urlopen(self.url + quote(folder)) as answer:
            entries: list[dict[str, Any]] = json.load(answer)
        for entry in entries:
            name = folder + entry["name"]
            if entry["type"] == "directory":
                yield from self._below(f"{name}/")
            else:
                yield name


class TestHttpStore(StoreContract):
    @pytest.fixture
    def store(self, nginx: Nginx) -> DavStore:
        folder = nginx.uploads / "contract"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return DavStore(nginx.url("dav/contract/"), HttpOptions(**FAST))

    def test_parts_may_be_written_in_any_order_and_at_once(self, store: Store) -> None:
        """A request's body has one order; several threads may write, and wait for their turn."""
        data = bytes(range(256)) * 4000
        writer = store.create("f", len(data))
        starts = list(range(0, len(data), 70_001))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda at: writer.write_at(at, data[at : at + 70_001]), starts))
        writer.commit()
        assert self.get(store, "f") == data
