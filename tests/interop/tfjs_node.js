// Runs TensorFlow.js on files: a JSON request a line on standard input, a JSON answer a line on standard output.
//
//   {"do": "decode", "model": PATH}             the weights, as tf.io.http loads and tf.io.decodeWeights decodes them
//   {"do": "loadWeights", "model": PATH}        the same through tf.io.weightsLoaderFactory, as tf.io.loadWeights does
//   {"do": "predict", "model": PATH, "inputs": [[shape, values], ...], "loader": NAME}   what the model computes; the
//                                               loader is that of the document's format unless it is given
//   {"do": "encode", "tensors": [[name, dtype, shape, values], ...], "to": FOLDER}   a model saved by TensorFlow.js
//
// Files are read by a fetch function, each shard as a buffer of its own, as a browser would get them.
'use strict';

const fs = require('fs');
const path = require('path');
const crypto = require('crypto');
const readline = require('readline');
const tf = require('@tensorflow/tfjs');

const HOST = 'http://host/';

// A fetch of files in the folder of `model`; anything else is 404.
function fileFetch(model) {
  return async (url) => {
    const file = path.join(path.dirname(model), decodeURI(url.slice(HOST.length)));
    return fs.existsSync(file) ? new Response(fs.readFileSync(file)) : new Response('', {status: 404});
  };
}

function handler(model) {
  return tf.io.http(HOST + path.basename(model), {fetchFunc: fileFetch(model)});
}

const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');

// Name, dtype, shape and the digest of the little-endian bytes; strings as base64.
async function describe(name, tensor) {
  const result = {name, dtype: tensor.dtype, shape: tensor.shape};
  if (tensor.dtype === 'string') {
    const strings = Array.from(await tensor.bytes(), (b) => Buffer.from(b));
    result.strings = strings.map((b) => b.toString('base64'));
  } else {
    const data = await tensor.data();
    result.sha256 = sha256(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
  return result;
}

async function decode({model}) {
  const artifacts = await handler(model).load();
  const tensors = tf.io.decodeWeights(artifacts.weightData, artifacts.weightSpecs);
  const weights = [];
  for (const spec of artifacts.weightSpecs) weights.push(await describe(spec.name, tensors[spec.name]));
  const {weightData, ...rest} = artifacts;
  return {weights, artifacts: rest, shards: [].concat(weightData).length};
}

async function loadWeights({model}) {
  const {weightsManifest} = JSON.parse(fs.readFileSync(model, 'utf8'));
  const load = tf.io.weightsLoaderFactory((urls) => Promise.all(urls.map(async (url) => {
    return (await fileFetch(model)(url)).arrayBuffer();
  })));
  const tensors = await load(weightsManifest, HOST);
  const weights = [];
  for (const name of Object.keys(tensors)) weights.push(await describe(name, tensors[name]));
  return {weights};
}

async function predict({model, inputs, loader}) {
  const format = loader ? '' : JSON.parse(fs.readFileSync(model, 'utf8')).format;
  const loaded = await tf[loader || (format === 'graph-model' ? 'loadGraphModel' : 'loadLayersModel')](handler(model));
  const tensors = inputs.map(([shape, values]) => tf.tensor(values, shape));
  const result = loaded.predict(tensors.length === 1 ? tensors[0] : tensors);
  const outputs = [];
  for (const tensor of [].concat(result)) outputs.push({shape: tensor.shape, values: Array.from(await tensor.data())});
  return {outputs};
}

async function encode({tensors, to}) {
  const named = tensors.map(([name, dtype, shape, values]) => {
    if (dtype === 'complex64') return {name, tensor: tf.complex(tf.tensor(values[0], shape), tf.tensor(values[1], shape))};
    const data = dtype === 'string' ? values.map((s) => Buffer.from(s, 'base64')) : values;
    return {name, tensor: tf.tensor(data, shape, dtype)};
  });
  const {data, specs} = await tf.io.encodeWeights(named);
  const weightsManifest = [{paths: ['weights.bin'], weights: specs}];
  fs.writeFileSync(path.join(to, 'weights.bin'), Buffer.from(data));
  fs.writeFileSync(path.join(to, 'model.json'), JSON.stringify({modelTopology: null, weightsManifest}));
  const weights = [];
  for (const {name, tensor} of named) weights.push(await describe(name, tensor));
  return {weights};
}

const verbs = {decode, loadWeights, predict, encode};

async function main() {
  for await (const line of readline.createInterface({input: process.stdin})) {
    let answer;
    try {
      const request = JSON.parse(line);
      answer = await verbs[request.do](request);
    } catch (error) {
      answer = {error: String((error && error.message) || error)};
    }
    tf.disposeVariables();
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
}

main();
