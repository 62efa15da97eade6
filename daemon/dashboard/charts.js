/* charts.js - quality of each version, latency of this page's calls, seconds of each batch. */
import { byId, calm, el, svg } from './dom.js';
import { api, get } from './api.js';
import { clock, count, isNumber, number, seconds, share, tookSeconds, DASH } from './format.js';
import { link, live } from './events.js';
import { history } from './history.js';
import { MEASURES, valueOf } from './measures.js';
import { chart, logTicks, mark, ticks } from './plot.js';
import { detailHash, go, isShown } from './views.js';

const MARK_OF = { es: 'circle', gs: 'square', ls: 'triangle', agreement: 'diamond' };

function legendItem(seriesClass, markName, name, value, title) {
  const box = { viewBox: '-6 -6 12 12', class: `series ${seriesClass}`, 'aria-hidden': 'true' };
  return el('li', { title }, svg('svg', box, mark(markName, { class: 'mark' }, 4)), `${name} `,
    el('strong', null, value));
}

function few(list, n) {
  const step = Math.max(1, Math.ceil(list.length / n));
  return list.filter((_, i) => i % step === 0);
}

/* ---- Quality ---- */

function startQuality() {
  const paint = chart(byId('quality-chart'));
  const way = () => document.querySelector('input[name="way"]:checked').value;

  function show() {
    const versions = [...history.versions].reverse();
    const of = (v, key) => valueOf(v.measures, key, way());
    const measured = versions.filter((v) => MEASURES.some((m) => of(v, m.key) !== null));
    const series = MEASURES.map((m) => ({
      class: m.key, mark: MARK_OF[m.key], line: true,
      points: measured.filter((v) => of(v, m.key) !== null).map((v) => ({ x: v.version, y: of(v, m.key) })),
    }));
    const lowest = Math.min(1, ...series.flatMap((s) => s.points.map((p) => p.y)));
    const from = Math.max(0, Math.floor((lowest - 0.02) * 10) / 10);
    const stops = measured.map((v) => v.version);
    const words = (v) => MEASURES.filter((m) => of(v, m.key) !== null)
      .map((m) => `${m.short} ${share(of(v, m.key))}`).join(', ');
    const last = measured.at(-1);
    byId('quality-legend').replaceChildren(...MEASURES.map((m) => {
      const newest = [...measured].reverse().find((v) => of(v, m.key) !== null);
      return legendItem(m.key, MARK_OF[m.key], m.short, newest ? share(of(newest, m.key)) : DASH, m.long);
    }));
    paint({
      series, stops, x: [stops[0] ?? 0, stops.at(-1) ?? 1], y: [from, 1],
      xTicks: few(stops, 8), xText: (v) => `v${v}`, yTicks: ticks(from, 1, 4), yText: (v) => share(v),
      read: (x) => `v${x}: ${words(measured.find((v) => v.version === x))}`,
      pick: (x) => go(detailHash('version', x)),
      label: `Measures of ${count(stops.length, 'version')}`
        + (last ? `; the last, v${last.version}: ${words(last)}` : ''),
      summary: last ? 'Point at a version to read it, click to open it.' : '',
      empty: 'No version has measures yet.',
    });
  }

  history.addEventListener('changed', show);
  for (const input of document.querySelectorAll('input[name="way"]')) input.addEventListener('change', show);
  show();
}

/* ---- Latency ---- */

const KEPT_CALLS = 200;
const calls = [];

function rank(sorted, q) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] : null;
}

function startLatency() {
  const paint = chart(byId('latency-chart'));
  const kinds = [
    { name: 'Reads', class: 'es', mark: 'circle', kind: 'read' },
    { name: 'Model', class: 'ls', mark: 'triangle', kind: 'model' },
    { name: 'Changes', class: 'agreement', mark: 'diamond', kind: 'change' },
  ];

  const of = (kind) => calls.filter((c) => c.kind === kind);

  function legend({ kind, name, class: colour, mark: shape }) {
    const sorted = of(kind).map((c) => c.ms).sort((a, b) => a - b);
    if (!sorted.length) return legendItem(colour, shape, name, DASH, 'none yet');
    return legendItem(colour, shape, name, `${number(rank(sorted, 0.5))} ms`,
      `median of ${sorted.length}; 95 % within ${number(rank(sorted, 0.95))} ms`);
  }

  function show() {
    const first = calls[0]?.at ?? Date.now();
    const last = Math.max(first + 60000, calls.at(-1)?.at ?? 0);
    const sizes = calls.map((c) => c.ms);
    const least = Math.max(0.1, Math.min(1, ...sizes));
    const most = Math.max(10, ...sizes) * 1.3;
    byId('latency-legend').replaceChildren(...kinds.map(legend));
    paint({
      series: kinds.map((k) => ({
        ...k, line: false, size: 2.4, points: of(k.kind).map((c) => ({ x: c.at, y: c.ms })),
      })),
      stops: calls.map((c) => c.at), x: [first, last], y: [least, most], log: true,
      xTicks: [first, (first + last) / 2, last], xText: clock, inset: 30,
      yTicks: logTicks(least, most), yText: (v) => seconds(v / 1000),
      read: (x) => calls.filter((c) => c.at === x)
        .map((c) => `${clock(x)}: ${c.kind} ${number(c.ms)} ms`).join(', '),
      label: `Latency of the last ${calls.length} calls of this page`,
      summary: `The last ${calls.length} calls of this page, from request to answer; medians above.`, empty: '',
    });
  }

  const soon = calm(() => isShown('overview') && show(), 1000);
  api.addEventListener('timed', ({ detail }) => {
    const at = Math.max(detail.at, (calls.at(-1)?.at ?? 0) + 1);
    calls.push({ ...detail, at });
    if (calls.length > KEPT_CALLS) calls.shift();
    soon();
  });
  return soon;
}

/* ---- Batches ---- */

function startBatches() {
  const paint = chart(byId('batches-chart'));
  let jobs = [];

  function show() {
    const ended = jobs.filter((job) => job.kind !== 'evaluation' && tookSeconds(job) !== null).reverse();
    const most = Math.max(0.01, ...ended.map(tookSeconds)) * 1.1;
    const rates = link.status?.rates;
    const item = (name, text) => el('li', { title: 'of the last batch' }, `${name} `, el('strong', null, text));
    byId('batches-legend').replaceChildren(
      item('Last batch', rates ? seconds(rates.last_batch_seconds) : DASH),
      item('Facts a second', rates ? number(rates.facts_per_second) : DASH));
    paint({
      series: [{ class: 'gs', bars: true, points: ended.map((job, i) => ({ x: i, y: tookSeconds(job) })) }],
      stops: ended.map((_, i) => i), x: [0, Math.max(1, ended.length - 1)], y: [0, most],
      xTicks: [], xText: String, yTicks: ticks(0, most, 4), yText: (v) => (v ? seconds(v) : '0'), inset: 20,
      read: (i) => [ended[i].kind, isNumber(ended[i].facts) ? count(ended[i].facts, 'fact') : '',
        seconds(tookSeconds(ended[i])), isNumber(ended[i].version) ? `v${ended[i].version}` : '',
      ].filter(Boolean).join(', '),
      pick: (i) => go(detailHash('job', ended[i].id)),
      label: `Seconds of the last ${ended.length} jobs`,
      summary: ended.length ? 'From start to end of each of the last jobs, oldest left; click to open one.' : '',
      empty: 'No job has ended yet.',
    });
  }

  const load = calm(async () => {
    if (!isShown('overview')) return;
    try {
      jobs = (await get('/v1/jobs', { limit: 50 })).data;
    } catch {
      return;
    }
    show();
  }, 1000);
  for (const name of ['job', 'resync']) live.addEventListener(name, load);
  live.addEventListener('status', show);
  show();
  return load;
}

/* What it returns brings up to date what is only drawn while it is seen. */
export function startCharts() {
  startQuality();
  const refresh = [startLatency(), startBatches()];
  return () => refresh.forEach((draw) => draw());
}
