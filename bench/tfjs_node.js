// Times TensorFlow.js itself once: node tfjs_node.js load MODEL.json | save MODEL.json FOLDER
//
// "load" reads the weight files and decodes them, as a file handler and tf.io.decodeWeights do; "save" decodes a model,
// untimed, and then encodes and writes it plain, as tf.io.encodeWeights and a file handler do: it cannot quantise.
'use strict';

const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs');

function load(model) {
  const {weightsManifest} = JSON.parse(fs.readFileSync(model, 'utf8'));
  const folder = path.dirname(model);
  const read = (file) => {
    const bytes = fs.readFileSync(path.join(folder, file));
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  };
  const buffers = weightsManifest.flatMap((group) => group.paths.map(read));
  return tf.io.decodeWeights(buffers, weightsManifest.flatMap((group) => group.weights));
}

async function save(tensors, folder) {
  const {data, specs} = await tf.io.encodeWeights(tensors);
  fs.writeFileSync(path.join(folder, 'weights.bin'), Buffer.from(data));
  const weightsManifest = [{paths: ['weights.bin'], weights: specs}];
  fs.writeFileSync(path.join(folder, 'model.json'), JSON.stringify({modelTopology: null, weightsManifest}));
}

async function main() {
  await tf.setBackend('cpu');
  const [verb, model, folder] = process.argv.slice(2);
  const ready = verb === 'save' ? load(model) : null;
  const cpu = process.cpuUsage();
  const begin = process.hrtime.bigint();
  if (verb === 'save') await save(ready, folder);
  else load(model);
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
  const {user, system} = process.cpuUsage(cpu);
  console.log(JSON.stringify({seconds, cpu_s: (user + system) / 1e6}));
}

main();
