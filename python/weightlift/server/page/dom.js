// Making elements, and telling people what happened.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

// h('a', {href: '#'}, 'text', child…): an HTML element; attributes that begin with "on" are listeners.
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for SVG.
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A table that keeps its meaning for assistive programs when it is laid out as cards on a phone.
// columns: [{title, className}]; rows: lists of cells.
export function table(label, columns, rows, className = '') {
  const head = h('tr', {role: 'row'}, columns.map((c) => h('th', {role: 'columnheader', scope: 'col', class: c.className}, c.title)));
  return h('table', {role: 'table', 'aria-label': label, class: className},
    h('thead', {role: 'rowgroup'}, head),
    h('tbody', {role: 'rowgroup'}, rows.map((cells) => tableRow(columns, cells))));
}

export function tableRow(columns, cells) {
  return h('tr', {role: 'row'}, cells.map((cell, i) => h('td', {
    role: 'cell', class: columns[i].className, 'data-label': columns[i].title,
  }, cell)));
}

// A line that goes away by itself; errors stay until they are closed.
export function toast(text, kind = 'good') {
  const line = h('div', {class: `toast ${kind}`}, h('span', {}, text),
    h('button', {type: 'button', class: 'quiet small', 'aria-label': 'Close this message', onclick: () => line.remove()}, '✕'));
  document.getElementById('toasts').append(line);
  if (kind !== 'bad') setTimeout(() => line.remove(), 6000);
}

export const complain = (error) => {
  if (error && error.name !== 'AbortError') toast(error.message || String(error), 'bad');
};

// A button that cannot be pressed again until what it began has ended.
export function action(label, work, {className = '', hint = null} = {}) {
  const button = h('button', {type: 'button', class: className, title: hint, onclick: async () => {
    if (button.hasAttribute('aria-busy')) return; // not disabled: a disabled button loses the keyboard's focus
    button.setAttribute('aria-busy', 'true');
    try {
      await work();
    } catch (error) {
      complain(error);
    } finally {
      button.removeAttribute('aria-busy');
    }
  }}, label);
  return button;
}
