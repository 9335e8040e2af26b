"""Listing, copying, moving and removing models; memory://."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.test_handlers import arrays, model, parts, same

import weightlift as wl
from weightlift.stores._memory import PROCESS

RICH = {
    "signature": {"inputs": {"x": {"name": "x:0"}}},
    "model_initializer": {"node": [{"name": "init"}]},
    "initializer_signature": {"outputs": {"t": {"resourceId": 3}}},
    "extra": {"somethingElse": [1, None]},
}


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    PROCESS.files.clear()
    yield
    PROCESS.files.clear()


def small(value: float = 0.0) -> wl.ModelArtifacts:
    return wl.ModelArtifacts({"class_name": "Sequential"}, {"w": np.full(5, value, "f4")})


# --- memory:// ------------------------------------------------------------------------------------
def test_a_model_in_memory_comes_back_whole() -> None:
    given = model(**RICH)
    result = wl.save_model(given, "memory://a/b")
    assert result.files == ("memory://a/b/model.json", "memory://a/b/weights.bin")
    assert result.model_artifacts_info.weight_data_bytes == 36
    again = wl.load_model("memory://a/b")
    assert same(again, given)
    assert parts(again) == {**parts(given), "converted_by": None}


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.npy", "w.json", "deep/w.npz"])
def test_files_of_every_format_in_memory(name: str) -> None:
    value: Any = np.arange(7, dtype="f4")
    wl.save(value, f"memory://{name}")
    assert wl.load(f"memory://{name}").tolist() == value.tolist()
    assert wl.open(f"memory://{name}").nbytes == 28
    assert wl.verify(f"memory://{name}").ok


def test_a_compressed_archive_in_memory() -> None:
    wl.save({"w": np.zeros(10_000)}, "memory://z.npz", compression="deflate")
    assert PROCESS.files["z.npz"].data.nbytes < 2000
    assert wl.load("memory://z.npz")["w"].sum() == 0


def test_a_weights_set_is_replaced_and_a_folder_can_be_opened() -> None:
    for value in (1, 2):
        wl.save({"w": np.full(3, value, "f4")}, "memory://set/model.json")
        assert wl.load("memory://set")["w"].tolist() == [value] * 3
    assert sorted(PROCESS.files) == ["set/model.json", "set/weights.bin"]


def test_what_was_opened_stays_when_the_model_is_replaced() -> None:
    wl.save_model(small(1), "memory://m")
    opened = wl.load_model("memory://m")
    wl.save_model(small(2), "memory://m", shard_size=16)
    assert opened.weights["w"][...].tolist() == [1] * 5
    assert wl.load_model("memory://m").weights["w"][...].tolist() == [2] * 5
    wl.save_model(small(3), "memory://m")
    assert sorted(PROCESS.files) == ["m/model.json", "m/weights.bin"]


def test_readers_and_writers_at_once_never_see_parts_of_two() -> None:
    values = range(20)
    wl.save_model(small(0), "memory://busy")
    wrong: list[object] = []

    def write() -> None:
        for value in values:
            wl.save_model(small(value), "memory://busy", checksums=False)

    def read() -> None:
        for _ in values:
            found = wl.load_model("memory://busy").weights["w"][...]
            if len(set(found.tolist())) != 1:
                wrong.append(found)

    threads = [threading.Thread(target=f) for f in (write, write, read, read)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_a_failed_save_leaves_the_old_model() -> None:
    wl.save_model(small(1), "memory://m")
    with pytest.raises(wl.UnsupportedFeatureError):
        wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(2, "f8")}), "memory://m")
    with pytest.raises(RuntimeError, match="stop"):

        def stop(done: int, total: int) -> None:
            raise RuntimeError("stop")

        wl.save_model(small(2), "memory://m", progress=stop)
    assert wl.load_model("memory://m").weights["w"][...].tolist() == [1] * 5


@pytest.mark.parametrize("url", ["memory://", "memory://../x", "memory:///etc", "memory://a/../../b", "memory://a\0"])
def test_names_that_escape_are_refused(url: str) -> None:
    with pytest.raises(wl.UnsafeContentError):
        wl.save_model(small(), url)
    with pytest.raises(wl.UnsafeContentError):
        wl.load_model(url)
    with pytest.raises(wl.UnsafeContentError):
        wl.open(url)


def test_what_is_not_there_and_what_is_not_offered() -> None:
    with pytest.raises(wl.NotFoundError, match="memory://none"):
        wl.load_model("memory://none")
    with pytest.raises(wl.NotFoundError):
        wl.open("memory://none.npz")
    with pytest.raises(TypeError, match="quota"):
        wl.load_model("memory://none", quota=3)
    with pytest.raises(TypeError, match="auth"):
        wl.open("memory://none", auth="x")
    wl.save(np.zeros(1), "memory://file", format="npy")
    with pytest.raises(wl.StorageError, match="exists as a file"):
        wl.save_model(small(), "memory://file")


# --- managers -------------------------------------------------------------------------------------
def test_models_are_listed_by_url(tmp_path: Path) -> None:
    for place in ("memory://a", "memory://deep/b", tmp_path / "x", tmp_path / "y/z", tmp_path / ".hidden"):
        wl.save_model(model(), place)
    assert list(wl.list_models()) == ["memory://a", "memory://deep/b"]
    assert list(wl.list_models("memory://deep")) == ["memory://deep/b"]
    assert list(wl.list_models("memory://")) == ["memory://a", "memory://deep/b"]
    assert list(wl.list_models(tmp_path)) == [f"{tmp_path}/x", f"{tmp_path}/y/z"]
    assert list(wl.list_models(f"file://{tmp_path}/y")) == [f"file://{tmp_path}/y/z"]
    assert list(wl.list_models(tmp_path / "x")) == [f"{tmp_path}/x"]
    (info,) = wl.list_models(tmp_path / "x").values()
    saved = wl.save_model(model(), tmp_path / "x").model_artifacts_info
    assert info.to_json() | {"dateSaved": 0} == saved.to_json() | {"dateSaved": 0}
    with pytest.raises(wl.NotFoundError):
        wl.list_models(tmp_path / "none")


def test_a_damaged_model_is_listed_and_can_be_removed(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path / "m")
    (tmp_path / "m" / "weights.bin").write_bytes(b"")
    (info,) = wl.list_models(tmp_path).values()
    assert (info.weight_data_bytes, info.model_topology_bytes) == (0, 0)
    wl.remove_model(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_copies_keep_everything(scheme: str, tmp_path: Path) -> None:
    given = model(**RICH)
    wl.save_model(given, tmp_path / "a", quantize={"uint8": "d/kernel", "float16": "d/bias"})
    target = f"memory://{tmp_path.name}" if scheme == "memory" else f"{tmp_path}/b"
    info = wl.copy_model(tmp_path / "a", target)
    back = tmp_path / "back"
    assert wl.copy_model(target, back).weight_data_bytes == info.weight_data_bytes
    assert (back / "weights.bin").read_bytes() == (tmp_path / "a" / "weights.bin").read_bytes()
    assert json.loads((back / "model.json").read_bytes()) == json.loads((tmp_path / "a" / "model.json").read_bytes())
    again = wl.load_model(target)
    assert (again.training_config, again.model_initializer) == (given.training_config, RICH["model_initializer"])
    assert again.weight_specs is not None and again.weight_specs[2]["group"] == "optimizer"


def test_a_move_removes_the_original_last(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path / "a", shard_size=16)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    wl.move_model(tmp_path / "a", "memory://a")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["notes.txt"]
    wl.move_model("memory://a", f"{tmp_path}/b")
    assert wl.list_models() == {}
    assert same(wl.load_model(tmp_path / "b"), model())


def test_a_move_that_fails_keeps_the_original(tmp_path: Path) -> None:
    wl.save_model(model(), "memory://a")
    (tmp_path / "b").write_text("in the way")
    with pytest.raises(wl.StorageError):
        wl.move_model("memory://a", tmp_path / "b")
    assert same(wl.load_model("memory://a"), model())


def test_a_copy_that_is_not_the_same_keeps_the_original() -> None:
    """A place that loses what it is given."""
    lost = wl.register_save_router(
        lambda url, options: wl.with_save_handler(lambda a: None) if url.startswith("lossy://") else None
    )
    other = small(7)
    load = wl.register_load_router(lambda url, o: wl.from_memory(other) if url.startswith("lossy://") else None)
    try:
        wl.save_model(small(1), "memory://a")
        with pytest.raises(wl.StorageError, match="original, which is kept: weight 'w' differs"):
            wl.move_model("memory://a", "lossy://x")
    finally:
        wl.unregister_save_router(lost)
        wl.unregister_load_router(load)
    assert list(wl.list_models()) == ["memory://a"]


def test_the_same_place_is_refused_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wl.save_model(model(), "m")
    wl.save_model(model(), "memory://m")
    (tmp_path / "link").symlink_to("m")
    twins = [
        "m",
        "./m",
        "m/",
        "m/model.json",
        tmp_path / "m",
        f"file://{tmp_path}/m",
        "link",
        "../" + tmp_path.name + "/m",
    ]
    for twin in twins:
        for verb in (wl.copy_model, wl.move_model):
            with pytest.raises(wl.RoutingError, match="same place"):
                verb("m", twin)
    with pytest.raises(wl.RoutingError, match="same place"):
        wl.move_model("memory://m", "memory://m/")
    assert same(wl.load_model("m"), model())


def test_removing(tmp_path: Path) -> None:
    wl.save_model(model(), "memory://a/b")
    wl.save_model(model(), "memory://a")
    wl.save_model(model(), tmp_path / "m", shard_size=16)
    wl.remove_model(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    wl.save({"w": np.ones(2)}, tmp_path / "w.npz")
    wl.remove_model(tmp_path / "w.npz")
    assert list(tmp_path.iterdir()) == []
    for url in ("memory://none", tmp_path / "none", f"{tmp_path}/m"):
        with pytest.raises(wl.NotFoundError):
            wl.remove_model(url)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(wl.StorageError, match="not removed"):
        wl.remove_model(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").exists()


def test_removing_spares_weights_that_another_model_names(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path / "m")
    text = (tmp_path / "m" / "model.json").read_text()
    (tmp_path / "m" / "other.json").write_text(text)
    wl.remove_model(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["other.json", "weights.bin"]


def test_removing_a_model_never_leaves_its_directory(tmp_path: Path) -> None:
    (tmp_path / "precious.bin").write_bytes(b"\0\0\0\0")
    folder = tmp_path / "m"
    folder.mkdir()
    weights = [{"name": "w", "shape": [1], "dtype": "float32"}]
    for path in ("../precious.bin", f"{tmp_path}/precious.bin"):
        document = {"modelTopology": None, "weightsManifest": [{"paths": [path], "weights": weights}]}
        (folder / "model.json").write_text(json.dumps(document))
        wl.remove_model(folder)
        assert (tmp_path / "precious.bin").exists()
        folder.mkdir(exist_ok=True)


def test_unknown_schemes_name_the_nearest() -> None:
    with pytest.raises(wl.RoutingError, match="did you mean memory://"):
        wl.remove_model("memroy://a")
    assert wl.list_models("memory://") == {}
    with pytest.raises(wl.RoutingError, match="ftp://"):
        wl.list_models("ftp://host/a")
    wl.save_model(small(), "memory://a")
    with pytest.raises(wl.RoutingError, match="did you mean memory://"):
        wl.move_model("memory://a", "memroy://b")


def test_third_parties_manage_their_scheme() -> None:
    kept = {"shelf://a": small(4)}

    class Shelf:
        def list(self, url: str | None, options: Mapping[str, Any]) -> Mapping[str, wl.ModelArtifactsInfo]:
            return {u: a.info() for u, a in kept.items()}

        def remove(self, url: str, options: Mapping[str, Any]) -> None:
            del kept[url]

    load = wl.register_load_router(lambda url, o: wl.from_memory(kept[url]) if url in kept else None, schemes=["shelf"])
    wl.register_model_manager("shelf", Shelf())
    try:
        with pytest.raises(wl.RoutingError, match="already"):
            wl.register_model_manager("shelf", Shelf())
        assert "shelf://a" in wl.list_models()
        wl.move_model("shelf://a", "memory://b")
        assert kept == {}
        assert arrays(wl.load_model("memory://b"))["w"].tolist() == [4] * 5
    finally:
        wl.unregister_model_manager("shelf")
        wl.unregister_load_router(load)
    with pytest.raises(wl.RoutingError):
        wl.unregister_model_manager("shelf")
    with pytest.raises(wl.RoutingError, match="lower case"):
        wl.register_model_manager("A://", Shelf())


def test_managing_awaitable(tmp_path: Path) -> None:
    async def main() -> None:
        wl.save_model(model(), "memory://a")
        await wl.aio.copy_model("memory://a", tmp_path / "b")
        await wl.aio.move_model(tmp_path / "b", "memory://c")
        assert list(await wl.aio.list_models()) == ["memory://a", "memory://c"]
        await wl.aio.remove_model("memory://a")
        with pytest.raises(wl.NotFoundError):
            await wl.aio.remove_model("memory://a")

    asyncio.run(main())
    assert list(wl.list_models()) == ["memory://c"]


def test_asynchronous_handlers_are_waited_for() -> None:
    class Slow:
        async def load(self) -> wl.ModelArtifacts:
            await asyncio.sleep(0)
            return small(9)

    router = wl.register_load_router(lambda url, o: Slow() if url == "slow://a" else None)
    try:
        wl.copy_model("slow://a", "memory://a")
        asyncio.run(wl.aio.copy_model("slow://a", "memory://b"))
    finally:
        wl.unregister_load_router(router)
    assert arrays(wl.load_model("memory://b"))["w"].tolist() == [9] * 5


def test_an_installed_package_brings_its_manager(tmp_path: Path) -> None:
    """Found by its entry point when the first URL of its scheme comes."""
    (tmp_path / "shelf.py").write_text(
        "import weightlift as wl\n"
        "class Shelf:\n"
        "    def list(self, url, options): return {'shelf://a': wl.ModelArtifacts().info()}\n"
        "    def remove(self, url, options): print('removed', url)\n"
        "def register(router):\n"
        "    router.register_load(lambda url, o: wl.from_memory(wl.ModelArtifacts()) if 'shelf' in url else None)\n"
        "    wl.register_model_manager('shelf', Shelf())\n"
    )
    info = tmp_path / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weightlift.handlers]\nshelf = shelf:register\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport weightlift as wl\nwl.remove_model('shelf://a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("removed shelf://a\n", "")


@pytest.mark.parametrize("schemes", [("localstorage", "indexeddb"), ("indexeddb", "localstorage")])
def test_both_storages_in_one_database(tmp_path: Path, schemes: tuple[str, str]) -> None:
    first, second = (f"{scheme}://net" for scheme in schemes)
    options = {"database": tmp_path / "browser.db"}
    model = wl.ModelArtifacts(weights={"w": np.arange(3, dtype="f4")})
    wl.save_model(model, first, **options)
    assert wl.list_models(f"{schemes[1]}://", **options) == {}
    with pytest.raises(wl.NotFoundError):
        wl.load_model(second, **options)
    wl.copy_model(first, second, load_options=options, save_options=options)
    wl.remove_model(first, **options)
    assert list(wl.list_models(f"{schemes[0]}://", **options)) == []
    assert np.array_equal(wl.load_model(second, **options).weights["w"], model.weights["w"])
