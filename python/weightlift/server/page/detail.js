// The view of one model or file: facts, actions, how to load it, topology, tensors with their histograms.

import {download, fileUrl, getJson, modelApi, modelUrl, postJson, request} from './api.js';
import {MEDIA} from './browser-store.js';
import {askName, confirm} from './dialogs.js';
import {action, complain, h, table, tableRow, toast} from './dom.js';
import {count, dtypes, shape, size, value, when} from './format.js';
import {figures} from './histogram.js';
import {badge, modelHash} from './home.js';
import {toBrowser} from './transfer.js';

const PAGE = 200;

// What differs between a model and a single file.
function subjectOf(kind, name) {
  if (kind === 'models') {
    return {
      name, isModel: true, url: `${modelUrl(name)}/model.json`, resource: modelUrl(name), describe: modelApi(name),
      verify: modelApi(name, 'verify'), histogram: (weight) => `${modelApi(name, 'histogram')}?weight=${encodeURIComponent(weight)}`,
      archive: [modelApi(name, 'archive.zip'), `${name}.zip`],
    };
  }
  const query = `path=${encodeURIComponent(name)}`;
  return {
    name, isModel: false, url: fileUrl(name), resource: fileUrl(name), describe: `/api/file?${query}`, verify: `/api/file/verify?${query}`,
    histogram: (weight) => `/api/file/histogram?${query}&weight=${encodeURIComponent(weight)}`, archive: [fileUrl(name), name.split('/').pop()],
  };
}

export async function detail(kind, name, context) {
  const subject = subjectOf(kind, name);
  const crumbs = h('nav', {'aria-label': 'Breadcrumb', class: 'crumbs'}, h('a', {href: '#/'}, 'All models'), ' / ', h('span', {'aria-current': 'page'}, name));
  let info;
  try {
    info = await getJson(subject.describe);
  } catch (error) {
    if (error.status !== 422) throw error;
    return {title: name, content: [crumbs, h('h1', {tabindex: '-1'}, name), h('p', {class: 'problem', role: 'alert'}, `It cannot be read: ${error.message}`),
      context.server.read_only ? null : h('div', {class: 'buttons'}, action('Delete', () => remove(subject), {className: 'danger-quiet'}))]};
  }
  return {
    title: name,
    content: [
      crumbs,
      h('div', {class: 'title-line'}, h('h1', {tabindex: '-1'}, name), badge(info)),
      facts(info),
      actions(subject, info, context),
      snippet(subject, info, context),
      topology(info.topology),
      metadata(info),
      tensors(subject, info.table),
    ],
  };
}

function facts(info) {
  const rows = [
    ['Format', info.format === info.container ? info.format : `${info.format} (${info.container})`],
    ['Tensors', info.tensors.toLocaleString('en')], ['Parameters', parameters(info.table)], ['Types', dtypes(info.dtypes)],
    ['Size', size(info.bytes)], ['Files', info.files.length === 1 ? info.files[0].name : `${info.files.length}: ${info.files.slice(0, 3).map((f) => f.name).join(', ')}${info.files.length > 3 ? ' …' : ''}`],
    ['Changed', when(info.modified)], ['Made by', info.facts.generatedBy], ['Converted by', info.facts.convertedBy],
  ];
  return h('dl', {class: 'facts'}, rows.filter(([, text]) => text).map(([title, text]) => h('div', {class: String(text).length > 24 && 'long'}, h('dt', {}, title), h('dd', {}, text))));
}

const parameters = (rows) => rows.reduce((sum, row) => sum + row.shape.reduce((n, side) => n * side, 1), 0).toLocaleString('en');

// ---- actions
function actions(subject, info, context) {
  const {server} = context;
  const buttons = [action('Verify', () => verify(subject, context)),
    action('Download', () => download(...subject.archive, {needsToken: server.token_for_reads}))];
  const toBrowserButtons = [];
  if (subject.isModel && info.container === 'tfjs') {
    for (const medium of Object.values(MEDIA)) {
      toBrowserButtons.push(action(`Copy to ${medium.title}`, () => take(subject, medium, false, context), {hint: `Loads with tf.loadLayersModel('${medium.scheme}://${subject.name}') on pages of this server`}));
      if (!server.read_only) toBrowserButtons.push(action(`Move to ${medium.title}`, () => take(subject, medium, true, context)));
    }
  }
  if (!server.read_only) {
    if (subject.isModel) {
      buttons.push(action('Rename', () => nameAnew(subject, 'rename', context)));
      buttons.push(action('Duplicate', () => nameAnew(subject, 'copy', context)));
    }
    buttons.push(action('Delete', () => remove(subject), {className: 'danger-quiet'}));
  }
  return h('div', {class: 'actions-of'},
    h('div', {class: 'buttons', role: 'group', 'aria-label': `What to do with ${subject.name}`}, buttons),
    toBrowserButtons.length ? h('div', {class: 'buttons', role: 'group', 'aria-label': 'To this browser'}, h('span', {class: 'hint'}, 'To this browser'), toBrowserButtons) : null);
}

async function verify(subject, context) {
  const report = await postJson(subject.verify);
  if (!report.ok) {
    const names = report.corrupt.slice(0, 5).map((t) => t.name).join(', ');
    toast(`Damaged: ${[names, ...report.problems].filter(Boolean).join('; ')}`, 'bad');
  } else if (!report.counts.ok) {
    toast('There are no checksums to check against; the structure is right.', 'warn');
  } else {
    toast(`All ${count(report.counts.ok, 'checksum')} match, ${size(report.bytes)} read${report.counts.unchecked ? `; ${report.counts.unchecked} tensors have none` : ''}.`);
  }
  context.reload();
}

async function take(subject, medium, move, context) {
  if (!(await toBrowser(subject.name, medium, {confirm, move}))) return;
  toast(`“${subject.name}” is ${move ? 'moved' : 'copied'} to ${medium.title} of this browser.`);
  if (move) window.location.hash = '#/';
  else context.reload();
}

async function nameAnew(subject, verb, context) {
  const wanted = await askName(verb === 'copy' ? 'Duplicate' : 'Rename', 'New name', verb === 'copy' ? `${subject.name} copy` : subject.name, verb === 'copy' ? 'Duplicate' : 'Rename');
  if (!wanted || wanted === subject.name) return;
  const answer = await postJson(modelApi(subject.name, verb), {to: wanted});
  toast(`It is ${verb === 'copy' ? 'copied to' : 'now'} “${answer.name}”.`);
  window.location.hash = modelHash(answer.name);
}

async function remove(subject) {
  if (!(await confirm(`Delete “${subject.name}” from the server? This cannot be undone.`, 'Delete'))) return;
  await request(subject.resource, {method: 'DELETE'});
  toast(`“${subject.name}” is deleted.`);
  window.location.hash = '#/';
}

// ---- how to load it
function snippets(subject, info, context) {
  const url = `${window.location.origin}${subject.url}`;
  const secret = context.server.token_for_reads ? 'Bearer TOKEN' : null;
  const python = subject.isModel
    ? `import weightlift as wl\n\nmodel = wl.load_model("${url}"${secret ? `,\n                      headers={"Authorization": "${secret}"}` : ''})\nweights = {name: view[...] for name, view in model.weights.items()}`
    : `import weightlift as wl\n\nweights = wl.load("${url}"${secret ? `, headers={"Authorization": "${secret}"}` : ''})`;
  if (!subject.isModel) return [['Python', python]];
  const load = info.format === 'graph-model' ? 'loadGraphModel' : 'loadLayersModel';
  const options = secret ? `, {\n  requestInit: {headers: {Authorization: '${secret}'}},\n}` : '';
  return [['Python', python], ['TensorFlow.js', `import * as tf from '@tensorflow/tfjs';\n\nconst model = await tf.${load}('${url}'${options});`]];
}

function snippet(subject, info, context) {
  const texts = snippets(subject, info, context);
  const code = h('code', {});
  const panel = h('pre', {id: 'snippet', role: 'tabpanel', tabindex: '0', 'aria-label': 'How to load it'}, code);
  const tabs = texts.map(([title], i) => h('button', {type: 'button', role: 'tab', 'aria-controls': 'snippet', onclick: () => show(i), onkeydown: (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    show((i + step + texts.length) % texts.length);
    tabs[(i + step + texts.length) % texts.length].focus();
  }}, title));
  let current = 0;
  const show = (i) => {
    current = i;
    tabs.forEach((tab, j) => {
      tab.setAttribute('aria-selected', String(i === j));
      tab.tabIndex = i === j ? 0 : -1;
    });
    code.textContent = texts[i][1];
  };
  show(0);
  const copy = action('Copy', async () => {
    await copyText(texts[current][1]);
    toast('Copied.');
  }, {className: 'small'});
  copy.setAttribute('aria-label', 'Copy the code');
  return h('section', {class: 'snippet', 'aria-label': 'How to load it'}, h('div', {class: 'tabs'}, h('div', {role: 'tablist', 'aria-label': 'Language'}, tabs), copy), panel);
}

async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = h('textarea', {class: 'visually-hidden', 'aria-hidden': 'true'}, text); // over plain HTTP there is no clipboard
  document.body.append(field);
  field.select();
  const done = document.execCommand('copy');
  field.remove();
  if (!done) throw new Error('the browser does not let this page copy: select the code instead');
}

// ---- what it is made of
function topology(summary) {
  if (!summary) return null;
  if (summary.kind === 'graph') {
    const ops = Object.entries(summary.ops);
    return h('details', {class: 'card', open: true}, h('summary', {}, 'Topology: ', count(summary.nodes, 'node'), summary.inputs.length ? `, inputs ${summary.inputs.join(', ')}` : ''),
      h('ul', {class: 'chips'}, ops.map(([op, n]) => h('li', {}, op, ' ', h('b', {}, String(n))))));
  }
  const columns = [{title: 'Layer', className: 'name'}, {title: 'Class'}, {title: 'Settings'}];
  const rows = summary.layers.map((layer) => [layer.name, layer.class, Object.entries(layer.facts).map(([k, v]) => `${k.replaceAll('_', ' ')} ${text(v)}`).join(', ')]);
  const more = summary.layer_count > summary.layers.length ? h('p', {class: 'hint'}, `and ${summary.layer_count - summary.layers.length} more`) : null;
  return h('details', {class: 'card', open: rows.length <= 12},
    h('summary', {}, `Topology: ${summary.class}${summary.name ? ` “${summary.name}”` : ''}, ${count(summary.layer_count, 'layer')}`), table('Layers', columns, rows, 'wide'), more);
}

const text = (v) => (Array.isArray(v) ? `[${v.map((x) => (x === null ? '·' : text(x))).join(', ')}]` : value(v));

function metadata(info) {
  if (!Object.keys(info.metadata).length) return null;
  return h('details', {class: 'card'}, h('summary', {}, 'Metadata'), h('pre', {tabindex: '0'}, JSON.stringify(info.metadata, null, 2)));
}

// ---- tensors
const COLUMNS = [{title: 'Tensor', className: 'name'}, {title: 'Type'}, {title: 'Shape'}, {title: 'Size', className: 'number'}, {title: 'Stored as'}, {title: 'Checksum', className: 'code'}];

function tensors(subject, rows) {
  const search = h('input', {type: 'search', id: 'search', placeholder: 'Filter by name', 'aria-label': 'Filter tensors by name'});
  const shown = h('span', {class: 'hint', role: 'status'});
  const place = h('div', {});
  let limit = PAGE;
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => words.every((word) => row.name.toLowerCase().includes(word)));
    shown.textContent = found.length === rows.length ? count(rows.length, 'tensor') : `${found.length.toLocaleString('en')} of ${count(rows.length, 'tensor')}`;
    const list = table('Tensors', COLUMNS, [], 'wide tensors');
    for (const row of found.slice(0, limit)) list.tBodies[0].append(...tensorRows(subject, row));
    const more = found.length > limit ? h('button', {type: 'button', onclick: () => {
      limit += 5 * PAGE;
      draw();
    }}, `Show more (${(found.length - limit).toLocaleString('en')} are left)`) : null;
    place.replaceChildren(found.length ? list : h('p', {class: 'empty'}, rows.length ? 'No tensor has such a name.' : 'It holds no tensors.'), ...(more ? [more] : []));
  };
  search.addEventListener('input', () => {
    limit = PAGE;
    draw();
  });
  draw();
  return h('section', {}, h('div', {class: 'section-head'}, h('h2', {}, 'Tensors'), shown, rows.length > 8 ? search : null), place);
}

function tensorRows(subject, row) {
  const cell = h('td', {role: 'cell', colspan: String(COLUMNS.length), class: 'opened'});
  const opened = h('tr', {role: 'row', hidden: true, class: 'opened'}, cell);
  const toggle = h('button', {type: 'button', class: 'link', 'aria-expanded': 'false', onclick: async () => {
    opened.hidden = !opened.hidden;
    toggle.setAttribute('aria-expanded', String(!opened.hidden));
    if (opened.hidden || cell.childElementCount) return;
    cell.append(h('p', {class: 'hint'}, 'Reading …'));
    try {
      cell.replaceChildren(figures(await getJson(subject.histogram(row.name))));
    } catch (error) {
      cell.replaceChildren();
      opened.hidden = true;
      toggle.setAttribute('aria-expanded', 'false');
      complain(error);
    }
  }}, row.name);
  const quantized = row.stored === row.dtype ? '' : `${row.stored}, ${size(row.stored_bytes)}`;
  const line = tableRow(COLUMNS, [row.dtype === 'string' ? row.name : toggle, row.dtype, shape(row.shape), size(row.bytes), quantized, (row.checksum || '').replace('crc32c:', '')]);
  return [line, opened];
}
