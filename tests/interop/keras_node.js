// Runs saved layers models in TensorFlow.js: `node keras_node.js FOLDER...`; prints a JSON list, one item a folder.
//
// Each folder holds model.json, its weights, and inputs.json: [[shape, dtype, values], ...]. An item is
// {"outputs": [[shape, values], ...]} or {"error": TEXT}. What TensorFlow.js itself would save of each model is written
// to FOLDER/resaved. With a file train.json, [x, y], the model is trained on it for one step and the loss given.
'use strict';

const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs');

function handler(folder) {
  const json = JSON.parse(fs.readFileSync(path.join(folder, 'model.json'), 'utf8'));
  const shards = json.weightsManifest.flatMap((group) => group.paths);
  const data = Buffer.concat(shards.map((name) => fs.readFileSync(path.join(folder, name))));
  const weightSpecs = json.weightsManifest.flatMap((group) => group.weights);
  const weightData = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  return {load: async () => ({...json, weightSpecs, weightData})};
}

function saver(folder) {
  return tf.io.withSaveHandler(async (artifacts) => {
    const {weightData, weightSpecs, ...rest} = artifacts;
    fs.mkdirSync(folder, {recursive: true});
    fs.writeFileSync(path.join(folder, 'weights.bin'), Buffer.from(tf.io.CompositeArrayBuffer.join(weightData)));
    const weightsManifest = [{paths: ['weights.bin'], weights: weightSpecs}];
    fs.writeFileSync(path.join(folder, 'model.json'), JSON.stringify({...rest, weightsManifest}));
    return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
  });
}

const tensor = ([shape, dtype, values]) => tf.tensor(values, shape, dtype);

async function run(folder) {
  const model = await tf.loadLayersModel(handler(folder));
  const inputs = JSON.parse(fs.readFileSync(path.join(folder, 'inputs.json'), 'utf8')).map(tensor);
  const result = [].concat(model.predict(inputs.length === 1 ? inputs[0] : inputs));
  const outputs = [];
  for (const output of result) outputs.push([output.shape, Array.from(await output.data())]);
  const answer = {outputs};
  const train = path.join(folder, 'train.json');
  const trained = fs.existsSync(train);
  if (trained) {
    const [x, y] = JSON.parse(fs.readFileSync(train, 'utf8')).map(tensor);
    answer.loss = await model.trainOnBatch(x, y);
    const after = model.predict(x);
    answer.after = [after.shape, Array.from(await after.data())];
  }
  await model.save(saver(path.join(folder, 'resaved')), {includeOptimizer: trained});
  return answer;
}

async function main() {
  await tf.setBackend('cpu');
  const answers = [];
  for (const folder of process.argv.slice(2)) {
    try {
      answers.push(await run(folder));
    } catch (error) {
      answers.push({error: String(error.stack).slice(0, 2000)});
    }
  }
  console.log(JSON.stringify(answers));
}

main();
