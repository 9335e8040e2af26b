"""localstorage:// and indexeddb://: what is kept, and that it is kept whole."""

from __future__ import annotations

import base64
import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.unit.test_handlers import TOPOLOGY, arrays, model, parts, same
from tests.unit.test_managers import RICH, small

import weightlift as wl
from weightlift.stores import _indexeddb, _sqlite
from weightlift.stores._memory import PROCESS

SCHEMES = ("localstorage", "indexeddb")
KEYS = ("info", "model_topology", "weight_specs", "weight_data", "model_metadata")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The databases of this test; nothing is in memory."""
    PROCESS.files.clear()
    folder = tmp_path / "data"
    monkeypatch.setenv(_sqlite.DIRECTORY_VARIABLE, str(folder))
    return folder


def rows(data: Path, scheme: str, query: str, *values: Any) -> list[Any]:
    """What is in a database, or what is done to it."""
    connection = sqlite3.connect(data / f"{scheme}.sqlite3")
    with connection:
        found = connection.execute(query, values).fetchall()
    connection.close()
    return found


def storage(data: Path) -> Mapping[str, str]:
    return dict(rows(data, "localstorage", "SELECT key, value FROM storage ORDER BY id"))


# --- what is kept ---------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_comes_back_whole(scheme: str) -> None:
    given = model(**RICH)
    result = wl.save_model(given, f"{scheme}://dir/my model")
    assert result.files[0] == f"{scheme}://dir/my model"
    again = wl.load_model(f"{scheme}://dir/my model")
    assert same(again, given)
    assert parts(again) == {**parts(given), "converted_by": None}
    (info,) = wl.list_models(f"{scheme}://").values()
    assert info.to_json() | {"dateSaved": 0} == result.model_artifacts_info.to_json() | {"dateSaved": 0}
    assert wl.verify(f"{scheme}://dir/my model").ok


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_type_of_weight(scheme: str) -> None:
    weights = {
        "s": np.array(["", "żółć → 漢字 😀", "a\0b"], object),
        "bf": np.arange(5).astype(ml_dtypes.bfloat16),
        "half": np.arange(5, dtype="f2"),
        "b": np.array([True, False]),
        "c": np.array([1 + 2j], "c8"),
        "none": np.zeros((0, 3), "f4"),
        "scalar": np.int32(7),
        "i8": np.arange(-3, 3, dtype="i1"),
    }
    wl.save_model(wl.ModelArtifacts(weights=weights), f"{scheme}://m")
    again = arrays(wl.load_model(f"{scheme}://m"))
    assert [v.decode() for v in again.pop("s")] == ["", "żółć → 漢字 😀", "a\0b"]
    for name, found in again.items():
        assert (found.dtype, found.tobytes()) == (weights[name].dtype, weights[name].tobytes()), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_without_weights_and_weights_without_a_model(scheme: str) -> None:
    wl.save_model(wl.ModelArtifacts(TOPOLOGY), f"{scheme}://empty")
    assert wl.load_model(f"{scheme}://empty").model_topology == TOPOLOGY
    wl.save({"a": {"b": np.arange(3)}}, f"{scheme}://w", dtype={"*": "int32"})
    assert wl.load(f"{scheme}://w")["a"]["b"].tolist() == [0, 1, 2]
    assert len(wl.open(f"{scheme}://w")) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantised_weights_keep_their_bytes(scheme: str, tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path / "m", quantize={"uint8": "d/kernel", "float16": "d/bias"})
    wl.copy_model(tmp_path / "m", f"{scheme}://m")
    wl.copy_model(f"{scheme}://m", tmp_path / "back")
    assert (tmp_path / "back/weights.bin").read_bytes() == (tmp_path / "m/weights.bin").read_bytes()


@pytest.mark.parametrize("number", [-0.0, 1.0, 1e16, 1.5e20, 1e21, 1e-7, 123456789012345680000.0, 0.1])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_as_javascript_writes_them_are_no_damage(scheme: str, number: float) -> None:
    wl.save_model(model(user_defined_metadata={"number": [number, {"x": number}]}), f"{scheme}://m")
    found = wl.load_model(f"{scheme}://m").user_defined_metadata
    assert found is not None and [float(n) for n in (found["number"][0], found["number"][1]["x"])] == [number] * 2
    wl.copy_model(f"{scheme}://m", "memory://numbers")
    wl.move_model("memory://numbers", f"{scheme}://again")


def test_local_storage_holds_the_five_keys_of_tensorflow_js(data: Path) -> None:
    given = model(training_config={"loss": "hinge", "metrics": {}, "optimizer_config": {"epsilon": 1e-07, "rate": 1.0}})
    wl.save_model(given, "localstorage://dir/m")
    found = storage(data)
    assert list(found) == [f"tensorflowjs_models/dir/m/{k}" for k in KEYS]
    info, topology, specs, weights, metadata = found.values()
    assert list(json.loads(info)) == [
        "dateSaved", "modelTopologyType", "modelTopologyBytes", "weightSpecsBytes", "weightDataBytes",
    ]  # fmt: skip
    assert topology == '{"class_name":"Sequential","config":{"name":"größe","layers":[]}}'
    assert json.loads(info)["modelTopologyBytes"] == len(topology.encode())
    assert specs.startswith('[{"name":"d/kernel","shape":[3,2],"dtype":"float32"},{"name":"d/bias"')
    assert base64.b64decode(weights) == b"".join(v.tobytes() for v in given.weights.values())
    assert metadata.startswith(
        '{"format":"layers-model","generatedBy":"TensorFlow.js tfjs-layers v4.22.0","convertedBy":null,'
        '"userDefinedMetadata":{"epoch":3},"trainingConfig":{"loss":"hinge","metrics":{},'
        '"optimizer_config":{"epsilon":1e-7,"rate":1}},"weightlift":{'
    )


def test_indexed_db_has_the_two_object_stores(data: Path) -> None:
    wl.save_model(model(), "indexeddb://dir/m")
    ((path, text),) = rows(data, "indexeddb", "SELECT * FROM model_info_store")
    ((key, artifacts, info, _),) = rows(data, "indexeddb", "SELECT * FROM models_store")
    assert (path, key, info) == ("dir/m", "dir/m", text)
    assert list(json.loads(artifacts))[:7] == [
        "modelTopology", "format", "generatedBy", "convertedBy", "trainingConfig", "userDefinedMetadata", "weightData",
    ]  # fmt: skip


# --- whole or not at all --------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_failed_save_leaves_the_old_model(scheme: str, data: Path) -> None:
    wl.save_model(small(1), f"{scheme}://m")

    def stop(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        wl.save_model(small(2), f"{scheme}://m", progress=stop)
    with pytest.raises(wl.UnsupportedFeatureError, match="float64"):
        wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(2)}), f"{scheme}://m")
    for options in ({"shard_size": 16}, {}):
        with pytest.raises((wl.UnsupportedFeatureError, TypeError)):
            wl.save_model(small(3), f"{scheme}://m", **options, **({} if options else {"form": {}}))
    with pytest.raises(wl.UnsupportedFeatureError, match="leave format= out"):
        wl.save({"w": np.zeros(2)}, f"{scheme}://m", format="safetensors")
    assert wl.load_model(f"{scheme}://m").weights["w"][...].tolist() == [1] * 5
    if scheme == "indexeddb":
        assert rows(data, scheme, "SELECT COUNT(*), COUNT(DISTINCT data) FROM weight_chunks") == [(1, 1)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_killed_save_leaves_the_old_model(scheme: str, data: Path) -> None:
    wl.save_model(small(1), f"{scheme}://m")
    code = (
        "import os, numpy as np, weightlift as wl\n"
        "wl.stores = __import__('weightlift.stores._indexeddb', fromlist=['x']); wl.stores.BATCH = 1\n"
        "wl.stores.IndexedDb.publish = lambda *a: os._exit(9)\n"
        "local = __import__('weightlift.stores._localstorage', fromlist=['x'])\n"
        "local._sizes = local.units = lambda *a: os._exit(9)\n"
        f"wl.save_model(wl.ModelArtifacts(weights={{'w': np.ones(1 << 20, 'f4')}}), '{scheme}://m', checksums=False)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    assert wl.load_model(f"{scheme}://m").weights["w"][...].tolist() == [1] * 5
    if scheme == "indexeddb":
        count = "SELECT COUNT(*) FROM weight_data"
        assert rows(data, scheme, count) == [(2,)]
        wl.save_model(small(2), "indexeddb://other")
        assert rows(data, scheme, count) == [(3,)], "a save that may be under way is spared"
        rows(data, scheme, "UPDATE weight_data SET touched = touched - 3601")
        wl.save_model(small(2), "indexeddb://other")
        assert rows(data, scheme, count) == [(2,)]
        assert rows(data, scheme, "SELECT COUNT(DISTINCT data) FROM weight_chunks") == [(2,)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_several_processes_at_once(scheme: str) -> None:
    code = (
        "import sys, numpy as np, weightlift as wl\n"
        "me = float(sys.argv[1])\n"
        "for turn in range(6):\n"
        "    for place in ('common', f'own-{me:.0f}'):\n"
        "        wl.save_model(wl.ModelArtifacts(weights={'w': np.full(300, me, 'f4')}), f'{SCHEME}://{place}')\n"
        "    for _ in range(20):\n"
        "        try:\n"
        "            found = set(wl.load_model(f'{SCHEME}://common').weights['w'][...].tolist())\n"
        "            break\n"
        "        except wl.ChangedError:\n"
        "            pass\n"
        "    assert len(found) == 1, found\n"
    ).replace("{SCHEME}", scheme)
    running = [subprocess.Popen([sys.executable, "-c", code, str(n)], stderr=subprocess.PIPE) for n in range(4)]
    assert [(p.communicate(timeout=120)[1], p.returncode) for p in running] == [(b"", 0)] * 4
    assert list(wl.list_models(f"{scheme}://")) == [
        f"{scheme}://{n}" for n in ("common", *(f"own-{n}" for n in range(4)))
    ]
    assert wl.load_model(f"{scheme}://own-3").weights["w"][...].tolist() == [3.0] * 300


# --- damage ---------------------------------------------------------------------------------------
def test_damage_in_local_storage_is_found(data: Path) -> None:
    wl.save_model(small(1), "localstorage://m")
    key = "tensorflowjs_models/m/"
    change = "UPDATE storage SET value = ? WHERE key = ?"
    rows(data, "localstorage", change, base64.b64encode(np.full(5, 2, "f4").tobytes()).decode(), key + "weight_data")
    with pytest.raises(wl.ChecksumError):
        wl.load_model("localstorage://m", lazy=False)
    assert wl.load_model("localstorage://m", verify=False).weights["w"][...].tolist() == [2] * 5
    for value, entry in (
        ("*", "weight_data"),
        ("3", "weight_specs"),
        ("{", "model_topology"),
        ("[]", "model_metadata"),
    ):
        wl.save_model(small(1), "localstorage://m")
        rows(data, "localstorage", change, value, key + entry)
        with pytest.raises(wl.FormatError):
            wl.load_model("localstorage://m")
    for entry in ("weight_data", "weight_specs", "model_topology"):
        wl.save_model(small(1), "localstorage://m")
        rows(data, "localstorage", "DELETE FROM storage WHERE key = ?", key + entry)
        with pytest.raises(wl.FormatError, match="missing"):
            wl.load_model("localstorage://m")
    wl.save_model(small(1), "localstorage://m")
    rows(data, "localstorage", "DELETE FROM storage WHERE key = ?", key + "model_metadata")
    assert wl.load_model("localstorage://m").weights["w"][...].tolist() == [1] * 5, "as the oldest models were"
    rows(data, "localstorage", change, '{"dateSaved":"yesterday"}', key + "info")
    (info,) = wl.list_models("localstorage://").values()
    assert (info.date_saved.year, info.weight_data_bytes) == (1970, 0), "listed, so that it can be removed"
    wl.remove_model("localstorage://m")
    assert storage(data) == {}


def test_damage_in_indexed_db_is_found(data: Path) -> None:
    wl.save_model(small(1), "indexeddb://m")
    rows(data, "indexeddb", "UPDATE weight_chunks SET bytes = ?", np.full(5, 2, "f4").tobytes())
    with pytest.raises(wl.ChecksumError):
        wl.load_model("indexeddb://m", lazy=False)
    rows(data, "indexeddb", "UPDATE weight_chunks SET bytes = ?", b"abc")
    with pytest.raises(wl.FormatError, match="too short"):
        wl.load_model("indexeddb://m", lazy=False, verify=False)
    rows(data, "indexeddb", "UPDATE models_store SET modelArtifacts = '[]'")
    with pytest.raises(wl.FormatError, match="modelArtifacts"):
        wl.load_model("indexeddb://m")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_that_are_no_database_of_ours(scheme: str, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("important " * 100)
    other = tmp_path / "other.sqlite3"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(wl.FormatError):
            wl.save_model(small(), f"{scheme}://m", database=path)
        with pytest.raises(wl.FormatError):
            wl.load_model(f"{scheme}://m", database=path)
        assert path.read_bytes() == before
    ours = tmp_path / "ours.sqlite3"
    wl.save_model(small(), f"{scheme}://m", database=ours)
    assert list(wl.list_models(f"{scheme}://", database=ours)) == [f"{scheme}://m"]
    assert wl.list_models(f"{scheme}://") == {}
    connection = sqlite3.connect(ours)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(wl.UnsupportedFeatureError, match="version 7"):
        wl.load_model(f"{scheme}://m", database=ours)


# --- quota ----------------------------------------------------------------------------------------
def test_the_quota_is_counted_as_browsers_do(data: Path) -> None:
    given = model(user_defined_metadata={"emoji": "😀" * 10})
    wl.save_model(given, "localstorage://m")
    used = sum(len(t.encode("utf-16-le")) // 2 for pair in storage(data).items() for t in pair)
    wl.remove_model("localstorage://m")
    wl.save_model(given, "localstorage://m", quota=used)
    before = storage(data)
    with pytest.raises(wl.QuotaError, match=rf"needs {used} of {used - 1} .*weightDataBytes=36"):
        wl.save_model(given, "localstorage://m", quota=used - 1)
    with pytest.raises(wl.QuotaError, match=f"of which {used} are taken"):
        wl.save_model(small(), "localstorage://n", quota=used + 10)
    assert storage(data) == before
    big = wl.ModelArtifacts(weights={"w": np.zeros(1 << 20, "f4")})
    with pytest.raises(wl.QuotaError, match="5242880"):
        wl.save_model(big, "localstorage://big")
    wl.save_model(big, "localstorage://big", quota=1 << 30)
    assert wl.load_model("localstorage://big").weights["w"].shape == (1 << 20,)


# --- names and options ----------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_and_options(scheme: str, tmp_path: Path) -> None:
    for path in ("", "../x", "/etc", "a/../b", "a\0", "a://b"):
        with pytest.raises(wl.UnsafeContentError):
            wl.save_model(small(), f"{scheme}://{path}")
        with pytest.raises(wl.UnsafeContentError):
            wl.load_model(f"{scheme}://{path}")
    for verb in (wl.load_model, wl.remove_model, wl.open):
        with pytest.raises(wl.NotFoundError, match="none"):
            verb(f"{scheme}://none")
    with pytest.raises(TypeError, match="auth"):
        wl.load_model(f"{scheme}://m", auth="x")
    with pytest.raises(TypeError, match="auth"):
        wl.list_models(f"{scheme}://", auth="x")
    wl.save_model(small(1), f"{scheme}://m")
    with pytest.raises(wl.NotFoundError):
        wl.load_model(f"{scheme}://none")
    with pytest.raises(wl.RoutingError, match="same place"):
        wl.move_model(f"{scheme}://m", f"{scheme}://m/")
    other = tmp_path / "other.sqlite3"
    wl.move_model(f"{scheme}://m", f"{scheme}://m", save_options={"database": other})
    assert wl.list_models() == {}
    assert wl.load_model(f"{scheme}://m", database=other).weights["w"][...].tolist() == [1] * 5
    wl.remove_model(f"{scheme}://m", database=other)


def test_where_databases_are_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(_sqlite.DIRECTORY_VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    wl.save_model(small(1), "indexeddb://m")
    assert (tmp_path / "xdg" / "weightlift" / "indexeddb.sqlite3").is_file()


# --- chunks ---------------------------------------------------------------------------------------
@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the rows that are read; rows have 64 bytes."""
    monkeypatch.setattr(_indexeddb, "CHUNK", 64)
    read: list[int] = []
    chunk = _indexeddb.IndexedDb.chunk

    def noting(self: Any, data: int, number: int, name: str) -> bytes:
        read.append(number)
        return chunk(self, data, number, name)

    monkeypatch.setattr(_indexeddb.IndexedDb, "chunk", noting)
    return read


def test_many_chunks_and_only_those_that_are_asked_for(chunks: list[int], data: Path) -> None:
    weights = {f"w{i}": np.random.default_rng(i).random(100 + i).astype("f4") for i in range(40)}
    wl.save_model(wl.ModelArtifacts(weights=weights), "indexeddb://m")
    total = sum(w.nbytes for w in weights.values())
    assert rows(data, "indexeddb", "SELECT COUNT(*) FROM weight_chunks") == [(-(-total // 64),)]
    opened = wl.load_model("indexeddb://m")
    assert chunks == []
    offset = sum(weights[f"w{i}"].nbytes for i in range(7))
    assert np.array_equal(opened.weights["w7"][...], weights["w7"])
    assert sorted(set(chunks)) == list(range(offset // 64, (offset + weights["w7"].nbytes - 1) // 64 + 1))
    chunks.clear()
    some = wl.load_model("indexeddb://m", weight_names=["w3"], lazy=False)
    assert list(some.weights) == ["w3"] and len(set(chunks)) <= 8
    assert all(np.array_equal(a, weights[n]) for n, a in arrays(opened).items())


def test_a_model_that_is_replaced_while_it_is_read_says_so(chunks: list[int]) -> None:
    wl.save_model(small(1), "indexeddb://m")
    opened = wl.load_model("indexeddb://m")
    wl.save_model(small(2), "indexeddb://m")
    with pytest.raises(wl.ChangedError, match="open it again"):
        opened.weights["w"][...]
    opened = wl.load_model("indexeddb://m")
    wl.save_model(wl.ModelArtifacts(weights={n: w[...] * 2 for n, w in opened.weights.items()}), "indexeddb://m")
    wl.save_model(wl.load_model("indexeddb://m"), "indexeddb://m")
    assert wl.load_model("indexeddb://m").weights["w"][...].tolist() == [4] * 5


def test_writes_of_any_size_in_any_order(chunks: list[int]) -> None:
    payload = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    database = _indexeddb.IndexedDb()
    writer = _indexeddb.ChunkWriter(database, len(payload), "x")
    starts = list(range(0, 1000, 37))
    for at in reversed(starts):
        writer.write_at(at, payload[at : at + 37])
    with pytest.raises(wl.StorageError, match="do not fit"):
        writer.write_at(990, b"x" * 11)
    writer.commit()
    assert writer.staging.number is not None
    read = b"".join(database.chunk(writer.staging.number, i, "x") for i in range(16))
    assert read == payload


@pytest.mark.parametrize("scheme", ["memory", *SCHEMES])
def test_paths_are_taken_as_they_are(scheme: str) -> None:
    name = "[x]?y=1#z/me@home: 100%25 漢字"
    result = wl.save_model(small(1), f"{scheme}://{name}")
    assert result.files[0].startswith(f"{scheme}://{name}")
    assert list(wl.list_models(f"{scheme}://")) == [f"{scheme}://{name}"]
    wl.move_model(f"{scheme}://{name}", f"{scheme}://{name}!")
    assert wl.load_model(f"{scheme}://{name}!").weights["w"][...].tolist() == [1] * 5
    wl.remove_model(f"{scheme}://{name}!")
    assert wl.list_models() == {}


def test_room_is_given_back(data: Path) -> None:
    wl.save_model(
        wl.ModelArtifacts(weights={"w": np.random.default_rng(0).random(3 << 20).astype("f4")}), "indexeddb://m"
    )
    assert rows(data, "indexeddb", "PRAGMA page_count")[0][0] > 300
    wl.remove_model("indexeddb://m")
    assert rows(data, "indexeddb", "PRAGMA page_count")[0][0] < 20


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_forked_process_reads_and_writes_by_itself(scheme: str) -> None:
    wl.save_model(small(1), f"{scheme}://m")
    opened = wl.load_model(f"{scheme}://m")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            wl.save_model(small(7), f"{scheme}://child")
            code = int(opened.weights["w"][...].tolist() != [1] * 5)
        finally:
            os._exit(code)
    assert opened.weights["w"][...].tolist() == [1] * 5
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert wl.load_model(f"{scheme}://child").weights["w"][...].tolist() == [7] * 5
    wl.save_model(small(2), f"{scheme}://m")


def test_saves_that_are_killed_at_any_moment_leave_a_whole_model(data: Path) -> None:
    """By SIGKILL, again and again; what is there is the old model or the new one."""
    wl.save_model(wl.ModelArtifacts(weights={"w": np.full(1 << 20, -1, "f4")}), "indexeddb://m")
    code = (
        "import numpy as np, weightlift as wl\n"
        "print('begin', flush=True)\n"
        "for k in range(1000):\n"
        "    wl.save_model(wl.ModelArtifacts(weights={'w': np.full(1 << 20, k, 'f4')}), 'indexeddb://m')\n"
    )
    for turn in range(5):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"begin\n"
            time.sleep(0.1 + 0.13 * turn)
            process.kill()
        found = wl.load_model("indexeddb://m").weights["w"][...]
        assert len(np.unique(found)) == 1
    assert list(wl.list_models()) == ["indexeddb://m"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_full_disk(scheme: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit on pages stands for it: the error is the same."""
    wl.save_model(small(1), f"{scheme}://m")
    prepare = _sqlite.Database._prepare

    def small_disk(self: Any, connection: sqlite3.Connection) -> None:
        prepare(self, connection)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 10}")

    with monkeypatch.context() as patch:
        patch.setattr(_sqlite.Database, "_prepare", small_disk)
        big = wl.ModelArtifacts(weights={"w": np.ones(10 << 20, "f4")})
        with pytest.raises(wl.StorageError, match="no room") as caught:
            wl.save_model(big, f"{scheme}://m", **({"quota": 1 << 30} if scheme == "localstorage" else {}))
        assert caught.value.errno == errno.ENOSPC
    assert wl.load_model(f"{scheme}://m").weights["w"][...].tolist() == [1] * 5
    if scheme == "indexeddb":
        assert rows(data, scheme, "SELECT COUNT(*) FROM weight_data") == [(1,)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_database_that_another_process_does_not_let_go(
    scheme: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wl.save_model(small(1), f"{scheme}://m")
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(data / f"{scheme}.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(wl.StorageError, match="in use by another process"):
        wl.save_model(small(2), f"{scheme}://m")
    assert wl.load_model(f"{scheme}://m").weights["w"][...].tolist() == [1] * 5, "readers do not wait"
    other.execute("ROLLBACK")
    other.close()
    wl.save_model(small(2), f"{scheme}://m")
