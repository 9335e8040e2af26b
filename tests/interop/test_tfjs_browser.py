"""The real TensorFlow.js in Chromium: what it keeps we load, what we keep it runs; dumps, downloads, picked files."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import REPOSITORY
from tests.interop.tensorflow_js import BUNDLE, tensorflow_js_or_skip
from tests.server.browser import PATIENCE, chromium, playwright_or_skip

import weightlift as wl
from weightlift.stores._localstorage import QUOTA

tensorflow_js_or_skip(node=False)
playwright_or_skip()

DUMPS = re.findall(r"^```js\n(.*?)^```", (REPOSITORY / "docs" / "schemes.md").read_text("utf-8"), re.M | re.S)[0]
"""The functions that docs/schemes.md gives for pages."""

PAGE = """<!doctype html><meta charset="utf-8"><title>models</title><link rel="icon" href="data:,">
<script src="tf.min.js"></script><script src="dumps.js"></script><script>
const INPUT = [[0.1, -0.2, 0.3], [1, 2, -3], [0, 0, 0], [-5, 0.25, 7]];
const base64 = (bytes) => btoa(Array.from(new Uint8Array(bytes), (b) => String.fromCharCode(b)).join(''));
// What a handler loads: specs, and all stored bytes.
const stored = async (url) => {
  const a = await tf.io.getLoadHandlers(url)[0].load();
  return {specs: a.weightSpecs, data: base64(tf.io.CompositeArrayBuffer.join(a.weightData)),
    topology: a.modelTopology, metadata: a.userDefinedMetadata ?? null, training: a.trainingConfig ?? null};
};
const predicted = (model) => [...model.predict(tf.tensor2d(INPUT)).dataSync()];
const makeAndSave = async () => {
  const result = {};
  const model = tf.sequential({name: 'żółć', layers: [
    tf.layers.dense({units: 5, inputShape: [3], activation: 'relu', name: 'first', kernelInitializer: 'glorotNormal'}),
    tf.layers.batchNormalization({name: 'norm', epsilon: 1e-7}), tf.layers.dense({units: 2, name: 'last'})]});
  model.compile({optimizer: tf.train.adam(0.01), loss: 'meanSquaredError', metrics: ['accuracy']});
  await model.fit(tf.tensor2d(INPUT), tf.zeros([4, 2]), {epochs: 2, verbose: 0});
  model.setUserDefinedMetadata({author: 'page', unicode: '漢字 😀', nested: {a: [1, 2.5, null, true]}});
  for (const url of ['localstorage://dir/net', 'indexeddb://dir/net']) {
    await model.save(url, {includeOptimizer: true});
    result[url] = await stored(url);
  }
  const plain = tf.sequential({layers: [tf.layers.dense({units: 2, inputShape: [3], useBias: false, name: 'only'})]});
  await plain.save('indexeddb://plain');
  await plain.save('localstorage://plain');
  result['indexeddb://plain'] = await stored('indexeddb://plain');
  result['localstorage://plain'] = await stored('localstorage://plain');
  return {models: result, predictions: {net: predicted(model), plain: predicted(plain)}};
};
const forgetAll = async () => {
  localStorage.clear();
  for (const url of Object.keys(await tf.io.listModels())) await tf.io.removeModel(url);
  return Object.keys(await tf.io.listModels());
};
const restoreLocalStorage = (text) => Object.entries(JSON.parse(text)).forEach(([k, v]) => localStorage.setItem(k, v));
const weightsOf = async (url) => {
  const model = await tf.loadLayersModel(url);
  return {predictions: predicted(model), metadata: model.getUserDefinedMetadata() ?? null,
    optimizer: model.optimizer ? model.optimizer.getClassName() : null,
    weights: model.weights.map((w) => [w.originalName, base64(w.read().dataSync().buffer)])};
};
const graph = async (url) => [...(await tf.loadGraphModel(url)).predict(tf.tensor2d(INPUT)).dataSync()];
const picked = async (names) => {
  const file = async (name) => new File([await (await fetch('files/' + encodeURIComponent(name))).blob()], name);
  const model = await tf.loadLayersModel(tf.io.browserFiles(await Promise.all(names.map(file))));
  return predicted(model);
};
</script>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL and the folder of a site with the page, TensorFlow.js, and what is put into ``files``."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "files").mkdir()
    (folder / "index.html").write_text(PAGE, "utf-8")
    (folder / "dumps.js").write_text(DUMPS, "utf-8")
    shutil.copy(BUNDLE, folder / "tf.min.js")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", folder / "files"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def tab(site: tuple[str, Path]) -> Iterator[Any]:
    """The page, open; it may not complain."""
    complaints: list[str] = []
    with chromium() as browser:
        page = browser.new_context(accept_downloads=True).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(site[0])
        page.evaluate("tf.setBackend('cpu')")
        yield page
    assert complaints == []


DUMP = {"localstorage": "JSON.stringify({...localStorage}, null, 1)", "indexeddb": "dumpIndexedDB()"}
RESTORE = {"localstorage": "restoreLocalStorage", "indexeddb": "restoreIndexedDB"}


@pytest.fixture(scope="module")
def saved(tab: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page has saved: its models, their predictions, and dumps of both stores."""
    folder = tmp_path_factory.mktemp("dumps")
    found: dict[str, Any] = tab.evaluate("makeAndSave()")
    for name, code in (
        ("localstorage", "JSON.stringify({...localStorage}, null, 1)"),
        ("indexeddb", "dumpIndexedDB()"),
    ):
        (folder / f"{name}.json").write_bytes(tab.evaluate(code).encode())
        found[name] = folder / f"{name}.json"
    return found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Databases of this test's own."""
    monkeypatch.setenv("WEIGHTLIFT_BROWSER_DATA", str(tmp_path / "data"))
    return tmp_path


def assert_same(ours: wl.ModelArtifacts, theirs: Mapping[str, Any]) -> None:
    """Every weight bit-equal, and everything else equal."""
    assert list(ours.weight_specs or ()) == theirs["specs"]
    data = b"".join(np.asarray(w).tobytes() for w in ours.weights.values())
    assert data == base64.b64decode(theirs["data"])
    assert ours.model_topology == theirs["topology"]
    assert ours.user_defined_metadata == theirs["metadata"]
    assert ours.training_config == theirs["training"]


def restore(tab: Any, scheme: str, dump: Path) -> None:
    assert tab.evaluate("forgetAll()") == []
    tab.evaluate(RESTORE[scheme], dump.read_text("utf-8"))


@pytest.mark.parametrize("scheme", ["localstorage", "indexeddb"])
def test_what_the_page_saved_is_ours_bit_for_bit(scheme: str, saved: dict[str, Any], data: Path) -> None:
    infos = wl.import_browser_dump(saved[scheme])
    assert sorted(infos) == [f"{scheme}://dir/net", f"{scheme}://plain"]
    for url in infos:
        found = wl.load_model(url)
        assert_same(found, saved["models"][url])
        assert infos[url].weight_data_bytes == len(base64.b64decode(saved["models"][url]["data"]))
    groups = [s.get("group") for s in wl.load_model(f"{scheme}://dir/net").weight_specs or ()]
    assert groups.count("optimizer") == 13
    wl.export_browser_dump(scheme, data / "again.json")
    assert (data / "again.json").read_bytes() == saved[scheme].read_bytes()


@pytest.mark.parametrize("scheme", ["localstorage", "indexeddb"])
def test_what_we_save_runs_in_the_page(scheme: str, saved: dict[str, Any], tab: Any, data: Path) -> None:
    wl.import_browser_dump(saved[scheme], database=data / "theirs.db")
    ours = {}
    for name, kinds in (("same", {}), ("small", {"quantize": {"uint8": "last/kernel", "float16": "first/kernel"}})):
        model = wl.load_model(f"{scheme}://dir/net", database=data / "theirs.db")
        wl.save_model(model, f"{scheme}://ours/{name}", **kinds)
        ours[name] = wl.load_model(f"{scheme}://ours/{name}")
    wl.export_browser_dump(scheme, data / "dump.json")
    restore(tab, scheme, data / "dump.json")
    listed = tab.evaluate("tf.io.listModels().then((models) => JSON.stringify(models))")
    assert sorted(json.loads(listed)) == [f"{scheme}://ours/same", f"{scheme}://ours/small"]
    for name, model in ours.items():
        found = tab.evaluate("weightsOf", f"{scheme}://ours/{name}")
        for weight, bits in found["weights"]:
            assert np.asarray(model.weights[weight]).tobytes() == base64.b64decode(bits), weight
        assert found["optimizer"] == "Adam"
        assert found["metadata"] == model.user_defined_metadata
        tolerance = 0 if name == "same" else 0.2
        assert np.abs(np.subtract(found["predictions"], saved["predictions"]["net"])).max() <= tolerance


@pytest.mark.parametrize("scheme", ["localstorage", "indexeddb"])
def test_a_graph_model_of_ours_runs_in_the_page_and_comes_back(scheme: str, tab: Any, data: Path) -> None:
    kind = {"dtype": {"type": "DT_FLOAT"}}
    shape = {"shape": {"dim": [{"size": "-1"}, {"size": "3"}]}}
    nodes = [
        {"name": "x", "op": "Placeholder", "attr": {**kind, "shape": shape}},
        {"name": "w", "op": "Const", "attr": {**kind, "value": {"tensor": {"dtype": "DT_FLOAT", "tensorShape": {}}}}},
        {"name": "y", "op": "MatMul", "input": ["x", "w"], "attr": {"T": {"type": "DT_FLOAT"}}},
    ]
    kernel = np.array([[1, 2], [3, 4], [5, 6]], "f4")
    given = wl.ModelArtifacts(
        {"node": nodes, "versions": {"producer": 1}, "library": {}}, {"w": kernel}, format="graph-model",
        signature={"inputs": {"x": {"name": "x:0"}}, "outputs": {"y": {"name": "y:0"}}},
    )  # fmt: skip
    wl.save_model(given, f"{scheme}://graph")
    wl.export_browser_dump(scheme, data / "dump.json")
    restore(tab, scheme, data / "dump.json")
    inputs = np.array([[0.1, -0.2, 0.3], [1, 2, -3], [0, 0, 0], [-5, 0.25, 7]], "f4")
    found = tab.evaluate("graph", f"{scheme}://graph")
    assert np.allclose(found, (inputs @ kernel).reshape(-1), atol=1e-5)
    tab.evaluate("([a, b]) => tf.io.copyModel(a, b)", [f"{scheme}://graph", f"{scheme}://again"])
    (data / "back.json").write_bytes(tab.evaluate(DUMP[scheme]).encode())
    wl.import_browser_dump(data / "back.json", database=data / "back.db")
    again = wl.load_model(f"{scheme}://again", database=data / "back.db")
    assert np.array_equal(again.weights["w"][...], kernel)
    assert (again.model_topology, again.signature) == (given.model_topology, given.signature)


def test_our_downloads_are_loaded_by_browser_files(
    saved: dict[str, Any], tab: Any, site: tuple[str, Path], data: Path
) -> None:
    wl.import_browser_dump(saved["indexeddb"])
    for name in ("dir/net", "plain", "plain"):
        wl.copy_model(f"indexeddb://{name}", "downloads://got", save_options={"directory": site[1]})
    assert sorted(p.name for p in site[1].iterdir()) == [
        "got (1).json", "got (1).weights.bin", "got (2).json", "got (2).weights.bin", "got.json", "got.weights.bin",
    ]  # fmt: skip
    for stem, name in (("got", "net"), ("got (1)", "plain"), ("got (2)", "plain")):
        found = tab.evaluate("picked", [f"{stem}.json", f"{stem}.weights.bin"])
        assert found == saved["predictions"][name]


def test_what_the_page_downloads_is_picked_by_us(saved: dict[str, Any], tab: Any, data: Path) -> None:
    restore(tab, "indexeddb", saved["indexeddb"])
    got: list[Any] = []
    tab.on("download", lambda download: got.append(download))
    tab.evaluate("tf.loadLayersModel('indexeddb://plain').then((model) => model.save('downloads://mine'))")
    while len(got) < 2:
        tab.wait_for_timeout(20)
    files = []
    for download in got:
        download.save_as(data / download.suggested_filename)
        files.append(data / download.suggested_filename)
    assert sorted(f.name for f in files) == ["mine.json", "mine.weights.bin"]
    for order in (files, files[::-1]):
        assert_same(wl.load_model(wl.browser_files(order)), saved["models"]["indexeddb://plain"])


def test_our_quota_is_that_of_chromium(tab: Any) -> None:
    """To the code unit; as many as fit are kept, one more is refused."""
    code = """(quota) => {
      localStorage.clear();
      localStorage.setItem('😀', '漢'.repeat(quota - 2));
      try { localStorage.setItem('😀', '漢'.repeat(quota - 1)); return 'kept'; }
      catch (error) { return error.name; }
      finally { localStorage.clear(); }
    }"""
    assert tab.evaluate(code, QUOTA) == "QuotaExceededError"
