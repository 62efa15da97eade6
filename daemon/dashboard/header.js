/* header.js - the vital signs, and whether the page is up to date. */
import { byId, el, setText } from './dom.js';
import { api } from './api.js';
import { bytes, clock, exact, integer, seconds, short, DASH } from './format.js';
import { askNow, link, live } from './events.js';
import { badge, daemonState } from './states.js';
import { announce } from './notices.js';
import { detailHash } from './views.js';

let software = null;
let shownState = null;

function vital(name, ...content) {
  byId(`vital-${name}`).replaceChildren(...content);
}

function textOf(text, title) {
  return el('span', { class: 'clip', title: title || text }, text);
}

function showModel(status) {
  const { model, editor } = status;
  if (model) {
    const about = `${model.architecture}, ${integer(model.parameters)} parameters, ${model.dtype}`;
    vital('model', textOf(model.name, `${model.name}: ${about}`),
      el('small', null, ` ${short(model.parameters)} ${model.dtype}`));
    vital('device', textOf(model.device));
  } else {
    vital('model', DASH);
    vital('device', DASH);
  }
  if (editor) {
    vital('editor', textOf(editor.method || 'none yet', editor.modules.join('\n')),
      el('small', null, ` ${editor.update}`));
  } else vital('editor', DASH);
}

function showError(status) {
  const error = status.last_error;
  if (!error) {
    vital('error', el('span', { class: 'muted' }, 'none'));
    return;
  }
  vital('error', el('a', { class: 'clip bad-text', href: '#jobs', title: error.detail || error.title },
    error.detail || error.title));
}

function showStatus(status) {
  vital('state', daemonState(status.state));
  const version = status.live_version;
  vital('version', Number.isInteger(version)
    ? el('a', { href: detailHash('version', version), title: status.weights_hash }, `v${version}`) : DASH);
  vital('facts', exact(integer(status.counts.live_facts), status.counts.live_facts));
  const { queue, disk } = status;
  vital('queue', exact(integer(queue.facts), queue.facts),
    el('small', { title: `at most ${queue.capacity} facts may wait` },
      ` of ${short(queue.capacity)}${queue.jobs ? ` · ${seconds(queue.oldest_seconds)}` : ''}`));
  showModel(status);
  const free = bytes(disk.free_bytes);
  vital('disk', disk.low ? badge(free, 'bad', 'warn') : exact(free, disk.free_bytes, ' B'),
    disk.free_bytes === null ? '' : el('small', null, disk.low ? ' edits are refused' : ' free'));
  showError(status);
  if (software && software !== status.version) byId('outdated').hidden = false;
  software ||= status.version;
  setText(byId('software'), `malmend ${status.version}, up ${seconds(status.uptime_seconds)}`);
}

/* ---- The link ---- */

const LINKS = {
  connecting: ['idle', 'clock', 'Connecting'],
  events: ['good', 'link', 'Live'],
  polling: ['idle', 'clock', 'Polling'],
  lost: ['bad', 'warn', 'Not connected'],
  refused: ['bad', 'stop', 'Not allowed'],
};
const TITLES = {
  events: 'Changes are pushed by the daemon',
  polling: 'There are no events; asked every 2 seconds',
};

function lostText() {
  const since = link.answeredAt ? `The daemon has not answered since ${clock(link.answeredAt)}`
    : 'The daemon does not answer';
  const wait = Math.max(0, Math.round((link.retryAt - Date.now()) / 1000));
  return `${since}. What is shown may be old. Trying again ${wait ? `in ${wait} s` : 'now'}.`;
}

function refusedText() {
  return link.problem?.status === 403
    ? 'Your token does not allow reading (403).'
    : 'You are not signed in: the token is missing or was refused (401). Reload the page to give another.';
}

function showBanner() {
  const away = link.state === 'lost' || link.state === 'refused';
  byId('banner').hidden = !away;
  document.body.classList.toggle('stale', away);
  if (away) setText(byId('banner-text'), link.state === 'lost' ? lostText() : refusedText());
}

function showLink() {
  const [tone, shape, text] = LINKS[link.state];
  if (shownState !== link.state) {
    const node = badge(text, tone, shape);
    node.title = TITLES[link.state] || '';
    byId('link').replaceChildren(node);
    if (link.state === 'lost') announce('The daemon does not answer.');
    else if (shownState === 'lost') announce('The daemon is back.');
    shownState = link.state;
  }
  showBanner();
  showTitle();
}

function showTitle() {
  const status = link.status;
  const away = link.state === 'lost' || link.state === 'refused';
  const busy = status?.batch ? '▸ ' : '';
  const version = Number.isInteger(status?.live_version) ? `v${status.live_version} · ` : '';
  document.title = away ? `⚠ ${LINKS[link.state][2]} · malmend` : `${busy}${version}malmend`;
}

export function startHeader() {
  live.addEventListener('status', ({ detail }) => {
    showStatus(detail);
    showTitle();
  });
  live.addEventListener('link', showLink);
  setInterval(showBanner, 1000);
  byId('banner-retry').addEventListener('click', askNow);
  byId('reload').addEventListener('click', () => location.reload());
  api.addEventListener('denied', ({ detail }) => announce(`Your token does not allow ${detail}.`));
  showLink();
}
