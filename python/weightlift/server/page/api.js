// The server: requests with the token, errors as its messages, uploads with progress.

const KEY = 'weightlift.token';

export const token = {
  get: () => sessionStorage.getItem(KEY) || '',
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.name = 'ServerError';
    this.status = status;
  }
}

let askForToken = async () => false;

// Called when the server wants a token or another one; true when the request is to be tried again.
export function onTokenNeeded(ask) {
  askForToken = ask;
}

const authorization = () => (token.get() ? {Authorization: `Bearer ${token.get()}`} : {});

function message(status, text) {
  try {
    return JSON.parse(text).error || `status ${status}`;
  } catch {
    return `the server answered with status ${status}`;
  }
}

export async function request(path, init = {}) {
  let response;
  try {
    response = await fetch(path, {...init, headers: {...init.headers, ...authorization()}});
  } catch (error) {
    throw new ServerError(0, `the server cannot be reached: ${error.message}`);
  }
  if (response.status === 401 && (await askForToken())) return request(path, init);
  if (!response.ok) throw new ServerError(response.status, message(response.status, await response.text()));
  return response;
}

export const getJson = async (path) => (await request(path)).json();

export const postJson = async (path, body) => (await request(path, {
  method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body || {}),
})).json();

export const modelUrl = (name) => `/models/${encodeURIComponent(name)}`;
export const fileUrl = (path) => `/files/${path.split('/').map(encodeURIComponent).join('/')}`;
export const modelApi = (name, verb = '') => `/api/models/${encodeURIComponent(name)}${verb && `/${verb}`}`;

// Send a body (a form or a file). onProgress(sent, total); signal aborts. Resolves with the answer's JSON.
export function send(method, path, body, {onProgress = () => {}, signal = null, headers = {}} = {}) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open(method, path);
    for (const [name, text] of Object.entries({...headers, ...authorization()})) xhr.setRequestHeader(name, text);
    xhr.upload.addEventListener('progress', (event) => onProgress(event.loaded, event.total));
    xhr.addEventListener('error', () => reject(new ServerError(0, 'the connection to the server broke')));
    xhr.addEventListener('abort', () => reject(new DOMException('the upload was cancelled', 'AbortError')));
    xhr.addEventListener('load', async () => {
      if (xhr.status >= 200 && xhr.status < 300) resolve(JSON.parse(xhr.responseText));
      else if (xhr.status === 401 && (await askForToken())) send(method, path, body, {onProgress, signal, headers}).then(resolve, reject);
      else reject(new ServerError(xhr.status, message(xhr.status, xhr.responseText)));
    });
    if (signal) signal.addEventListener('abort', () => xhr.abort());
    xhr.send(body);
  });
}

// Save what is at a URL as a file.
export async function download(path, filename, {needsToken}) {
  let url = path;
  if (needsToken) url = URL.createObjectURL(await (await request(path)).blob());
  const link = document.createElement('a');
  link.href = url;
  link.download = filename;
  document.body.append(link);
  link.click();
  link.remove();
  if (needsToken) setTimeout(() => URL.revokeObjectURL(url), 60000);
}
