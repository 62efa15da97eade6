/* plot.js - charts drawn as SVG: lines over steps, points over time, bars. All are drawn in the pixels
 * they have, and read with the mouse or, focused, with the arrow keys. */
import { el, svg, setText } from './dom.js';

const PAD = { left: 52, right: 12, top: 10, bottom: 22 };
const MARKS = {
  circle: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  square: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  triangle: (r) => `M0 ${-r * 1.25}L${r * 1.15} ${r * 0.8}H${-r * 1.15}z`,
  diamond: (r) => `M0 ${-r * 1.35}L${r * 1.35} 0L0 ${r * 1.35}L${-r * 1.35} 0z`,
};

export function mark(name, attributes, r = 3) {
  return svg('path', { d: MARKS[name](r), ...attributes });
}

/* Powers of ten and, where there are few of those, what is about half way between them. */
export function logTicks(from, to) {
  const list = [];
  for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power++) {
    list.push(...(to / from > 200 ? [1] : [1, 3]).map((m) => m * 10 ** power));
  }
  return list.filter((value) => value >= from && value <= to);
}

/* Round steps that part [from, to] into about n. */
export function ticks(from, to, n) {
  const span = to - from || 1;
  const power = 10 ** Math.floor(Math.log10(span / n));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => span / s <= n) || span;
  const list = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i++) list.push(i * step || 0);
  return list;
}

function axes(frame, plot) {
  const { x0, x1, y0, sx, sy } = frame;
  const group = svg('g', { class: 'axes' });
  for (const value of plot.yTicks) {
    group.append(svg('path', { class: 'grid', d: `M${x0} ${sy(value)}H${x1}` }),
      svg('text', { x: x0 - 6, y: sy(value), 'text-anchor': 'end', 'dominant-baseline': 'middle' }, plot.yText(value)));
  }
  for (const value of plot.xTicks) {
    const x = Math.min(Math.max(sx(value), x0 + 8), x1 - 8);
    group.append(svg('text', { x, y: y0 + 15, 'text-anchor': 'middle' }, plot.xText(value)));
  }
  group.append(svg('path', { class: 'axis', d: `M${x0} ${y0}H${x1}` }));
  return group;
}

function lineOf(series, { sx, sy }) {
  return series.points.map((p, i) => `${i ? 'L' : 'M'}${sx(p.x).toFixed(1)} ${sy(p.y).toFixed(1)}`).join('');
}

function seriesNodes(series, frame, apart) {
  const group = svg('g', { class: `series ${series.class}` });
  if (series.line) group.append(svg('path', { class: 'line', d: lineOf(series, frame) }));
  if (apart < 9 && series.line && series.points.length > 1) return group;
  for (const p of series.points) {
    const transform = `translate(${frame.sx(p.x).toFixed(1)} ${frame.sy(p.y).toFixed(1)})`;
    group.append(mark(series.mark, { class: 'mark', transform }, series.size || 3));
  }
  return group;
}

function barNodes(series, frame, apart) {
  const width = Math.max(1, Math.min(28, apart * 0.7));
  return svg('g', { class: `series ${series.class}` }, series.points.map((p) => svg('rect', {
    class: 'column', x: frame.sx(p.x) - width / 2, width,
    y: Math.min(frame.sy(p.y), frame.y0 - 1), height: Math.max(1, frame.y0 - frame.sy(p.y)), rx: Math.min(2, width / 4),
  })));
}

/* A chart in `box`. draw(plot): {series: [{class, mark, line, bars, points: [{x, y}]}], x: [from, to],
 * y: [from, to], log, xTicks, xText, yTicks, yText, stops: the places the reader can go to, ascending,
 * read(x): what is said of one, pick(x): what a click there does, summary}. */
export function chart(box) {
  const readout = el('p', { class: 'readout', 'aria-live': 'polite' });
  const stage = el('div', { class: 'stage', tabindex: 0, role: 'group' });
  let plot = null;
  let frame = null;
  let at = null;
  box.replaceChildren(stage, readout);

  function showAt() {
    stage.querySelector('.cursor')?.remove();
    if (at === null || !frame) {
      setText(readout, plot?.summary || '');
      return;
    }
    stage.firstElementChild?.append(svg('path', { class: 'cursor', d: `M${frame.sx(at)} ${frame.y1}V${frame.y0}` }));
    setText(readout, plot.read(at));
  }

  function paint() {
    const width = stage.clientWidth;
    const height = stage.clientHeight;
    if (!plot || width < 60 || height < 40) return;
    const x0 = PAD.left;
    const x1 = width - PAD.right;
    const y0 = height - PAD.bottom;
    const y1 = PAD.top;
    const [xa, xb] = plot.x;
    const scale = plot.log ? Math.log10 : (y) => y;
    const [ya, yb] = plot.y.map(scale);
    const inset = plot.inset || 8;
    const sx = (x) => (xb === xa ? (x0 + x1) / 2 : x0 + inset + ((x - xa) / (xb - xa)) * (x1 - x0 - 2 * inset));
    const sy = (y) => y0 - ((scale(y) - ya) / (yb - ya || 1)) * (y0 - y1);
    frame = { x0, x1, y0, y1, sx, sy };
    const apart = plot.stops.length > 1 ? (x1 - x0 - 2 * inset) / (plot.stops.length - 1) : 40;
    const drawing = svg('svg', { width, height, 'aria-hidden': 'true', focusable: 'false' }, axes(frame, plot),
      plot.series.map((s) => (s.bars ? barNodes(s, frame, apart) : seriesNodes(s, frame, apart))));
    stage.replaceChildren(drawing);
    if (!plot.stops.length) stage.append(el('p', { class: 'empty muted' }, plot.empty));
    stage.setAttribute('aria-label', plot.label);
    if (at !== null && !plot.stops.includes(at)) at = null;
    showAt();
  }

  function nearest(event) {
    const place = event.clientX - stage.getBoundingClientRect().left;
    let best = null;
    for (const stop of plot.stops) {
      if (best === null || Math.abs(frame.sx(stop) - place) < Math.abs(frame.sx(best) - place)) best = stop;
    }
    return best;
  }

  function move(to) {
    if (!plot?.stops.length) return;
    at = to;
    showAt();
  }

  stage.addEventListener('pointermove', (event) => plot && frame && move(nearest(event)));
  stage.addEventListener('pointerleave', () => document.activeElement !== stage && move(null));
  stage.addEventListener('blur', () => move(null));
  stage.addEventListener('click', (event) => plot?.pick && plot.stops.length && plot.pick(nearest(event)));
  stage.addEventListener('keydown', (event) => {
    const stops = plot?.stops || [];
    const i = stops.indexOf(at);
    const last = stops.length - 1;
    const to = {
      ArrowLeft: i < 0 ? last : Math.max(0, i - 1), ArrowRight: Math.min(last, i + 1), Home: 0, End: last,
    }[event.key];
    if (event.key === 'Enter' && at !== null && plot.pick) plot.pick(at);
    else if (to === undefined || !stops.length) return;
    else move(stops[to]);
    event.preventDefault();
  });
  new ResizeObserver(paint).observe(stage);

  return (next) => {
    plot = next;
    paint();
  };
}
