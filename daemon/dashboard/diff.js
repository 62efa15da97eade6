/* diff.js - what changed from one version to another. */
import { button, buttonLink, el, foreign, muted } from './dom.js';
import { get } from './api.js';
import { integer, number } from './format.js';
import { addDetails, detailHash } from './views.js';
import { bars, measuresTable } from './measures.js';
import { versionLink } from './jobs.js';

const PAGE = 10;

async function factItem(id) {
  const href = detailHash('fact', id);
  try {
    const fact = await get(`/v1/facts/${encodeURIComponent(id)}`);
    return el('li', null, el('a', { href, class: 'clamp' }, foreign(fact.prompt)),
      el('span', { class: 'clamp target' }, foreign(fact.target)));
  } catch {
    return el('li', null, el('a', { href }, id));
  }
}

/* The answer has ids alone; prompts are fetched a few at a time. */
function factList(title, ids, truncated) {
  const list = el('ul', { class: 'facts' });
  const more = button('More', () => add());
  let shown = 0;
  async function add() {
    more.disabled = true;
    const items = await Promise.all(ids.slice(shown, shown + PAGE).map(factItem));
    shown += items.length;
    list.append(...items);
    more.disabled = false;
    more.hidden = shown >= ids.length;
  }
  if (ids.length) add();
  more.hidden = ids.length <= PAGE;
  return el('section', null, el('h3', null, `${title} (${integer(ids.length)}${truncated ? ' or more' : ''})`),
    ids.length ? list : muted('none'), more);
}

function moduleNorms(modules) {
  if (!modules) return muted('The weights of one of them, or what leads to them, are no longer stored.');
  const moved = modules.filter((m) => m.norm > 0);
  if (!moved.length) return muted('The weights are the same.');
  return bars(moved.map((m) => ({ name: m.name, value: m.norm, text: number(m.norm) })));
}

async function load(from, to) {
  const diff = await get(`/v1/versions/${encodeURIComponent(from)}/diff/${encodeURIComponent(to)}`);
  return {
    title: [`From v${from} to v${to}`],
    nodes: [
      el('p', null, versionLink(diff.from), ' → ', versionLink(diff.to), '  ',
        buttonLink('The other way round', detailHash('diff', to, from))),
      el('h3', null, 'Measures, and their change in points'), measuresTable(diff.measures.to, diff.measures.from),
      factList('Facts that become live', diff.facts.added, diff.facts.truncated),
      factList('Facts that stop being live', diff.facts.removed, diff.facts.truncated),
      el('h3', null, 'Norm of the difference of each module'),
      moduleNorms(diff.modules),
    ],
  };
}

export function startDiff() {
  addDetails('diff', 'versions', load);
}
