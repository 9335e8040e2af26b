// A histogram as SVG, with the figures beside it.

import {h, s} from './dom.js';
import {value} from './format.js';

const WIDTH = 640;
const HEIGHT = 160;
const FOOT = 30;

export function chart(name, {edges, counts}) {
  const top = Math.max(...counts);
  const step = WIDTH / counts.length;
  const bars = counts.map((n, i) => {
    const height = n ? Math.max(1.5, (n / top) * (HEIGHT - 8)) : 0;
    const text = `${value(edges[i])} to ${value(edges[i + 1])}: ${n.toLocaleString('en')}`;
    return s('g', {class: 'bar-group'},
      s('rect', {class: 'hit', x: i * step, y: 0, width: step, height: HEIGHT}),
      s('rect', {class: 'column', x: i * step + 0.75, y: HEIGHT - height, width: Math.max(0.5, step - 1.5), height, rx: Math.min(2, step / 4)}),
      s('title', {}, text));
  });
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const zero = low < 0 && high > 0 ? (-low / (high - low)) * WIDTH : null;
  const label = `Histogram of ${name}: from ${value(low)} to ${value(high)}, most in ${value(edges[counts.indexOf(top)])} to ${value(edges[counts.indexOf(top) + 1])}`;
  return s('svg', {class: 'histogram', viewBox: `0 0 ${WIDTH} ${HEIGHT + FOOT}`, role: 'img', 'aria-label': label},
    zero === null ? null : s('line', {class: 'zero', x1: zero, x2: zero, y1: 0, y2: HEIGHT}),
    bars,
    s('line', {class: 'axis', x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT}),
    s('text', {x: 0, y: HEIGHT + 22}, value(low)),
    zero === null || zero < 60 || zero > WIDTH - 60 ? null : s('text', {x: zero, y: HEIGHT + 22, 'text-anchor': 'middle'}, '0'),
    s('text', {x: WIDTH, y: HEIGHT + 22, 'text-anchor': 'end'}, value(high)));
}

const FIGURES = [
  ['minimum', 'least'], ['maximum', 'largest'], ['mean', 'mean'], ['std', 'std. deviation'], ['elements', 'elements'], ['zeros', 'zeros'],
  ['nans', 'NaN'], ['positive_infinities', '+∞'], ['negative_infinities', '−∞'],
];

export function figures(answer) {
  const {statistics, histogram} = answer;
  if (!statistics) return h('p', {class: 'hint'}, 'There are no statistics of this type.');
  const rare = ['zeros', 'nans', 'positive_infinities', 'negative_infinities'];
  const shown = FIGURES.filter(([key]) => statistics[key] !== null && !(rare.includes(key) && !statistics[key]));
  return h('div', {class: 'figures'},
    histogram ? chart(answer.name, histogram) : h('p', {class: 'hint'}, statistics.elements ? 'All finite values are the same.' : 'It has no elements.'),
    h('dl', {class: 'facts compact'}, shown.map(([key, title]) => h('div', {}, h('dt', {}, title), h('dd', {}, value(statistics[key]))))));
}
