/* worker_write.c - what the worker has written, and waits for while it answers reads. */
#include "core/clock.h"
#include "daemon/base/log.h"
#include "daemon/worker/worker_impl.h"

/* ---- Waiting ---- */

void mal_worker_written(void *arg) {
    struct mal_worker *worker = arg;
    pthread_mutex_lock(&worker->lock);
    worker->written = true;
    pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
}

/* Waits until something is written, answering reads; *reads_ok false: not any more. */
static void wait_written(struct mal_worker *worker, bool *reads_ok) {
    struct mal_error err = {0};
    pthread_mutex_lock(&worker->lock);
    while (!worker->written) {
        if (mal_worker_reads_wait(worker) && *reads_ok) {
            pthread_mutex_unlock(&worker->lock);
            *reads_ok = mal_worker_serve_reads(worker, &err);
            pthread_mutex_lock(&worker->lock);
        } else {
            pthread_cond_wait(&worker->asked, &worker->lock);
        }
    }
    worker->written = false;
    pthread_mutex_unlock(&worker->lock);
}

struct waited {
    struct mal_write write; /* first */
    struct mal_worker *worker;
    bool over; /* under the worker's lock */
};

static void end_waited(struct mal_write *write) {
    struct waited *waited = (struct waited *)write;
    struct mal_worker *worker = waited->worker;
    pthread_mutex_lock(&worker->lock);
    waited->over = worker->written = true;
    pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
}

static bool is_over(struct waited *waited) {
    pthread_mutex_lock(&waited->worker->lock);
    bool over = waited->over;
    pthread_mutex_unlock(&waited->worker->lock);
    return over;
}

/* Waits for a write, answering reads. */
static bool write_and_serve(struct mal_worker *worker,
                            bool (*fn)(struct mal_store *, void *, struct mal_error *),
                            void *arg, struct mal_error *err) {
    struct waited waited = {.write = {.fn = fn, .arg = arg, .done = end_waited},
                            .worker = worker};
    bool reads_ok = true;
    mal_writer_begin(worker->o.writer, &waited.write);
    while (!is_over(&waited))
        wait_written(worker, &reads_ok);
    if (!waited.write.ok) *err = waited.write.err;
    return waited.write.ok;
}

/* What the stager was given of a version is staged, and nothing else. */
static bool settle(struct mal_worker *worker, int64_t version, struct mal_error *err) {
    bool reads_ok = true;
    mal_stager_settle(worker->stager);
    while (mal_stager_busy(worker->stager))
        wait_written(worker, &reads_ok);
    return mal_stager_settled(worker->stager, version, err);
}

struct persist {
    struct mal_change *change;
    const char *const *jobs;
    size_t n_jobs;
};

static bool write_change(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct persist *p = arg;
    return mal_change_persist(p->change, store, p->jobs, p->n_jobs, err);
}

bool mal_worker_persist(struct mal_worker *worker, struct mal_change *change,
                        const char *const *jobs, size_t n_jobs, struct mal_error *err) {
    struct persist p = {change, jobs, n_jobs};
    bool ok = settle(worker, change->row.version, err) &&
              write_and_serve(worker, write_change, &p, err);
    if (ok) {
        mal_stager_kept(worker->stager);
    } else {
        mal_stager_drop(worker->stager);
    }
    return ok;
}

struct noted {
    int64_t version;
    const struct mal_fact_result *results;
    size_t n;
};

static bool write_results(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct noted *noted = arg;
    return mal_store_note_results(store, noted->version, noted->results, noted->n, err);
}

bool mal_worker_note_results(struct mal_worker *worker,
                             const struct mal_fact_result *results, size_t n,
                             struct mal_error *err) {
    struct noted noted = {mal_engine_live(worker->engine), results, n};
    return n == 0 || write_and_serve(worker, write_results, &noted, err);
}

static bool write_prune(struct mal_store *store, void *arg, struct mal_error *err) {
    return mal_retention_run(arg, store, mal_clock_unix_ms(), err);
}

void mal_worker_prune(struct mal_worker *worker) {
    struct mal_error err = {0};
    if (!write_and_serve(worker, write_prune, worker->o.retention, &err))
        mal_log("warning", "pruning failed", "{s:s}", "detail", err.text);
    mal_worker_tell_delta_bytes(worker);
}
