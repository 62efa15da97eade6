/* dom.js - elements from data. Whatever comes from the daemon becomes text and nothing else. */

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/* Text of strangers: its direction is its own and does not spill over. */
export function foreign(text, attributes) {
  return el('bdi', { dir: 'auto', ...attributes }, text);
}

/* Makes the children of `parent` the rows of `items`. Rows of the same key stay the same elements,
 * what has not changed is left alone, and focus stays where it is. */
export function syncRows(parent, items, keyOf, cellsOf, decorate) {
  const old = new Map([...parent.children].map((row) => [row.dataset.key, row]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let row = old.get(key);
    const made = !row;
    if (made) row = el(parent.dataset.row || 'tr', { 'data-key': key });
    old.delete(key);
    const text = JSON.stringify(item);
    if (row.shown !== text) {
      const focused = row.contains(document.activeElement) ? document.activeElement.dataset.do : null;
      row.replaceChildren(...cellsOf(item));
      row.shown = text;
      if (decorate) decorate(row, item);
      if (focused) row.querySelector(`[data-do="${focused}"]`)?.focus();
    }
    if (row === place) place = place.nextElementSibling;
    else parent.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
}

/* At most one call in `ms`, the last one never lost. */
export function calm(run, ms) {
  let timer = 0;
  let last = -Infinity;
  return () => {
    if (timer) return;
    const wait = Math.max(0, last + ms - performance.now());
    timer = setTimeout(() => {
      timer = 0;
      last = performance.now();
      run();
    }, wait);
  };
}

export function button(text, onclick, attributes) {
  return el('button', { type: 'button', onclick, ...attributes }, text);
}

/* Looks like a button, leads somewhere. */
export function buttonLink(text, href, attributes) {
  return el('a', { class: 'button', href, ...attributes }, text);
}

export function muted(...content) {
  return el('p', { class: 'muted' }, ...content);
}

/* A row of a definition list. */
export function term(name, ...value) {
  return value.flat().some((v) => v !== null && v !== undefined && v !== false)
    ? [el('dt', null, name), el('dd', null, ...value)]
    : [];
}

export function copyable(text, shown) {
  const button = el('button', {
    type: 'button', class: 'quiet copy', title: `Copy ${text}`, 'aria-label': `Copy ${text}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
        setText(button, 'copied');
      } catch {
        setText(button, 'not allowed');
      }
      setTimeout(() => setText(button, 'copy'), 1500);
    },
  }, 'copy');
  return el('span', { class: 'copyable' }, el('code', { title: text }, shown || text), button);
}
