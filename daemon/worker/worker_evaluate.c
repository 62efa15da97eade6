/* worker_evaluate.c - evaluations: they begin in their turn among the changes, which
 * fixes the version, and go on a slice at a time while further changes are made. */
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/base/log.h"
#include "daemon/engine/measures.h"
#include "daemon/engine/suites.h"
#include "daemon/worker/worker_impl.h"
#include "proto/wire.h"

enum { FACTS_A_TICK = 256 };

bool mal_evaluate_due(const struct mal_worker *worker) {
    if (worker->evaluating.job) return true;
    const struct mal_queued_job *head = worker->evaluations;
    return head && (!worker->jobs || worker->jobs->order > head->order);
}

/* All but its job. */
static void unload(struct mal_evaluating *e) {
    mal_evaluation_close(e->evaluation);
    mal_facts_free(e->own, e->n_own);
    mal_free(e->suite);
    *e = (struct mal_evaluating){.job = e->job};
}

void mal_evaluate_finish(struct mal_worker *worker) {
    struct mal_evaluating *e = &worker->evaluating;
    unload(e);
    mal_free(e->job);
    e->job = NULL;
}

/* ---- Ticks ---- */

static bool go_on(void *arg) {
    struct mal_run *run = arg;
    return mal_worker_share(run->worker, &run->read_err) &&
           !mal_worker_stopping(run->worker);
}

static void serve_reads(void *arg) {
    (void)go_on(arg); /* whoever ticks so asks for no answer */
}

static void tell(struct mal_worker *worker, enum mal_stage stage) {
    struct mal_evaluating *e = &worker->evaluating;
    e->status.stage = stage;
    if (e->evaluation)
        mal_evaluation_progress(e->evaluation, &e->status.done, &e->status.total);
    mal_status_set_evaluation(worker->o.status, &e->status);
}

/* ---- Beginning ---- */

static void take_job(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    bool due = mal_evaluate_due(worker); /* not if it was just withdrawn */
    struct mal_queued_job *job = due ? worker->evaluations : NULL;
    if (job) {
        worker->evaluations = job->next;
        if (!job->next) worker->last_evaluation = &worker->evaluations;
        worker->n_jobs--;
        worker->n_queued -= job->n_facts;
        mal_worker_count_room(worker, job->n_facts, -1);
    }
    pthread_mutex_unlock(&worker->lock);
    worker->evaluating.job = job;
}

static bool add_fact(struct mal_evaluating *e, size_t *room, const char **at,
                     bool *out_end, struct mal_error *err) {
    if (e->n_own == *room) {
        size_t more = 2 * *room + 16;
        struct mal_fact *facts = mal_realloc(e->own, more * sizeof *facts);
        if (!facts) return mal_fail(err, MAL_NO_MEMORY, "%zu facts", more);
        e->own = facts;
        *room = more;
    }
    if (!mal_decode_next_fact(at, &e->own[e->n_own], out_end, err)) return false;
    e->n_own += !*out_end;
    return true;
}

static bool read_own(struct mal_evaluating *e, struct mal_run *run,
                     struct mal_error *err) {
    char *text = NULL;
    size_t room = 0;
    if (!mal_store_job_request(run->worker->store, e->job->id, &text, err)) return false;
    const char *at = text;
    bool ok = text || mal_fail(err, MAL_CORRUPT, "job %s has no facts", e->job->id);
    for (bool end = false; ok && !end;) {
        ok = add_fact(e, &room, &at, &end, err);
        if (ok && e->n_own % FACTS_A_TICK == 0 && !go_on(run))
            ok = mal_fail(err, MAL_CANCELLED, "cancelled");
    }
    mal_free(text);
    return ok;
}

/* Its suite's name, NULL: it has facts of its own. */
static bool read_suite(struct mal_worker *worker, struct mal_error *err) {
    struct mal_evaluating *e = &worker->evaluating;
    struct mal_job_row row = {0};
    if (!mal_store_get_job(worker->store, e->job->id, &row, err)) return false;
    e->suite = row.note;
    row.note = NULL;
    mal_job_row_finish(&row);
    return true;
}

static bool begin(struct mal_worker *worker, struct mal_run *run, struct mal_error *err) {
    struct mal_evaluating *e = &worker->evaluating;
    const struct mal_suite *suite = NULL;
    int64_t asked = e->job->to_version;
    e->status = (struct mal_status_evaluation){
        .version = asked >= 0 ? asked : mal_engine_live(worker->engine),
        .n_facts = e->job->n_facts,
        .started_ms = mal_clock_unix_ms()};
    strcpy(e->status.job, e->job->id);
    tell(worker, MAL_STAGE_TOKENIZE);
    mal_worker_announce(worker);
    if (!read_suite(worker, err)) return false;
    if (e->suite) {
        suite = mal_suites_find(worker->o.suites, e->suite, err);
        if (!suite) return false;
    } else if (!read_own(e, run, err)) {
        return false;
    }
    const struct mal_fact *facts = suite ? suite->facts : e->own;
    size_t n = suite ? suite->n_facts : e->n_own;
    e->status.n_facts = (int64_t)n;
    tell(worker, MAL_STAGE_APPLY);
    return mal_engine_evaluate(worker->engine, worker->store, e->status.version, facts, n,
                               serve_reads, run, &e->evaluation, err);
}

static bool begin_at_last(struct mal_worker *worker, struct mal_run *run,
                          struct mal_error *err) {
    int left = MAL_WORKER_TRIES;
    while (!begin(worker, run, err)) {
        if (!mal_worker_try_again(worker, &left, err)) return false;
        unload(&worker->evaluating);
    }
    return true;
}

/* ---- Ending ---- */

static bool fail(struct mal_worker *worker, struct mal_error *why,
                 struct mal_error *err) {
    char id[MAL_ID_BYTES];
    const char *ids = strcpy(id, worker->evaluating.job->id);
    mal_evaluate_finish(worker);
    mal_status_set_evaluation(worker->o.status, NULL);
    return mal_worker_survive(worker, MAL_JOB_EVALUATION, &ids, 1, why, err) &&
           mal_worker_fail_jobs(worker, MAL_JOB_EVALUATION, &ids, 1, why, err);
}

static char *result_of(const struct mal_evaluating *e, const struct mal_measures *m) {
    json_t *result = json_pack("{s:I}", "version", (json_int_t)e->status.version);
    json_t *measures = mal_measures_json(m);
    if (e->suite) json_object_set_new(result, "suite", json_string(e->suite));
    bool ok = result && measures && json_object_update(result, measures) == 0;
    char *text = ok ? mal_json_dump(result, MAL_JSON_TOLD) : NULL;
    json_decref(measures);
    json_decref(result);
    return text;
}

static bool end(struct mal_worker *worker, const struct mal_measures *measures,
                struct mal_error *err) {
    struct mal_evaluating *e = &worker->evaluating;
    char id[MAL_ID_BYTES], *result = result_of(e, measures);
    if (!result) {
        struct mal_error why = {0};
        mal_fail(&why, MAL_NO_MEMORY, "result");
        return fail(worker, &why, err);
    }
    strcpy(id, e->job->id);
    mal_log("info", "evaluated", "{s:s,s:I,s:I}", "job", id, "version",
            (json_int_t)e->status.version, "facts", (json_int_t)e->status.n_facts);
    double seconds = (double)(mal_clock_unix_ms() - e->status.started_ms) / 1000;
    mal_histogram_add(&worker->o.metrics->batches[MAL_JOB_EVALUATION], seconds);
    mal_evaluate_finish(worker);
    mal_status_set_evaluation(worker->o.status, NULL); /* who sees it done, sees that */
    bool ok = mal_worker_done(worker, id, result, err);
    mal_free(result);
    mal_worker_announce(worker);
    return ok;
}

static bool step(struct mal_worker *worker, struct mal_error *err) {
    struct mal_evaluating *e = &worker->evaluating;
    struct mal_run run = {.worker = worker};
    struct mal_measures measures;
    struct mal_error why = {0};
    bool over = false, ok;
    if (e->job) {
        ok = mal_evaluation_step(e->evaluation, go_on, &run, &over, &measures, &why);
    } else {
        take_job(worker);
        if (!e->job) return true;
        const char *id = e->job->id;
        if (!mal_worker_start_jobs(worker, &id, 1, err)) return false;
        ok = begin_at_last(worker, &run, &why);
    }
    if (run.read_err.status != MAL_OK) why = run.read_err;
    if (!ok || why.status != MAL_OK) return fail(worker, &why, err);
    if (over) return end(worker, &measures, err);
    tell(worker, MAL_STAGE_VERIFY);
    return true;
}

bool mal_evaluate_step(struct mal_worker *worker, struct mal_error *err) {
    enum mal_work before = mal_worker_turn(worker, MAL_WORK_EVALUATIONS);
    (void)mal_json_lacked(); /* by what was done before */
    bool ok = step(worker, err);
    (void)mal_worker_turn(worker, before);
    return ok;
}
