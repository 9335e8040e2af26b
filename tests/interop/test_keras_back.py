"""TensorFlow.js layers models as Keras models: live ones, and ``.keras`` files that Keras loads."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.keras_graphs import MODELS, inputs_of, make
from tests.interop.keras_support import compare, keras_or_skip, predict, run_in_node, write_inputs
from tests.interop.tensorflow_js import tensorflow_js_or_skip

import weightlift as wl

tensorflow_js_or_skip()
pytest.importorskip("h5py", reason="h5py is not installed")
keras = keras_or_skip()


class Resaved:
    """All models, as TensorFlow.js itself saved them after it had loaded them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inputs: dict[str, list[np.ndarray]] = {}
        for name in MODELS:
            model = make(name)
            self.inputs[name] = inputs_of(model)
            wl.save_model(model, root / name, durable=False)
            write_inputs(root / name, self.inputs[name])
        self.answers = dict(zip(MODELS, run_in_node([root / name for name in MODELS]), strict=True))


@pytest.fixture(scope="module")
def resaved(tmp_path_factory: pytest.TempPathFactory) -> Resaved:
    return Resaved(tmp_path_factory.mktemp("resaved"))


@pytest.mark.parametrize("name", MODELS)
def test_what_tensorflow_js_saved_computes_the_same_in_keras(resaved: Resaved, name: str, tmp_path: Path) -> None:
    artifacts = wl.load_model(resaved.root / name / "resaved")
    outputs = predict(artifacts.to_keras(), resaved.inputs[name])
    compare(outputs, resaved.answers[name])
    wl.save_model(artifacts, tmp_path / "m.keras", durable=False)
    compare(predict(keras.models.load_model(tmp_path / "m.keras"), resaved.inputs[name]), resaved.answers[name])


def test_both_layers_of_a_bidirectional_are_written(tmp_path: Path) -> None:
    """Keras copies a missing one, and may take one copy for another: it knows them by their addresses."""
    wl.save_model(make("bidirectional"), tmp_path / "m")
    wl.save_model(wl.load_model(tmp_path / "m"), tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    both = [layer["config"] for layer in layers if layer["class_name"] == "Bidirectional"]
    assert len(both) == 5
    for config in both:
        forward, backward = config["layer"]["config"], config["backward_layer"]["config"]
        assert backward["go_backwards"] is not forward["go_backwards"]
        assert backward["units"] == forward["units"] and backward["name"] != forward["name"]


def test_names_and_keys_come_back(resaved: Resaved) -> None:
    """From our own file, which keeps them in its metadata."""
    model = wl.load_model(resaved.root / "dict_inputs_and_outputs").to_keras()
    assert set(model({"a": np.zeros((1, 4), "f4"), "z": np.zeros((1, 4), "f4")})) == {"first", "second"}
    names = [layer.name for layer in wl.load_model(resaved.root / "odd_names").to_keras().layers]
    assert names[:2] == ["my input", "_hidden layer é"]
    inner = wl.load_model(resaved.root / "nested_three_deep").to_keras().get_layer("middle")
    assert inner.get_layer("deepest").get_layer("dense").units == 4


NODE = """
const fs = require('fs');
const tf = require('@tensorflow/tfjs');
const [root] = process.argv.slice(2);
function models() {
  const l = tf.layers;
  const lstm = tf.sequential({layers: [
    l.lstm({units: 3, inputShape: [4, 2], returnSequences: true}), l.gru({units: 2}),
    l.dense({units: 2, activation: 'hardSigmoid'})]});
  const relu = tf.sequential({layers: [
    l.dense({units: 5, inputShape: [3], kernelInitializer: 'leCunNormal', kernelRegularizer: 'l1l2'}),
    l.leakyReLU(), l.thresholdedReLU({theta: 0.1}), l.dense({units: 2, activation: 'softmax'})]});
  const i = tf.input({shape: [6, 6, 1], name: 'picture'});
  const conv = l.conv2d({filters: 2, kernelSize: 3, activation: 'relu6', kernelConstraint: 'nonNeg'}).apply(i);
  const norm = l.batchNormalization().apply(conv);
  const two = l.concatenate().apply([l.flatten().apply(norm), l.globalAveragePooling2d({}).apply(conv)]);
  const graph = tf.model({inputs: i, outputs: [l.dense({units: 2}).apply(two), conv]});
  return {lstm, relu, graph};
}
async function main() {
  const answers = {};
  for (const [name, model] of Object.entries(models())) {
    const weights = model.getWeights().map((w) => tf.abs(tf.randomNormal(w.shape, 0.1, 0.5, 'float32', 3)));
    model.setWeights(weights);
    const shape = model.inputs[0].shape.map((d) => d || 2);
    const x = tf.randomNormal(shape, 0, 1, 'float32', 5);
    const outputs = [];
    for (const y of [].concat(model.predict(x))) outputs.push([y.shape, Array.from(y.dataSync())]);
    answers[name] = {input: [shape, Array.from(x.dataSync())], outputs};
    await model.save(tf.io.withSaveHandler(async ({weightData, weightSpecs, ...rest}) => {
      fs.mkdirSync(`${root}/${name}`);
      fs.writeFileSync(`${root}/${name}/weights.bin`, Buffer.from(weightData));
      const weightsManifest = [{paths: ['weights.bin'], weights: weightSpecs}];
      fs.writeFileSync(`${root}/${name}/model.json`, JSON.stringify({...rest, weightsManifest}));
      return {modelArtifactsInfo: {}};
    }));
  }
  console.log(JSON.stringify(answers));
}
main();
"""


def test_models_that_were_made_in_tensorflow_js(tmp_path: Path) -> None:
    """First layers that carry the input's shape, its own defaults and initializers, its hard sigmoid."""
    from tests.interop.tensorflow_js import run_node

    (tmp_path / "make.js").write_text(NODE)
    answers = run_node(tmp_path / "make.js", str(tmp_path))
    assert set(answers) == {"lstm", "relu", "graph"}
    for name, answer in answers.items():
        shape, values = answer["input"]
        x = [np.asarray(values, "f4").reshape(shape)]
        artifacts = wl.load_model(tmp_path / name)
        model = artifacts.to_keras()
        compare(predict(model, x), answer)
        wl.save_model(artifacts, tmp_path / f"{name}.keras")
        model.save(tmp_path / f"{name}_of_keras.keras")
        for path in (tmp_path / f"{name}.keras", tmp_path / f"{name}_of_keras.keras"):
            compare(predict(keras.models.load_model(path), x), answer)
        wl.save_model(model, tmp_path / f"{name}_live")
        for path in (tmp_path / f"{name}.keras", tmp_path / f"{name}_of_keras.keras", tmp_path / f"{name}_live"):
            again = wl.load_model(path)
            assert "hard_sigmoid" in json.dumps(again.model_topology) or name != "lstm"
            assert "Sequential" not in json.dumps(again.model_topology["config"])
            for one, other in zip(again.weights.values(), artifacts.weights.values(), strict=True):
                np.testing.assert_array_equal(one, other)


def test_the_fixtures(tfjs_fixtures: Path) -> None:
    model = wl.load_model(tfjs_fixtures / "layers_node").to_keras()
    assert model.count_params() > 0
    with pytest.raises(wl.UnsupportedFeatureError, match="only a layers model"):
        wl.load_model(tfjs_fixtures / "real" / "selfie.json").to_keras()


def dense() -> wl.ModelArtifacts:
    kept: list[wl.ModelArtifacts] = []
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])
    wl.save_model(model, wl.with_save_handler(kept.append))
    return kept[0]


def test_weights_are_found_as_tensorflow_js_finds_them() -> None:
    artifacts = dense()
    for form in ("d/cell/{}", "d/{}:0"):
        renamed = {form.format(n.rpartition("/")[2]): w for n, w in artifacts.weights.items()}
        model = replace(artifacts, weights=renamed).to_keras()
        np.testing.assert_array_equal(model.get_weights()[0], artifacts.weights["d/kernel"])


def test_missing_weights_are_listed() -> None:
    artifacts = dense()
    with pytest.raises(wl.MismatchError, match="d/bias") as caught:
        replace(artifacts, weights={"d/kernel": artifacts.weights["d/kernel"], "e/bias": np.zeros(2)}).to_keras()
    assert caught.value.missing == ("d/bias",) or list(caught.value.missing) == ["d/bias"]
    wrong = {**artifacts.weights, "d/kernel": np.zeros((3, 2), "f4")}
    with pytest.raises(wl.MismatchError, match="layer d"):
        replace(artifacts, weights=wrong).to_keras()


def test_unknown_layers_are_listed_and_custom_ones_are_taken() -> None:
    class Twice(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    artifacts = dense()
    topology = json.loads(json.dumps(artifacts.model_topology))
    topology["config"]["layers"].append({"class_name": "Twice", "config": {"name": "t"}})
    changed = replace(artifacts, model_topology=topology)
    with pytest.raises(wl.UnsupportedFeatureError, match=r"t \(Twice\)"):
        changed.to_keras()
    model = changed.to_keras(custom_objects={"Twice": Twice})
    np.testing.assert_allclose(
        predict(model, [np.ones((1, 4), "f4")])[0], 2 * predict(artifacts.to_keras(), [np.ones((1, 4), "f4")])[0]
    )
