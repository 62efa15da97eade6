/* rows.js - what the rows of all tables have in common. */
import { el } from './dom.js';
import { DASH } from './format.js';

/* On narrow pages rows are cards: cells show their labels, and those without a value are left out. */
export function cell(label, attributes, ...content) {
  const node = el('td', { 'data-label': label, ...attributes }, ...content);
  if (node.textContent === DASH || (!node.textContent && !node.querySelector('button'))) node.dataset.none = '';
  return node;
}

/* A click anywhere in a row follows its link. */
export function rowLink(row) {
  row.onclick = (event) => {
    if (event.target.closest('a, button, input, label, select, summary')) return;
    if (String(getSelection())) return;
    row.querySelector('a[data-do="open"]')?.click();
  };
}
