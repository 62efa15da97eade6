/* versions.js - the line of versions, and one of them in full. */
import { button, buttonLink, byId, copyable, el, setText, syncRows, term } from './dom.js';
import { get, needs } from './api.js';
import { bytes, exact, finePercent, fullTime, integer, number, when } from './format.js';
import { link, live } from './events.js';
import { badge, kind } from './states.js';
import { addDetails, addView, detailHash, go, isShown, reloadDetails, viewHash } from './views.js';
import { MEASURES, bars, measuresTable, shareCell } from './measures.js';
import { askConsolidation, askRollback } from './changes.js';
import { jobLink, rawNode, versionLink } from './jobs.js';
import { drawRail } from './rail.js';
import { pager } from './pager.js';
import { cell, rowLink } from './rows.js';

function isLive(version) {
  return version.version === link.status?.live_version;
}

function rollbackButton(version, text) {
  const ask = () => askRollback(version.version);
  if (!version.pruned) return needs(button(text, ask, { 'data-do': 'rollback' }), 'edit');
  return button(text, ask, { disabled: true, title: 'Its weights are no longer stored' });
}

function kindOf(version) {
  const to = Number.isInteger(version.to_version) ? [' to ', versionLink(version.to_version)] : [];
  return el('span', null, kind(version.kind), to);
}

function name(version) {
  return el('span', { class: 'version-name', 'data-rail': '' },
    el('a', { href: detailHash('version', version.version), 'data-do': 'open' }, `v${version.version}`),
    version.live ? el('span', { class: 'tag' }, 'live') : null);
}

function cells(version) {
  return [
    cell('Version', { class: 'railed' }, name(version)),
    cell('Kind', null, kindOf(version)),
    cell('Published', null, when(version.created_at)),
    cell('Facts', { class: 'num' }, exact(integer(version.facts), version.facts)),
    cell('Live', { class: 'num' }, exact(integer(version.live_facts), version.live_facts)),
    ...MEASURES.map((m) => cell(m.short, { class: 'num' }, shareCell(version.measures, m.key))),
    cell('Stored', { class: 'num' }, version.pruned ? el('span', { class: 'muted' }, 'pruned')
      : exact(bytes(version.bytes), version.bytes, ' B')),
    cell('Weights', null, el('code', { title: version.weights_hash }, version.weights_hash.slice(0, 10))),
    cell('', { class: 'act' }, version.live ? null : rollbackButton(version, 'Roll back…')),
  ];
}

/* In fewer columns, for the overview. */
function fewCells(version) {
  return [
    cell('Version', { class: 'railed' }, name(version)),
    cell('Kind', null, kindOf(version)),
    cell('ES', { class: 'num' }, shareCell(version.measures, 'es')),
    cell('Live', { class: 'num' }, exact(integer(version.live_facts), version.live_facts)),
    cell('Published', null, when(version.created_at)),
  ];
}

/* A table of versions and the rail beside it; `few`: for the overview. */
export function versionTable(rows, rail, few) {
  let shown = [];
  const draw = () => {
    if (rail.offsetParent) drawRail(rail, [...rows.children], shown, link.status?.live_version);
  };
  new ResizeObserver(draw).observe(rows);
  return (versions) => {
    shown = versions.map((v) => ({ ...v, live: isLive(v) }));
    syncRows(rows, shown, (v) => v.version, few ? fewCells : cells, (row, v) => {
      row.classList.toggle('is-live', v.live);
      rowLink(row);
    });
    draw();
  };
}

/* ---- One ---- */

function moduleNodes(modules) {
  if (!modules.length) return [];
  return [el('h3', null, 'Shift of each module'),
    el('p', { class: 'muted' }, 'Norm of what was added to the base weight, and its share of the weight’s own norm.'),
    bars(modules.map((m) => ({
      name: m.name, value: m.shift_norm,
      text: `${number(m.shift_norm)} · ${finePercent(m.shift_norm / m.weight_norm)}`,
    })))];
}

function compareForm(version) {
  const parent = Number.isInteger(version.parent) ? version.parent : 0;
  const other = el('input', {
    type: 'number', min: 0, value: parent, required: true, 'aria-label': 'Version to compare with', 'data-do': 'compare',
  });
  return el('form', {
    class: 'inline',
    onsubmit: (event) => {
      event.preventDefault();
      go(detailHash('diff', other.value, version.version));
    },
  }, el('span', null, 'Compare with v'), other, el('button', { type: 'submit' }, 'Compare'));
}

function downloads(version) {
  if (version.pruned) return [];
  const fileLink = (format, text) => buttonLink(text, `v1/versions/${version.version}/delta?format=${format}`,
    { download: true, title: 'The difference from the base model, as a file' });
  return [fileLink('safetensors', 'safetensors'), fileLink('lora', 'LoRA')];
}

function jobList(jobs) {
  return jobs.length ? el('ul', { class: 'ids' }, jobs.map((job) => el('li', null, jobLink(job)))) : null;
}

async function load(id) {
  const version = await get(`/v1/versions/${encodeURIComponent(id)}`);
  const now = isLive(version);
  return {
    title: [`Version ${version.version} `, now ? badge('live', 'good', 'check') : '',
      version.pruned ? badge('pruned', 'idle', 'minus') : ''],
    nodes: [
      el('div', { class: 'actions' },
        now ? null : rollbackButton(version, 'Roll back to it…'),
        buttonLink('Facts live in it', viewHash('facts', { version: version.version })),
        version.in_memory ? buttonLink('Ask it', viewHash('ask', { version: version.version })) : null,
        downloads(version)),
      compareForm(version),
      el('dl', { class: 'terms' },
        term('Kind', kindOf(version)),
        term('Published', fullTime(version.created_at)),
        term('Parent', Number.isInteger(version.parent) ? versionLink(version.parent) : 'none'),
        term('Jobs', jobList(version.jobs)),
        term('Facts', `${integer(version.facts)} in it, ${integer(version.live_facts)} live with it`),
        term('Editor', `${version.editor.method || 'none'}, ${version.update}`),
        term('In memory', version.in_memory ? 'yes' : 'no'),
        term('Stored', `${bytes(version.bytes)}${version.keyframe ? ', with a keyframe' : ''}`),
        term('Delta', `${version.delta.encoding}, ${bytes(version.delta.bytes)}`),
        term('Weights hash', copyable(version.weights_hash)),
        term('Chain hash', copyable(version.chain_hash)),
        term('Delta hash', version.delta.hash ? copyable(version.delta.hash) : null)),
      el('h3', null, 'Measures'), measuresTable(version.measures),
      moduleNodes(version.modules),
      rawNode(version),
    ],
  };
}

/* ---- View ---- */

export function startVersions() {
  const render = versionTable(byId('versions-rows'), byId('versions-rail'), false);
  const list = pager({
    name: 'versions', path: '/v1/versions', query: () => ({}), idOf: (v) => v.version, render,
    isShown: () => isShown('versions'), events: ['version'],
  });
  byId('consolidate').addEventListener('click', askConsolidation);
  needs(byId('consolidate'), 'edit');
  byId('compare-form').addEventListener('submit', (event) => {
    event.preventDefault();
    go(detailHash('diff', byId('compare-a').value, byId('compare-b').value));
  });
  addView('versions', { show: () => list.first() });
  addDetails('version', 'versions', load);
  live.addEventListener('version', () => reloadDetails('version'));
  let marked = null;
  live.addEventListener('status', ({ detail }) => {
    if (detail.live_version === marked) return;
    marked = detail.live_version;
    if (isShown('versions')) render(list.items());
    setText(byId('versions-count'), integer(detail.counts.versions));
    if (!byId('compare-b').value && Number.isInteger(marked)) {
      byId('compare-a').value = Math.max(0, marked - 1);
      byId('compare-b').value = marked;
    }
  });
}
