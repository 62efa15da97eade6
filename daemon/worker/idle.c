/* idle.c - what a daemon does that nobody asks: it gets ready for the next change, looks
 * at the live facts in turn, once in each version, writes down what they are, repairs
 * those that fail, and consolidates a long history. */
#include <jansson.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/base/log.h"
#include "daemon/engine/history.h"
#include "daemon/worker/worker_impl.h"

static bool tells_facts(const struct mal_worker *worker) {
    return mal_engine_editor(worker->engine) && mal_engine_is_joint(worker->engine);
}

void mal_idle_tell(struct mal_worker *worker) {
    const struct mal_idle *idle = &worker->idle;
    bool joint = mal_engine_is_joint(worker->engine);
    mal_status_set_scrub(worker->o.status,
                         &(struct mal_status_scrub){.enabled = worker->o.scrub && joint,
                                                    .position = idle->position,
                                                    .total = idle->total,
                                                    .wrong = idle->wrong,
                                                    .failing = idle->failing,
                                                    .passes = idle->passes});
}

static bool is_unready(const struct mal_worker *worker) {
    return worker->idle.unready != mal_engine_live(worker->engine) &&
           !mal_engine_is_ready(worker->engine);
}

static bool is_to_walk(const struct mal_worker *worker) {
    const struct mal_idle *idle = &worker->idle;
    return worker->o.scrub &&
           (idle->version != mal_engine_live(worker->engine) || !idle->walked);
}

bool mal_idle_pending(struct mal_worker *worker) {
    int64_t live = mal_engine_live(worker->engine);
    if (!tells_facts(worker) || live == 0) return false;
    return is_unready(worker) || is_to_walk(worker) ||
           (worker->o.consolidate_after > 0 && worker->idle.consolidated != live);
}

static bool tick(void *arg) {
    struct mal_run *run = arg;
    return mal_worker_serve_reads(run->worker, &run->read_err) &&
           !mal_worker_stopping(run->worker);
}

/* ---- Getting ready ---- */

/* A change of facts that comes meanwhile would have to do the same. */
static bool others_wait(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    const struct mal_queued_job *job = worker->jobs;
    bool wait = worker->evaluations ||
                (job && job->kind != MAL_JOB_EDIT && job->kind != MAL_JOB_RETRACTION);
    pthread_mutex_unlock(&worker->lock);
    return wait;
}

/* Of keys that are half in the system all would be measured again. */
static bool ready_tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct mal_run *run = arg;
    return mal_worker_share(run->worker, &run->read_err) &&
           !mal_worker_stopping(run->worker) &&
           (stage == MAL_STAGE_GRAM || !others_wait(run->worker));
}

static bool get_ready(struct mal_worker *worker, struct mal_run *run,
                      struct mal_error *err) {
    struct mal_progress progress = mal_run_progress(run);
    struct mal_error own = {0};
    bool otherwise;
    if (!mal_engine_solved_otherwise(worker->engine, worker->store, &otherwise, err))
        return false;
    if (otherwise) { /* the next change begins anew */
        worker->idle.unready = mal_engine_live(worker->engine);
        return true;
    }
    progress.tick = ready_tick;
    bool ok = mal_engine_make_ready(worker->engine, worker->store, &progress, &own);
    mal_worker_tell_joint(worker);
    bool given_up = own.status == MAL_CANCELLED && run->read_err.status == MAL_OK;
    if (ok || given_up) return true; /* for others, who may have gone since */
    *err = own;
    return false;
}

/* ---- Walking ---- */

static bool begin_walk(struct mal_worker *worker, struct mal_error *err) {
    struct mal_idle *idle = &worker->idle;
    struct mal_store_counts counts;
    if (!mal_store_counts(worker->store, &counts, err)) return false;
    idle->version = mal_engine_live(worker->engine);
    idle->after = idle->position = idle->wrong = idle->failing = 0;
    idle->n_found = 0;
    idle->total = counts.live_facts;
    idle->walked = idle->unwritten = false;
    return true;
}

static void tell_no_help(const struct mal_idle *idle) {
    mal_log("info", "repair does not help", "{s:I,s:I,s:I}", "version",
            (json_int_t)idle->version, "wrong", (json_int_t)idle->wrong, "failing",
            (json_int_t)idle->failing);
}

/* A repair leaves the next ones to be found by the walk after it, and, where any are
 * wrong, those that only fail: they are not to keep a wrong one waiting. */
static bool note_failing(struct mal_worker *worker, const struct mal_scrubbed *seen,
                         struct mal_error *err) {
    struct mal_idle *idle = &worker->idle;
    int64_t most = worker->o.engine.verify_limit;
    if (idle->wrong == 0 && seen->n_wrong > 0) idle->n_found = 0;
    idle->wrong += (int64_t)seen->n_wrong;
    idle->failing += (int64_t)seen->n_failing;
    const int64_t *seqs = idle->wrong ? seen->wrong : seen->failing;
    size_t n = idle->wrong ? seen->n_wrong : seen->n_failing;
    if (idle->n_found > 0 && (int64_t)(idle->n_found + n) > most) return true;
    if (idle->n_found + n > idle->found_room) {
        size_t room = 2 * idle->found_room + MAL_SCRUB_FACTS;
        int64_t *found = mal_realloc(idle->found, room * sizeof *found);
        if (!found) return mal_fail(err, MAL_NO_MEMORY, "live facts to repair");
        idle->found = found;
        idle->found_room = room;
    }
    for (size_t i = 0; i < n; i++)
        idle->found[idle->n_found++] = seqs[i];
    return true;
}

void mal_idle_finish(struct mal_idle *idle) {
    mal_free(idle->found);
    *idle = (struct mal_idle){0};
}

/* Than before the last repair. */
static bool is_better(const struct mal_idle *idle) {
    return idle->wrong < idle->wrong_then ||
           (idle->wrong == idle->wrong_then && idle->failing < idle->failing_then);
}

/* It does not help; or it does, and the gate refuses it. */
static void tell_no_repair(struct mal_worker *worker, const struct mal_change *change) {
    const char *result = change->n_results ? change->results[0] : NULL;
    if (!result) {
        tell_no_help(&worker->idle);
        return;
    }
    mal_count_rejection(worker->o.metrics, result);
    mal_log("info", "repair is refused", "{s:I,s:o*}", "version",
            (json_int_t)worker->idle.version, "failed", mal_worker_failed_tests(result));
}

static void note_repaired(struct mal_worker *worker) {
    struct mal_idle *idle = &worker->idle;
    idle->repaired = mal_engine_live(worker->engine);
    idle->wrong_then = idle->wrong;
    idle->failing_then = idle->failing;
}

static bool repair(struct mal_worker *worker, struct mal_run *run,
                   struct mal_error *err) {
    struct mal_progress progress = mal_run_progress(run);
    struct mal_change change = {0};
    struct mal_idle *idle = &worker->idle;
    bool ok = mal_worker_solve_anew(worker, &progress, err);
    if (!ok || idle->version != mal_engine_live(worker->engine)) return ok;
    ok = mal_engine_repair(worker->engine, worker->store, idle->found, idle->n_found,
                           mal_clock_unix_ms(), &progress, &change, err);
    mal_worker_count_change(worker, &change);
    if (ok && change.passes) {
        ok = mal_worker_apply(worker, &change, NULL, 0, &progress, err);
        if (ok) note_repaired(worker);
    } else if (ok) {
        mal_engine_abandon(worker->engine);
        tell_no_repair(worker, &change);
    }
    mal_change_finish(&change);
    return ok;
}

/* What the next facts are, told where it was not known. */
static bool look(struct mal_worker *worker, struct mal_run *run, struct mal_error *err) {
    struct mal_idle *idle = &worker->idle;
    struct mal_scrubbed seen;
    struct mal_error own = {0};
    bool ok = mal_engine_scrub(worker->engine, worker->store, idle->after, tick, run,
                               &seen, err) &&
              note_failing(worker, &seen, err);
    if (ok && !mal_worker_note_results(worker, seen.results, seen.n_results, &own)) {
        /* a disk that is full keeps nobody from looking on */
        ok = own.status == MAL_NO_SPACE;
        if (!idle->unwritten)
            mal_log("warning", "what facts measure is not written", "{s:s}", "detail",
                    own.text);
        idle->unwritten = true;
        mal_worker_tell_error(worker, &own);
        if (!ok) *err = own;
    }
    if (ok) {
        mal_count(&worker->o.metrics->scrubbed, seen.n);
        mal_count(&worker->o.metrics->scrubbed_wrong, seen.n_wrong);
        idle->position += (int64_t)seen.n;
        idle->after = seen.last;
        idle->walked = seen.last == 0;
        if (idle->walked) idle->passes++;
    }
    mal_scrubbed_finish(&seen);
    return ok;
}

static bool walk(struct mal_worker *worker, struct mal_run *run, struct mal_error *err) {
    struct mal_idle *idle = &worker->idle;
    if (idle->version != mal_engine_live(worker->engine) && !begin_walk(worker, err))
        return false;
    if (!look(worker, run, err)) return false;
    bool repairs = worker->o.engine.repair_rounds > 0;
    if (!idle->walked || idle->failing == 0 || !repairs) return true;
    /* what is put right in one place and lost in another would go on for ever */
    if (idle->version == idle->repaired && !is_better(idle)) {
        tell_no_help(idle);
        return true;
    }
    mal_idle_tell(worker); /* before the versions that come of it */
    return repair(worker, run, err);
}

/* ---- Consolidating ---- */

/* Versions since the last consolidation on the path, or since one was refused; 0: there
 * is nothing live to consolidate. */
static bool count_passed(struct mal_worker *worker, int64_t *out, struct mal_error *err) {
    const struct mal_idle *idle = &worker->idle;
    struct mal_store_counts counts;
    struct mal_version_row row = {0};
    int64_t *path = NULL;
    size_t n = 0;
    *out = 0;
    if (!mal_store_counts(worker->store, &counts, err)) return false;
    if (counts.live_facts == 0) return true;
    bool ok = mal_history_path(worker->store, idle->consolidated, &path, &n, err) &&
              (n == 0 || mal_store_get_version(worker->store, path[0], &row, err));
    bool anew = ok && n > 0 && row.kind == MAL_VERSION_CONSOLIDATION;
    *out = (int64_t)n - anew;
    if (idle->refused && idle->consolidated - idle->refused < *out)
        *out = idle->consolidated - idle->refused;
    mal_version_row_finish(&row);
    mal_free(path);
    return ok;
}

static bool consolidate(struct mal_worker *worker, struct mal_run *run,
                        struct mal_error *err) {
    struct mal_progress progress = mal_run_progress(run);
    struct mal_change change = {0};
    struct mal_idle *idle = &worker->idle;
    int64_t passed = 0;
    idle->consolidated = mal_engine_live(worker->engine);
    if (!count_passed(worker, &passed, err)) return false;
    if (passed < worker->o.consolidate_after) return true;
    bool ok = mal_engine_consolidate(worker->engine, worker->store, mal_clock_unix_ms(),
                                     &progress, &change, err);
    mal_worker_count_change(worker, &change);
    if (ok && change.passes) {
        /* what repair gains and this loses would go on for ever, too */
        bool follows = idle->repaired == idle->consolidated;
        ok = mal_worker_apply(worker, &change, NULL, 0, &progress, err);
        idle->consolidated = mal_engine_live(worker->engine);
        if (follows) idle->repaired = idle->consolidated;
    } else if (ok) {
        mal_engine_abandon(worker->engine);
        idle->refused = idle->consolidated;
        mal_count_rejection(worker->o.metrics, change.results[0]);
        mal_log("info", "consolidation measures worse", "{s:o*}", "failed",
                mal_worker_failed_tests(change.results[0]));
    }
    mal_change_finish(&change);
    return ok;
}

bool mal_idle_step(struct mal_worker *worker, struct mal_error *err) {
    struct mal_run run = {.worker = worker};
    struct mal_error own = {0};
    struct mal_idle *idle = &worker->idle;
    bool readies = is_unready(worker), walks = !readies && is_to_walk(worker);
    enum mal_work before = mal_worker_turn(worker, MAL_WORK_SCRUB);
    (void)mal_json_lacked(); /* by what was done before */
    bool ok = readies ? get_ready(worker, &run, &own)
              : walks ? walk(worker, &run, &own)
                      : consolidate(worker, &run, &own);
    (void)mal_worker_turn(worker, before);
    if (ok && walks)
        mal_idle_tell(worker); /* who sees a walk over finds its time counted */
    if (!ok && run.read_err.status != MAL_OK) own = run.read_err;
    if (ok) return true;
    mal_engine_name_failure(worker->engine, &own);
    bool lasting =
        own.status == MAL_IO || own.status == MAL_DEVICE || mal_worker_stopping(worker);
    if (lasting) {
        *err = own;
        return false;
    }
    mal_log("warning", "idle work failed", "{s:s}", "detail", own.text);
    mal_worker_tell_error(worker, &own);
    int64_t live = mal_engine_live(worker->engine); /* in this version, that is all */
    if (readies) {
        idle->unready = live;
    } else {
        idle->walked = true;
        idle->version = idle->consolidated = live;
    }
    return true;
}
