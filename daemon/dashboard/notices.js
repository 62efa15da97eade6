/* notices.js - what became of the changes asked for on this page. */
import { byId, el, setText } from './dom.js';
import { get } from './api.js';
import { live } from './events.js';
import { ENDED, jobState, words } from './states.js';
import { detailHash } from './views.js';

const MOST = 3;
const GOOD = new Set(['applied', 'done', 'cancelled']);
const tracked = new Map(); /* job id -> {job, show} */

/* For screen readers only. */
export function announce(text) {
  setText(byId('announcer'), text);
}

function outcome(job) {
  if (job.error) return job.error.detail || job.error.title;
  if (job.state === 'applied' && job.version !== undefined) return `version ${job.version}`;
  if (job.state === 'rejected') return 'the gate refused it; nothing has changed';
  return '';
}

function remove(id) {
  tracked.get(id)?.card.remove();
  tracked.delete(id);
}

function show(id, job) {
  const entry = tracked.get(id);
  if (!entry) return;
  entry.job = job;
  const text = outcome(job);
  entry.card.replaceChildren(
    jobState(job.state),
    el('div', { class: 'notice-text' },
      el('a', { href: detailHash('job', id) }, entry.label),
      text ? el('p', null, text) : null),
    el('button', { type: 'button', class: 'quiet', 'aria-label': 'Dismiss', onclick: () => remove(id) }, '✕'));
  if (entry.onChange) entry.onChange(job);
  if (ENDED.has(job.state)) announce(`${entry.label}: ${words(job.state)}. ${text}`);
}

async function update(id) {
  try {
    show(id, await get(`/v1/jobs/${encodeURIComponent(id)}`));
  } catch {
    /* the next event or the daemon's return asks again */
  }
}

/* Follows a job to its end; onChange gets it at every change. */
export function track(job, label, onChange) {
  while (tracked.size >= MOST) remove(tracked.keys().next().value);
  const card = el('li', { class: 'notice' });
  tracked.set(job.id, { card, label, onChange, job });
  byId('notices').append(card);
  show(job.id, job);
  update(job.id);
}

/* What ended well has been seen once one goes on to something else. */
function clear() {
  for (const [id, { job }] of tracked) if (GOOD.has(job.state)) remove(id);
}

export function startNotices() {
  addEventListener('hashchange', clear);
  live.addEventListener('job', ({ detail }) => tracked.has(detail.id) && update(detail.id));
  live.addEventListener('resync', () => {
    for (const [id, { job }] of tracked) if (!ENDED.has(job.state)) update(id);
  });
}
