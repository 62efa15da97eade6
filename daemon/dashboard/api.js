/* api.js - calls of the daemon: JSON in and out, problems as errors, what the caller's role turned
 * out not to allow, and how long each call took. */

const TIMEOUT_MS = 20000;

/* `denied` (detail: role), `signedout`, `timed` (detail: {at, ms, kind}). */
export const api = new EventTarget();

class Problem extends Error {
  /* status 0: there was no answer. */
  constructor(status, body) {
    super(body.detail || body.title || `status ${status}`);
    this.status = status;
    this.title = body.title || '';
    this.errors = Array.isArray(body.errors) ? body.errors : [];
    this.retryAfter = body.retryAfter || null;
  }
}

/* ---- Roles ---- */

const denied = new Set();

export function mayNot(role) {
  return denied.has(role);
}

function neededRole(method, path) {
  if (/^\/v1\/(completions|scores|evaluations)/.test(path)) return 'infer';
  return method === 'GET' ? 'read' : 'edit';
}

function deny(role) {
  if (denied.has(role)) return;
  denied.add(role);
  api.dispatchEvent(new CustomEvent('denied', { detail: role }));
}

/* Marks what a role is needed for; it is switched off once that role turns out to be missing. */
export function needs(node, role) {
  node.dataset.needs = role;
  node.disabled = denied.has(role);
  return node;
}

api.addEventListener('denied', ({ detail: role }) => {
  for (const node of document.querySelectorAll(`[data-needs="${role}"]`)) node.disabled = true;
  for (const node of document.querySelectorAll(`[data-denied="${role}"]`)) node.hidden = false;
});

/* ---- Calls ---- */

function kindOf(method, path) {
  if (neededRole(method, path) === 'infer') return 'model';
  return method === 'GET' ? 'read' : 'change';
}

async function read(answer) {
  const type = answer.headers.get('Content-Type') || '';
  if (!type.includes('json')) return { detail: (await answer.text()).slice(0, 300) };
  return answer.json();
}

function describe(error, controller) {
  if (controller.signal.aborted) return 'the daemon did not answer in time';
  return error instanceof SyntaxError ? 'the answer is no JSON' : 'there is no answer from the daemon';
}

/* Beside the page, which a proxy may have put under a path of its own. In full: a page that was opened
 * as http://name:token@host may not call by a path alone. */
export function address(path) {
  return new URL(`.${path}`, location.origin + location.pathname).href;
}

/* The answer's JSON; throws a Problem. options: body (any value), text and type (a body as it is),
 * key (Idempotency-Key), timeout (ms). */
export async function call(method, path, options = {}) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), options.timeout || TIMEOUT_MS);
  const headers = {};
  let body;
  if (options.body !== undefined) body = JSON.stringify(options.body);
  if (options.text !== undefined) body = options.text;
  if (body !== undefined) headers['Content-Type'] = options.type || 'application/json';
  if (options.key) headers['Idempotency-Key'] = options.key;
  const began = performance.now();
  let answer;
  let content;
  try {
    answer = await fetch(address(path), { method, headers, body, signal: controller.signal, cache: 'no-store' });
    content = await read(answer);
  } catch (error) {
    throw new Problem(0, { detail: describe(error, controller) });
  } finally {
    clearTimeout(timer);
  }
  const detail = { at: Date.now(), ms: performance.now() - began, kind: kindOf(method, path) };
  api.dispatchEvent(new CustomEvent('timed', { detail }));
  if (answer.ok) return content;
  if (answer.status === 401) api.dispatchEvent(new Event('signedout'));
  if (answer.status === 403) deny(neededRole(method, path));
  throw new Problem(answer.status, { ...content, retryAfter: answer.headers.get('Retry-After') });
}

export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, v]) => v !== '' && v !== null && v !== undefined);
  const text = new URLSearchParams(given).toString();
  return call('GET', text ? `${path}?${text}` : path);
}

export function post(path, body, key) {
  return call('POST', path, { body, key });
}

/* ---- Requests that must not count twice ---- */

function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `dashboard-${[...random].map((b) => b.toString(16).padStart(2, '0')).join('')}`;
}

/* Posts a change. Asked again with the same content after no answer came, it has the same key, and
 * the daemon takes it once. */
export function poster() {
  let last = null;
  return async (path, text) => {
    if (!last || last.path !== path || last.text !== text) last = { path, text, key: newKey() };
    const answer = await call('POST', path, { text, key: last.key });
    last = null;
    return answer;
  };
}
