"""downloads:// and wl.browser_files: what goes to the downloads directory, and what was picked in any order."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.test_handlers import TOPOLOGY, arrays, model, parts, same
from tests.unit.test_managers import RICH, small

import weightlift as wl


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- downloads:// ---------------------------------------------------------------------------------
def test_a_download_is_a_pair_of_files(tmp_path: Path) -> None:
    given = model(**RICH)
    result = wl.save_model(given, "downloads://twin", directory=tmp_path / "new")
    folder = tmp_path / "new"
    assert result.files == (str(folder / "twin.json"), str(folder / "twin.weights.bin"))
    assert result.model_artifacts_info.weight_data_bytes == 36
    document = json.loads((folder / "twin.json").read_bytes())
    assert document["weightsManifest"][0]["paths"] == ["./twin.weights.bin"]
    assert list(document)[:5] == ["modelTopology", "format", "generatedBy", "convertedBy", "weightsManifest"]
    again = wl.load_model(folder / "twin.json")
    assert same(again, given) and parts(again) == {**parts(given), "converted_by": None}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model (1).weights.bin").write_bytes(b"mine")
    for value in range(3):
        wl.save_model(small(value), "downloads://", directory=tmp_path)
    assert names(tmp_path) == [
        "model (1).weights.bin", "model (2).json", "model (2).weights.bin", "model (3).json", "model (3).weights.bin",
        "model.json", "model.weights.bin",
    ]  # fmt: skip
    assert (tmp_path / "model (1).weights.bin").read_bytes() == b"mine"
    for value, stem in enumerate(("model", "model (2)", "model (3)")):
        document = json.loads((tmp_path / f"{stem}.json").read_bytes())
        assert document["weightsManifest"][0]["paths"] == [f"./{stem}.weights.bin"]
        assert arrays(wl.load_model(tmp_path / f"{stem}.json"))["w"].tolist() == [value] * 5


def test_downloads_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    def save(value: int) -> None:
        wl.save_model(small(value), "downloads://m", directory=tmp_path)

    threads = [threading.Thread(target=save, args=(value,)) for value in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    found = [set(arrays(wl.load_model(p))["w"].tolist()) for p in tmp_path.glob("*.json")]
    assert sorted(v for values in found for v in values) == list(range(12))
    assert all(len(values) == 1 for values in found)


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        wl.save_model(small(), "downloads://m", directory=tmp_path, progress=stop)
    for options in ({"shard_size": 16}, {"quantize": "uint7"}):
        with pytest.raises(wl.UnsupportedFeatureError):
            wl.save_model(small(), "downloads://m", directory=tmp_path, **options)
    assert names(tmp_path) == []
    wl.save_model(wl.ModelArtifacts(TOPOLOGY), "downloads://m", directory=tmp_path)
    assert names(tmp_path) == ["m.json"]
    assert wl.load_model(tmp_path / "m.json").model_topology == TOPOLOGY


def test_where_downloads_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user-dirs.dirs").write_text(f'XDG_DOWNLOAD_DIR="{tmp_path}/Téléchargements"\n', "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DOWNLOAD_DIR", raising=False)
    wl.save_model(small(), "downloads://m")
    assert names(tmp_path / "Téléchargements") == ["m.json", "m.weights.bin"]
    for prefix in ("../x", "a\0", ".."):
        with pytest.raises(wl.UnsafeContentError):
            wl.save_model(small(), f"downloads://{prefix}")
    with pytest.raises(wl.UnsupportedFeatureError, match="directory="):
        wl.save_model(small(), "downloads://a/b")
    with pytest.raises(TypeError, match="quota"):
        wl.save_model(small(), "downloads://m", quota=3)
    with pytest.raises(wl.RoutingError, match="load"):
        wl.load_model("downloads://m")
    (tmp_path / "file").write_text("")
    with pytest.raises(wl.StorageError):
        wl.save_model(small(), "downloads://m", directory=tmp_path / "file")


# --- browser_files --------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A model in three shards, its JSON last."""
    wl.save_model(model(), tmp_path / "m", shard_size=16)
    return [*sorted((tmp_path / "m").glob("*.bin"), reverse=True), tmp_path / "m" / "model.json"]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", ["path", "text", "pair", "file"])
def test_picked_files_in_any_order_and_of_any_kind(files: list[Path], kind: str, backwards: bool) -> None:
    assert len(files) == 4
    make: dict[str, Any] = {"path": Path, "text": str, "pair": lambda p: (p.name, p.read_bytes())}
    with ExitStack() as stack:
        make["file"] = lambda p: stack.enter_context(p.open("rb"))
        picked = [make[kind](path) for path in files]
        handler = wl.browser_files(picked[::-1] if backwards else picked)
        assert same(wl.load_model(handler), model())
    assert list(wl.load_model(handler, weight_names="d/*").weights) == ["d/kernel", "d/bias"]


def test_what_is_missing_or_too_much_is_listed(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(b"")
    with pytest.raises(wl.MismatchError, match=r"shard1of3.*shard2of3.*other.bin") as caught:
        wl.load_model(wl.browser_files([files[3], tmp_path / "other.bin", files[0]]))
    assert caught.value.missing == ["group1-shard1of3.bin", "group1-shard2of3.bin"]
    assert caught.value.unexpected == ["other.bin"]
    with pytest.raises(wl.MismatchError, match="not given"):
        wl.load_model(wl.browser_files([files[3]]))
    with pytest.raises(wl.MismatchError, match=r"more than one file is called 'model.json'"):
        wl.browser_files([*files, ("dir/model.json", b"{}")])
    with pytest.raises(wl.MismatchError, match="at least one"):
        wl.browser_files([])
    with pytest.raises(wl.FormatError, match="none of the files is a model's JSON"):
        wl.load_model(wl.browser_files(files[:3]))
    with pytest.raises(wl.FormatError, match=r"more than one .*'a.json', 'model.json'"):
        wl.load_model(wl.browser_files([("a.json", files[3].read_bytes()), *files]))
    with pytest.raises(wl.FormatError, match="JSON"):
        wl.load_model(wl.browser_files([("model.json", b"{broken"), *files[:3]]))
    with pytest.raises(TypeError):
        wl.browser_files(str(files[3]))
    with pytest.raises(TypeError, match="int"):
        wl.browser_files([3])
    with files[3].open() as text, pytest.raises(wl.FormatError, match="'rb'"):
        wl.browser_files([text])
    with pytest.raises(wl.RoutingError, match="save"):
        wl.save_model(small(), wl.browser_files(files))


def test_paths_of_manifests_are_matched_by_their_last_part() -> None:
    def picked(*paths: str) -> Any:
        weights = [{"name": "w", "shape": [len(paths)], "dtype": "float32"}]
        text = json.dumps({"modelTopology": None, "weightsManifest": [{"paths": list(paths), "weights": weights}]})
        return wl.browser_files([("b.bin", b"\1" * 4), ("m.json", text.encode()), ("a.bin", b"\0" * 4)])

    found = wl.load_model(picked("deep/er/a.bin", "./b.bin")).weights["w"][...]
    assert found.tobytes() == b"\0" * 4 + b"\1" * 4
    with pytest.raises(wl.MismatchError, match=r"more than one file called 'a\.bin'"):
        wl.load_model(picked("x/a.bin", "y/a.bin", "b.bin"))
    with pytest.raises(wl.UnsafeContentError):
        wl.load_model(picked("../a.bin", "b.bin"))


def test_a_topology_alone_can_be_picked() -> None:
    text = json.dumps({"modelTopology": TOPOLOGY}).encode()
    assert wl.load_model(wl.browser_files([("model.json", text)])).model_topology == TOPOLOGY


# --- handlers of any kind -------------------------------------------------------------------------
def test_a_handler_without_the_method_that_is_needed() -> None:
    for handler in (object(), wl.from_memory(small())):
        with pytest.raises(wl.RoutingError, match="save method"):
            wl.save_model(small(), handler)
    with pytest.raises(wl.RoutingError, match="load method"):
        wl.load_model(wl.with_save_handler(lambda a: None))
    assert np.array_equal(arrays(wl.load_model(wl.from_memory(small(2))))["w"], np.full(5, 2, "f4"))
