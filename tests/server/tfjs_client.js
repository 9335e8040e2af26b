// Runs TensorFlow.js against a server: the request is the first argument, as JSON; the answer a line of JSON.
//
//   {"do": "roundtrip", "url": MODEL, "method": ..., "token": ...}   saves a model there, loads it, predicts with both
//   {"do": "predict", "url": MODEL_JSON, "input": [[...], ...]}      what the model there computes
'use strict';

const tf = require('@tensorflow/tfjs');

async function roundtrip({url, method, token}) {
  const requestInit = {method: method || 'POST', headers: token ? {Authorization: `Bearer ${token}`} : {}};
  const model = tf.sequential({layers: [
    tf.layers.dense({units: 8, inputShape: [3], activation: 'tanh', name: 'd1', biasInitializer: 'randomNormal'}),
    tf.layers.dense({units: 2, name: 'd2'}),
  ]});
  model.setUserDefinedMetadata({note: 'größe'});
  const input = tf.tensor([[1, 2, 3], [-1, 0, 0.5]]);
  const before = Array.from(await model.predict(input).data());
  const result = await model.save(tf.io.http(url, {requestInit}));
  const loaded = await tf.loadLayersModel(`${url}/model.json`, {requestInit: {headers: requestInit.headers}});
  const after = Array.from(await loaded.predict(input).data());
  return {
    before, after, bytes: result.modelArtifactsInfo.weightDataBytes,
    saved: {status: result.responses[0].status, type: result.modelArtifactsInfo.modelTopologyType},
  };
}

async function predict({url, input}) {
  const model = await tf.loadLayersModel(url);
  return {output: Array.from(await model.predict(tf.tensor(input)).data())};
}

const request = JSON.parse(process.argv[2]);
({roundtrip, predict})[request.do](request)
    .catch((error) => ({error: String(error.message || error)}))
    .then((answer) => console.log(JSON.stringify(answer)));
