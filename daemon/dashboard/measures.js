/* measures.js - efficacy, generalisation, locality and agreement, in words and figures. */
import { el, muted } from './dom.js';
import { count, exact, isNumber, number, share, DASH } from './format.js';

export const MEASURES = [
  { key: 'es', short: 'ES', long: 'efficacy: facts answered right' },
  { key: 'gs', short: 'GS', long: 'generalisation: rephrases answered right' },
  { key: 'ls', short: 'LS', long: 'locality: unrelated prompts answered right' },
  { key: 'agreement', short: 'Agr', long: 'agreement: unrelated prompts answered as the base model does' },
];

export function valueOf(measures, key, way = 'decoded') {
  if (!measures) return null;
  const value = key === 'agreement' ? measures.agreement : measures[way]?.[key];
  return isNumber(value) ? value : null;
}

function hasMeasures(measures) {
  return MEASURES.some(({ key }) => ['decoded', 'teacher_forced'].some((way) => valueOf(measures, key, way) !== null));
}

export function shareCell(measures, key) {
  const value = valueOf(measures, key);
  return value === null ? el('span', { class: 'muted' }, DASH) : exact(share(value), value);
}

/* before: measures to compare with, or absent. */
export function measuresTable(measures, before) {
  if (!hasMeasures(measures) && !hasMeasures(before)) return muted('Nothing was there to measure.');
  const figure = (key, way) => {
    if (key === 'agreement' && way !== 'decoded') return el('td', { class: 'num muted' }, '');
    const value = valueOf(measures, key, way);
    const old = valueOf(before, key, way);
    const change = value !== null && old !== null ? value - old : null;
    return el('td', { class: 'num' }, value === null ? DASH : exact(share(value), value),
      change ? el('small', { class: change < 0 ? 'bad-text' : 'good-text', title: String(change) },
        ` ${change > 0 ? '+' : '−'}${number(Math.abs(change) * 100)}`) : null);
  };
  return el('table', { class: 'small' },
    el('thead', null, el('tr', null, el('th', null, el('span', { class: 'hidden-text' }, 'way')),
      MEASURES.map((m) => el('th', { class: 'num', scope: 'col' }, el('abbr', { title: m.long }, m.short))))),
    el('tbody', null, [['decoded', 'decoded'], ['teacher_forced', 'teacher-forced']].map(([way, name]) =>
      el('tr', null, el('th', { scope: 'row' }, name), MEASURES.map((m) => figure(m.key, way))))),
    isNumber(measures?.facts) ? el('caption', null, `of ${count(measures.facts, 'fact')}`) : null);
}

/* Rows of {name, value, text, title} with bars that share one scale. */
export function bars(rows) {
  const most = Math.max(...rows.map((row) => row.value), Number.MIN_VALUE);
  return el('dl', { class: 'bars' }, rows.map((row) => {
    const bar = el('span', { class: 'bar' });
    bar.style.width = `${(100 * row.value) / most}%`;
    return [el('dt', { title: row.title || row.name }, row.name),
      el('dd', null, el('span', { class: 'track' }, bar), exact(row.text, row.value))];
  }));
}
