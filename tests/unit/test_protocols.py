"""Stores of others get what they offer by the protocols, and what they do not offer is not asked of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl
from weightlift import _core
from weightlift._handlers import StoreHandler
from weightlift._job import SaveOptions, Target
from weightlift._load import load_source
from weightlift._save import save_leaves
from weightlift._source import open_in
from weightlift.formats import by_name
from weightlift.protocols import LendsReader, OpensRemotely, SendsInOrder, SupportsMap, TakesDocument
from weightlift.stores import at_url
from weightlift.stores._http import HttpOptions
from weightlift.stores._http_form import FormStore
from weightlift.stores._local import LocalStore

Ranges = Sequence[tuple[int, int]]
TENSORS = {f"w{i}": np.full(1000, i, np.float32) for i in range(8)}


class Lending:
    """Reads in Python, and lends a reader of the core's for plans."""

    def __init__(self, path: str, log: list[tuple[str, Ranges]]) -> None:
        self._reader, self._log = _core.FileReader(path), log
        self.name, self.size = Path(path).name, self._reader.size

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self._reader.read_at(offset, nbytes)

    def holding(self, ranges: Ranges) -> _core.Reader:
        self._log.append((self.name, ranges))
        return self._reader


class FarAway(LocalStore):
    """A folder that pretends to be a round trip away."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[tuple[str, Ranges | None]] = []
        self.held: list[tuple[str, Ranges]] = []

    def open(self, relative: str) -> Lending:  # type: ignore[override]
        self.opened.append((relative, None))
        return Lending(self.path(relative), self.held)

    def open_for(self, relative: str, ranges: Ranges) -> Lending:
        self.opened.append((relative, ranges))
        return Lending(self.path(relative), self.held)


class Pipe(LocalStore):
    """A folder whose files are written front to back, and one at a time."""

    keeps_sidecars = False

    def trusting(self, manifest: str) -> LocalStore:
        return self


class Form(Pipe):
    """And which wants a model's document first."""

    document = b""

    def stored_name(self, planned: str) -> str:
        return f"sent-{planned}"

    def begin(self, document: bytes) -> None:
        assert not list(self.list()), "the document comes first"
        self.document = document


def test_who_offers_what(tmp_path: Path) -> None:
    http, name = at_url("http://localhost/m.npz?signed=1", {})
    assert name == "m.npz" and isinstance(http, OpensRemotely) and isinstance(http, SendsInOrder)
    assert not http.keeps_sidecars and not isinstance(http, TakesDocument)
    assert isinstance(FormStore("http://localhost/", HttpOptions()), TakesDocument)
    local = LocalStore(tmp_path)
    assert not isinstance(local, (OpensRemotely, SendsInOrder, TakesDocument))
    (tmp_path / "f").write_bytes(b"x")
    assert isinstance(local.open("f"), SupportsMap) and not isinstance(local.open("f"), LendsReader)


def test_files_of_a_store_far_away_are_opened_for_what_is_needed(tmp_path: Path) -> None:
    wl.save(TENSORS, tmp_path / "model.json", shard_size=8000)
    store = FarAway(tmp_path)
    source = open_in(store, "model.json")
    assert not source.mappable
    first = [("model.json", None), ("group1-shard1of4.bin", None)]  # its size tells those of the others
    assert store.opened == first
    assert (load_source(source, names=["w5"])["w5"] == 5).all()
    assert store.opened == [*first, ("group1-shard3of4.bin", [(4000, 4000)])]
    assert store.held == [("group1-shard3of4.bin", [(4000, 4000)])]


@pytest.mark.parametrize("kind", [Pipe, LocalStore])
def test_a_store_that_keeps_no_sidecars(tmp_path: Path, kind: type[LocalStore]) -> None:
    target = Target(kind(tmp_path), "m.npz", by_name("npz"), "m.npz")
    result = save_leaves(list(TENSORS), list(TENSORS.values()), None, target, SaveOptions())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["m.npz", *(["m.npz.crc32c"] if kind is LocalStore else [])]
    loaded = wl.load(tmp_path / "m.npz")
    assert all(np.array_equal(loaded[n], TENSORS[n]) for n in TENSORS) and result.tensors == 8


def test_a_store_that_takes_the_document_first(tmp_path: Path) -> None:
    store = Form(tmp_path)
    StoreHandler(store, by_name("tfjs")).write(wl.ModelArtifacts(weights=TENSORS))
    assert [p.name for p in tmp_path.iterdir()] == ["sent-weights.bin"]
    assert json.loads(store.document)["weightsManifest"][0]["paths"] == ["sent-weights.bin"]
