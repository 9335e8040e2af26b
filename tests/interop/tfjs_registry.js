// Prints what TensorFlow.js knows, as JSON, and what it says to what comes on standard input:
//
//   {"topologies": {NAME: TOPOLOGY}}                       the variables of the models: [name, shape, trainable] each, or an error
//   {"training": [[LOSS or null, METRIC or null], ...]}    whether a training configuration with them loads
//   {"optimizers": {CLASS: CONFIG}}                        likewise
'use strict';

const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs');

const fromMemory = (artifacts) => tf.io.fromMemory(artifacts);

// Operations of the converter's lists, and those of them that graph models may hold: they have a category.
async function ops() {
  const folder = path.join(path.dirname(require.resolve('@tensorflow/tfjs-converter/package.json')), 'dist/operations/op_list');
  const text = fs.readdirSync(folder).filter((f) => f.endsWith('.js')).map((f) => fs.readFileSync(path.join(folder, f), 'utf8'));
  const listed = [...new Set(text.flatMap((t) => [...t.matchAll(/'tfOpName': '([^']+)'/g)].map((m) => m[1])))];
  const node = listed.map((op) => ({name: op, op, attr: {}}));
  const graph = await tf.loadGraphModel(fromMemory({
    modelTopology: {node, versions: {}}, weightSpecs: [{name: 'Const', shape: [], dtype: 'float32'}],
    weightData: new ArrayBuffer(4),
  }));
  const mapped = Object.values(graph.executor.graph.nodes).filter((n) => n.category).map((n) => n.op);
  return {listed, mapped};
}

async function variables(modelTopology) {
  const model = await tf.loadLayersModel(fromMemory({modelTopology}));
  return model.layers.flatMap((l) => l.weights.map((w) => [w.originalName, w.shape, l.trainableWeights.includes(w)]));
}

const SMALL = {class_name: 'Sequential', config: {name: 's', layers: [
  {class_name: 'Dense', config: {name: 'd', units: 1, batch_input_shape: [null, 1]}},
]}};

const load = (trainingConfig) => tf.loadLayersModel(fromMemory({modelTopology: SMALL, trainingConfig}));
const SGD = {class_name: 'SGD', config: {learning_rate: 0.1}};

const attempt = (work) => work().then((value) => value === undefined ? 'ok' : value, (error) => 'error: ' + error.message);

async function main() {
  const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
  const answer = {classes: Object.keys(tf.serialization.SerializationMap.getMap().classNameMap), ops: await ops()};
  answer.version = tf.version.tfjs;
  answer.variables = {};
  for (const [name, topology] of Object.entries(asked.topologies)) {
    answer.variables[name] = await attempt(() => variables(topology));
  }
  answer.training = [];
  for (const [loss, metric] of asked.training) {
    answer.training.push(await attempt(() => load(
        {optimizer_config: SGD, loss: loss || 'mean_squared_error', metrics: metric ? [metric] : []}).then(() => 'ok')));
  }
  answer.optimizers = {};
  for (const [name, config] of Object.entries(asked.optimizers)) {
    answer.optimizers[name] = await attempt(() => load(
        {optimizer_config: {class_name: name, config}, loss: 'mean_squared_error'}).then(() => 'ok'));
  }
  console.log(JSON.stringify(answer));
}

main();
