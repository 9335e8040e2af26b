// Models in this browser, in exactly the layout of TensorFlow.js, so that tf.loadLayersModel('indexeddb://NAME') and
// 'localstorage://NAME' find what is stored here, and what TensorFlow.js stored is found here.
//
// localStorage: tensorflowjs_models/NAME/ + info, model_topology, weight_specs, weight_data, model_metadata.
// IndexedDB: database "tensorflowjs" of version 1, stores "models_store" and "model_info_store", key "modelPath".

const PREFIX = 'tensorflowjs_models/';
const PARTS = ['info', 'model_topology', 'weight_specs', 'weight_data', 'model_metadata'];
const METADATA = [
  'format', 'generatedBy', 'convertedBy', 'signature', 'userDefinedMetadata', 'modelInitializer', 'initializerSignature',
  'trainingConfig',
];
const DATABASE = 'tensorflowjs';
const MODELS = 'models_store';
const INFOS = 'model_info_store';

const utf8Length = (value) => (value === undefined || value === null ? 0 : new TextEncoder().encode(JSON.stringify(value)).length);

// ModelArtifactsInfo, as TensorFlow.js computes it.
export function infoOf(artifacts) {
  return {
    dateSaved: new Date(),
    modelTopologyType: 'JSON',
    modelTopologyBytes: utf8Length(artifacts.modelTopology),
    weightSpecsBytes: utf8Length(artifacts.weightSpecs),
    weightDataBytes: artifacts.weightData ? artifacts.weightData.byteLength : 0,
  };
}

// Weight data as one buffer: TensorFlow.js may hold a list of them.
export function joined(data) {
  if (!data || data instanceof ArrayBuffer) return data || new ArrayBuffer(0);
  const parts = data.map((part) => new Uint8Array(part));
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result.buffer;
}

// ---- base64, in pieces: a call takes only so many arguments
export function toBase64(buffer) {
  const bytes = new Uint8Array(buffer);
  const pieces = [];
  for (let i = 0; i < bytes.length; i += 0x8000) pieces.push(String.fromCharCode(...bytes.subarray(i, i + 0x8000)));
  return btoa(pieces.join(''));
}

export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

// ---- localStorage
const keyOf = (name, part) => `${PREFIX}${name}/${part}`;

const local = {
  title: 'localStorage',
  scheme: 'localstorage',

  async list() {
    const found = [];
    for (let i = 0; i < localStorage.length; i += 1) {
      const key = localStorage.key(i);
      if (key.startsWith(PREFIX) && key.endsWith('/info')) {
        found.push({name: key.slice(PREFIX.length, -'/info'.length), info: JSON.parse(localStorage.getItem(key))});
      }
    }
    return found;
  },

  async has(name) {
    return localStorage.getItem(keyOf(name, 'info')) !== null;
  },

  async save(name, artifacts) {
    const info = infoOf(artifacts);
    const metadata = {};
    for (const key of METADATA) if (artifacts[key] !== undefined) metadata[key] = artifacts[key];
    const texts = [info, artifacts.modelTopology, artifacts.weightSpecs].map((v) => JSON.stringify(v ?? null));
    texts.push(toBase64(artifacts.weightData), JSON.stringify(metadata));
    const before = PARTS.map((part) => localStorage.getItem(keyOf(name, part)));
    try {
      PARTS.forEach((part) => localStorage.removeItem(keyOf(name, part)));
      PARTS.forEach((part, i) => localStorage.setItem(keyOf(name, part), texts[i]));
    } catch (error) {
      PARTS.forEach((part) => localStorage.removeItem(keyOf(name, part)));
      PARTS.forEach((part, i) => before[i] !== null && localStorage.setItem(keyOf(name, part), before[i]));
      throw new Error(`localStorage has no room for this model (a browser gives about 5 MB): use IndexedDB. ${error.message}`);
    }
    return info;
  },

  async load(name) {
    const [info, topology, specs, data, metadata] = PARTS.map((part) => localStorage.getItem(keyOf(name, part)));
    if (info === null) throw new Error(`localStorage has no model '${name}'`);
    for (const [what, text] of [['topology', topology], ['weight specs', specs], ['weights', data]]) {
      if (text === null) throw new Error(`the ${what} of the model '${name}' are missing in localStorage`);
    }
    return {
      modelTopology: JSON.parse(topology), weightSpecs: JSON.parse(specs), weightData: fromBase64(data),
      ...(metadata === null ? {} : JSON.parse(metadata)),
    };
  },

  async remove(name) {
    PARTS.forEach((part) => localStorage.removeItem(keyOf(name, part)));
  },
};

// ---- IndexedDB
function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      for (const store of [MODELS, INFOS]) {
        if (!request.result.objectStoreNames.contains(store)) request.result.createObjectStore(store, {keyPath: 'modelPath'});
      }
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error('another tab keeps the database closed to this one'));
  });
}

// Run work(transaction) over both stores; what its requests change is done wholly or not at all.
async function transact(mode, work) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction([MODELS, INFOS], mode);
      const request = work(transaction);
      transaction.oncomplete = () => resolve(request ? request.result : undefined);
      transaction.onabort = () => reject(transaction.error || new Error('IndexedDB gave up'));
      transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

const indexed = {
  title: 'IndexedDB',
  scheme: 'indexeddb',

  async list() {
    const rows = await transact('readonly', (t) => t.objectStore(INFOS).getAll());
    return rows.map((row) => ({name: row.modelPath, info: row.modelArtifactsInfo}));
  },

  async has(name) {
    return (await transact('readonly', (t) => t.objectStore(INFOS).getKey(name))) !== undefined;
  },

  async save(name, artifacts) {
    const info = infoOf(artifacts);
    await transact('readwrite', (t) => {
      t.objectStore(INFOS).put({modelPath: name, modelArtifactsInfo: info});
      t.objectStore(MODELS).put({modelPath: name, modelArtifacts: artifacts, modelArtifactsInfo: info});
    });
    return info;
  },

  async load(name) {
    const row = await transact('readonly', (t) => t.objectStore(MODELS).get(name));
    if (!row) throw new Error(`IndexedDB has no model '${name}'`);
    return {...row.modelArtifacts, weightData: joined(row.modelArtifacts.weightData)};
  },

  async remove(name) {
    await transact('readwrite', (t) => {
      t.objectStore(MODELS).delete(name);
      t.objectStore(INFOS).delete(name);
    });
  },
};

export const MEDIA = {indexeddb: indexed, localstorage: local};

// All models of this browser: [{medium, name, info}], sorted by name.
export async function listAll() {
  const found = [];
  for (const medium of Object.values(MEDIA)) {
    for (const model of await medium.list()) found.push({medium, ...model});
  }
  return found.sort((a, b) => a.name.localeCompare(b.name) || a.medium.scheme.localeCompare(b.medium.scheme));
}
