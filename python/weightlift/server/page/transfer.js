// Models between the server and this browser. A move removes its source only after the target was read back.

import {fileUrl, modelUrl, request, send, ServerError} from './api.js';
import {joined} from './browser-store.js';

const EXTRAS = ['signature', 'userDefinedMetadata', 'modelInitializer', 'initializerSignature', 'trainingConfig'];

// The artifacts of a model of the server, as TensorFlow.js would load them, and the tag of its model.json.
export async function fromServer(name, onProgress = () => {}) {
  const base = modelUrl(name);
  const answer = await request(`${base}/model.json`, {cache: 'no-store'});
  const tag = plainTag(answer.headers.get('ETag'));
  const json = await answer.json();
  const manifest = (json.weightsManifest || []).filter((group) => group.weights);
  const paths = manifest.flatMap((group) => group.paths);
  const shards = [];
  for (const path of paths) {
    const plain = path.split('/').filter((part) => part && part !== '.').map(encodeURIComponent).join('/');
    shards.push(await (await request(`${base}/${plain}`, {cache: 'no-store'})).arrayBuffer());
    onProgress(shards.length, paths.length);
  }
  const now = await request(`${base}/model.json`, {method: 'HEAD', cache: 'no-store'});
  if (plainTag(now.headers.get('ETag')) !== tag) throw new Error('the model was replaced while it was fetched: try again');
  const artifacts = {
    modelTopology: json.modelTopology ?? null,
    format: json.format,
    generatedBy: json.generatedBy,
    convertedBy: json.convertedBy,
    weightSpecs: manifest.flatMap((group) => group.weights),
    weightData: joined(shards),
  };
  for (const key of EXTRAS) if (json[key] !== undefined && json[key] !== null) artifacts[key] = json[key];
  for (const key of Object.keys(artifacts)) if (artifacts[key] === undefined) delete artifacts[key];
  return {artifacts, tag};
}

// The server's tag of the file itself, whichever coding it was sent in.
const plainTag = (tag) => (tag || '').replace(/-gzip"$/, '"');

// The body that TensorFlow.js sends for artifacts.
export function formOf(artifacts) {
  const json = {
    modelTopology: artifacts.modelTopology,
    format: artifacts.format,
    generatedBy: artifacts.generatedBy,
    convertedBy: artifacts.convertedBy,
    weightsManifest: [{paths: ['./model.weights.bin'], weights: artifacts.weightSpecs || []}],
  };
  for (const key of EXTRAS) if (artifacts[key] !== undefined && artifacts[key] !== null) json[key] = artifacts[key];
  const form = new FormData();
  form.append('model.json', new Blob([JSON.stringify(json)], {type: 'application/json'}), 'model.json');
  form.append('model.weights.bin', new Blob([joined(artifacts.weightData)], {type: 'application/octet-stream'}), 'model.weights.bin');
  return form;
}

// Upload under a name; asks confirm(text) before a model of that name is replaced. False if that was declined.
export async function upload(path, method, body, {confirm, name, ...options}) {
  try {
    await send(method, path, body, {...options, headers: {'If-None-Match': '*'}});
  } catch (error) {
    if (!(error instanceof ServerError) || error.status !== 412) throw error;
    if (!(await confirm(`“${name}” is on the server already.`, 'Replace it'))) return false;
    await send(method, path, body, options);
  }
  return true;
}

export const uploadModel = (name, form, options) => upload(modelUrl(name), 'POST', form, {name, ...options});
export const uploadFile = (path, file, options) => upload(fileUrl(path), 'PUT', file, {name: path, ...options});

// From the server into a medium of this browser; with move, away from the server. False if it was declined.
export async function toBrowser(name, medium, {confirm, move = false, onProgress}) {
  if ((await medium.has(name)) && !(await confirm(`“${name}” is in ${medium.title} already.`, 'Replace it'))) return false;
  const {artifacts, tag} = await fromServer(name, onProgress);
  await medium.save(name, artifacts);
  if (move) {
    sameWeights(artifacts.weightData, (await medium.load(name)).weightData);
    await request(modelUrl(name), {method: 'DELETE', headers: {'If-Match': tag}});
  }
  return true;
}

// From a medium of this browser to the server; with move, away from the browser. False if it was declined.
export async function toServer(name, medium, target, {confirm, move = false, onProgress}) {
  const artifacts = await medium.load(name);
  if (!(await uploadModel(target, formOf(artifacts), {confirm, onProgress}))) return false;
  if (move) {
    sameWeights(joined(artifacts.weightData), (await fromServer(target)).artifacts.weightData);
    await medium.remove(name);
  }
  return true;
}

function sameWeights(a, b) {
  const [x, y] = [new Uint8Array(a), new Uint8Array(b)];
  if (x.length !== y.length || x.some((byte, i) => byte !== y[i])) throw new Error('the copy is not what was sent; the original was kept');
}
