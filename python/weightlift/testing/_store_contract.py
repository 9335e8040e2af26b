"""What every Store promises, as a suite to subclass."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from weightlift.errors import (
    ChangedError,
    NotFoundError,
    StorageError,
    TruncatedError,
    UnsafeContentError,
    WeightliftError,
)
from weightlift.protocols import Reader, Store, Writer

__all__ = ["StoreContract"]

_UNSAFE_NAMES = ("", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "nul\0", "back\\slash")
_DATA = np.random.default_rng(0).integers(0, 256, 1_000_003, np.uint8).tobytes()


class StoreContract:
    """Subclass it, give it a fixture ``store`` (a new, empty store), and let pytest collect the subclass.

    Example::

        class TestMyStore(StoreContract):
            @pytest.fixture
            def store(self) -> Store:
                return MyStore()
    """

    @pytest.fixture
    def store(self) -> Store:
        """A new, empty store."""
        raise pytest.UsageError(f"{type(self).__name__} must define a fixture called store")

    def put(self, store: Store, name: str, data: bytes) -> None:
        """Write a whole file."""
        writer = store.create(name, len(data))
        writer.write_at(0, data)
        writer.commit()

    def get(self, store: Store, name: str) -> bytes:
        """Read a whole file."""
        reader = store.open(name)
        return bytes(reader.read_at(0, reader.size))

    # --- what comes back --------------------------------------------------------------------------
    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1_000_003])
    def test_what_was_written_is_read(self, store: Store, size: int) -> None:
        """Whatever its size."""
        self.put(store, "f", _DATA[:size])
        reader = store.open("f")
        assert reader.size == size
        assert "f" in reader.name
        assert self.get(store, "f") == _DATA[:size]

    def test_protocols(self, store: Store) -> None:
        """Readers are Readers, writers have all their verbs."""
        writer: Writer = store.create("f", 1)
        writer.write_at(0, b"x")
        writer.sync()
        writer.commit()
        assert isinstance(store.open("f"), Reader)
        assert isinstance(store.url, str)

    @pytest.mark.parametrize(("offset", "nbytes"), [(0, 0), (0, 10), (4090, 20), (999_999, 4), (1_000_003, 0)])
    def test_any_range_is_read_exactly(self, store: Store, offset: int, nbytes: int) -> None:
        """Aligned or not."""
        self.put(store, "f", _DATA)
        assert store.open("f").read_at(offset, nbytes) == _DATA[offset : offset + nbytes]

    @pytest.mark.parametrize(("offset", "nbytes"), [(1_000_002, 2), (1_000_004, 0), (0, 1_000_004), (1 << 62, 1)])
    def test_reading_beyond_the_end_is_an_error(self, store: Store, offset: int, nbytes: int) -> None:
        """Never fewer bytes than were asked for."""
        self.put(store, "f", _DATA)
        with pytest.raises(TruncatedError):
            store.open("f").read_at(offset, nbytes)

    def test_parts_may_be_written_in_any_order_and_at_once(self, store: Store) -> None:
        """By several threads."""
        writer = store.create("f", len(_DATA))
        starts = list(range(0, len(_DATA), 70_001))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda at: writer.write_at(at, _DATA[at : at + 70_001]), reversed(starts)))
        writer.commit()
        assert self.get(store, "f") == _DATA

    def test_parts_may_be_read_at_once(self, store: Store) -> None:
        """From one reader."""
        self.put(store, "f", _DATA)
        reader = store.open("f")
        starts = list(range(0, len(_DATA), 7001))
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda at: reader.read_at(at, min(7001, len(_DATA) - at)), starts))
        assert b"".join(parts) == _DATA

    # --- whole or not at all ----------------------------------------------------------------------
    def test_nothing_is_there_before_commit(self, store: Store) -> None:
        """Not even a name."""
        writer = store.create("f", 3)
        writer.write_at(0, b"abc")
        assert not store.exists("f")
        assert list(store.list()) == []
        writer.commit()
        assert store.exists("f")

    def test_abort_leaves_nothing(self, store: Store) -> None:
        """And may come at any time, also again."""
        writer = store.create("f", 3)
        writer.write_at(0, b"abc")
        writer.abort()
        writer.abort()
        assert list(store.list()) == []

    def test_forgotten_writer_leaves_nothing(self, store: Store) -> None:
        """As if aborted."""
        writer = store.create("f", 3)
        writer.write_at(0, b"abc")
        del writer
        assert list(store.list()) == []

    def test_abort_keeps_the_old_file(self, store: Store) -> None:
        """Untouched."""
        self.put(store, "f", b"old")
        writer = store.create("f", 3)
        writer.write_at(0, b"new")
        writer.abort()
        assert self.get(store, "f") == b"old"

    def test_commit_replaces_the_old_file(self, store: Store) -> None:
        """At that moment, whole."""
        self.put(store, "f", b"old")
        writer = store.create("f", 7)
        writer.write_at(0, b"the new")
        assert self.get(store, "f") == b"old"
        writer.commit()
        assert self.get(store, "f") == b"the new"

    def test_reader_stays_with_the_file_it_opened(self, store: Store) -> None:
        """Or says that it changed."""
        self.put(store, "f", b"old")
        reader = store.open("f")
        self.put(store, "f", b"new")
        with contextlib.suppress(ChangedError):
            assert reader.read_at(0, 3) == b"old"

    # --- names ------------------------------------------------------------------------------------
    def test_list_exists_delete(self, store: Store) -> None:
        """Files in folders have names with slashes."""
        for name in ("b", "a", "folder/c"):
            self.put(store, name, name.encode())
        assert sorted(store.list()) == ["a", "b", "folder/c"]
        assert self.get(store, "folder/c") == b"folder/c"
        store.delete("a")
        assert not store.exists("a")
        assert sorted(store.list()) == ["b", "folder/c"]

    def test_what_is_not_there(self, store: Store) -> None:
        """Is NotFoundError, which is also FileNotFoundError."""
        with pytest.raises(NotFoundError):
            store.open("none")
        with pytest.raises(FileNotFoundError):
            store.delete("none")
        assert not store.exists("none")

    @pytest.mark.parametrize("name", _UNSAFE_NAMES)
    def test_unsafe_names_are_refused(self, store: Store, name: str) -> None:
        """By every verb."""
        for verb in (store.open, store.exists, store.delete, lambda n: store.create(n, 1)):
            with pytest.raises(UnsafeContentError):
                verb(name)

    @pytest.mark.parametrize("name", ["with space", "é重み", "a.b.c", "-dash", "%41", "#x?y=1&z", "'quote\""])
    def test_names_are_taken_as_they_are(self, store: Store, name: str) -> None:
        """No escape, no pattern."""
        self.put(store, name, b"x")
        assert list(store.list()) == [name]
        assert self.get(store, name) == b"x"

    def test_errors_name_the_file(self, store: Store) -> None:
        """By path or URL, and belong to the library's tree."""
        with pytest.raises(StorageError, match="missing-file") as caught:
            store.open("missing-file")
        assert isinstance(caught.value, WeightliftError)
