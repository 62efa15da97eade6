/* idle.c - what a daemon does that nobody asks: it looks at the live facts in turn, once
 * in each version, repairs those that are wrong, and consolidates a long history. */
#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/history.h"
#include "daemon/log.h"
#include "daemon/worker_impl.h"

enum { FACTS = 32 /* looked at in a step */ };

static bool tells_facts(const struct mal_worker *worker) {
    return mal_engine_editor(worker->engine) && mal_engine_is_joint(worker->engine);
}

void mal_idle_tell(struct mal_worker *worker) {
    const struct mal_idle *idle = &worker->idle;
    mal_status_set_scrub(worker->o.status,
                         &(struct mal_status_scrub){.enabled = worker->o.scrub,
                                                    .position = idle->position,
                                                    .total = idle->total,
                                                    .wrong = idle->wrong,
                                                    .passes = idle->passes});
}

bool mal_idle_pending(struct mal_worker *worker) {
    const struct mal_idle *idle = &worker->idle;
    int64_t live = mal_engine_live(worker->engine);
    if (!tells_facts(worker) || live == 0) return false;
    bool walk = worker->o.scrub && (idle->version != live || !idle->walked);
    return walk || (worker->o.consolidate_after > 0 && idle->consolidated != live);
}

static bool tick(void *arg) {
    struct mal_run *run = arg;
    return mal_worker_serve_reads(run->worker, &run->read_err) &&
           !mal_worker_stopping(run->worker);
}

/* ---- Walking ---- */

static bool begin_walk(struct mal_worker *worker, struct mal_error *err) {
    struct mal_idle *idle = &worker->idle;
    struct mal_store_counts counts;
    if (!mal_store_counts(worker->store, &counts, err)) return false;
    idle->version = mal_engine_live(worker->engine);
    idle->after = idle->position = idle->wrong = 0;
    idle->total = counts.live_facts;
    idle->walked = false;
    return true;
}

static bool repair(struct mal_worker *worker, struct mal_run *run,
                   struct mal_error *err) {
    struct mal_progress progress = mal_run_progress(run);
    struct mal_change change = {0};
    bool ok = mal_engine_repair(worker->engine, worker->store, mal_clock_unix_ms(),
                                &progress, &change, err);
    if (ok && change.passes) {
        ok = mal_worker_apply(worker, &change, NULL, 0, &progress, err);
    } else if (ok) {
        mal_engine_abandon(worker->engine);
        mal_log("info", "repair does not help", "{s:I}", "wrong",
                (json_int_t)change.n_wrong_others);
    }
    mal_change_finish(&change);
    return ok;
}

static bool walk(struct mal_worker *worker, struct mal_run *run, struct mal_error *err) {
    struct mal_idle *idle = &worker->idle;
    struct mal_scrubbed seen;
    if (idle->version != mal_engine_live(worker->engine) && !begin_walk(worker, err))
        return false;
    if (!mal_engine_scrub(worker->engine, worker->store, idle->after, FACTS, tick, run,
                          &seen, err))
        return false;
    idle->position += (int64_t)seen.n;
    idle->wrong += (int64_t)seen.n_wrong;
    idle->after = seen.last;
    idle->walked = seen.last == 0;
    if (idle->walked) idle->passes++;
    mal_idle_tell(worker);
    return !idle->walked || idle->wrong == 0 || repair(worker, run, err);
}

/* ---- Consolidating ---- */

static bool consolidate(struct mal_worker *worker, struct mal_run *run,
                        struct mal_error *err) {
    struct mal_progress progress = mal_run_progress(run);
    struct mal_change change = {0};
    int64_t *path = NULL;
    size_t n = 0;
    worker->idle.consolidated = mal_engine_live(worker->engine);
    if (!mal_history_path(worker->store, worker->idle.consolidated, &path, &n, err))
        return false;
    mal_free(path);
    if (n < (size_t)worker->o.consolidate_after) return true;
    bool ok = mal_engine_consolidate(worker->engine, worker->store, mal_clock_unix_ms(),
                                     &progress, &change, err);
    if (ok && change.passes) {
        ok = mal_worker_apply(worker, &change, NULL, 0, &progress, err);
        worker->idle.consolidated = mal_engine_live(worker->engine);
    } else if (ok) {
        mal_engine_abandon(worker->engine);
        mal_log("info", "consolidation measures worse", NULL);
    }
    mal_change_finish(&change);
    return ok;
}

bool mal_idle_step(struct mal_worker *worker, struct mal_error *err) {
    struct mal_run run = {.worker = worker};
    struct mal_error own = {0};
    struct mal_idle *idle = &worker->idle;
    bool walks = worker->o.scrub &&
                 (idle->version != mal_engine_live(worker->engine) || !idle->walked);
    bool ok = walks ? walk(worker, &run, &own) : consolidate(worker, &run, &own);
    if (!ok && run.read_err.status != MAL_OK) own = run.read_err;
    if (ok) return true;
    bool lasting =
        own.status == MAL_IO || own.status == MAL_DEVICE || mal_worker_stopping(worker);
    if (lasting) {
        *err = own;
        return false;
    }
    mal_log("warning", "idle work failed", "{s:s}", "detail", own.text);
    idle->walked = true; /* in this version, that is all */
    idle->version = idle->consolidated = mal_engine_live(worker->engine);
    return true;
}
