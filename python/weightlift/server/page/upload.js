// Uploading: files that are dropped or picked become models (model.json with its .bin files) and single files.

import {confirm} from './dialogs.js';
import {action, complain, h, toast} from './dom.js';
import {size} from './format.js';
import {uploadFile, uploadModel} from './transfer.js';

const isJson = (file) => file.name.endsWith('.json') && !file.name.endsWith('.index.json');
const baseName = (path) => path.split('/').pop();

// What a set of files is: {model, name, shards, missing}, {files} or {error}.
export async function understand(files, singleFiles) {
  const jsons = files.filter(isJson);
  if (jsons.length > 1) return {error: 'More than one .json: upload one model at a time.'};
  if (jsons.length === 0) {
    const wrong = files.find((file) => !singleFiles.some((suffix) => file.name.endsWith(suffix)));
    if (wrong) return {error: `${wrong.name} is no file of weights; with a .bin, its model.json is needed too.`};
    return {files};
  }
  let json;
  try {
    json = JSON.parse(await jsons[0].text());
  } catch (error) {
    return {error: `${jsons[0].name} is not valid JSON: ${error.message}`};
  }
  const manifest = Array.isArray(json?.weightsManifest) ? json.weightsManifest : [];
  const wanted = manifest.filter((group) => group.weights).flatMap((group) => group.paths || []).map(baseName);
  const others = files.filter((file) => file !== jsons[0]);
  const extra = others.find((file) => !wanted.includes(file.name));
  if (extra) return {error: `${extra.name} is not in the manifest of ${jsons[0].name}.`};
  const missing = wanted.filter((name) => !others.some((file) => file.name === name));
  const folder = (jsons[0].webkitRelativePath || '').split('/').slice(-2, -1)[0];
  const stem = jsons[0].name.slice(0, -'.json'.length);
  return {model: jsons[0], shards: others, missing, name: folder || stem};
}

// The card with the drop zone. done() is called after something was uploaded.
export function uploadCard(server, done) {
  const picker = h('input', {type: 'file', multiple: true, id: 'picker', class: 'visually-hidden', 'aria-describedby': 'drop-hint'});
  const plan = h('div', {class: 'plan'});
  const zone = h('div', {class: 'drop'},
    h('p', {class: 'drop-title'}, 'Upload a model'),
    h('p', {id: 'drop-hint', class: 'hint'}, 'Drop a ', h('code', {}, 'model.json'), ' with its ', h('code', {}, '.bin'), ' files here, or any of ',
      server.single_files.map((suffix, i) => [i ? ', ' : '', h('code', {}, suffix)]), '.'),
    picker, h('label', {for: 'picker', class: 'button primary'}, 'Choose files'), plan);

  let chosen = [];
  const choose = async (files) => {
    // A second choice adds to the first, so that a model's files may come from several folders.
    chosen = [...chosen.filter((old) => !files.some((file) => file.name === old.name)), ...files];
    const found = await understand(chosen, server.single_files);
    plan.replaceChildren(planOf(found, () => {
      chosen = [];
      plan.replaceChildren();
    }, done));
  };
  picker.addEventListener('change', () => {
    choose([...picker.files]).catch(complain);
    picker.value = '';
  });
  for (const kind of ['dragenter', 'dragover']) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.add('over');
    });
  }
  zone.addEventListener('dragleave', (event) => {
    if (!zone.contains(event.relatedTarget)) zone.classList.remove('over');
  });
  zone.addEventListener('drop', (event) => {
    event.preventDefault();
    zone.classList.remove('over');
    choose([...event.dataTransfer.files]).catch(complain);
  });
  return zone;
}

function planOf(found, clear, done) {
  const forget = h('button', {type: 'button', onclick: clear}, 'Clear');
  if (found.error) return h('div', {}, h('p', {class: 'problem', role: 'alert'}, found.error), h('div', {class: 'buttons'}, forget));
  if (found.files) return filesPlan(found.files, forget, clear, done);
  const bytes = [found.model, ...found.shards].reduce((sum, file) => sum + file.size, 0);
  if (found.missing.length) {
    return h('div', {}, h('p', {role: 'status'}, `${found.model.name} needs ${found.missing.length === 1 ? 'one more file' : `${found.missing.length} more files`}: `,
      h('b', {}, found.missing.slice(0, 5).join(', ')), found.missing.length > 5 ? ' …' : '', '. Drop or choose it too.'), h('div', {class: 'buttons'}, forget));
  }
  const name = h('input', {type: 'text', id: 'upload-name', value: found.name, maxlength: '120', autocomplete: 'off', spellcheck: 'false'});
  const progress = progressLine();
  const start = action('Upload', () => progress.run(async (options) => {
    const form = new FormData();
    form.append('model.json', found.model, 'model.json');
    for (const shard of found.shards) form.append(shard.name, shard, shard.name);
    const target = name.value.trim();
    if (!target) throw new Error('The model needs a name.');
    if (await uploadModel(target, form, {confirm, ...options})) {
      toast(`“${target}” is uploaded.`);
      clear();
      done();
    }
  }), {className: 'primary'});
  return h('form', {onsubmit: (event) => {
    event.preventDefault();
    start.click();
  }}, h('p', {}, `${found.model.name} and ${found.shards.length} weight ${found.shards.length === 1 ? 'file' : 'files'}, ${size(bytes)}`),
  h('p', {class: 'field'}, h('label', {for: 'upload-name'}, 'Name on the server'), name), progress.element,
  h('div', {class: 'buttons'}, start, forget));
}

function filesPlan(files, forget, clear, done) {
  const progress = progressLine();
  const start = action('Upload', () => progress.run(async (options) => {
    for (const file of files) {
      if (await uploadFile(file.name, file, {confirm, ...options})) toast(`${file.name} is uploaded.`);
    }
    clear();
    done();
  }), {className: 'primary'});
  return h('div', {}, h('p', {}, files.map((file) => file.name).join(', '), `, ${size(files.reduce((sum, file) => sum + file.size, 0))}`),
    progress.element, h('div', {class: 'buttons'}, start, forget));
}

// A bar with a cancel button that is there while something runs.
export function progressLine() {
  const bar = h('progress', {max: 1, value: 0, 'aria-label': 'Progress'});
  const text = h('span', {class: 'hint'});
  const cancel = h('button', {type: 'button', class: 'small'}, 'Cancel');
  const element = h('div', {class: 'progress', hidden: true}, bar, text, cancel);
  return {
    element,
    async run(work) {
      const controller = new AbortController();
      cancel.onclick = () => controller.abort();
      bar.value = 0;
      text.textContent = '';
      element.hidden = false;
      const onProgress = (sent, total) => {
        bar.max = total || 1;
        bar.value = sent;
        text.textContent = sent < total ? `${Math.floor((100 * sent) / total)} %, ${size(sent)} of ${size(total)}` : 'checking and storing …';
      };
      try {
        return await work({onProgress, signal: controller.signal});
      } catch (error) {
        if (error.name === 'AbortError') toast('The upload was cancelled; nothing was stored.');
        else throw error;
        return false;
      } finally {
        element.hidden = true;
      }
    },
  };
}
