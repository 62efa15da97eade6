/* overview.js - what happens now, and the newest jobs and versions. */
import { byId, el, setText, syncRows } from './dom.js';
import { bytes, count, exact, integer, seconds, share } from './format.js';
import { live } from './events.js';
import { history } from './history.js';
import { jobCells, jobLink, progressText } from './jobs.js';
import { versionTable } from './versions.js';
import { startCharts } from './charts.js';
import { addView, isShown } from './views.js';
import { pager } from './pager.js';
import { rowLink } from './rows.js';

const ROWS = 8;
const STAGES = ['search', 'tokenize', 'forward', 'backward', 'hypernet', 'gram', 'solve', 'apply', 'verify', 'persist'];

/* ---- Now ---- */

/* Repair goes through some of them again and again. */
function showStages(batch) {
  byId('stages').replaceChildren(...STAGES.map((name) => el('li', {
    'aria-current': name === batch.stage ? 'step' : null,
  }, name)));
}

function showBatch(batch) {
  byId('batch').hidden = !batch;
  byId('batch-none').hidden = Boolean(batch);
  if (!batch) return;
  const bar = byId('batch-progress');
  if (batch.total) {
    bar.max = batch.total;
    bar.value = batch.done;
  } else bar.removeAttribute('value');
  const took = (Date.now() - Date.parse(batch.started_at)) / 1000;
  setText(byId('batch-text'), `${count(batch.facts, 'fact')}, ${progressText(batch)}, ${seconds(Math.max(0, took))}`);
  byId('batch-jobs').replaceChildren(...batch.jobs.slice(0, 6).flatMap((id) => [jobLink(id), ' ']),
    batch.jobs.length > 6 ? `and ${integer(batch.jobs.length - 6)} more` : '');
  showStages(batch);
}

function figure(name, ...content) {
  byId(`now-${name}`).replaceChildren(...content);
}

function showNow(status) {
  const { queue, scrub, joint, memory, counts } = status;
  showBatch(status.batch);
  byId('queue-meter').max = queue.capacity || 1;
  byId('queue-meter').value = queue.facts;
  figure('queue', exact(integer(queue.facts), queue.facts),
    ` of ${integer(queue.capacity)} facts, in ${count(queue.jobs, 'job')}`,
    queue.jobs ? `, the oldest for ${seconds(queue.oldest_seconds)}` : '');
  figure('jobs', Object.entries(counts.jobs_by_state).filter(([, n]) => n)
    .map(([state, n]) => `${integer(n)} ${state}`).join(', ') || 'none');
  figure('scrub', !scrub.enabled ? 'off' : scrub.total
    ? `${share(scrub.position / scrub.total)} of ${count(scrub.total, 'fact')} looked at, ${integer(scrub.wrong)} wrong`
      + `, ${integer(scrub.failing)} failing`
    : 'nothing to look at');
  figure('joint', joint ? `${count(joint.facts, 'fact')}, ${bytes(joint.bytes)}` : 'not used',
    joint?.stale ? ', behind the live version' : '');
  figure('memory', `${bytes(memory.host_bytes)}, of it the model’s weights ${bytes(memory.device_bytes)}`);
}

/* ---- View ---- */

export function startOverview() {
  const refreshCharts = startCharts();
  const jobs = pager({
    name: 'recent', path: '/v1/jobs', query: () => ({}), limit: ROWS, idOf: (job) => job.id,
    isShown: () => isShown('overview'), events: ['job'],
    render: (list) => {
      syncRows(byId('recent-rows'), list, (job) => job.id, jobCells, rowLink);
      byId('recent-none').hidden = list.length > 0;
    },
  });
  const renderVersions = versionTable(byId('newest-rows'), byId('newest-rail'), true);
  const showVersions = () => renderVersions(history.versions.slice(0, ROWS));
  history.addEventListener('changed', showVersions);
  let marked = null;
  live.addEventListener('status', ({ detail }) => {
    showNow(detail);
    if (isShown('overview') && detail.batch) jobs.load();
    if (marked !== detail.live_version) showVersions();
    marked = detail.live_version;
  });
  addView('overview', {
    show() {
      jobs.first();
      refreshCharts();
      showVersions();
    },
  });
}
