/* batch.c - the worker's jobs: which go together, and how they end.
 *
 * Several edit jobs are edited as one batch and become one version. When that fails they
 * wait again, to be run in halves, so that in the end only the jobs at fault fail. */
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/base/log.h"
#include "daemon/worker/worker_impl.h"
#include "proto/wire.h"

enum { RETRY_MS = 1000 };

/* All but its jobs. */
static void unload(struct mal_job_batch *batch) {
    mal_facts_free(batch->facts, batch->n_facts);
    mal_free(batch->seqs);
    mal_free(batch->ids);
    mal_free(batch->first);
    json_decref(batch->texts);
    *batch = (struct mal_job_batch){.jobs = batch->jobs, .n_jobs = batch->n_jobs};
}

static void batch_finish(struct mal_job_batch *batch) {
    unload(batch);
    while (batch->jobs) {
        struct mal_queued_job *job = batch->jobs;
        batch->jobs = job->next;
        mal_free(job);
    }
}

/* ---- Trying again ---- */

void mal_worker_tell_error(struct mal_worker *worker, const struct mal_error *why) {
    int status = mal_status_http(why->status);
    char *problem = status < 500 ? NULL : mal_encode_problem(why, status);
    if (problem) mal_status_set_error(worker->o.status, problem);
}

bool mal_worker_try_again(struct mal_worker *worker, int *left, struct mal_error *err) {
    if (err->status != MAL_CORRUPT || --*left <= 0) return false;
    mal_log("error", "database not read", "{s:i,s:s}", "tries_left", *left, "detail",
            err->text);
    mal_worker_tell_error(worker, err);
    *err = (struct mal_error){0};
    return mal_worker_pause(worker, RETRY_MS, err);
}

/* ---- Taking jobs ---- */

static bool is_joinable(const struct mal_queued_job *job) {
    return job->kind == MAL_JOB_EDIT;
}

int64_t mal_worker_until_batch(const struct mal_worker *worker) {
    const struct mal_queued_job *head = worker->jobs;
    if (!head) return -1;
    if (!is_joinable(head) || head->part || mal_worker_cut_off(worker)) return 0;
    int64_t facts = 0;
    for (const struct mal_queued_job *job = head; job; job = job->next) {
        facts += job->n_facts;
        if (!is_joinable(job) || facts >= worker->o.max_batch_facts) return 0;
    }
    int64_t left = head->since_ms + worker->o.batch_window_ms - mal_monotonic_ms();
    return left > 0 ? left : 0;
}

/* The jobs at the head of the queue, as far as they may run together; a batch that was
 * cut off is the same again. */
static void take_jobs(struct mal_worker *worker, struct mal_job_batch *batch) {
    struct mal_queued_job **last = &batch->jobs;
    int64_t facts = 0;
    pthread_mutex_lock(&worker->lock);
    size_t again = mal_worker_cut_off(worker);
    mal_worker_cut_off_forget(worker);
    while (worker->jobs) {
        struct mal_queued_job *job = worker->jobs;
        bool edit = is_joinable(job);
        if (again ? batch->n_jobs == again
                  : batch->n_jobs && (!edit || job->part != batch->jobs->part ||
                                      facts + job->n_facts > worker->o.max_batch_facts))
            break;
        worker->jobs = job->next;
        if (!worker->jobs) worker->last_job = &worker->jobs;
        worker->n_jobs--;
        worker->n_queued -= job->n_facts;
        mal_worker_count_room(worker, job->n_facts, -1);
        facts += job->n_facts;
        job->next = NULL;
        *last = job;
        last = &job->next;
        batch->n_jobs++;
        if (!edit) break;
    }
    pthread_mutex_unlock(&worker->lock);
}

/* Puts `job` and those after it back at the head of the queue. */
static void put_back(struct mal_worker *worker, struct mal_queued_job *job) {
    if (!job) return;
    pthread_mutex_lock(&worker->lock);
    struct mal_queued_job *last = job;
    for (struct mal_queued_job *j = job; j; j = j->next) {
        worker->n_jobs++;
        worker->n_queued += j->n_facts;
        mal_worker_count_room(worker, j->n_facts, 1);
        last = j;
    }
    last->next = worker->jobs;
    if (!worker->jobs) worker->last_job = &last->next;
    worker->jobs = job;
    pthread_mutex_unlock(&worker->lock);
}

static bool has_text(const struct mal_job_batch *batch, const struct mal_fact *fact) {
    for (size_t i = 0; i <= fact->n_prompts; i++) {
        const char *text = mal_fact_text(fact, i);
        if (json_object_getn(batch->texts, text, mal_prompt_bytes(text))) return true;
    }
    return false;
}

static bool add_texts(struct mal_job_batch *batch, const struct mal_fact *fact,
                      struct mal_error *err) {
    for (size_t i = 0; i <= fact->n_prompts; i++) {
        const char *text = mal_fact_text(fact, i);
        if (json_object_setn_new(batch->texts, text, mal_prompt_bytes(text), json_true()))
            return mal_fail(err, MAL_NO_MEMORY, "texts of a batch");
    }
    return true;
}

static bool load_facts(struct mal_worker *worker, struct mal_job_batch *batch,
                       const char *job, struct mal_error *err) {
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    if (!mal_store_job_facts(worker->store, job, &rows, &n, err)) return false;
    bool ok = true;
    if (batch->n_facts + n > batch->capacity) {
        ok = mal_fail(err, MAL_CORRUPT, "job %s has more facts than it says", job);
    }
    for (size_t i = 0; i < n && ok; i++) {
        struct mal_fact *fact = &batch->facts[batch->n_facts];
        ok = mal_decode_fact(rows[i].fact_json, fact, err);
        if (!ok) {
            mal_fail_wrap(err, "stored fact %s", rows[i].id);
            break;
        }
        batch->seqs[batch->n_facts++] = rows[i].seq;
        mal_free(fact->id);
        fact->id = rows[i].id;
        rows[i].id = NULL;
    }
    mal_fact_rows_free(rows, n);
    return ok;
}

/* Where a later job teaches a text that is in the batch already, the batch ends before
 * it: the newer fact must come after the older one, not beside it. */
static bool load_jobs(struct mal_worker *worker, struct mal_job_batch *batch,
                      struct mal_error *err) {
    for (const struct mal_queued_job *j = batch->jobs; j; j = j->next) {
        batch->capacity += (size_t)j->n_facts;
    }
    batch->facts = mal_calloc(batch->capacity + 1, sizeof *batch->facts);
    batch->seqs = mal_calloc(batch->capacity + 1, sizeof *batch->seqs);
    batch->texts = json_object();
    batch->ids = mal_calloc(batch->n_jobs, sizeof *batch->ids);
    batch->first = mal_calloc(batch->n_jobs + 1, sizeof *batch->first);
    if (!batch->facts || !batch->seqs || !batch->texts || !batch->ids || !batch->first) {
        return mal_fail(err, MAL_NO_MEMORY, "batch of %zu facts", batch->capacity);
    }
    struct mal_queued_job **p = &batch->jobs;
    size_t n = 0;
    for (; *p; p = &(*p)->next) {
        size_t from = batch->n_facts;
        if (!load_facts(worker, batch, (*p)->id, err)) return false;
        bool clash = false;
        for (size_t i = from; i < batch->n_facts && from; i++) {
            if (has_text(batch, &batch->facts[i])) clash = true;
        }
        if (clash) {
            while (batch->n_facts > from)
                mal_fact_finish(&batch->facts[--batch->n_facts]);
            break;
        }
        for (size_t i = from; i < batch->n_facts; i++) {
            if (!add_texts(batch, &batch->facts[i], err)) return false;
        }
        batch->ids[n] = (*p)->id;
        batch->first[++n] = batch->n_facts;
    }
    put_back(worker, *p);
    *p = NULL;
    batch->n_jobs = n;
    return true;
}

/* Loads the facts of the jobs. Where these cannot be read the first job is tried alone,
 * and is the one that fails: no job is left. */
static bool load_batch(struct mal_worker *worker, struct mal_job_batch *batch,
                       struct mal_error *err) {
    struct mal_error why = {0};
    int left = MAL_WORKER_TRIES;
    while (!load_jobs(worker, batch, &why)) {
        unload(batch);
        if (mal_worker_try_again(worker, &left, &why)) continue;
        if (why.status != MAL_CORRUPT) {
            *err = why;
            return false;
        }
        struct mal_queued_job *first = batch->jobs, *others = first->next;
        const char *id = first->id;
        first->next = NULL;
        batch->n_jobs = others != NULL;
        if (!others) return mal_worker_fail_jobs(worker, first->kind, &id, 1, &why, err);
        put_back(worker, others);
        why = (struct mal_error){0};
    }
    return true;
}

/* ---- Writes ---- */

json_t *mal_worker_failed_tests(const char *result) {
    json_t *told = mal_json_parse(result, strlen(result), 0, &(json_error_t){0});
    json_t *failed = json_object_get(json_object_get(told, "gate"), "failed");
    json_incref(failed);
    json_decref(told);
    return failed;
}

struct jobs_write {
    const char *const *ids;
    size_t n;
    enum mal_job_state state;
    const char *result, *problem;
};

static bool write_started(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct jobs_write *w = arg;
    return mal_store_start_jobs(store, w->ids, w->n, mal_clock_unix_ms(), err);
}

static bool write_requeued(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct jobs_write *w = arg;
    return mal_store_requeue_jobs(store, w->ids, w->n, err);
}

static bool write_ended(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct jobs_write *w = arg;
    return mal_store_end_jobs(store, w->ids, w->n, w->state, mal_clock_unix_ms(),
                              w->result, w->problem, err);
}

/* A full disk passes: the write is tried again until it does. What else does not pass
 * ends the worker, and the next start finds the job where it was. */
static bool write_jobs(struct mal_worker *worker,
                       bool (*fn)(struct mal_store *, void *, struct mal_error *),
                       struct jobs_write *w, struct mal_error *err) {
    int left = MAL_WORKER_TRIES;
    while (true) {
        struct mal_error failure = {0};
        if (mal_writer_call(worker->o.writer, fn, w, &failure)) return true;
        if (failure.status != MAL_NO_SPACE) {
            if (mal_worker_try_again(worker, &left, &failure)) continue;
            *err = failure;
            return false;
        }
        mal_log("error", "database full", "{s:s}", "detail", failure.text);
        mal_worker_tell_error(worker, &failure);
        if (!mal_worker_pause(worker, RETRY_MS, err)) return false;
    }
}

bool mal_worker_start_jobs(struct mal_worker *worker, const char *const *ids, size_t n,
                           struct mal_error *err) {
    struct jobs_write w = {.ids = ids, .n = n};
    return write_jobs(worker, write_started, &w, err);
}

bool mal_worker_fail_jobs(struct mal_worker *worker, enum mal_job_kind kind,
                          const char *const *ids, size_t n, const struct mal_error *why,
                          struct mal_error *err) {
    int status = mal_status_http(why->status);
    char *problem = mal_encode_problem(why, status);
    struct jobs_write w = {
        .ids = ids, .n = n, .state = MAL_JOB_FAILED, .problem = problem};
    /* first: who sees the job ended finds what came of it in the status, too */
    mal_worker_tell_joint(worker);
    mal_worker_tell_error(worker, why);
    bool ok = write_jobs(worker, write_ended, &w, err);
    if (ok) mal_count(&worker->o.metrics->jobs[kind][MAL_JOB_FAILED], n);
    for (size_t i = 0; i < n && ok; i++) {
        mal_log(status < 500 ? "warning" : "error", "job failed", "{s:s,s:s}", "job",
                ids[i], "detail", why->text);
    }
    mal_free(problem);
    mal_worker_announce(worker);
    return ok;
}

bool mal_worker_done(struct mal_worker *worker, const char *id, const char *result,
                     struct mal_error *err) {
    struct jobs_write w = {.ids = &id, .n = 1, .state = MAL_JOB_DONE, .result = result};
    if (!write_jobs(worker, write_ended, &w, err)) return false;
    mal_count(&worker->o.metrics->jobs[MAL_JOB_EVALUATION][MAL_JOB_DONE], 1);
    return true;
}

bool mal_worker_reject(struct mal_worker *worker, enum mal_job_kind kind, const char *id,
                       const char *result, const char *problem, struct mal_error *err) {
    struct jobs_write w = {.ids = &id,
                           .n = 1,
                           .state = MAL_JOB_REJECTED,
                           .result = result,
                           .problem = problem};
    mal_worker_tell_joint(worker); /* first, as above */
    if (!write_jobs(worker, write_ended, &w, err)) return false;
    mal_count(&worker->o.metrics->jobs[kind][MAL_JOB_REJECTED], 1);
    mal_log("warning", "job rejected", "{s:s,s:o*}", "job", id, "failed",
            mal_worker_failed_tests(result));
    return true;
}

/* ---- Running ---- */

bool mal_worker_survive(struct mal_worker *worker, enum mal_job_kind kind,
                        const char *const *ids, size_t n, struct mal_error *why,
                        struct mal_error *err) {
    mal_engine_name_failure(worker->engine, why);
    if (why->status == MAL_DEVICE) { /* sticky: what is in flight fails with its text */
        struct mal_error later = {0};
        if (!mal_worker_fail_jobs(worker, kind, ids, n, why, &later))
            mal_log("error", "job not ended", "{s:s}", "detail", later.text);
    }
    bool stopped = why->status == MAL_CANCELLED && mal_worker_stopping(worker);
    if (!stopped && why->status != MAL_IO && why->status != MAL_DEVICE) return true;
    *err = *why;
    return false;
}

/* Its jobs wait again, each half for itself: they can be cancelled, and are counted as
 * what waits. */
static bool split(struct mal_worker *worker, struct mal_job_batch *batch,
                  const struct mal_error *why, struct mal_error *err) {
    struct jobs_write w = {.ids = batch->ids, .n = batch->n_jobs};
    mal_log("warning", "batch split", "{s:I,s:s}", "jobs", (json_int_t)batch->n_jobs,
            "detail", why->text);
    if (!write_jobs(worker, write_requeued, &w, err)) return false;
    size_t n = 0, half = batch->n_jobs / 2;
    for (struct mal_queued_job *job = batch->jobs; job; job = job->next) {
        job->part = worker->n_parts + (n++ < half ? 1 : 2);
        job->tried = job->tried || why->status == MAL_CORRUPT;
    }
    worker->n_parts += 2;
    put_back(worker, batch->jobs);
    batch->jobs = NULL;
    batch->n_jobs = 0;
    mal_worker_announce(worker);
    return true;
}

static bool run_jobs(struct mal_worker *worker, struct mal_job_batch *batch,
                     struct mal_error *err) {
    struct mal_error why = {0};
    enum mal_job_kind kind = batch->jobs->kind;
    int left = batch->jobs->tried ? 1 : MAL_WORKER_TRIES;
    bool ok;
    do {
        ok = mal_worker_run_jobs(worker, batch, &why);
    } while (!ok && mal_worker_try_again(worker, &left, &why));
    if (ok) {
        mal_worker_announce(worker);
        return true;
    }
    if (!mal_worker_survive(worker, kind, batch->ids, batch->n_jobs, &why, err))
        return false;
    if (batch->n_jobs > 1) return split(worker, batch, &why, err);
    return mal_worker_fail_jobs(worker, kind, batch->ids, 1, &why, err);
}

static bool begin_batch(struct mal_worker *worker, const struct mal_job_batch *batch,
                        struct mal_error *err) {
    char(*ids)[MAL_ID_BYTES] = mal_calloc(batch->n_jobs, sizeof *ids);
    if (!ids) return mal_fail(err, MAL_NO_MEMORY, "batch of %zu jobs", batch->n_jobs);
    for (size_t i = 0; i < batch->n_jobs; i++)
        strcpy(ids[i], batch->ids[i]);
    mal_status_begin_batch(worker->o.status, ids, batch->n_jobs, (int64_t)batch->n_facts,
                           mal_clock_unix_ms());
    if (!mal_worker_start_jobs(worker, batch->ids, batch->n_jobs, err)) return false;
    mal_worker_announce(worker);
    return true;
}

bool mal_worker_run_batch(struct mal_worker *worker, struct mal_error *err) {
    struct mal_job_batch batch = {0};
    (void)mal_json_lacked(); /* by what was done before */
    take_jobs(worker, &batch);
    if (!batch.n_jobs) return true;
    enum mal_work work = mal_worker_turn(worker, MAL_WORK_CHANGES);
    enum mal_job_kind kind = batch.jobs->kind;
    double start = mal_clock_seconds();
    int64_t before = mal_engine_live(worker->engine);
    bool ok = load_batch(worker, &batch, err) &&
              (!batch.n_jobs ||
               (begin_batch(worker, &batch, err) && run_jobs(worker, &batch, err)));
    if (ok) mal_worker_resume_done(worker);
    bool edited = ok && batch.n_facts && mal_engine_live(worker->engine) > before;
    double seconds = mal_clock_seconds() - start;
    mal_histogram_add(&worker->o.metrics->batches[kind], seconds);
    (void)mal_worker_turn(worker, work);
    mal_status_end_batch(worker->o.status, edited ? seconds : -1);
    batch_finish(&batch);
    return ok;
}
