/* events.js - the link to the daemon.
 *
 * Server-sent events tell what has changed; where they are not to be had, status and jobs are asked
 * for every two seconds and the same events are made of the differences. When the daemon is gone it
 * is tried again after longer and longer pauses. A hidden page holds no connection: browsers open
 * few to one address, and each event stream takes one. */
import { address, api, call, get } from './api.js';

const POLL_MS = 2000;
const BUSY_MS = 1000; /* progress is in no event */
const IDLE_MS = 10000;
const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 15000;
const EVENTS_RETRY_MS = 60000; /* at most, between tries to get events beside polling */
const STATUS_TIMEOUT_MS = 8000;

/* `status`, `job` and `version` (detail as in the event), `resync` (anything may have changed),
 * `link` (link.state has changed). */
export const live = new EventTarget();

/* state: connecting, events, polling, lost, refused. */
export const link = { state: 'connecting', status: null, answeredAt: 0, retryAt: 0, problem: null };

let source = null;
let timer = 0;
let failures = 0;
let eventFailures = 0;
let eventsRetryAt = 0;
let asking = false;
let askAgain = false;
let known = null; /* job states by id, while polling */

function tell(name, detail) {
  live.dispatchEvent(new CustomEvent(name, { detail }));
}

function setState(state, problem = null) {
  const changed = link.state !== state || link.problem?.message !== problem?.message;
  link.state = state;
  link.problem = problem;
  if (changed) tell('link');
}

function closeSource() {
  if (source) source.close();
  source = null;
}

function schedule(ms) {
  clearTimeout(timer);
  link.retryAt = Date.now() + ms;
  timer = document.hidden ? 0 : setTimeout(ask, ms);
}

/* ---- Status ---- */

function isBusy(status) {
  return Boolean(status.batch) || status.queue.jobs > 0 || status.state !== 'ready';
}

function lose(problem) {
  closeSource();
  known = null;
  failures++;
  const pause = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** (failures - 1));
  schedule(pause * (0.75 + Math.random() / 2));
  setState(problem.status === 401 || problem.status === 403 ? 'refused' : 'lost', problem);
  tell('link');
}

async function ask() {
  clearTimeout(timer);
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  try {
    const status = await call('GET', '/v1/status', { timeout: STATUS_TIMEOUT_MS });
    take(status);
    if (link.state === 'polling') await pollJobs();
  } catch (problem) {
    lose(problem);
  } finally {
    asking = false;
  }
  if (askAgain) {
    askAgain = false;
    ask();
  }
}

function take(status) {
  const before = link.status;
  /* Of a daemon that is only now ready nothing else has been seen yet. */
  const anew = failures > 0 || !before || before.state !== status.state;
  failures = 0;
  link.status = status;
  link.answeredAt = Date.now();
  tell('status', status);
  if (anew) tell('resync');
  if (!source && Date.now() >= eventsRetryAt) listen();
  if (link.state !== 'events') setState('polling');
  if (link.state === 'polling' && !anew && before.live_version !== status.live_version) {
    tell('version', { version: status.live_version });
  }
  schedule(link.state === 'polling' ? POLL_MS : isBusy(status) ? BUSY_MS : IDLE_MS);
}

/* ---- Polling ---- */

async function pollJobs() {
  const { data } = await get('/v1/jobs', { limit: 50 });
  const states = new Map(data.map((job) => [job.id, job.state]));
  if (known) {
    for (const job of data) {
      if (known.get(job.id) !== job.state) tell('job', job);
    }
  }
  known = states;
}

/* ---- Events ---- */

function parsed(event) {
  try {
    return JSON.parse(event.data);
  } catch {
    return {};
  }
}

function listen() {
  const mine = new EventSource(address('/v1/events'));
  let opened = false;
  source = mine;
  mine.onopen = () => {
    if (source !== mine) return;
    const again = eventFailures > 0;
    opened = true;
    eventFailures = 0;
    known = null;
    setState('events');
    if (again) tell('resync');
    ask();
  };
  for (const name of ['job', 'version']) {
    mine.addEventListener(name, (event) => {
      if (source !== mine) return;
      tell(name, parsed(event));
      ask();
    });
  }
  /* The browser would try again by itself, but not say what is wrong: the status does. */
  mine.onerror = () => {
    if (source !== mine) return;
    closeSource();
    eventFailures++;
    const pause = Math.min(EVENTS_RETRY_MS, (opened ? 500 : POLL_MS) * 2 ** (eventFailures - 1));
    eventsRetryAt = Date.now() + pause;
    setState('polling');
    ask();
  };
}

/* ---- Start ---- */

export function askNow() {
  if (link.state === 'lost' || link.state === 'refused') eventsRetryAt = 0;
  ask();
}

export function start() {
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      clearTimeout(timer);
      closeSource();
      known = null;
    } else {
      eventsRetryAt = 0;
      ask().then(() => {
        if (link.state !== 'lost') tell('resync');
      });
    }
  });
  api.addEventListener('signedout', () => setState('refused'));
  ask();
}
