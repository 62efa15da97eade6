/* views.js - what the address after # says is shown: a view (#facts?state=live), or the details of
 * one thing over it (#fact/ID). */
import { byId, el } from './dom.js';

const views = new Map();
const details = new Map();

let current = null; /* {name, hash} */
let drawn = 0;

/* view: {show(query)}; its section has the id view-NAME. */
export function addView(name, view) {
  views.set(name, view);
}

/* load(id, other) gives {title, nodes}; `under` is the view that it is shown over. */
export function addDetails(name, under, load) {
  details.set(name, { under, load });
}

export function isShown(name) {
  return current?.name === name;
}

/* ---- Addresses ---- */

export function viewHash(name, query = {}) {
  const given = Object.entries(query).filter(([, v]) => v !== '' && v !== null && v !== undefined);
  const text = new URLSearchParams(given).toString();
  return text ? `#${name}?${text}` : `#${name}`;
}

export function detailHash(name, ...ids) {
  return `#${name}/${ids.map((id) => encodeURIComponent(id)).join('/')}`;
}

/* Keeps the address of the view shown in step with its filters. */
export function rename(name, query) {
  if (!isShown(name)) return;
  const hash = viewHash(name, query);
  if (current.hash === hash) return;
  current.hash = hash;
  if (!byId('drawer').open) history.replaceState(null, '', hash);
}

/* ---- Drawer ---- */

function problemNode(problem) {
  return el('p', { class: 'problem', role: 'alert' }, problem.message);
}

async function fillDrawer(load, ids, anew) {
  const drawer = byId('drawer');
  const body = byId('drawer-body');
  const mine = ++drawn;
  let content;
  if (anew) {
    byId('drawer-title').replaceChildren('…');
    body.replaceChildren(el('p', { class: 'muted' }, 'Loading…'));
  }
  if (!drawer.open) drawer.showModal();
  try {
    content = await load(...ids);
  } catch (problem) {
    content = { title: 'Not to be had', nodes: [problemNode(problem)] };
  }
  if (mine !== drawn) return;
  const at = anew ? 0 : body.scrollTop;
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.do : null;
  const unfolded = !anew && body.querySelector('details')?.open;
  byId('drawer-title').replaceChildren(...[content.title].flat());
  body.replaceChildren(...content.nodes.flat(9).filter(Boolean));
  if (unfolded) body.querySelector('details')?.setAttribute('open', '');
  body.scrollTop = at;
  if (focused) body.querySelector(`[data-do="${focused}"]`)?.focus();
}

/* Loads what the drawer shows again, if it is `name` (and of this id, where one is given). */
export function reloadDetails(name, id) {
  const shown = parse(location.hash);
  if (!byId('drawer').open || shown.name !== name) return;
  if (id !== undefined && shown.ids[0] !== String(id)) return;
  fillDrawer(details.get(name).load, shown.ids, false);
}

export function closeDrawer() {
  if (byId('drawer').open) byId('drawer').close();
}

/* ---- Navigation ---- */

function parse(hash) {
  const text = hash.replace(/^#/, '');
  const [path, query] = text.split('?', 2);
  const [name, ...ids] = path.split('/');
  let decoded = [];
  try {
    decoded = ids.map(decodeURIComponent);
  } catch {
    /* an address written by hand */
  }
  return { name, ids: decoded, query: Object.fromEntries(new URLSearchParams(query || '')) };
}

function showView(name, query, hash, focus) {
  current = { name, hash };
  for (const other of views.keys()) byId(`view-${other}`).hidden = other !== name;
  for (const link of document.querySelectorAll('nav a[data-view]')) {
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  views.get(name).show(query);
  if (focus) {
    byId(`view-${name}`).querySelector('h1').focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function follow(focus) {
  const { name, ids, query } = parse(location.hash);
  if (details.has(name) && ids.length) {
    const { under, load } = details.get(name);
    if (!current) showView(under, {}, viewHash(under), false);
    fillDrawer(load, ids, true);
    return;
  }
  closeDrawer();
  const known = views.has(name) ? name : 'overview';
  if (current && current.name === known && current.hash === location.hash) return;
  showView(known, query, location.hash || '#overview', focus);
}

export function go(hash) {
  if (location.hash === hash) follow(true);
  else location.hash = hash;
}

export function startViews() {
  byId('drawer').addEventListener('close', () => {
    if (byId('drawer').open) return; /* and opened again since */
    drawn++;
    if (details.has(parse(location.hash).name)) history.replaceState(null, '', current.hash);
  });
  byId('drawer-close').addEventListener('click', closeDrawer);
  byId('drawer').addEventListener('click', (event) => {
    if (event.target === byId('drawer')) closeDrawer(); /* beside it */
  });
  addEventListener('hashchange', () => follow(true));
  follow(false);
}
