/* jobs.js - the list of jobs, and one of them in full. */
import { button, buttonLink, byId, copyable, el, foreign, syncRows, term } from './dom.js';
import { get, needs } from './api.js';
import { exact, fullTime, integer, number, seconds, share, tookSeconds, when, DASH } from './format.js';
import { live } from './events.js';
import { ENDED, badge, jobState, kind, words } from './states.js';
import { addDetails, addView, detailHash, isShown, reloadDetails, rename, viewHash } from './views.js';
import { bars, measuresTable } from './measures.js';
import { askCancel, askRetractJob } from './changes.js';
import { pager } from './pager.js';
import { cell, rowLink } from './rows.js';

/* ---- List ---- */

/* How much there is to do in a stage is not always known. */
export function progressText({ stage, done, total }) {
  if (total) return `${stage} ${integer(done)} of ${integer(total)}`;
  return done ? `${stage} ${integer(done)}` : stage;
}

function remark(job) {
  if (job.state === 'running' && job.progress) return progressText(job.progress);
  if (job.error) return foreign(job.error.detail || job.error.title, { class: 'bad-text' });
  const failed = job.result?.gate?.failed?.[0];
  if (job.state === 'rejected' && failed) return `gate: ${words(failed.test)} ${number(failed.value)}`;
  if (job.kind === 'evaluation') return job.suite ? foreign(`suite ${job.suite}`) : '';
  if (job.kind === 'rollback') return `to v${job.to_version}${job.reason ? ` · ${job.reason}` : ''}`;
  if (job.kind === 'retraction') return `${job.mode}${job.reason ? ` · ${job.reason}` : ''}`;
  return job.note || job.reason ? foreign(job.note || job.reason) : '';
}

export function versionLink(version) {
  return Number.isInteger(version) ? el('a', { href: detailHash('version', version) }, `v${version}`) : DASH;
}

export function jobLink(id) {
  return el('a', { href: detailHash('job', id), 'data-do': 'open', class: 'id', title: id }, id.slice(-8));
}

export function jobCells(job) {
  const took = tookSeconds(job);
  return [
    cell('State', null, jobState(job.state)),
    cell('Kind', null, kind(job.kind)),
    cell('Job', null, jobLink(job.id)),
    cell('Facts', { class: 'num' }, job.facts === undefined ? DASH : exact(integer(job.facts), job.facts)),
    cell('Version', { class: 'num' }, versionLink(job.version)),
    cell('Remark', { class: 'wide' }, el('span', { class: 'clip' }, remark(job))),
    cell('Asked', null, when(job.created_at)),
    cell('Took', { class: 'num' }, took === null ? DASH : exact(seconds(took), took, ' s')),
  ];
}

function render(jobs) {
  syncRows(byId('jobs-rows'), jobs, (job) => job.id, jobCells, rowLink);
}

/* ---- One ---- */

function gateNodes(gate) {
  if (!gate) return [];
  const rows = gate.failed.map((test) => el('li', null,
    `${words(test.test)}${test.measure ? ` (${words(test.measure)})` : ''}: `,
    test.detail || `${test.value === undefined ? 'infinite' : number(test.value)}, `
      + `the limit is ${number(test.threshold)}`,
    test.module ? el('code', null, ` ${test.module}`) : null));
  const unmeasured = (gate.not_measured || []).map((test) => el('li', { class: 'muted' },
    `${words(test.test)}: nothing was there to measure it by`));
  return [el('h3', null, 'Gate'), gate.passed ? badge('passed', 'good', 'check') : badge('refused', 'warn', 'stop'),
    rows.length + unmeasured.length ? el('ul', null, rows, unmeasured) : null];
}

function factList(title, ids) {
  if (!ids?.length) return [];
  const shown = ids.slice(0, 50);
  return [el('h3', null, `${title} (${integer(ids.length)})`),
    el('ul', { class: 'ids' }, shown.map((id) => el('li', null, el('a', { href: detailHash('fact', id) }, id)))),
    ids.length > shown.length ? el('p', { class: 'muted' }, `and ${integer(ids.length - shown.length)} more`) : null];
}

function agreement(value) {
  return value === undefined ? null : exact(share(value), value);
}

function resultNodes(result) {
  if (!result) return [];
  const stages = Object.entries(result.seconds || {}).filter(([, s]) => s > 0);
  return [
    el('h3', null, 'Result'),
    el('dl', { class: 'terms' },
      term('Target tokens', result.tokens === undefined ? null : integer(result.tokens)),
      term('Rounds of repair', result.rounds === undefined ? null : integer(result.rounds)),
      term('Others wrong after it', result.wrong_others === undefined ? null : integer(result.wrong_others)),
      term('Agreement, of the batch', result.measures ? agreement(result.agreement) : null),
      term('Measured version', Number.isInteger(result.version) ? versionLink(result.version) : null),
      term('Suite', result.suite ? foreign(result.suite) : null)),
    /* an evaluation's result is the measures themselves */
    measuresTable(result.measures || result, result.before),
    gateNodes(result.gate),
    factList('Still wrong', result.wrong),
    factList('Kept out by the gate', result.rejected),
    stages.length ? [el('h3', null, 'Seconds by stage'),
      bars(stages.map(([name, s]) => ({ name, value: s, text: seconds(s) })))] : [],
  ];
}

function problemNodes(problem) {
  if (!problem) return [];
  return el('div', { class: 'problem' }, el('strong', null, problem.title || 'Error'),
    el('p', null, foreign(problem.detail || '')),
    (problem.errors || []).length ? el('ul', null, problem.errors.map((e) =>
      el('li', null, el('code', null, e.pointer), ' ', foreign(e.detail)))) : null);
}

function progressNode(progress) {
  const value = progress.total ? progress.done : null;
  return el('div', { class: 'progress' },
    el('progress', { max: progress.total || 1, value, 'aria-label': 'Progress' }),
    el('span', null, progressText(progress)));
}

function actions(job) {
  const list = [];
  const change = (text, ask, name) => needs(button(text, () => ask(job), { 'data-do': name }), 'edit');
  if (job.kind === 'edit') list.push(buttonLink('Its facts', viewHash('facts', { job: job.id })));
  if (job.state === 'queued') list.push(change('Cancel…', askCancel, 'cancel'));
  if (job.kind === 'edit' && job.state === 'applied') {
    list.push(change('Retract its facts…', askRetractJob, 'retract'));
  }
  return el('div', { class: 'actions' }, list);
}

export function rawNode(value) {
  return el('details', null, el('summary', { 'data-do': 'raw' }, 'As JSON'),
    el('pre', null, JSON.stringify(value, null, 2)));
}

async function load(id) {
  const job = await get(`/v1/jobs/${encodeURIComponent(id)}`);
  const took = tookSeconds(job);
  return {
    title: [kind(job.kind), ' ', jobState(job.state)],
    nodes: [
      actions(job),
      job.state === 'running' && job.progress ? progressNode(job.progress) : null,
      problemNodes(job.error),
      el('dl', { class: 'terms' },
        term('Job', copyable(job.id)),
        term('Asked', fullTime(job.created_at)),
        term('Started', job.started_at ? fullTime(job.started_at) : null),
        term('Ended', job.finished_at ? [fullTime(job.finished_at), took === null ? '' : ` (${seconds(took)})`] : null),
        term('Facts', job.facts === undefined ? null : integer(job.facts)),
        term('Version', Number.isInteger(job.version) ? versionLink(job.version) : null),
        term('To version', Number.isInteger(job.to_version) ? versionLink(job.to_version) : null),
        term('Mode', job.mode),
        term('Note', job.note || job.reason ? foreign(job.note || job.reason) : null)),
      ENDED.has(job.state) ? resultNodes(job.result) : [],
      rawNode(job),
    ],
  };
}

/* ---- View ---- */

export function startJobs() {
  const kindSelect = byId('jobs-kind');
  const stateSelect = byId('jobs-state');
  const query = () => ({ kind: kindSelect.value, state: stateSelect.value });
  const list = pager({
    name: 'jobs', path: '/v1/jobs', query, render, idOf: (job) => job.id,
    isShown: () => isShown('jobs'), events: ['job'],
  });
  for (const select of [kindSelect, stateSelect]) {
    select.addEventListener('change', () => {
      rename('jobs', query());
      list.first();
    });
  }
  addView('jobs', {
    show(given) {
      kindSelect.value = given.kind || '';
      stateSelect.value = given.state || '';
      list.first();
    },
  });
  addDetails('job', 'jobs', load);
  live.addEventListener('job', ({ detail }) => reloadDetails('job', detail.id));
  /* A running job's progress is in the status. */
  live.addEventListener('status', ({ detail }) => {
    for (const id of detail.batch?.jobs || []) reloadDetails('job', id);
    if (isShown('jobs') && detail.batch) list.load();
  });
}
