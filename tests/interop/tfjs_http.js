// Runs TensorFlow.js over HTTP, once: node tfjs_http.js upload MODEL-URL UPLOAD-URL | load MODEL-URL
//
// "upload" loads the artifacts at a URL and saves them to another, as model.save(url) does; "load" prints name, dtype,
// shape and the SHA-256 of each weight's little-endian bytes, as JSON.
'use strict';

const crypto = require('crypto');
const tf = require('@tensorflow/tfjs');

async function upload(from, to) {
  const artifacts = await tf.io.http(from).load();
  const result = await tf.io.http(to).save(artifacts);
  return {bytes: result.modelArtifactsInfo.weightDataBytes, status: result.responses[0].status};
}

async function load(from) {
  const artifacts = await tf.io.http(from).load();
  const tensors = tf.io.decodeWeights(artifacts.weightData, artifacts.weightSpecs);
  const weights = [];
  for (const {name} of artifacts.weightSpecs) {
    const {buffer, byteOffset, byteLength} = await tensors[name].data();
    const digest = crypto.createHash('sha256').update(Buffer.from(buffer, byteOffset, byteLength)).digest('hex');
    weights.push([name, tensors[name].dtype, tensors[name].shape, digest]);
  }
  return weights;
}

const [verb, ...urls] = process.argv.slice(2);
({upload, load})[verb](...urls).then((answer) => console.log(JSON.stringify(answer)), (error) => {
  console.error(error);
  process.exit(1);
});
