"""Whole models: handlers, file:// URLs, options, live models."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift import _models
from weightlift._awaiting import settle
from weightlift._handlers import StoreHandler, register_files
from weightlift._router import Router
from weightlift.formats import by_name
from weightlift.stores._local import LocalStore

TOPOLOGY = {"class_name": "Sequential", "config": {"name": "größe", "layers": []}}


def model(**changes: Any) -> wl.ModelArtifacts:
    weights = {"d/kernel": np.arange(6, dtype="f4").reshape(3, 2), "d/bias": np.zeros(2, "f4"), "iter": np.int32(3)}
    specs = [
        {"name": "d/kernel", "shape": [3, 2], "dtype": "float32"},
        {"name": "d/bias", "shape": [2], "dtype": "float32"},
        {"name": "iter", "shape": [], "dtype": "int32", "group": "optimizer"},
    ]
    given: dict[str, Any] = {
        "model_topology": TOPOLOGY,
        "weights": weights,
        "weight_specs": specs,
        "format": "layers-model",
        "generated_by": "TensorFlow.js tfjs-layers v4.22.0",
        "training_config": {"loss": "mean_squared_error", "metrics": {}},
        "user_defined_metadata": {"epoch": 3},
    }
    return wl.ModelArtifacts(**given | changes)


def parts(artifacts: wl.ModelArtifacts) -> dict[str, Any]:
    """All but the weights, for comparison."""
    return {k: v for k, v in vars(artifacts).items() if k != "weights"}


def arrays(artifacts: wl.ModelArtifacts) -> dict[str, Any]:
    return {n: np.asarray(w) for n, w in artifacts.weights.items()}


def same(a: wl.ModelArtifacts, b: wl.ModelArtifacts) -> bool:
    x, y = arrays(a), arrays(b)
    return list(x) == list(y) and all(
        x[n].dtype == y[n].dtype and x[n].shape == y[n].shape and x[n].tobytes() == y[n].tobytes() for n in x
    )


# ---- file:// -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["path", "text", "url", "slash", "file", "named"])
def test_a_model_comes_back_whole(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "deep" / "my model"
    target: Any = {
        "path": folder,
        "text": str(folder),
        "url": folder.as_uri(),
        "slash": f"{folder}/",
        "file": folder / "model.json",
        "named": folder / "twin.json",
    }[form]
    result = wl.save_model(model(), target)
    stem = "twin" if form == "named" else "model"
    weights = "twin.weights.bin" if form == "named" else "weights.bin"
    assert sorted(p.name for p in folder.iterdir()) == sorted([f"{stem}.json", weights])
    assert [Path(f).name for f in result.files] == [f"{stem}.json", weights]
    loaded = wl.load_model(target)
    assert parts(loaded) == parts(model())
    assert same(loaded, model())


def test_the_document_is_as_tfjs_node_writes_it(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path, checksums=False)
    assert (tmp_path / "model.json").read_text(encoding="utf-8") == (
        '{"modelTopology":{"class_name":"Sequential","config":{"name":"größe","layers":[]}},'
        '"weightsManifest":[{"paths":["weights.bin"],"weights":['
        '{"name":"d/kernel","shape":[3,2],"dtype":"float32"},{"name":"d/bias","shape":[2],"dtype":"float32"},'
        '{"name":"iter","shape":[],"dtype":"int32","group":"optimizer"}]}],'
        '"format":"layers-model","generatedBy":"TensorFlow.js tfjs-layers v4.22.0","convertedBy":null,'
        '"trainingConfig":{"loss":"mean_squared_error","metrics":{}},"userDefinedMetadata":{"epoch":3}}'
    )


def test_result_has_tensorflow_js_s_sizes(tmp_path: Path) -> None:
    info = wl.save_model(model(), tmp_path).model_artifacts_info.to_json()
    assert info["modelTopologyBytes"] == len(json.dumps(TOPOLOGY, separators=(",", ":"), ensure_ascii=False).encode())
    assert info["weightDataBytes"] == 36
    assert info["weightSpecsBytes"] == len(json.dumps(list(model().weight_specs or ()), separators=(",", ":")))
    assert info["modelTopologyType"] == "JSON"
    assert info["dateSaved"].endswith("Z")


def test_sizes_are_of_the_stored_weights(tmp_path: Path) -> None:
    result = wl.save_model(model(), tmp_path, quantize="uint8")
    assert result.model_artifacts_info.weight_data_bytes == 6 + 2 + 4


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(wl.StorageError, match="exists as a file"):
        wl.save_model(model(), tmp_path / "model")
    with pytest.raises(wl.StorageError):
        wl.save_model(model(), tmp_path / "model" / "inside")
    assert (tmp_path / "model").read_text() == "precious"


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(wl.NotFoundError):
        wl.load_model(tmp_path / "none")
    with pytest.raises(wl.NotFoundError, match=r"holds no model\.json"):
        wl.load_model(tmp_path)


def test_saving_over_a_model_that_is_open(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    loaded = wl.load_model(tmp_path)
    wl.save_model(loaded, tmp_path, metadata={"epoch": 4})
    again = wl.load_model(tmp_path)
    assert again.user_defined_metadata == {"epoch": 4}
    assert same(again, model())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "weights.bin"]


def test_a_failed_save_leaves_the_old_model(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(wl.UnsupportedFeatureError, match="'bad' \\(float64\\)"):
        wl.save_model(model(weights={"bad": np.zeros(3)}), tmp_path)
    with pytest.raises(wl.UnsupportedFeatureError, match="JSON"):
        wl.save_model(model(user_defined_metadata={"x": float("nan")}), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_shards(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path, shard_size=16)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [f"group1-shard{i}of3.bin" for i in (1, 2, 3)] + ["model.json"]
    assert same(wl.load_model(tmp_path), model())


def test_unknown_keys_of_a_document_survive(tmp_path: Path) -> None:
    wl.save_model(model(extra={"ourOwn": [1, {"a": None}]}), tmp_path / "a")
    loaded = wl.load_model(tmp_path / "a")
    assert loaded.extra == {"ourOwn": [1, {"a": None}]}
    wl.save_model(loaded, tmp_path / "b")
    assert (tmp_path / "a" / "model.json").read_bytes() == (tmp_path / "b" / "model.json").read_bytes()


def test_graph_models_keep_their_initializer(tmp_path: Path) -> None:
    graph = wl.ModelArtifacts(
        {"node": [], "versions": {}},
        {"c": np.ones(2, "f4")},
        format="graph-model",
        signature={"inputs": {}},
        model_initializer={"node": [1]},
        initializer_signature={"outputs": {}},
    )
    wl.save_model(graph, tmp_path)
    loaded = wl.load_model(tmp_path)
    assert loaded.model_initializer == {"node": [1]} and loaded.initializer_signature == {"outputs": {}}
    assert loaded.signature == {"inputs": {}}


def test_other_formats_hold_weights_and_metadata_only(tmp_path: Path) -> None:
    weights = {"a": np.arange(3, dtype="f8")}
    wl.save_model(wl.ModelArtifacts(weights=weights, user_defined_metadata={"k": "v"}), tmp_path / "w.safetensors")
    loaded = wl.load_model(tmp_path / "w.safetensors")
    assert loaded.weights["a"][...].tolist() == [0, 1, 2]
    assert loaded.user_defined_metadata == {"k": "v"} and loaded.model_topology is None
    assert loaded.weight_specs == [{"name": "a", "shape": [3], "dtype": "float64"}]
    with pytest.raises(
        wl.UnsupportedFeatureError, match="safetensors holds weights and metadata, but not modelTopology"
    ):
        wl.save_model(model(), tmp_path / "m.safetensors")


def test_damage_is_noticed_when_weights_are_touched(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    loaded = wl.load_model(tmp_path)
    assert loaded.weights["d/bias"][...].tolist() == [0, 0]
    with pytest.raises(wl.ChecksumError) as caught:
        loaded.weights["d/kernel"][...]
    assert caught.value.tensor == "d/kernel"
    with pytest.raises(wl.ChecksumError):
        wl.save_model(loaded, tmp_path / "copy")
    assert not (tmp_path / "copy" / "model.json").exists()
    assert wl.load_model(tmp_path, verify=False).weights["d/kernel"][...].shape == (3, 2)
    with pytest.raises(wl.ChecksumError):
        wl.load_model(tmp_path, lazy=False)


def test_an_edited_document_needs_verify_false(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    path = tmp_path / "model.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"epoch":3', '"epoch":9'), encoding="utf-8")
    with pytest.raises(wl.ChecksumError, match="edited or damaged; verify=False"):
        wl.load_model(tmp_path)
    assert wl.load_model(tmp_path, verify=False).user_defined_metadata == {"epoch": 9}


# ---- quantised weights -------------------------------------------------------------------------------------
def quantized(folder: Path, quantize: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(size=(7, 9)).astype("f4"),
        "v": rng.normal(size=5).astype("f4"),
        "i": np.arange(4, dtype="i4"),
    }
    wl.save_model(wl.ModelArtifacts(TOPOLOGY, weights), folder, quantize=quantize, shard_size=32)
    document: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return document


def stored(folder: Path) -> bytes:
    (group,) = json.loads((folder / "model.json").read_text())["weightsManifest"]
    return b"".join((folder / p).read_bytes() for p in group["paths"])


@pytest.mark.parametrize("shard_size", [None, 16, 50])
@pytest.mark.parametrize("quantize", ["uint8", "uint16", "float16"])
def test_quantised_weights_keep_their_bytes(tmp_path: Path, quantize: str, shard_size: int | None) -> None:
    before = quantized(tmp_path / "a", quantize)
    wl.save_model(wl.load_model(tmp_path / "a"), tmp_path / "b", shard_size=shard_size)
    wl.convert(tmp_path / "a", tmp_path / "c" / "model.json", shard_size=shard_size)
    for copy in (tmp_path / "b", tmp_path / "c"):
        assert stored(copy) == stored(tmp_path / "a")
        after = json.loads((copy / "model.json").read_text())
        assert after["weightsManifest"][0]["weights"] == before["weightsManifest"][0]["weights"]
        assert after["weightlift"]["crc32c"] == before["weightlift"]["crc32c"]
        assert wl.verify(copy).ok


def test_weights_can_be_quantised_again_or_not_at_all(tmp_path: Path) -> None:
    quantized(tmp_path / "a", "uint8")
    loaded = wl.load_model(tmp_path / "a")
    values = arrays(loaded)
    wl.save_model(loaded, tmp_path / "b", quantize={"float16": "w"})
    entries = json.loads((tmp_path / "b" / "model.json").read_text())["weightsManifest"][0]["weights"]
    assert [e.get("quantization", {}).get("dtype") for e in entries] == ["float16", "uint8", None]
    again = arrays(wl.load_model(tmp_path / "b"))
    assert np.array_equal(again["w"], values["w"].astype("f2").astype("f4"))
    assert np.array_equal(again["v"], values["v"])
    wl.save_model(wl.ModelArtifacts(weights=values), tmp_path / "c")
    entries = json.loads((tmp_path / "c" / "model.json").read_text())["weightsManifest"][0]["weights"]
    assert not any("quantization" in e for e in entries)


def test_a_model_may_mix_open_and_new_weights(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path / "a")
    wl.save({"x": np.arange(4, dtype="f2"), "s": np.array([b"ab", b""], object)}, tmp_path / "b" / "model.json")
    a, b = wl.load_model(tmp_path / "a"), wl.load_model(tmp_path / "b")
    weights = {**a.weights, "x": b.weights["x"], "s": b.weights["s"], "new": np.ones(3, "f4")}
    wl.save_model(wl.ModelArtifacts(weights=weights), tmp_path / "c", shard_size=16)
    loaded = wl.load(tmp_path / "c")
    assert list(loaded) == ["d/kernel", "d/bias", "iter", "x", "s", "new"]
    assert loaded["x"].dtype == np.float16 and loaded["x"].tolist() == [0, 1, 2, 3]
    assert loaded["s"].tolist() == [b"ab", b""]
    assert loaded["d/kernel"].tolist() == model().weights["d/kernel"].tolist()


def test_published_models_are_copied_byte_for_byte(tmp_path: Path, tfjs_fixtures: Path) -> None:
    for name, weights in (
        ("selfie.json", "selfie.bin"),
        ("tiny_face_detector_model-weights_manifest.json", "tiny_face_detector_model.bin"),
    ):
        source = tfjs_fixtures / "real" / name
        folder = tmp_path / weights.removesuffix(".bin")
        wl.save_model(wl.load_model(source), folder)
        digest = [
            hashlib.sha256(p.read_bytes()).hexdigest() for p in (source.with_name(weights), folder / "weights.bin")
        ]
        assert digest[0] == digest[1]
        a, b = json.loads(source.read_text()), json.loads((folder / "model.json").read_text())
        if isinstance(a, dict):
            assert {k: v for k, v in b.items() if k not in ("weightsManifest", "weightlift")} == {
                k: v for k, v in a.items() if k != "weightsManifest"
            }


# ---- options -----------------------------------------------------------------------------------------------
def test_only_some_weights(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    loaded = wl.load_model(tmp_path, weight_names=["d/*"])
    assert list(loaded.weights) == ["d/kernel", "d/bias"]
    assert [s["name"] for s in loaded.weight_specs or ()] == ["d/kernel", "d/bias"]
    assert list(wl.load_model(tmp_path, weight_names="iter").weights) == ["iter"]
    with pytest.raises(wl.MismatchError, match="'x'") as caught:
        wl.load_model(tmp_path, weight_names=["iter", "x"])
    assert caught.value.missing == ["x"]
    assert list(wl.load_model(tmp_path, weight_names=["iter", "x"], strict=False).weights) == ["iter"]


def test_progress_reads_the_weights_and_ends_at_one(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    seen: list[float] = []
    loaded = wl.load_model(tmp_path, on_progress=seen.append)
    assert seen[-1] == 1.0 and all(0 <= f <= 1 for f in seen) and seen == sorted(seen)
    assert all(type(w) is np.ndarray for w in loaded.weights.values())
    assert same(loaded, model())


def test_lazy_false_reads_only_what_was_asked_for(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    loaded = wl.load_model(tmp_path, lazy=False, weight_names=["d/bias", "d/kernel"])
    assert list(loaded.weights) == ["d/kernel", "d/bias"]
    (tmp_path / "weights.bin").unlink()
    assert loaded.weights["d/kernel"].sum() == 15


def test_options_that_files_do_not_have(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path)
    with pytest.raises(TypeError, match="no option request"):
        wl.load_model(tmp_path, request={"headers": {}})


def test_metadata_is_added(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path, metadata={"note": "x"})
    assert wl.load_model(tmp_path).user_defined_metadata == {"epoch": 3, "note": "x"}


# ---- handlers ----------------------------------------------------------------------------------------------
def test_memory_handlers() -> None:
    artifacts = model()
    assert wl.load_model(wl.from_memory(artifacts)) is artifacts
    some = wl.load_model(wl.from_memory(artifacts), weight_names="d/*")
    assert list(some.weights) == ["d/kernel", "d/bias"]
    saved: list[wl.ModelArtifacts] = []
    assert wl.save_model(artifacts, wl.with_save_handler(saved.append)) is None
    assert saved == [artifacts]


def test_asynchronous_handlers_are_waited_for() -> None:
    class Slow:
        async def save(self, artifacts: wl.ModelArtifacts) -> str:
            await asyncio.sleep(0)
            return "saved"

        async def load(self) -> wl.ModelArtifacts:
            await asyncio.sleep(0)
            return model()

    assert wl.save_model(model(), Slow()) == "saved"
    assert wl.load_model(Slow()).format == "layers-model"

    async def inside() -> None:
        with pytest.raises(wl.WeightliftError, match=r"wl\.aio"):
            wl.load_model(Slow())
        assert await wl.aio.save_model(model(), Slow()) == "saved"
        assert list((await wl.aio.load_model(Slow(), weight_names="iter")).weights) == ["iter"]

    asyncio.run(inside())


def test_models_of_files_are_awaitable_too(tmp_path: Path) -> None:
    async def story() -> None:
        result = await wl.aio.save_model(model(), tmp_path, quantize="uint8")
        assert result.tensors == 3
        loaded = await wl.aio.load_model(tmp_path, weight_names=["d/*"])
        assert list(loaded.weights) == ["d/kernel", "d/bias"]
        with pytest.raises(wl.NotFoundError):
            await wl.aio.load_model(tmp_path / "none")

    asyncio.run(story())


def test_settle_passes_values_through() -> None:
    assert settle(3) == 3
    assert settle(None) is None


@pytest.mark.parametrize("handler", [object(), 3, None])
def test_what_is_no_handler(handler: Any) -> None:
    with pytest.raises(wl.RoutingError, match="neither a URL nor a handler with a load method"):
        wl.load_model(handler)
    with pytest.raises(wl.RoutingError, match="neither a URL nor a handler with a save method"):
        wl.save_model(model(), handler)


def test_a_handler_of_the_caller_s_takes_no_options_of_ours() -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="quantize, durable: a _WithSaveHandler decides"):
        wl.save_model(model(), wl.with_save_handler(lambda a: None), quantize="uint8", durable=False)


def test_unknown_schemes_are_named() -> None:
    with pytest.raises(wl.RoutingError, match=r"no save handler .* did you mean file://"):
        wl.save_model(model(), "fill:///m")
    with pytest.raises(wl.RoutingError, match="no load handler"):
        wl.load_model("nowhere://m")


def test_a_scheme_of_the_caller_s() -> None:
    store: dict[str, wl.ModelArtifacts] = {}

    class Shelf:
        def __init__(self, url: str) -> None:
            self.url = url

        def save(self, artifacts: wl.ModelArtifacts) -> None:
            store[self.url] = artifacts

        def load(self) -> wl.ModelArtifacts:
            return store[self.url]

    def router(url: str, options: Any) -> Shelf | None:
        return Shelf(url) if url.startswith("shelf://") else None

    wl.register_save_router(router, schemes=["shelf"])
    wl.register_load_router(router, schemes=["shelf"])
    try:
        wl.save_model(model(), "shelf://a")
        assert same(wl.load_model("shelf://a"), model())
        assert len(wl.get_save_handlers("shelf://a")) == len(wl.get_load_handlers("shelf://a")) == 1
    finally:
        wl.unregister_save_router(router)
        wl.unregister_load_router(router)
    assert wl.get_load_handlers("shelf://a") == []


def test_a_store_handler_by_hand(tmp_path: Path) -> None:
    handler = StoreHandler(LocalStore(tmp_path), by_name("tfjs"), "m.json")
    handler.save(model())
    assert same(handler.load(), model())
    assert repr(handler) == f"<StoreHandler {tmp_path}/m.json>"


def test_files_can_be_served_by_any_router(tmp_path: Path) -> None:
    router = Router(entry_points=None)
    register_files(router)
    assert len(router.get_save_handlers(tmp_path)) == 1
    assert router.get_save_handlers("http://host/m") == router.get_load_handlers("http://host/m") == []


# ---- live models -------------------------------------------------------------------------------------------
@pytest.fixture
def exporters() -> Iterator[None]:
    before = list(_models._exporters)
    yield
    _models._exporters[:] = before


@pytest.mark.usefixtures("exporters")
def test_live_models_go_through_their_exporter() -> None:
    class Live:
        pass

    def export(live: Any, *, trainable_only: bool, include_optimizer: bool) -> wl.ModelArtifacts:
        return wl.ModelArtifacts(format=f"{trainable_only} {include_optimizer}")

    with pytest.raises(wl.UnsupportedFeatureError, match=r"Live is no model known here; .*register_exporter"):
        wl.save_model(Live(), wl.with_save_handler(lambda a: a))
    wl.register_exporter(lambda live: isinstance(live, Live), export)
    saved = wl.save_model(Live(), wl.with_save_handler(lambda a: a), include_optimizer=True)
    assert saved.format == "False True"
    wl.register_exporter(lambda live: True, lambda live, **options: wl.ModelArtifacts(format="later"))
    assert wl.save_model(Live(), wl.with_save_handler(lambda a: a)).format == "later"


@pytest.mark.parametrize("value", [{"w": np.zeros(2)}, [np.zeros(2)], np.zeros(2)])
def test_plain_arrays_are_no_model(value: Any) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=r"save plain arrays with weightlift\.save"):
        wl.save_model(value, "m")


def test_artifacts_do_not_say_what_is_trained() -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="trainable_only"):
        wl.save_model(model(), "m", trainable_only=True)
