"""Dumps of a browser's stores: in and out, and what is wrong with hostile ones."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures
from tests.unit.test_handlers import model, same
from tests.unit.test_managers import RICH, small

import weightlift as wl

SCHEMES = ("localstorage", "indexeddb")
FILES = {"localstorage": "localStorage.json", "indexeddb": "indexedDB.json"}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases of this test's own."""
    monkeypatch.setenv("WEIGHTLIFT_BROWSER_DATA", str(tmp_path / "data"))


@pytest.fixture
def dump(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes a dump."""

    def write(value: Any) -> Path:
        path = tmp_path / "dump.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1), "utf-8")
        return path

    return write


# --- what Chromium held ---------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_chromium_held_is_exported_as_the_same_bytes(scheme: str, tmp_path: Path) -> None:
    folder = shared_fixtures("tfjs")
    given = folder / "browser" / FILES[scheme]
    found = wl.import_browser_dump(given)
    assert list(found) == [f"{scheme}://dir/my-model"]
    assert found[f"{scheme}://dir/my-model"].weight_data_bytes == 2360
    wl.export_browser_dump(scheme, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == given.read_bytes()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_chromium_held_loads_with_the_weights_that_tensorflow_js_decoded(scheme: str) -> None:
    folder = shared_fixtures("tfjs")
    wl.import_browser_dump(folder / "browser" / FILES[scheme])
    found = wl.load_model(f"{scheme}://dir/my-model")
    download = wl.load_model(folder / "browser" / "downloads" / "twin.json")
    assert same(found, download)
    assert (found.model_topology, found.user_defined_metadata) == (
        download.model_topology,
        download.user_defined_metadata,
    )
    assert found.format == "layers-model" and found.generated_by == "TensorFlow.js tfjs-layers v4.22.0"
    raw = (folder / "browser" / "downloads" / "twin.weights.bin").read_bytes()
    assert hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in found.weights.values())).digest() == (
        hashlib.sha256(raw).digest()
    )


# --- ours, there and back -------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", SCHEMES)
def test_models_of_ours_there_and_back(scheme: str, tmp_path: Path) -> None:
    rich = model(**RICH, user_defined_metadata={"emoji": "😀\u2028", "tiny": 1e-7, "large": 1e21})
    wl.save_model(rich, f"{scheme}://b/rich", quantize={"uint8": "d/kernel"})
    wl.save_model(small(3), f"{scheme}://a")
    wl.save_model(wl.ModelArtifacts({"class_name": "Sequential"}), f"{scheme}://none")
    exported = wl.export_browser_dump(f"{scheme}://", tmp_path / "dump.json")
    other = tmp_path / "other.db"
    assert list(wl.import_browser_dump(tmp_path / "dump.json", database=other)) == (
        list(exported) if scheme == "indexeddb" else [f"{scheme}://{n}" for n in ("b/rich", "a", "none")]
    )
    for url in exported:
        a, b = wl.load_model(url), wl.load_model(url, database=other)
        assert same(a, b) and a.to_json() == b.to_json()
    wl.export_browser_dump(scheme, tmp_path / "again.json", database=other)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "dump.json").read_bytes()
    assert "1e-7" in (tmp_path / "dump.json").read_text("utf-8") and "😀" in (tmp_path / "dump.json").read_text("utf-8")


def test_buffers_of_many_chunks(tmp_path: Path) -> None:
    weights = {"w": np.random.default_rng(0).random(700_001).astype("f4")}
    wl.save_model(wl.ModelArtifacts({"class_name": "Sequential"}, weights), "indexeddb://m")
    wl.export_browser_dump("indexeddb", tmp_path / "dump.json")
    buffer = json.loads((tmp_path / "dump.json").read_bytes())["stores"]["models_store"]["records"][0]
    data = base64.b64decode(buffer["modelArtifacts"]["weightData"]["__arraybuffer__"], validate=True)
    assert data == weights["w"].tobytes()
    wl.import_browser_dump(tmp_path / "dump.json", replace=True)
    assert np.array_equal(wl.load_model("indexeddb://m").weights["w"][...], weights["w"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_models_are_replaced_only_when_that_is_said(scheme: str, tmp_path: Path) -> None:
    wl.save_model(small(1), f"{scheme}://m")
    wl.export_browser_dump(scheme, tmp_path / "dump.json")
    wl.save_model(small(2), f"{scheme}://m")
    with pytest.raises(wl.StorageError, match="'m'"):
        wl.import_browser_dump(tmp_path / "dump.json")
    assert wl.load_model(f"{scheme}://m").weights["w"][...].tolist() == [2] * 5
    wl.import_browser_dump(tmp_path / "dump.json", replace=True)
    assert wl.load_model(f"{scheme}://m").weights["w"][...].tolist() == [1] * 5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_dump_is_a_file_like_any_other(scheme: str, tmp_path: Path) -> None:
    """Its mode is that of new files here, its directory is made, and nothing is left beside it."""
    wl.save_model(small(1), f"{scheme}://m")
    path = tmp_path / "new" / "dump.json"
    wl.export_browser_dump(scheme, path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


def test_an_export_that_fails_leaves_the_old_dump(tmp_path: Path) -> None:
    wl.save_model(small(1), "indexeddb://m")
    path = tmp_path / "dump.json"
    path.write_text("old")
    database = next((tmp_path / "data").rglob("indexeddb*"))
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM weight_chunks")
    with pytest.raises(wl.StorageError):
        wl.export_browser_dump("indexeddb", path)
    assert path.read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"data", "dump.json"}


def test_nothing_to_export(tmp_path: Path) -> None:
    assert wl.export_browser_dump("localstorage", tmp_path / "a.json") == {}
    assert (tmp_path / "a.json").read_text() == "{}"
    assert wl.import_browser_dump(tmp_path / "a.json") == {}
    wl.export_browser_dump("indexeddb", tmp_path / "b.json")
    assert wl.import_browser_dump(tmp_path / "b.json") == {}
    with pytest.raises(wl.RoutingError, match="localstorage or indexeddb"):
        wl.export_browser_dump("memory", tmp_path / "c.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(wl.StorageError):
        wl.export_browser_dump("indexeddb", tmp_path / "folder.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "data", "folder.json"]
    with pytest.raises(wl.NotFoundError):
        wl.import_browser_dump(tmp_path / "none.json")
    with pytest.raises(wl.StorageError):
        wl.import_browser_dump(tmp_path / "folder.json")


def test_other_keys_are_left_alone_and_the_quota_holds(dump: Callable[[Any], Path], tmp_path: Path) -> None:
    wl.save_model(small(1), "localstorage://m")
    wl.export_browser_dump("localstorage", tmp_path / "out.json")
    value = {"theme": "dark", **json.loads((tmp_path / "out.json").read_bytes()), "zoom": "3"}
    assert list(wl.import_browser_dump(dump(value), replace=True)) == ["localstorage://m"]
    wl.export_browser_dump("localstorage", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "out.json").read_bytes()
    with pytest.raises(wl.QuotaError, match="quota="):
        wl.import_browser_dump(dump(value), database=tmp_path / "x.db", quota=100)
    assert wl.list_models("localstorage://", database=tmp_path / "x.db") == {}


# --- hostile dumps --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '"x"', "{", '{"a": 1}', '{"stores": {}}', "[" * 300 + "]" * 300, "<html>", '{"a":"1","a":"2"}',
     '{"a": "\\ud800"}', '{"name": "tensorflowjs", "version": 2, "stores": {}}', '{"stores": []}'],
)  # fmt: skip
def test_what_is_no_dump(text: str, dump: Callable[[Any], Path]) -> None:
    with pytest.raises(wl.FormatError) as caught:
        wl.import_browser_dump(dump(text))
    assert "dump.json" in str(caught.value)


LOCAL: dict[str, Callable[[dict[str, str]], Any]] = {
    "no info": lambda d: d.pop("tensorflowjs_models/m/info"),
    "no topology": lambda d: d.pop("tensorflowjs_models/m/model_topology"),
    "no specs": lambda d: d.pop("tensorflowjs_models/m/weight_specs"),
    "no data": lambda d: d.pop("tensorflowjs_models/m/weight_data"),
    "unknown key": lambda d: d.update({"tensorflowjs_models/m/model_without_weight": "{}"}),
    "no base64": lambda d: d.update({"tensorflowjs_models/m/weight_data": "a*b="}),
    "too short": lambda d: d.update({"tensorflowjs_models/m/weight_data": "AAAA"}),
    "specs": lambda d: d.update({"tensorflowjs_models/m/weight_specs": "{}"}),
    "shape": lambda d: d.update(
        {"tensorflowjs_models/m/weight_specs": '[{"name":"w","shape":[-1],"dtype":"float32"}]'}
    ),
    "topology": lambda d: d.update({"tensorflowjs_models/m/model_topology": "3"}),
    "metadata": lambda d: d.update({"tensorflowjs_models/m/model_metadata": "[]"}),
    "date": lambda d: d.update({"tensorflowjs_models/m/info": '{"dateSaved":"2026-13-45T99:99:99.000Z"}'}),
    "info": lambda d: d.update({"tensorflowjs_models/m/info": "null"}),
    "sizes": lambda d: d.update(
        {"tensorflowjs_models/m/info": '{"dateSaved":"2026-11-22T01:27:51.687Z","weightDataBytes":-1}'}
    ),
    "escapes": lambda d: d.update({k.replace("/m/", "/../m/"): v for k, v in d.items()}),
    "no name": lambda d: d.update({k.replace("/m/", "//"): v for k, v in d.items()}),
}


@pytest.mark.parametrize("what", LOCAL)
def test_hostile_dumps_of_local_storage(what: str, dump: Callable[[Any], Path], tmp_path: Path) -> None:
    wl.save_model(small(1), "localstorage://good")
    wl.save_model(small(1), "localstorage://m")
    wl.export_browser_dump("localstorage", tmp_path / "out.json")
    value = json.loads((tmp_path / "out.json").read_bytes())
    LOCAL[what](value)
    with pytest.raises(wl.FormatError):
        wl.import_browser_dump(dump(value), database=tmp_path / "x.db")
    assert wl.list_models("localstorage://", database=tmp_path / "x.db") == {}


def record(value: Any, store: str = "models_store") -> Any:
    return value["stores"][store]["records"][1]


INDEXED: dict[str, Callable[[Any], Any]] = {
    "no buffer": lambda v: record(v)["modelArtifacts"].update(weightData="AAAA"),
    "list of buffers": lambda v: record(v)["modelArtifacts"].update(weightData=[]),
    "no base64": lambda v: record(v)["modelArtifacts"].update(weightData={"__arraybuffer__": "*", "byteLength": 0}),
    "length": lambda v: record(v)["modelArtifacts"]["weightData"].update(byteLength=1 << 40),
    "too short": lambda v: record(v)["modelArtifacts"].update(weightData={"__arraybuffer__": "AAAA", "byteLength": 3}),
    "no data": lambda v: record(v)["modelArtifacts"].pop("weightData"),
    "specs": lambda v: record(v)["modelArtifacts"].update(weightSpecs=3),
    "artifacts": lambda v: record(v).update(modelArtifacts=None),
    "binary topology": lambda v: record(v)["modelArtifacts"].update(modelTopology="AAAA"),
    "date": lambda v: record(v)["modelArtifactsInfo"].update(dateSaved="2026-11-22T01:27:51.796Z"),
    "no info": lambda v: record(v).pop("modelArtifactsInfo"),
    "name": lambda v: record(v).update(modelPath=3),
    "twice": lambda v: record(v).update(modelPath="good"),
    "escapes": lambda v: [record(v, s).update(modelPath="../m") for s in ("models_store", "model_info_store")],
    "one store": lambda v: v["stores"]["model_info_store"]["records"].pop(),
    "no store": lambda v: v["stores"].pop("models_store"),
    "no records": lambda v: v["stores"]["models_store"].update(records={}),
    "key": lambda v: v["stores"]["models_store"].update(keyPath="id"),
    "database": lambda v: v.update(name="other"),
    "no object": lambda v: v["stores"]["models_store"].update(records=[3, 4]),
}


@pytest.mark.parametrize("what", INDEXED)
def test_hostile_dumps_of_indexed_db(what: str, dump: Callable[[Any], Path], tmp_path: Path) -> None:
    wl.save_model(small(1), "indexeddb://good")
    wl.save_model(small(1), "indexeddb://m")
    wl.export_browser_dump("indexeddb", tmp_path / "out.json")
    value = copy.deepcopy(json.loads((tmp_path / "out.json").read_bytes()))
    INDEXED[what](value)
    with pytest.raises(wl.FormatError):
        wl.import_browser_dump(dump(value), database=tmp_path / "x.db")
    assert wl.list_models("indexeddb://", database=tmp_path / "x.db") == {}
