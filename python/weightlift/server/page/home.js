// The first view: what is on the server, what is in this browser, and where to drop more.

import {getJson} from './api.js';
import {listAll} from './browser-store.js';
import {askName, confirm} from './dialogs.js';
import {action, h, table, toast} from './dom.js';
import {count, dtypes, size, when} from './format.js';
import {toServer} from './transfer.js';
import {uploadCard} from './upload.js';

export const modelHash = (name) => `#/models/${encodeURIComponent(name)}`;
export const fileHash = (path) => `#/files/${encodeURIComponent(path)}`;

// The state of a model's checksums, in a word and a colour.
export function badge(row) {
  if (row.error) return h('span', {class: 'badge bad', title: row.error}, 'broken');
  if (row.verified && !row.verified.ok) return h('span', {class: 'badge bad', title: `checked ${when(row.verified.at)}`}, 'corrupt');
  if (row.checksums === 'damaged') return h('span', {class: 'badge bad', title: 'the table of checksums does not match itself'}, 'damaged');
  if (row.verified && row.checksums === 'all') return h('span', {class: 'badge good', title: `checked ${when(row.verified.at)}`}, 'verified');
  if (row.checksums === 'all') return h('span', {class: 'badge info', title: 'every tensor has a checksum; not checked since the server started'}, 'checksums');
  if (row.checksums === 'some') return h('span', {class: 'badge warn', title: 'not every tensor has a checksum'}, 'some checksums');
  return h('span', {class: 'badge', title: 'there are no checksums to check against'}, 'no checksums');
}

const COLUMNS = [
  {title: 'Name', className: 'name'}, {title: 'Format', className: 'word'}, {title: 'Tensors', className: 'number'}, {title: 'Types'},
  {title: 'Size', className: 'number'}, {title: 'Checksums'}, {title: 'Changed', className: 'word'},
];

function cells(row, title, link) {
  return [
    h('a', {href: link}, title), row.error ? '' : row.format, row.error ? '' : row.tensors.toLocaleString('en'), dtypes(row.dtypes),
    row.error ? '' : size(row.bytes), badge(row), when(row.modified),
  ];
}

function section(title, note, ...content) {
  return h('section', {}, h('div', {class: 'section-head'}, h('h2', {}, title), h('span', {class: 'hint'}, note)), content);
}

export async function home(context) {
  const [models, files, browser] = await Promise.all([getJson('/api/models'), getJson('/api/files'), listAll().catch(() => [])]);
  const total = models.models.reduce((sum, row) => sum + row.bytes, 0);
  const parts = [h('h1', {tabindex: '-1', class: 'visually-hidden'}, 'Models')];
  if (!context.server.read_only) parts.push(uploadCard(context.server, context.reload));
  parts.push(section('On the server', models.models.length ? `${count(models.models.length, 'model')}, ${size(total)}` : '',
    models.models.length
      ? table('Models on the server', COLUMNS, models.models.map((row) => cells(row, row.name, modelHash(row.name))), 'wide')
      : h('p', {class: 'empty'}, 'There is no model yet. ', context.server.read_only ? '' : 'Drop one above, or save one with TensorFlow.js or Weightlift.')));
  if (files.files.length) {
    parts.push(section('Files of weights', count(files.files.length, 'file'),
      table('Files of weights', COLUMNS, files.files.map((row) => cells(row, row.path, fileHash(row.path))), 'wide')));
  }
  parts.push(section('In this browser', browser.length ? count(browser.length, 'model') : '', browserTable(browser, context)));
  return {title: 'Models', content: parts};
}

const BROWSER_COLUMNS = [
  {title: 'Name', className: 'name'}, {title: 'Where'}, {title: 'Weights', className: 'number'}, {title: 'Saved', className: 'word'}, {title: 'Actions', className: 'actions'},
];

function browserTable(rows, context) {
  if (!rows.length) {
    return h('p', {class: 'empty'}, 'Models that TensorFlow.js, or this page, stores in IndexedDB or localStorage of this browser appear here.');
  }
  return table('Models in this browser', BROWSER_COLUMNS, rows.map((row) => [
    h('span', {}, row.name), row.medium.title, size(row.info.weightDataBytes || 0), when(row.info.dateSaved), browserActions(row, context),
  ]), 'wide');
}

function browserActions({name, medium}, context) {
  const give = (move) => async () => {
    const target = await askName(move ? 'Move to the server' : 'Copy to the server', 'Name on the server', name, move ? 'Move' : 'Copy');
    if (target && (await toServer(name, medium, target, {confirm, move}))) {
      toast(`“${name}” is ${move ? 'moved' : 'copied'} to the server${target === name ? '' : ` as “${target}”`}.`);
      context.reload();
    }
  };
  const remove = async () => {
    if (await confirm(`Delete “${name}” from ${medium.title} of this browser? This cannot be undone.`, 'Delete')) {
      await medium.remove(name);
      toast(`“${name}” is deleted from ${medium.title}.`);
      context.reload();
    }
  };
  const of = ` “${name}” of ${medium.title}`;
  const labelled = (button, label) => {
    button.setAttribute('aria-label', label + of);
    return button;
  };
  return h('div', {class: 'buttons tight'},
    context.server.read_only ? null : labelled(action('Copy to server', give(false), {className: 'small'}), 'Copy to the server:'),
    context.server.read_only ? null : labelled(action('Move to server', give(true), {className: 'small'}), 'Move to the server:'),
    labelled(action('Delete', remove, {className: 'small danger-quiet'}), 'Delete'));
}
