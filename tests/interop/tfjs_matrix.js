// Makes models of every kind with TensorFlow.js, and runs models: a JSON request a line, a JSON answer a line.
//
//   {"do": "make", "to": FOLDER}                       models saved by TensorFlow.js: {NAME: {loader, inputs, weights, outputs}}
//   {"do": "run", "model": PATH or URL, "loader": NAME, "inputs": [[shape, values], ...], "options": {...}}
//                                                      {weights, outputs, progress}; options as tf.io.http takes them, with
//                                                      "converter": true for a weightUrlConverter
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const tf = require('@tensorflow/tfjs');

const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');
const joined = (data) => Buffer.from(tf.io.CompositeArrayBuffer.join([].concat(data || [])));

// A handler of files as tfjs-node's: model.json and weights.bin in a folder.
function files(folder) {
  return {
    async save({weightData, weightSpecs, ...rest}) {
      fs.mkdirSync(folder, {recursive: true});
      fs.writeFileSync(path.join(folder, 'weights.bin'), joined(weightData));
      const weightsManifest = [{paths: ['weights.bin'], weights: weightSpecs}];
      fs.writeFileSync(path.join(folder, 'model.json'), JSON.stringify({...rest, weightsManifest}));
      return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
    },
    async load() {
      const {weightsManifest, ...rest} = JSON.parse(fs.readFileSync(path.join(folder, 'model.json'), 'utf8'));
      const shards = weightsManifest.flatMap((g) => g.paths.map((p) => fs.readFileSync(path.join(folder, p))));
      const weightSpecs = weightsManifest.flatMap((g) => g.weights);
      return {...rest, weightSpecs, weightData: shards.map((b) => b.buffer.slice(b.byteOffset, b.byteOffset + b.length))};
    },
  };
}

async function describe(artifacts) {
  const tensors = tf.io.decodeWeights(artifacts.weightData, artifacts.weightSpecs);
  const weights = {};
  for (const {name} of artifacts.weightSpecs) {
    const tensor = tensors[name];
    const data = tensor.dtype === 'string' ? Buffer.concat((await tensor.bytes()).map((b) => Buffer.from(b)))
        : await tensor.data();
    weights[name] = [tensor.dtype, tensor.shape, sha256(Buffer.from(data.buffer, data.byteOffset, data.byteLength))];
  }
  return weights;
}

async function predict(model, inputs) {
  const tensors = inputs.map(([shape, values]) => tf.tensor(values, shape));
  const result = model.predict(tensors.length === 1 ? tensors[0] : tensors);
  return Promise.all([].concat(result).map(async (t) => [t.shape, Array.from(await t.data())]));
}

const values = (...shape) => [shape, Array.from({length: tf.util.sizeFromShape(shape)}, (_, i) => ((i * 37) % 23) / 11 - 1)];
const random = (config, name) => ({...config, name, biasInitializer: 'randomNormal', kernelInitializer: 'randomNormal'});

function sequential() {
  return tf.sequential({layers: [
    tf.layers.conv2d(random({filters: 3, kernelSize: 3, inputShape: [8, 8, 2], activation: 'relu'}, 'conv')),
    tf.layers.batchNormalization({name: 'bn', movingMeanInitializer: 'randomNormal', gammaInitializer: 'randomNormal'}),
    tf.layers.flatten({name: 'flat'}),
    tf.layers.dense(random({units: 4, activation: 'softmax'}, 'out')),
  ]});
}

function recurrent() {
  const input = tf.input({shape: [5, 3], name: 'series'});
  const both = tf.layers.bidirectional({name: 'both', layer: tf.layers.lstm({units: 4, name: 'lstm'}), mergeMode: 'concat'});
  const gru = tf.layers.gru({units: 3, name: 'gru'}).apply(input);
  const mixed = tf.layers.concatenate({name: 'cat'}).apply([both.apply(input), gru]);
  return tf.model({inputs: input, outputs: tf.layers.dense(random({units: 2}, 'out')).apply(mixed), name: 'mixed'});
}

async function trained() {
  const model = sequential();
  model.compile({optimizer: tf.train.adam(0.01), loss: 'categoricalCrossentropy', metrics: ['accuracy']});
  await model.fit(tf.tensor(...values(4, 8, 8, 2).reverse()), tf.oneHot([0, 1, 2, 3], 4), {epochs: 1, verbose: 0});
  return model;
}

const constant = (name, dtype, shape) => ({name, op: 'Const', attr: {
  dtype: {type: dtype}, value: {tensor: {dtype, tensorShape: {dim: shape.map((n) => ({size: String(n)}))}}},
}});

// A graph model with weights of every dtype; only two of them are computed with.
async function graph(folder) {
  const fused = {
    transpose_a: {b: false}, transpose_b: {b: false}, T: {type: 'DT_FLOAT'}, num_args: {i: '1'}, epsilon: {f: 0},
    fused_ops: {list: {s: ['Qmlhc0FkZA==', 'UmVsdQ==']}},
  };
  const modelTopology = {versions: {producer: 1087, minConsumer: 12}, node: [
    {name: 'x', op: 'Placeholder', attr: {dtype: {type: 'DT_FLOAT'}, shape: {shape: {dim: [{size: '-1'}, {size: '2'}]}}}},
    constant('w', 'DT_FLOAT', [2, 2]), constant('b', 'DT_FLOAT', [2]), constant('ids', 'DT_INT32', [3]),
    constant('mask', 'DT_BOOL', [4]), constant('words', 'DT_STRING', [3]), constant('wave', 'DT_COMPLEX64', [2]),
    {name: 'y', op: '_FusedMatMul', input: ['x', 'w', 'b'], attr: fused},
  ]};
  const signature = {inputs: {x: {name: 'x:0', dtype: 'DT_FLOAT'}}, outputs: {y: {name: 'y:0', dtype: 'DT_FLOAT'}}};
  const {data, specs} = await tf.io.encodeWeights({
    w: tf.tensor([[1.5, -2], [0.25, 3]]), b: tf.tensor([0.5, 1]), ids: tf.tensor([1, -2, 7], [3], 'int32'),
    mask: tf.tensor([1, 0, 0, 1], [4], 'bool'), words: tf.tensor(['ab', '', 'é'], [3], 'string'),
    wave: tf.complex([1, 2], [-3, 4]),
  });
  const first = {modelTopology, signature, format: 'graph-model', generatedBy: '2.15.0', weightSpecs: specs, weightData: data};
  const model = await tf.loadGraphModel(tf.io.fromMemory(first));
  await model.save(files(folder));
  return model;
}

async function make({to}) {
  const answer = {};
  const keep = async (name, model, inputs, loader = 'loadLayersModel', config) => {
    const folder = path.join(to, name);
    if (loader === 'loadLayersModel') await model.save(files(folder), config);
    answer[name] = {loader, inputs, outputs: await predict(model, inputs), weights: await describe(await files(folder).load())};
  };
  const named = sequential();
  named.setUserDefinedMetadata({note: 'größe', list: [1, {a: null}]});
  await keep('sequential', sequential(), [values(2, 8, 8, 2)]);
  await keep('recurrent', recurrent(), [values(2, 5, 3)]);
  await keep('metadata', named, [values(1, 8, 8, 2)]);
  await keep('optimizer', await trained(), [values(1, 8, 8, 2)], 'loadLayersModel', {includeOptimizer: true});
  await keep('graph', await graph(path.join(to, 'graph')), [values(3, 2)], 'loadGraphModel');
  return answer;
}

async function run({model, loader, inputs, options = {}}) {
  const {converter, ...rest} = options;
  const progress = [];
  if (converter) rest.weightUrlConverter = async (name) => new URL(name, model).href;
  rest.onProgress = (fraction) => progress.push(fraction);
  const handler = model.startsWith('http') ? tf.io.http(model, rest) : files(model);
  const artifacts = await handler.load();
  const loaded = await tf[loader](tf.io.fromMemory({...artifacts}));
  const {optimizer} = loaded;
  return {
    outputs: await predict(loaded, inputs), weights: await describe(artifacts), progress,
    metadata: artifacts.userDefinedMetadata, optimizer: optimizer ? (await optimizer.getWeights()).length : null,
  };
}

async function main() {
  await tf.setBackend('cpu');
  for await (const line of readline.createInterface({input: process.stdin})) {
    let answer;
    try {
      const request = JSON.parse(line);
      answer = await {make, run}[request.do](request);
    } catch (error) {
      answer = {error: String((error && error.message) || error)};
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
}

main();
