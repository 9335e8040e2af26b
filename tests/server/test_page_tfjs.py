"""The page and the real TensorFlow.js in one Chromium: each loads what the other put into the browser's storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.interop.tensorflow_js import BUNDLE, tensorflow_js_or_skip
from tests.server.browser import Open, Tab, playwright_or_skip
from tests.server.support import HIDDEN, Server, names_in, same_weights

import weightlift as wl

playwright_or_skip()
tensorflow_js_or_skip(node=False)

Make = Callable[..., Path]
MEDIA = [("IndexedDB", "indexeddb"), ("localStorage", "localstorage")]
INPUT = [[1.0, 2.0, 3.0], [0.0, 0.5, -1.0]]

# What lies in the browser under a name, as plain JSON.
LOCAL = """(name) => Object.fromEntries(Object.entries(localStorage)
  .filter(([k]) => k.startsWith(`tensorflowjs_models/${name}/`)).map(([k, v]) => [k.split('/').pop(), v]))"""
INDEXED = """(name) => new Promise((resolve, reject) => {
  const request = indexedDB.open('tensorflowjs');
  request.onerror = () => reject(request.error);
  request.onsuccess = () => {
    const db = request.result;
    const t = db.transaction(['models_store', 'model_info_store'], 'readonly');
    const stores = ['models_store', 'model_info_store'].map((s) => t.objectStore(s));
    const paths = stores.map((s) => s.keyPath);
    const [model, info] = stores.map((s) => s.get(name));
    t.oncomplete = () => {
      const plain = (v) => v instanceof Date ? 'a date' : v instanceof ArrayBuffer ? [...new Uint8Array(v)]
          : Array.isArray(v) ? v.map(plain)
          : v && typeof v === 'object' ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x)])) : v;
      resolve({
        version: db.version, stores: [...db.objectStoreNames].sort(), paths, model: plain(model.result),
        info: plain(info.result),
      });
      db.close();
    };
  };
})"""


def with_tensorflow(t: Tab) -> Tab:
    """Let the page have the real TensorFlow.js, on the CPU."""
    t.page.add_script_tag(path=str(BUNDLE))
    t.page.evaluate("async () => { await tf.setBackend('cpu'); await tf.ready(); }")
    t.complaints.clear()  # what TensorFlow.js says of the machine
    return t


def predict(t: Tab, url: str) -> list[float]:
    """What the model at a URL computes in the page."""
    script = "async ([url, input]) => [...await (await tf.loadLayersModel(url)).predict(tf.tensor(input)).data()]"
    result: list[float] = t.page.evaluate(script, [url, INPUT])
    return result


def computed(artifacts: wl.ModelArtifacts) -> list[float]:
    """The same by NumPy."""
    x = np.array(INPUT, "f4")
    for i in range(len(artifacts.weights) // 2):
        x = np.maximum(
            x @ np.asarray(artifacts.weights[f"dense_{i}/kernel"]) + np.asarray(artifacts.weights[f"dense_{i}/bias"]), 0
        )
    return x.ravel().tolist()


@pytest.mark.parametrize(("title", "scheme"), MEDIA)
@pytest.mark.parametrize("quantize", [None, "uint8"])
def test_a_model_goes_to_the_browser_and_back(
    tab: Open, server: Server, make_model: Make, title: str, scheme: str, quantize: str | None
) -> None:
    server.upload("my%20net", make_model(5, 20, 4, shard_size=200, quantize=quantize, metadata={"note": "größe"}))
    before = wl.load_model(server.root / "my net", lazy=False)
    weights = b"".join(f.read_bytes() for f in sorted((server.root / "my net").glob("*.bin")))
    t = with_tensorflow(tab(server, bypass_csp=True).open("#/models/my%20net"))
    t.press(f"Move to {title}")
    t.toast(f"“my net” is moved to {title} of this browser.")
    t.page.wait_for_selector("h2:has-text('In this browser')")
    assert names_in(server.root) == [HIDDEN]
    (row,) = t.rows("Models in this browser")
    assert row[:2] == ["my net", title]
    assert np.allclose(predict(t, f"{scheme}://my net"), computed(before), rtol=1e-4, atol=1e-5)
    listed = t.page.evaluate("tf.io.listModels()")
    assert list(listed) == [f"{scheme}://my net"] and listed[f"{scheme}://my net"]["weightDataBytes"] == len(weights)

    t.press(f"Move to the server: “my net” of {title}")
    t.page.fill("dialog input", "back again")
    t.answer("Move")
    t.toast("“my net” is moved to the server as “back again”.")
    t.page.wait_for_selector("a:has-text('back again')")
    after = wl.load_model(server.root / "back again")
    assert same_weights(after.weights, before.weights)
    assert (server.root / "back again/model.weights.bin").read_bytes() == weights
    assert after.model_topology == before.model_topology and after.weight_specs == before.weight_specs
    assert after.user_defined_metadata == {"note": "größe"} and after.generated_by == before.generated_by
    assert t.page.evaluate("tf.io.listModels()") == {}
    assert np.allclose(
        predict(t, f"{server.url}/models/back%20again/model.json"), computed(after), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("title", "scheme"), MEDIA)
def test_the_layout_is_that_of_tensorflow_js(tab: Open, server: Server, title: str, scheme: str) -> None:
    """TensorFlow.js and the page store one model; what lies in the browser is the same but for the date."""
    t = with_tensorflow(tab(server, bypass_csp=True).open())
    t.page.evaluate(
        """async ([scheme, url]) => {
          const layer = tf.layers.dense({units: 3, inputShape: [3], name: 'd', activation: 'relu'});
          const model = tf.sequential({layers: [layer]});
          model.setUserDefinedMetadata({note: 'größe'});
          model.compile({loss: 'meanSquaredError', optimizer: 'sgd'});
          await model.save(tf.io.http(url), {includeOptimizer: true});
          await (await tf.loadLayersModel(`${url}/model.json`)).save(`${scheme}://theirs`, {includeOptimizer: true});
        }""",
        [scheme, f"{server.url}/models/ours"],
    )
    t.page.evaluate("window.location.hash = '#/models/ours'")
    t.press(f"Copy to {title}")
    t.toast(f"“ours” is copied to {title}")
    if scheme == "localstorage":
        ours, theirs = (t.page.evaluate(LOCAL, name) for name in ("ours", "theirs"))
        for side in (ours, theirs):
            side |= {k: json.loads(v) for k, v in side.items() if k != "weight_data"}
        assert set(ours) == {"info", "model_topology", "weight_specs", "weight_data", "model_metadata"}
        for side in (ours, theirs):
            assert side["info"].pop("dateSaved").endswith("Z")
        assert list(ours["model_metadata"]) == list(theirs["model_metadata"])
    else:
        ours, theirs = (t.page.evaluate(INDEXED, name) for name in ("ours", "theirs"))
        assert ours["version"] == 1 and ours["stores"] == ["model_info_store", "models_store"]
        assert ours["paths"] == ["modelPath", "modelPath"]
        for side in (ours, theirs):
            assert side["info"]["modelArtifactsInfo"]["dateSaved"] == "a date"
            for part in ("info", "model"):
                side[part].pop("modelPath")
    assert ours == theirs


@pytest.mark.parametrize(("title", "scheme"), MEDIA)
def test_the_page_takes_what_tensorflow_js_saved(tab: Open, server: Server, title: str, scheme: str) -> None:
    t = with_tensorflow(tab(server, bypass_csp=True).open())
    expected = t.page.evaluate(
        """async ([url, input]) => {
          const model = tf.sequential({layers: [tf.layers.dense({units: 4, inputShape: [3], name: 'a'}),
            tf.layers.batchNormalization({name: 'b'}), tf.layers.dense({units: 2, name: 'c', activation: 'softmax'})]});
          await model.save(url);
          return [...await model.predict(tf.tensor(input)).data()];
        }""",
        [f"{scheme}://dir/of mine", INPUT],
    )
    t.page.evaluate("window.location.hash = '#/models/none'")
    t.page.wait_for_selector("text=This cannot be shown")
    t.expect_complaint("404")
    t.page.evaluate("window.location.hash = '#/'")
    t.press(f"Copy to the server: “dir/of mine” of {title}")
    t.page.fill("dialog input", "mine")
    t.answer("Copy")
    t.toast("“dir/of mine” is copied to the server as “mine”.")
    stored = wl.load_model(server.root / "mine")
    assert list(stored.weights)[:3] == ["a/kernel", "a/bias", "b/gamma"] and len(stored.weights) == 8
    assert wl.verify(server.root / "mine").ok and not wl.verify(server.root / "mine").unchecked
    assert np.allclose(predict(t, f"{server.url}/models/mine/model.json"), expected)
    assert np.allclose(predict(t, f"{scheme}://dir/of mine"), expected)
    t.page.reload()
    t.press(f"Delete “dir/of mine” of {title}")
    t.answer("Delete")
    t.toast(f"“dir/of mine” is deleted from {title}.")
    t.page.wait_for_selector("main :text('appear here')")


def test_local_storage_that_is_full_keeps_what_it_had(tab: Open, server: Server, make_model: Make) -> None:
    server.upload("net", make_model(1))
    t = tab(server).open("#/models/net")
    t.press("Copy to localStorage")
    t.toast("copied to localStorage")
    before = t.page.evaluate(LOCAL, "net")
    server.upload("net", make_model(2, 1500, 1500))
    t.page.reload()
    t.press("Move to localStorage")
    t.answer("Replace it")
    t.toast("no room")
    assert t.page.evaluate(LOCAL, "net") == before
    assert (server.root / "net").is_dir()


def test_what_is_in_the_browser_is_replaced_only_when_that_is_confirmed(
    tab: Open, server: Server, make_model: Make
) -> None:
    server.upload("net", make_model(1))
    t = tab(server).open("#/models/net")
    t.press("Copy to IndexedDB")
    t.toast("copied to IndexedDB")
    first = t.page.evaluate(INDEXED, "net")["model"]["modelArtifacts"]["weightData"]
    server.upload("net", make_model(2))
    t.press("Copy to IndexedDB")
    t.answer("Cancel")
    assert t.page.evaluate(INDEXED, "net")["model"]["modelArtifacts"]["weightData"] == first
    t.press("Copy to IndexedDB")
    t.answer("Replace it")
    t.until("window.toasts.filter((text) => text.includes('copied to IndexedDB')).length === 2")
    stored = t.page.evaluate(INDEXED, "net")["model"]["modelArtifacts"]["weightData"]
    assert bytes(stored) == (server.root / "net/weights.bin").read_bytes()
