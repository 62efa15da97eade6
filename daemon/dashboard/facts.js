/* facts.js - what the model has been taught: search, list, and one fact in full. */
import { button, buttonLink, byId, calm, copyable, el, foreign, setText, syncRows, term } from './dom.js';
import { get, needs } from './api.js';
import { exact, integer, number, DASH } from './format.js';
import { live } from './events.js';
import { badge, factState, yesNo } from './states.js';
import { addDetails, addView, detailHash, isShown, reloadDetails, rename, viewHash } from './views.js';
import { askRetractFact } from './changes.js';
import { jobLink, rawNode, versionLink } from './jobs.js';
import { pager } from './pager.js';
import { cell, rowLink } from './rows.js';

function retractButton(fact) {
  if (fact.state !== 'live' && !fact.pinned) return null;
  const name = fact.pinned ? 'Forget…' : 'Retract…';
  return needs(button(name, () => askRetractFact(fact), { 'data-do': 'retract' }), 'edit');
}

function verifiedCell(verified) {
  if (!verified || verified.decoded === undefined) return el('span', { class: 'muted' }, DASH);
  return yesNo(verified.decoded);
}

function cells(fact) {
  const { verified } = fact;
  return [
    cell('State', null, factState(fact.state), fact.pinned ? el('small', { class: 'muted' }, ' pinned') : null),
    cell('Fact', { class: 'wide fact' },
      el('a', { href: detailHash('fact', fact.id), 'data-do': 'open', class: 'clamp' }, foreign(fact.prompt)),
      el('span', { class: 'clamp target' }, foreign(fact.target))),
    cell('Version', { class: 'num' }, versionLink(fact.version)),
    cell('Decoded', null, verifiedCell(verified)),
    cell('Log-prob.', { class: 'num' }, exact(number(verified?.logprob), verified?.logprob)),
    cell('Rank', { class: 'num' }, exact(integer(verified?.rank), verified?.rank)),
    cell('', { class: 'act' }, retractButton(fact)),
  ];
}

function render(facts) {
  syncRows(byId('facts-rows'), facts, (fact) => fact.id, cells, rowLink);
}

/* ---- One ---- */

function phrasings(title, list) {
  if (!list?.length) return [];
  return [el('h3', null, title), el('ul', { class: 'phrasings' }, list.map((item) => el('li', null,
    foreign(item.prompt || item), item.target ? [' → ', el('strong', null, foreign(item.target))] : null)))];
}

function verifiedTerms(verified) {
  if (!verified) return [];
  const { decoded, logprob, rank, rounds } = verified;
  return [
    term('Greedy answer', decoded === undefined ? null
      : yesNo(decoded, 'gives the target', 'does not give the target')),
    term('Log-probability', logprob === undefined ? null : exact(number(logprob), logprob)),
    term('Rank', rank === undefined ? null : integer(rank)),
    term('Rounds of repair', rounds === undefined ? null : integer(rounds)),
  ];
}

async function load(id) {
  const fact = await get(`/v1/facts/${encodeURIComponent(id)}`);
  return {
    title: ['Fact ', factState(fact.state), fact.pinned ? badge('pinned', 'idle', 'dot') : ''],
    nodes: [
      el('blockquote', null, foreign(fact.prompt), ' ', el('strong', null, foreign(fact.target))),
      el('div', { class: 'actions' },
        buttonLink('Ask this', viewHash('ask', { prompt: fact.prompt, target: fact.target })),
        buttonLink('All with this prompt', viewHash('facts', { prompt: fact.prompt })),
        retractButton(fact)),
      el('dl', { class: 'terms' },
        term('Fact', copyable(fact.id)),
        term('Job', jobLink(fact.job)),
        term('Live since', versionLink(fact.version)),
        term('Superseded by', fact.superseded_by
          ? el('a', { href: detailHash('fact', fact.superseded_by) }, fact.superseded_by) : null),
        term('Subject', fact.subject ? foreign(fact.subject) : null),
        term('Joined by', fact.join === undefined ? null : el('code', null, JSON.stringify(fact.join))),
        verifiedTerms(fact.verified)),
      phrasings('Further phrasings, taught', fact.prompts),
      phrasings('Rephrases, only measured', fact.rephrases),
      phrasings('Unrelated, only measured', fact.unrelated),
      rawNode(fact),
    ],
  };
}

/* ---- View ---- */

let narrowed = {}; /* filters that have no field of their own: job, prompt */

function showNarrowed() {
  const { job, prompt } = narrowed;
  const text = job ? `of job ${job}` : prompt ? `with exactly the prompt “${prompt}”` : '';
  byId('facts-narrowed').hidden = !text;
  setText(byId('facts-narrowed-text'), `Only facts ${text}`);
}

export function startFacts() {
  const search = byId('facts-search');
  const state = byId('facts-state');
  const version = byId('facts-version');
  const query = () => ({
    search: search.value.trim(), state: state.value, version: version.value, ...narrowed,
  });
  const list = pager({
    name: 'facts', path: '/v1/facts', query: () => ({ ...query(), order: 'desc' }), render,
    idOf: (fact) => fact.id, isShown: () => isShown('facts'), events: ['job', 'version'],
  });
  const changed = () => {
    rename('facts', query());
    list.first();
  };
  search.addEventListener('input', calm(changed, 250));
  for (const field of [state, version]) field.addEventListener('change', changed);
  byId('facts-form').addEventListener('submit', (event) => {
    event.preventDefault();
    changed();
  });
  byId('facts-all').addEventListener('click', () => {
    narrowed = {};
    showNarrowed();
    changed();
    search.focus();
  });
  addView('facts', {
    show(given) {
      search.value = given.search || '';
      state.value = given.state || '';
      version.value = given.version || '';
      narrowed = { job: given.job, prompt: given.prompt };
      showNarrowed();
      list.first();
    },
  });
  addDetails('fact', 'facts', load);
  live.addEventListener('version', () => reloadDetails('fact'));
}
