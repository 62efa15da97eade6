/* changes.js - rollback, retraction, consolidation, cancelling: each is confirmed in a dialog that
 * says what it will do. */
import { button, byId, el, foreign, setText } from './dom.js';
import { call, get, mayNot, needs, poster } from './api.js';
import { count, integer } from './format.js';
import { link } from './events.js';
import { track } from './notices.js';
import { closeDrawer } from './views.js';

let running = false;

/* what: {title, about (nodes), action, options (nodes), run(form) -> job, label(job)} */
function confirm(what) {
  const dialog = byId('confirm');
  const problem = el('p', { class: 'problem', role: 'alert', hidden: true });
  const go = needs(el('button', { type: 'submit', class: 'primary' }, what.action), 'edit');
  const form = el('form', {
    onsubmit: async (event) => {
      event.preventDefault();
      if (running) return;
      running = true;
      go.disabled = true;
      problem.hidden = true;
      try {
        const job = await what.run(new FormData(form));
        dialog.close();
        closeDrawer();
        track(job, what.label);
      } catch (error) {
        setText(problem, error.status ? error.message
          : `${error.message}. Whether it was taken is not known; asked again it is not done twice.`);
        problem.hidden = false;
        go.disabled = mayNot('edit');
      }
      running = false;
    },
  },
  el('h2', { id: 'confirm-title' }, what.title), what.about, what.options || [],
  what.reason === false ? [] : el('label', { class: 'field' }, 'Reason (optional, kept with the job)',
    el('input', { name: 'reason', maxlength: 1000, autocomplete: 'off' })),
  el('p', { class: 'problem', 'data-denied': 'edit', hidden: !mayNot('edit') },
    'Your token does not allow changes.'),
  problem,
  el('div', { class: 'actions' },
    button('Cancel', () => dialog.close()), go));
  dialog.replaceChildren(form);
  dialog.showModal();
  return form;
}

function withReason(body, form) {
  const reason = (form.get('reason') || '').trim();
  return JSON.stringify(reason ? { ...body, reason } : body);
}

/* ---- Rollback ---- */

async function tellDifference(node, from, to) {
  try {
    const diff = await get(`/v1/versions/${from}/diff/${to}`);
    const { added, removed, truncated } = diff.facts;
    const more = truncated ? ' or more' : '';
    setText(node, added.length + removed.length === 0 ? 'The same facts stay live.'
      : `Of the facts live now ${integer(removed.length)}${more} will be rolled back; `
        + `${integer(added.length)}${more} will be live again.`);
  } catch (error) {
    setText(node, `What changes could not be found out: ${error.message}.`);
  }
}

export function askRollback(version) {
  const now = link.status?.live_version;
  const difference = el('p', { role: 'status' }, 'Comparing…');
  const send = poster();
  confirm({
    title: `Roll back to version ${version}?`,
    about: [
      el('p', null, `A new version will have the weights of version ${version}, bit for bit. `
        + `Nothing is deleted: version ${now} stays and can be returned to.`),
      difference,
    ],
    action: `Roll back to v${version}`,
    label: `Rollback to v${version}`,
    run: (form) => send('/v1/rollbacks', withReason({ to_version: version }, form)),
  });
  if (Number.isInteger(now)) tellDifference(difference, now, version);
}

/* ---- Retraction ---- */

function modes(pinned) {
  const first = pinned ? 'drop' : 'pin';
  const mode = (value, title, text) => el('label', { class: 'choice' },
    el('input', { type: 'radio', name: 'mode', value, checked: value === first }),
    el('span', null, el('strong', null, title), ` ${text}`));
  return el('fieldset', null, el('legend', null, 'How'),
    pinned ? null : mode('pin', 'Pin', 'keeps the prompt at the base model’s answer.'),
    mode('drop', 'Drop', 'forgets the fact as if it had never been posted.'));
}

export function askRetractFact(fact) {
  const send = poster();
  confirm({
    title: fact.pinned ? 'Forget this fact, which is pinned?' : 'Retract this fact?',
    about: el('blockquote', null, foreign(fact.prompt), ' ', el('strong', null, foreign(fact.target))),
    options: modes(fact.pinned),
    action: fact.pinned ? 'Forget' : 'Retract',
    label: 'Retraction of one fact',
    run: (form) => send('/v1/retractions', withReason({ facts: [fact.id], mode: form.get('mode') }, form)),
  });
}

export function askRetractJob(job) {
  const send = poster();
  confirm({
    title: 'Retract the facts of this job?',
    about: el('p', null, `Those of its ${count(job.facts, 'fact')} that are live and, to drop, pinned. `, el('code', null, job.id)),
    options: modes(),
    action: 'Retract',
    label: `Retraction of ${count(job.facts, 'fact')}`,
    run: (form) => send('/v1/retractions', withReason({ job: job.id, mode: form.get('mode') }, form)),
  });
}

/* ---- The others ---- */

export function askConsolidation() {
  const send = poster();
  const facts = link.status?.counts.live_facts;
  confirm({
    title: 'Consolidate?',
    about: el('p', null, `All live facts, ${integer(facts)} of them, are solved anew from the base model in one go. `
      + 'The result becomes a version if it measures no worse.'),
    action: 'Consolidate',
    label: 'Consolidation',
    run: (form) => send('/v1/consolidations', withReason({}, form)),
  });
}

export function askCancel(job) {
  confirm({
    title: 'Cancel this job?',
    about: el('p', null, 'It is taken out of the queue. ', el('code', null, job.id)),
    reason: false,
    action: 'Take it out',
    label: 'Cancelled job',
    run: () => call('POST', `/v1/jobs/${encodeURIComponent(job.id)}/cancel`, {}),
  });
}
