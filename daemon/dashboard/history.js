/* history.js - the newest versions, kept for the charts and the overview: loaded once, then only
 * what is new. */
import { get } from './api.js';
import { live } from './events.js';

const MOST = 100;

/* `changed`: history.versions is another list. */
export const history = Object.assign(new EventTarget(), { versions: [] /* newest first */ });

let loading = false;
let again = false;

function merge(page) {
  const newest = new Map([...history.versions, ...page].map((v) => [v.version, v]));
  const list = [...newest.values()].sort((a, b) => b.version - a.version).slice(0, MOST);
  history.versions = list;
  history.dispatchEvent(new Event('changed'));
}

async function load() {
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  try {
    const known = history.versions[0]?.version;
    const first = await get('/v1/versions', { limit: known === undefined ? MOST : 5 });
    const reaches = known === undefined || first.data.some((v) => v.version <= known + 1);
    const page = reaches ? first : await get('/v1/versions', { limit: MOST });
    if (!reaches) history.versions = [];
    merge(page.data);
  } catch {
    /* the link says what is wrong, and its return loads again */
  }
  loading = false;
  if (again) {
    again = false;
    load();
  }
}

export function startHistory() {
  live.addEventListener('version', load);
  live.addEventListener('resync', load);
}
