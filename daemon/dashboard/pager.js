/* pager.js - one page of a list at a time: newest first, on to older ones, and back. */
import { button, byId, calm, el, setText } from './dom.js';
import { get } from './api.js';
import { live } from './events.js';

/* options: name (of the elements NAME-pager, NAME-problem), path, query() for the call, render(list),
 * isShown(), idOf(item), events (those after which the page is loaded again). */
export function pager(options) {
  let pages = [null]; /* `after` of each page up to this one */
  let list = [];
  let hasMore = false;
  let turn = 0;
  let limit = 25;

  const bar = byId(`${options.name}-pager`);
  const where = el('span', { class: 'muted', role: 'status' });
  const newest = button('Newest', () => first());
  const newer = button('‹ Newer', () => previous());
  const older = button('Older ›', () => next());
  const size = el('select', {
    'aria-label': 'Rows a page',
    onchange: () => {
      limit = Number(size.value);
      first();
    },
  }, [25, 50, 100].map((n) => el('option', { value: n }, `${n} rows`)));
  if (bar) bar.append(where, newest, newer, older, size);

  function showBar() {
    if (!bar) return;
    const page = pages.length;
    setText(where, list.length ? `page ${page}${hasMore ? '' : ', the last'}` : 'nothing here');
    newest.disabled = page === 1;
    newer.disabled = page === 1;
    older.disabled = !hasMore;
  }

  async function load() {
    const mine = ++turn;
    const problem = byId(`${options.name}-problem`);
    try {
      const query = { ...options.query(), limit: options.limit || limit, after: pages.at(-1) };
      const answer = await get(options.path, query);
      if (mine !== turn) return;
      list = answer.data;
      hasMore = answer.has_more;
      if (problem) problem.hidden = true;
    } catch (error) {
      if (mine !== turn) return;
      if (problem && error.status) {
        setText(problem, error.message);
        problem.hidden = false;
      }
      if (error.status === 422 && pages.length > 1) {
        first();
        return;
      }
      if (error.status) {
        list = [];
        hasMore = false;
      }
    }
    showBar();
    options.render(list);
  }

  function first() {
    pages = [null];
    return load();
  }

  function next() {
    if (!hasMore) return;
    pages.push(options.idOf(list.at(-1)));
    load();
  }

  function previous() {
    if (pages.length > 1) pages.pop();
    load();
  }

  const again = calm(() => options.isShown() && load(), 400);
  for (const name of ['resync', ...options.events]) live.addEventListener(name, again);

  return { load, first, items: () => list };
}
