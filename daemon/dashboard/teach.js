/* teach.js - posting facts: one in a form, or many as JSON or NDJSON. */
import { button, byId, el, foreign } from './dom.js';
import { call, needs, poster } from './api.js';
import { count, integer, share } from './format.js';
import { track } from './notices.js';
import { addView, viewHash } from './views.js';
import { readFacts, withMember } from './paste.js';

const MOST_BYTES = 4 << 20;
const PREVIEW = 5;

function say(node, tone, ...content) {
  node.className = tone;
  node.hidden = !content.length;
  node.replaceChildren(...content);
}

function lines(id) {
  const list = byId(id).value.split('\n').map((line) => line.trim()).filter(Boolean);
  return list.length ? list : undefined;
}

function whyNot(problem) {
  if (problem.status) return problem.message;
  return `${problem.message}. Whether it was taken is not known; posted again it is not taken twice.`;
}

/* ---- One ---- */

function formFact() {
  const unrelated = lines('teach-unrelated')?.map((prompt) => ({ prompt }));
  return {
    prompt: byId('teach-prompt').value, target: byId('teach-target').value,
    subject: byId('teach-subject').value.trim() || undefined, id: byId('teach-id').value.trim() || undefined,
    prompts: lines('teach-prompts'), rephrases: lines('teach-rephrases'), unrelated,
    join: byId('teach-join').checked ? '' : undefined,
  };
}

/* What is empty is not sent: the daemon's own limits count. */
function formGate() {
  const gate = {};
  for (const field of document.querySelectorAll('[data-gate]')) {
    if (field.value !== '') gate[field.dataset.gate] = Number(field.value);
  }
  return Object.keys(gate).length ? { ...gate, measure: byId('gate-measure').value } : undefined;
}

/* Which field a pointer like /facts/0/target is about. */
function markField(problem) {
  for (const { pointer } of problem.errors) {
    const name = pointer.split('/')[3] || (pointer.startsWith('/gate') ? pointer.slice(6).replaceAll('_', '-') : '');
    const field = byId(`teach-${name}`) || byId(`gate-${name}`);
    if (!field) continue;
    field.setAttribute('aria-invalid', 'true');
    field.closest('details')?.setAttribute('open', '');
    field.focus();
    return;
  }
}

function unmark() {
  for (const field of byId('teach-form').querySelectorAll('[aria-invalid]')) field.removeAttribute('aria-invalid');
}

function showOutcome(node, fact, job) {
  const ask = el('a', { href: viewHash('ask', { prompt: fact.prompt, target: fact.target }) }, 'Ask it');
  if (job.state === 'applied') {
    const es = job.result?.measures?.decoded?.es;
    say(node, 'note good', `Applied: version ${job.version}${es === undefined ? '' : `, decoded ${share(es)}`}. `, ask);
  } else if (job.state === 'rejected' || job.state === 'failed' || job.state === 'cancelled') {
    say(node, 'problem', `${job.state}: ${job.error?.detail || 'see the job'}`);
  } else say(node, 'note', `${job.state}…`);
}

function startForm() {
  const form = byId('teach-form');
  const result = byId('teach-result');
  const send = poster();
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    unmark();
    const fact = formFact();
    const note = byId('teach-note').value.trim() || undefined;
    const button = byId('teach-go');
    button.disabled = true;
    try {
      const job = await send('/v1/edits', JSON.stringify({ facts: [fact], note, gate: formGate() }));
      say(result, 'note', `Queued as ${job.id}.`);
      track(job, 'Edit of one fact', (now) => showOutcome(result, fact, now));
      form.reset();
      byId('teach-prompt').focus();
    } catch (problem) {
      say(result, 'problem', whyNot(problem));
      markField(problem);
    }
    needs(button, 'edit');
  });
  needs(byId('teach-go'), 'edit');
}

/* ---- Many ---- */

function preview(facts) {
  const more = facts.length - PREVIEW;
  return el('ol', { class: 'facts' }, facts.slice(0, PREVIEW).map((fact) => el('li', null,
    el('span', { class: 'clamp' }, foreign(String(fact.prompt ?? ''))),
    el('span', { class: 'clamp target' }, foreign(String(fact.target ?? ''))))),
  more > 0 ? el('p', { class: 'muted' }, `and ${integer(more)} more`) : null);
}

function select(area, range) {
  area.focus();
  area.setSelectionRange(range.start, range.end);
}

function problemList(area, read, problem) {
  const items = problem.errors.map((e) => {
    const range = read.places[Number(e.pointer.split('/')[2])];
    const place = range ? button(e.pointer, () => select(area, range), { class: 'quiet' })
      : el('code', null, e.pointer);
    return el('li', null, place, ' ', foreign(e.detail));
  });
  return el('div', null, el('p', null, whyNot(problem)), items.length ? el('ul', null, items) : null);
}

function startPaste() {
  const area = byId('paste-text');
  const result = byId('paste-result');
  const postButton = byId('paste-go');
  const send = poster();
  let checked = null;

  function forget() {
    checked = null;
    postButton.disabled = true;
    say(result, 'note');
  }

  async function check() {
    forget();
    const read = readFacts(area.value);
    if (read.problem) {
      say(result, 'problem', read.problem);
      if (read.range) select(area, read.range);
      return;
    }
    try {
      const text = withMember(read.text, 'validate_only', true);
      const answer = await call('POST', '/v1/edits', { text });
      checked = read;
      const sizes = `${count(answer.facts, 'fact')}, ${count(answer.tokens, 'target token')}`;
      say(result, 'note good', el('p', null, `${sizes}: can be taken. Nothing is posted yet.`), preview(read.facts));
      needs(postButton, 'edit');
      postButton.focus();
    } catch (problem) {
      say(result, 'problem', problemList(area, read, problem));
    }
  }

  async function postIt() {
    if (!checked) return;
    const note = byId('paste-note').value.trim();
    const { facts } = checked;
    postButton.disabled = true;
    try {
      const job = await send('/v1/edits', note ? withMember(checked.text, 'note', note) : checked.text);
      area.value = '';
      forget();
      say(result, 'note', `Queued as ${job.id}.`);
      track(job, `Edit of ${count(facts.length, 'fact')}`, (now) => showOutcome(result, facts[0], now));
    } catch (problem) {
      say(result, 'problem', problemList(area, checked, problem));
      needs(postButton, 'edit');
    }
  }

  area.addEventListener('input', forget);
  byId('paste-form').addEventListener('submit', (event) => {
    event.preventDefault();
    check();
  });
  postButton.addEventListener('click', postIt);
  byId('paste-file').addEventListener('change', async (event) => {
    const [file] = event.target.files;
    forget();
    if (!file) return;
    if (file.size > MOST_BYTES) {
      say(result, 'problem', `${file.name} is larger than 4 MiB: post it with curl, as application/x-ndjson.`);
      return;
    }
    area.value = await file.text();
    check();
  });
  needs(byId('paste-check'), 'edit');
}

export function startTeach() {
  startForm();
  startPaste();
  addView('teach', { show: (given) => {
    if (given.prompt !== undefined) byId('teach-prompt').value = given.prompt;
  } });
}
