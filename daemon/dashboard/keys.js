/* keys.js - single keys that lead somewhere, while no field has the focus. */
import { byId } from './dom.js';
import { closeDrawer, go } from './views.js';

const PLACES = { o: 'overview', t: 'teach', a: 'ask', f: 'facts', j: 'jobs', v: 'versions' };
const OFF = 'malmend-keys-off';

let went = -Infinity; /* when g was pressed */

function stored() {
  try {
    return localStorage.getItem(OFF) === '1';
  } catch {
    return false;
  }
}

function store(off) {
  try {
    localStorage.setItem(OFF, off ? '1' : '0');
  } catch {
    /* then it is for this page only */
  }
}

function isTyping(target) {
  return target.closest('input:not([type="checkbox"]):not([type="radio"]), textarea, select, [contenteditable]');
}

function shownSearch() {
  return [...document.querySelectorAll('[data-search]')].find((field) => field.offsetParent);
}

function search() {
  if (shownSearch()) {
    shownSearch().focus();
    return;
  }
  go('#facts');
  /* The view is there after the address has changed. */
  setTimeout(() => byId('facts-search').focus(), 0);
}

function step(by) {
  const all = document.querySelectorAll('main section:not([hidden]) a[data-do="open"]');
  const links = [...all].filter((a) => a.offsetParent);
  const i = links.indexOf(document.activeElement);
  links[i < 0 ? 0 : Math.min(links.length - 1, Math.max(0, i + by))]?.focus();
}

function showKeys() {
  closeDrawer();
  byId('keys').showModal();
}

function press(event) {
  const { key, timeStamp } = event; /* of the key itself: a busy page comes to it late */
  if (timeStamp - went < 1500 && PLACES[key]) {
    went = -Infinity;
    go(`#${PLACES[key]}`);
  } else if (key === 'g') went = timeStamp;
  else if (key === '/') search();
  else if (key === '?') showKeys();
  else if (key === 'n') go('#teach');
  else if (key === 'j') step(1);
  else if (key === 'k') step(-1);
  else return;
  event.preventDefault();
}

export function startKeys() {
  const on = byId('keys-on');
  on.checked = !stored();
  on.addEventListener('change', () => store(!on.checked));
  byId('keys-open').addEventListener('click', showKeys);
  byId('keys-close').addEventListener('click', () => byId('keys').close());
  document.addEventListener('keydown', (event) => {
    if (!on.checked || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (isTyping(event.target) || document.querySelector('dialog[open]')) return;
    press(event);
  });
}
