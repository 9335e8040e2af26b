// The page: which view the address means, and showing it.

import {getJson, onTokenNeeded, token} from './api.js';
import {detail} from './detail.js';
import {askToken} from './dialogs.js';
import {h} from './dom.js';
import {home} from './home.js';

const main = document.getElementById('main');
const context = {server: null, reload: () => show({keepFocus: true})};
let turn = 0;

function view() {
  const [, kind, name] = window.location.hash.match(/^#\/(models|files)\/(.+)$/) || [];
  return kind ? detail(kind, decodeURIComponent(name), context) : home(context);
}

async function show({keepFocus = false} = {}) {
  turn += 1;
  const mine = turn;
  main.setAttribute('aria-busy', 'true');
  let page;
  try {
    if (!context.server) await begin();
    page = await view();
  } catch (error) {
    page = {title: 'Error', content: [h('h1', {tabindex: '-1'}, 'This cannot be shown'), h('p', {class: 'problem', role: 'alert'}, error.message), h('p', {}, h('a', {href: '#/'}, 'All models'))]};
  }
  if (mine !== turn) return; // another view was asked for meanwhile
  const label = keepFocus && document.activeElement ? document.activeElement.textContent : null;
  main.replaceChildren(...page.content.flat().filter(Boolean));
  main.removeAttribute('aria-busy');
  document.title = `${page.title} – Weightlift`;
  if (!keepFocus) {
    window.scrollTo(0, 0);
    if (turn > 1) main.querySelector('h1')?.focus();
  } else if (label) {
    [...main.querySelectorAll('button, a')].find((element) => element.textContent === label)?.focus();
  }
}

async function begin() {
  context.server = await getJson('/api/server');
  document.getElementById('place').textContent = context.server.directory + (context.server.read_only ? ' (read-only)' : '');
  document.getElementById('token').hidden = !context.server.token_for_writes;
}

onTokenNeeded(async () => {
  const before = token.get();
  return (await askToken(true)) && token.get() !== before;
});
document.getElementById('token').addEventListener('click', async () => {
  if (await askToken(false)) show({keepFocus: true});
});
// A file that is dropped beside its place must not take the page's.
for (const kind of ['dragover', 'drop']) window.addEventListener(kind, (event) => event.preventDefault());
window.addEventListener('hashchange', (event) => {
  if (new URL(event.newURL).hash !== '#main') show();
});
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
show();
