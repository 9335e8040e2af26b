// Numbers, sizes and dates as people read them.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function size(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) return `${value} B`;
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
}

export const count = (number, noun) => `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`;

export const shape = (dims) => (dims.length ? dims.join(' × ') : 'scalar');

export function value(number) {
  if (Array.isArray(number)) return `${value(number[0])} + ${value(number[1])}i`;
  if (typeof number !== 'number') return String(number);
  if (Number.isInteger(number) && Math.abs(number) < 1e9) return number.toLocaleString('en');
  return String(Number(number.toPrecision(4)));
}

export function when(text) {
  if (!text) return '';
  return new Date(text).toLocaleString(undefined, {dateStyle: 'medium', timeStyle: 'short'});
}

export const dtypes = (counts) => Object.entries(counts).map(([name, n]) => (Object.keys(counts).length > 1 ? `${name} ×${n}` : name)).join(', ');
