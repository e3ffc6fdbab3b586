// Which language the page speaks, and how it writes numbers, sizes and dates in it.

import { NOTICE, en, zh } from './i18n.js';

const LANGUAGES = { en: { strings: en, tag: 'en' }, zh: { strings: zh, tag: 'zh-CN' } };
const KEPT = 'agfnet-language';
let current = Object.hasOwn(LANGUAGES, stored()) ? stored() : navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';

function stored() {
  try { return localStorage.getItem(KEPT); } catch { return null; }
}

export const language = () => current;
export const languageTag = () => LANGUAGES[current].tag;

/** How the reader's own country writes numbers and dates, where the browser says it for this language. */
const locale = () => navigator.languages.find((tag) => tag.toLowerCase().startsWith(current)) ?? languageTag();

export function setLanguage(name) {
  current = name;
  try { localStorage.setItem(KEPT, name); } catch { /* storage may be forbidden: the choice then lasts for this page */ }
}

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** The sentence of a key, with its {places} filled. */
export const say = (key, values = {}) => filled(LANGUAGES[current].strings[key], values);

/** The sentence of an error code, or else what the service said of it. */
export function sayError(code, message = '', values = {}) {
  const { errors } = LANGUAGES[current].strings;
  return Object.hasOwn(errors, code) ? filled(errors[code], values) : message || errors.internal;
}

/** The notice in the reader's language, where the service's is the one that is translated here; else the service's. */
export const sayNotice = (notice) => (notice === NOTICE ? say('notice') : notice);

/** A probability: 0.873 as 87.3%; what rounds to 0 or 100 is written <0.1% or >99.9%. `digits`: the fewest decimals. */
export function percent(p, digits = 1) {
  const format = new Intl.NumberFormat(locale(), { style: 'percent', minimumFractionDigits: digits, maximumFractionDigits: 1 });
  if (p > 0 && p < 0.0005) return `<${format.format(0.001)}`;
  if (p < 1 && p > 0.9995) return `>${format.format(0.999)}`;
  return format.format(p);
}

/** A share of a hundred without decimals where there are none. */
export const hundred = (p) => new Intl.NumberFormat(locale(), { maximumFractionDigits: 1 }).format(100 * p);

/** +1.3, -0.4 with a true minus sign, 0.0. */
export function signed(value) {
  const size = Math.abs(value).toFixed(1);
  return size === '0.0' ? size : `${value > 0 ? '+' : '\u2212'}${size}`;
}

/** A size of a file. */
export function bytes(count) {
  const [size, unit] = count >= 1e6 ? [count / 1e6, 'megabyte'] : [Math.max(count / 1e3, 1), 'kilobyte'];
  const digits = size < 10 && unit === 'megabyte' ? 1 : 0;
  return new Intl.NumberFormat(locale(), { style: 'unit', unit, maximumFractionDigits: digits }).format(size).replace(' ', '\u00a0');
}

/** "a", "a and b", "a, b and c". */
export function list(parts) {
  if (parts.length < 2) return parts.join('');
  return parts.slice(0, -1).join(say('comma')) + say('and') + parts.at(-1);
}

export const time = (date) => new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeStyle: 'short' }).format(date);
