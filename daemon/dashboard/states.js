/* states.js - how kinds and states look: each has a shape and a word beside its colour. */
import { el, svg } from './dom.js';

/* Paths in a box of 16 by 16; drawn with the text's colour. */
const SHAPES = {
  check: 'M3 8.5 6.5 12 13 4.5',
  clock: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 5v3.4l2.2 1.6',
  run: 'M8 2a6 6 0 1 1-6 6',
  stop: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M3.9 12.1l8.2-8.2',
  cross: 'M4 4l8 8M12 4l-8 8',
  minus: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M5 8h6',
  swap: 'M2 5h10M9.5 2.5 12 5 9.5 7.5M14 11H4M6.5 8.5 4 11l2.5 2.5',
  undo: 'M3 6h6.5a3.5 3.5 0 0 1 0 7H6M6 3 3 6l3 3',
  back: 'M8 3 3.5 8 8 13M13 3 8.5 8l4.5 5',
  dot: 'M8 6.5a1.5 1.5 0 1 0 0 3 1.5 1.5 0 0 0 0-3',
  base: 'M3 3h10v10H3z',
  plus: 'M8 3v10M3 8h10',
  layers: 'M8 2 14 5.2 8 8.4 2 5.2zM2 8l6 3.2L14 8M2 10.8 8 14l6-3.2',
  wrench: 'M10 2.5a3.5 3.5 0 0 0-3.3 4.7L2.5 11.4v2.1h2.1l4.2-4.2A3.5 3.5 0 0 0 13.4 5l-2 2-1.6-.4L9.4 5l2-2a3.5 3.5 0 0 0-1.4-.5z',
  gauge: 'M2.5 12a6 6 0 1 1 11 0M8 9.5 11 6',
  warn: 'M8 2.5 14.5 13.5h-13zM8 6.5v3.2M8 11.4v.6',
  link: 'M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3',
};

function icon(name, attributes) {
  return svg('svg', { viewBox: '0 0 16 16', class: 'icon', 'aria-hidden': 'true', ...attributes },
    svg('path', { d: SHAPES[name] || SHAPES.dot }));
}

const JOB_STATES = {
  queued: ['idle', 'clock'], running: ['run', 'run'], applied: ['good', 'check'],
  done: ['good', 'check'], rejected: ['warn', 'stop'], failed: ['bad', 'cross'],
  cancelled: ['idle', 'minus'],
};
const FACT_STATES = {
  queued: ['idle', 'clock'], live: ['good', 'check'], superseded: ['idle', 'swap'],
  retracted: ['idle', 'undo'], rolled_back: ['idle', 'back'], rejected: ['warn', 'stop'],
  failed: ['bad', 'cross'],
};
const DAEMON_STATES = {
  ready: ['good', 'check'], loading: ['run', 'run'], draining: ['warn', 'clock'],
  failed: ['bad', 'cross'],
};
const KINDS = {
  base: 'base', edit: 'plus', rollback: 'back', retraction: 'undo', consolidation: 'layers',
  repair: 'wrench', evaluation: 'gauge',
};

export const ENDED = new Set(['applied', 'done', 'rejected', 'failed', 'cancelled']);

export function words(text) {
  return String(text).replaceAll('_', ' ');
}

export function badge(text, tone, shape) {
  return el('span', { class: `badge ${tone}` }, icon(shape), el('span', null, text));
}

function stateBadge(table, state) {
  const [tone, shape] = table[state] || ['idle', 'dot'];
  return badge(words(state), tone, shape);
}

export function jobState(state) {
  return stateBadge(JOB_STATES, state);
}

export function factState(state) {
  return stateBadge(FACT_STATES, state);
}

export function daemonState(state) {
  return stateBadge(DAEMON_STATES, state);
}

export function kind(name) {
  return el('span', { class: 'kind' }, icon(KINDS[name]), words(name));
}

export function kindShape(name) {
  return SHAPES[KINDS[name]] || SHAPES.dot;
}

export function yesNo(value, yes = 'right', no = 'wrong') {
  return value ? badge(yes, 'good', 'check') : badge(no, 'bad', 'cross');
}
