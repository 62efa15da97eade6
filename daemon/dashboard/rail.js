/* rail.js - the line that versions stand on, drawn beside their rows: one node each, and an arc from
 * each rollback to the version whose weights it brought back. */
import { svg } from './dom.js';
import { kindShape } from './states.js';

const NODE = 9;
const LANE = 13; /* between two arcs that overlap */
const MOST_LANES = 4;

/* Arcs that overlap get lanes of their own, short ones further in. */
function lanesOf(arcs) {
  const taken = [];
  return [...arcs].sort((a, b) => (a.bottom - a.top) - (b.bottom - b.top)).map((arc) => {
    let lane = 0;
    while (lane < MOST_LANES - 1 && (taken[lane] || []).some((o) => o.top < arc.bottom && arc.top < o.bottom)) lane++;
    (taken[lane] ||= []).push(arc);
    return { ...arc, lane };
  });
}

/* `rows`: the elements; `versions`: in the same order, newest first. */
export function drawRail(box, rows, versions, live) {
  const height = box.offsetHeight;
  const width = box.offsetWidth;
  const x = width - NODE - 6;
  const origin = box.getBoundingClientRect().top;
  const places = rows.map((row) => {
    const anchor = row.querySelector('[data-rail]') || row;
    const rect = anchor.getBoundingClientRect();
    return rect.top - origin + rect.height / 2;
  });
  const at = new Map(versions.map((version, i) => [version.version, places[i]]));
  const drawing = svg('svg', { width, height, 'aria-hidden': 'true', focusable: 'false' });
  if (places.length) {
    const last = versions.at(-1).version === 0 ? places.at(-1) : height;
    drawing.append(svg('path', { class: 'rail-line', d: `M${x} ${places[0]}V${last}` }));
  }
  const arcs = versions.filter((v) => v.kind === 'rollback' && Number.isInteger(v.to_version))
    .map((v) => ({ top: at.get(v.version), bottom: at.get(v.to_version) ?? height + 40 }));
  for (const { top, bottom, lane } of lanesOf(arcs)) {
    const reach = Math.max(3, x - NODE - 4 - lane * LANE);
    const bend = Math.min(14, (bottom - top) / 2);
    const d = `M${x} ${top}Q${reach} ${top} ${reach} ${top + bend}V${bottom - bend}Q${reach} ${bottom} ${x} ${bottom}`;
    drawing.append(svg('path', { class: 'rail-arc', d }));
  }
  versions.forEach((version, i) => {
    const group = svg('g', { class: `rail-node ${version.kind}` });
    group.classList.toggle('live', version.version === live);
    group.classList.toggle('pruned', version.pruned);
    group.append(svg('circle', { cx: x, cy: places[i], r: NODE }),
      svg('path', { transform: `translate(${x - 5.6} ${places[i] - 5.6}) scale(0.7)`, d: kindShape(version.kind) }));
    drawing.append(group);
  });
  box.replaceChildren(drawing);
}
