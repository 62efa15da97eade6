/* prompt.js - one prompt to several versions of the model, side by side. */
import { byId, el, foreign, setText, syncRows } from './dom.js';
import { get, needs, post } from './api.js';
import { count, exact, integer, number, seconds, share } from './format.js';
import { link, live } from './events.js';
import { badge, yesNo } from './states.js';
import { versionLink } from './jobs.js';
import { addView, isShown, rename } from './views.js';

const chosen = new Set(['base', 'live']);
let models = [];
let turn = 0;
let askedLive = null;

/* ---- Models ---- */

function ordered() {
  const place = (name) => (name === 'base' ? -2 : name === 'live' ? -1 : Number(name.slice(1)));
  return [...chosen].sort((a, b) => place(a) - place(b));
}

function chip(model) {
  const { id, version, on, gone } = model;
  const box = el('input', { type: 'checkbox', checked: on, 'data-do': 'choose' });
  box.onchange = () => {
    if (box.checked) chosen.add(id);
    else chosen.delete(id);
    showModels();
  };
  return [box, el('span', null, id,
    id === 'live' && Number.isInteger(version) ? el('small', null, ` v${version}`) : null,
    gone ? el('small', { class: 'bad-text' }, ' no longer in memory') : null)];
}

function showModels() {
  const known = new Map(models.map((m) => [m.id, m.version]));
  const names = [...new Set(['base', 'live', ...ordered()])];
  const items = names.map((id) => ({
    id, version: known.get(id), on: chosen.has(id), gone: models.length > 0 && !known.has(id),
  }));
  syncRows(byId('ask-models'), items, (m) => m.id, chip);
  const more = models.filter((m) => /^v\d+$/.test(m.id) && !chosen.has(m.id)).reverse();
  const first = more.length ? 'Add a version…' : 'No others in memory';
  byId('ask-more').replaceChildren(el('option', { value: '' }, first),
    ...more.map((m) => el('option', { value: m.id }, m.id)));
  byId('ask-more').disabled = !more.length;
}

async function loadModels() {
  try {
    models = (await get('/v1/models?limit=100')).data;
  } catch {
    return;
  }
  showModels();
}

/* ---- Answers ---- */

function isClassifier() {
  return link.status?.model?.architecture === 'bert';
}

function request(prompt) {
  const stop = byId('ask-stop').value;
  const body = {
    prompt, max_tokens: Number(byId('ask-tokens').value), temperature: Number(byId('ask-temperature').value),
  };
  return stop ? { ...body, stop: [stop] } : body;
}

async function timed(promise) {
  const began = performance.now();
  const value = await promise;
  return { value, took: (performance.now() - began) / 1000 };
}

async function ask(model, prompt, target) {
  const answer = { model };
  try {
    if (!isClassifier()) {
      const { value, took } = await timed(post('/v1/completions', { ...request(prompt), model }));
      Object.assign(answer, { completion: value.choices[0], usage: value.usage, version: value.version, took });
    }
    if (target || isClassifier()) {
      const item = target ? { prompt, target } : { prompt };
      const scores = await post('/v1/scores', { items: [item], model });
      Object.assign(answer, { score: scores.data[0], version: scores.version });
    }
  } catch (problem) {
    answer.problem = problem.message;
  }
  return answer;
}

function tokenNode(token) {
  return el('span', {
    class: `token ${token.correct ? 'right' : 'wrong'}`,
    title: `id ${token.id}, log-probability ${token.logprob}, rank ${token.rank}`,
  }, foreign(token.token), el('small', null, token.correct ? '✓' : `rank ${integer(token.rank)}`));
}

function scoreNodes(score) {
  if (!score) return [];
  if (score.probability) {
    const p = score.probability.SUPPORTS;
    return el('div', { class: 'score' }, 'SUPPORTS ', exact(share(p), p),
      score.correct === undefined ? null : [' ', yesNo(score.correct)]);
  }
  return el('div', { class: 'score' },
    el('p', null, 'Target: ', yesNo(score.correct), ' log-prob. ', exact(number(score.logprob), score.logprob),
      ' (', share(Math.exp(score.logprob ?? -Infinity)), ')'),
    el('p', { class: 'tokens' }, score.tokens.map(tokenNode)));
}

function comparison(answer, base) {
  if (!base?.completion || !answer.completion || answer.model === 'base') return null;
  return base.completion.text === answer.completion.text
    ? badge('same as base', 'idle', 'check') : badge('differs from base', 'run', 'swap');
}

/* The space that joins prompt and answer is no part of what is seen. */
function answerNode(text) {
  const seen = text.trimStart();
  return el('p', { class: 'answer' }, seen ? foreign(seen, { title: JSON.stringify(text) })
    : el('em', { class: 'muted' }, 'nothing'));
}

function card(answer, base) {
  const { completion } = answer;
  return [
    el('header', null, el('h3', null, answer.model),
      answer.version === undefined || answer.model === `v${answer.version}` ? null : versionLink(answer.version),
      comparison(answer, base)),
    answer.pending ? el('p', { class: 'muted' }, 'Asking…') : null,
    answer.problem ? el('p', { class: 'problem' }, answer.problem) : null,
    completion ? answerNode(completion.text) : null,
    scoreNodes(answer.score),
    completion ? el('footer', { class: 'muted' },
      `${count(answer.usage.completion_tokens, 'token')}, ended by ${completion.finish_reason}, `,
      exact(seconds(answer.took), answer.took, ' s')) : null,
  ].filter(Boolean).flat();
}

function show(answers) {
  const base = answers.find((a) => a.model === 'base');
  syncRows(byId('answers'), answers.map((a) => ({ ...a, base: base?.completion?.text })), (a) => a.model,
    (a) => card(a, base), (node, a) => {
      node.setAttribute('aria-label', `Answer of ${a.model}`);
      node.setAttribute('aria-busy', Boolean(a.pending));
    });
}

async function run() {
  const prompt = byId('ask-prompt').value;
  const target = byId('ask-target').value.trim();
  const mine = ++turn;
  if (!prompt.trim()) return;
  rename('ask', { prompt, target });
  const answers = ordered().map((model) => ({ model, pending: true }));
  askedLive = link.status?.live_version;
  byId('ask-stale').hidden = true;
  show(answers);
  await Promise.all(answers.map(async (_, i) => {
    const answer = await ask(answers[i].model, prompt, target);
    if (mine !== turn) return;
    answers[i] = answer;
    show(answers);
  }));
}

/* ---- View ---- */

export function startPrompt() {
  byId('answers').dataset.row = 'article';
  byId('ask-models').dataset.row = 'label';
  byId('ask-form').addEventListener('submit', (event) => {
    event.preventDefault();
    run();
  });
  byId('ask-prompt').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId('ask-form').requestSubmit();
    }
  });
  byId('ask-more').addEventListener('change', (event) => {
    if (event.target.value) chosen.add(event.target.value);
    showModels();
  });
  needs(byId('ask-go'), 'infer');
  addView('ask', {
    show(given) {
      loadModels();
      if (given.version !== undefined) chosen.add(`v${given.version}`);
      if (given.target !== undefined) byId('ask-target').value = given.target;
      if (given.prompt === undefined || given.prompt === byId('ask-prompt').value) return;
      byId('ask-prompt').value = given.prompt;
      run();
    },
  });
  live.addEventListener('version', () => isShown('ask') && loadModels());
  live.addEventListener('resync', () => isShown('ask') && loadModels());
  live.addEventListener('status', ({ detail }) => {
    const { live_version: now } = detail;
    byId('ask-classifier').hidden = !isClassifier();
    if (askedLive === null || askedLive === undefined || now === askedLive) return;
    byId('ask-stale').hidden = false;
    setText(byId('ask-stale-text'), `Live was v${askedLive} when this was asked; it is v${now} now.`);
  });
  byId('ask-again').addEventListener('click', run);
}
