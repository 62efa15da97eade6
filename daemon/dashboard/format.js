/* format.js - numbers, sizes and times in the user's locale; the exact value is in the title. */
import { el } from './dom.js';

const integerForm = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const shareForm = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 });
const dateForm = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const dayForm = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const clockForm = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });

export const DASH = '–';

export function isNumber(value) {
  return typeof value === 'number' && Number.isFinite(value);
}

export function integer(value) {
  return isNumber(value) ? integerForm.format(value) : DASH;
}

/* "1 fact", "2 facts" */
export function count(n, word) {
  return `${integer(n)} ${word}${n === 1 ? '' : 's'}`;
}

/* Of something small: two digits after the point. */
export function finePercent(value) {
  return isNumber(value)
    ? value.toLocaleString(undefined, { style: 'percent', maximumFractionDigits: 2 }) : DASH;
}

/* Three significant digits, more where they are before the point. */
export function number(value) {
  if (!isNumber(value)) return DASH;
  const size = Math.abs(value);
  if (size >= 1e9 || (size && size < 1e-4)) return value.toExponential(2);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString(undefined, { maximumFractionDigits: digits });
}

export function share(value) {
  return isNumber(value) ? shareForm.format(value) : DASH;
}

export function short(value) {
  if (!isNumber(value)) return DASH;
  return value.toLocaleString(undefined, { notation: 'compact', maximumFractionDigits: 1 });
}

export function bytes(value) {
  if (!isNumber(value)) return DASH;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  let size = value;
  for (; size >= 1024 && i < units.length - 1; i++) size /= 1024;
  return `${size.toLocaleString(undefined, { maximumFractionDigits: size < 10 && i ? 1 : 0 })} ${units[i]}`;
}

export function seconds(value) {
  if (!isNumber(value)) return DASH;
  if (value < 0.9995) return `${integer(value * 1000)} ms`;
  if (value < 60) return `${number(value)} s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${integer(Math.floor(whole / 86400))} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/* `text` with the exact value to be looked up. */
export function exact(text, value, unit = '') {
  return el('span', { class: 'num', title: isNumber(value) ? `${value}${unit}` : null }, text);
}

/* ---- Times ---- */

function ago(ms) {
  const s = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (s < 5) return 'just now';
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return dayForm.format(ms);
}

export function clock(ms) {
  return clockForm.format(ms);
}

/* How long ago, kept up to date. */
export function when(iso) {
  if (!iso) return DASH;
  const ms = Date.parse(iso);
  const title = `${dateForm.format(ms)} (${iso})`;
  return el('time', { datetime: iso, title, 'data-ago': ms }, ago(ms));
}

export function fullTime(iso) {
  return iso ? el('time', { datetime: iso, title: iso }, dateForm.format(Date.parse(iso))) : DASH;
}

export function keepTimes() {
  setInterval(() => {
    for (const node of document.querySelectorAll('time[data-ago]')) {
      const text = ago(Number(node.dataset.ago));
      if (node.textContent !== text) node.textContent = text;
    }
  }, 1000);
}

export function tookSeconds(job) {
  if (!job.started_at || !job.finished_at) return null;
  return (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000;
}
