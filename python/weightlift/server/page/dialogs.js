// Questions: each opens a modal dialog and resolves with the answer; Escape means no.

import {token} from './api.js';
import {h} from './dom.js';

function ask(title, content, accept, {danger = false, value = () => true, check = () => ''} = {}) {
  return new Promise((resolve) => {
    const problem = h('p', {class: 'problem', role: 'alert'});
    const finish = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    const submit = (event) => {
      event.preventDefault();
      problem.textContent = check();
      if (!problem.textContent) finish(value());
    };
    const form = h('form', {onsubmit: submit}, h('h2', {id: 'dialog-title'}, title), content, problem,
      h('div', {class: 'buttons end'},
        h('button', {type: 'button', onclick: () => finish(null)}, 'Cancel'),
        h('button', {type: 'submit', class: danger ? 'danger' : 'primary'}, accept)));
    const dialog = h('dialog', {'aria-labelledby': 'dialog-title', oncancel: (event) => {
      event.preventDefault();
      finish(null);
    }}, form);
    document.body.append(dialog);
    dialog.showModal();
    const field = dialog.querySelector('input');
    if (field) field.select();
    else if (danger) dialog.querySelector('button').focus();
  });
}

// Whether to go on with what cannot be undone.
export const confirm = async (text, accept) => Boolean(await ask('Are you sure?', h('p', {}, text), accept, {danger: true}));

// A name, or null.
export function askName(title, label, suggestion, accept) {
  const field = h('input', {type: 'text', value: suggestion, id: 'dialog-field', autocomplete: 'off', spellcheck: 'false', maxlength: '120'});
  return ask(title, h('p', {}, h('label', {for: 'dialog-field'}, label), field), accept, {
    value: () => field.value.trim(),
    check: () => (field.value.trim() ? '' : 'It needs a name.'),
  });
}

// Let the token be set or forgotten; true if it is another one now.
let asking = null;
export function askToken(wrong) {
  asking = asking || (async () => {
    const field = h('input', {type: 'password', value: token.get(), id: 'dialog-field', autocomplete: 'off'});
    const text = wrong ? 'The server asks for its token.' : 'The server’s bearer token. It is kept until this tab is closed; leave it empty to forget it.';
    const answer = await ask('Token', h('div', {}, h('p', {}, text), h('label', {for: 'dialog-field'}, 'Token'), field), 'Use it', {value: () => field.value.trim()});
    if (answer === null) return false;
    token.set(answer);
    return true;
  })().finally(() => {
    asking = null;
  });
  return asking;
}
