"""Every store of the library keeps the promises of ``weightlift.testing.StoreContract``."""

from __future__ import annotations

from pathlib import Path

import pytest

from weightlift.stores._local import LocalStore
from weightlift.stores._memory import MemoryStore, Table
from weightlift.testing import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path)


class TestLocalStoreReadDirectly(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path, mode="direct")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore("folder", Table())
