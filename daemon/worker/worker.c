/* worker.c - the worker's thread and its queues. */
#include "daemon/worker/worker.h"

#include <string.h>
#include <time.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/base/log.h"
#include "daemon/engine/history.h"
#include "daemon/worker/worker_impl.h"

enum { MAX_READS = 256, MAX_BARE = 256, LOW_DISK_MS = 1000, IDLE_MS = 200 };

/* ---- Queue ---- */

void mal_worker_count_room(struct mal_worker *worker, int64_t n_facts, int by) {
    if (n_facts > 0)
        worker->n_facts += by * n_facts;
    else
        worker->n_bare += by;
}

bool mal_worker_reserve(struct mal_worker *worker, int64_t n_facts,
                        struct mal_error *err) {
    bool bare = n_facts == 0;
    pthread_mutex_lock(&worker->lock);
    int64_t waiting = bare ? worker->n_bare : worker->n_facts;
    bool fits = bare ? waiting < MAX_BARE : waiting + n_facts <= worker->o.max_queue;
    if (fits) mal_worker_count_room(worker, n_facts, 1);
    pthread_mutex_unlock(&worker->lock);
    if (fits) return true;
    if (bare) {
        return mal_fail(err, MAL_BUSY,
                        "%lld jobs without facts are waiting, no more are allowed",
                        (long long)waiting);
    }
    return mal_fail(
        err, MAL_BUSY, "%lld facts are waiting, %lld more do not fit (at most %lld)",
        (long long)waiting, (long long)n_facts, (long long)worker->o.max_queue);
}

void mal_worker_release(struct mal_worker *worker, int64_t n_facts) {
    pthread_mutex_lock(&worker->lock);
    mal_worker_count_room(worker, n_facts, -1);
    pthread_mutex_unlock(&worker->lock);
}

void mal_worker_submit(struct mal_worker *worker, struct mal_queued_job *job) {
    job->next = NULL;
    job->since_ms = mal_monotonic_ms();
    bool evaluation = job->kind == MAL_JOB_EVALUATION;
    pthread_mutex_lock(&worker->lock);
    struct mal_queued_job ***last =
        evaluation ? &worker->last_evaluation : &worker->last_job;
    job->order = worker->n_submitted++;
    **last = job;
    *last = &job->next;
    worker->n_jobs++;
    worker->n_queued += job->n_facts;
    pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
}

/* Under the lock. NULL: it is not in the list. */
static struct mal_queued_job *take_out(struct mal_queued_job **list,
                                       struct mal_queued_job ***last, const char *id) {
    for (struct mal_queued_job **p = list; *p; p = &(*p)->next) {
        struct mal_queued_job *job = *p;
        if (strcmp(job->id, id)) continue;
        *p = job->next;
        if (!*p) *last = p;
        return job;
    }
    return NULL;
}

struct mal_queued_job *mal_worker_withdraw(struct mal_worker *worker, const char *id) {
    pthread_mutex_lock(&worker->lock);
    struct mal_queued_job *found = take_out(&worker->jobs, &worker->last_job, id);
    if (!found) found = take_out(&worker->evaluations, &worker->last_evaluation, id);
    if (found) {
        worker->n_jobs--;
        worker->n_queued -= found->n_facts;
        mal_worker_count_room(worker, found->n_facts, -1);
    }
    pthread_mutex_unlock(&worker->lock);
    return found;
}

/* Under the lock. */
static void put_back(struct mal_queued_job **list, struct mal_queued_job ***last,
                     struct mal_queued_job *job) {
    struct mal_queued_job **p = list;
    while (*p && (*p)->order < job->order)
        p = &(*p)->next;
    job->next = *p;
    if (!job->next) *last = &job->next;
    *p = job;
}

void mal_worker_restore(struct mal_worker *worker, struct mal_queued_job *job) {
    pthread_mutex_lock(&worker->lock);
    if (job->kind == MAL_JOB_EVALUATION) {
        put_back(&worker->evaluations, &worker->last_evaluation, job);
    } else {
        put_back(&worker->jobs, &worker->last_job, job);
    }
    worker->n_jobs++;
    worker->n_queued += job->n_facts;
    mal_worker_count_room(worker, job->n_facts, 1);
    pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
}

void mal_worker_queue(struct mal_worker *worker, struct mal_queue_view *out) {
    int64_t now = mal_monotonic_ms();
    pthread_mutex_lock(&worker->lock);
    out->jobs = worker->n_jobs;
    out->facts = worker->n_queued;
    out->capacity = worker->o.max_queue;
    out->reads = (int64_t)worker->n_reads;
    const struct mal_queued_job *heads[] = {worker->jobs, worker->evaluations};
    int64_t oldest = now;
    for (int i = 0; i < 2; i++) {
        if (heads[i] && heads[i]->since_ms < oldest) oldest = heads[i]->since_ms;
    }
    out->oldest_seconds = (double)(now - oldest) / 1000;
    pthread_mutex_unlock(&worker->lock);
}

bool mal_worker_read(struct mal_worker *worker, struct mal_read *read,
                     struct mal_error *err) {
    read->next = NULL;
    read->ok = read->given_up = false;
    read->err = (struct mal_error){0};
    read->deadline_ms = mal_monotonic_ms() + worker->o.read_timeout_ms;
    read->since = mal_clock_seconds();
    pthread_mutex_lock(&worker->lock);
    bool fits = worker->n_reads < MAX_READS && !worker->stop;
    bool stop = worker->stop;
    if (fits) {
        *worker->last_read = read;
        worker->last_read = &read->next;
        worker->n_reads++;
        pthread_cond_signal(worker->beside ? &worker->read_asked : &worker->asked);
    }
    pthread_mutex_unlock(&worker->lock);
    if (fits) return true;
    mal_count(&worker->o.metrics->read_outcomes[read->score][MAL_READ_REFUSED], 1);
    if (stop) return mal_fail(err, MAL_NOT_READY, "the daemon is stopping");
    return mal_fail(err, MAL_BUSY, "%d completions and scores are waiting already",
                    MAX_READS);
}

/* ---- Telling the loop ---- */

static void run_ready(void *arg) {
    struct mal_worker *worker = arg;
    mal_status_set_state(worker->o.status, MAL_READY);
    worker->o.ready(worker->o.arg, worker->engine);
    mal_log("info", "ready", "{s:I,s:s,s:s,s:I}", "live_version",
            (json_int_t)worker->loaded_version, "model",
            mal_engine_model_name(worker->engine), "device",
            mal_engine_device(worker->engine), "requeued",
            (json_int_t)worker->n_requeued);
    pthread_mutex_lock(&worker->lock);
    worker->told_ready = true;
    pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
}

static void run_changed(void *arg) {
    struct mal_worker *worker = arg;
    pthread_mutex_lock(&worker->lock);
    worker->change_posted = false;
    pthread_mutex_unlock(&worker->lock);
    worker->o.changed(worker->o.arg);
}

static void run_ended(void *arg) {
    struct mal_worker *worker = arg;
    worker->o.ended(worker->o.arg, &worker->end_err);
}

void mal_worker_announce(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    bool post = !worker->change_posted;
    worker->change_posted = true;
    pthread_mutex_unlock(&worker->lock);
    if (post) mal_loop_post(worker->o.loop, &worker->change_task);
}

/* ---- Loading ---- */

static bool requeue(struct mal_store *store, void *arg, struct mal_error *err) {
    return mal_store_requeue_running(store, arg, err);
}

static bool publish_base(struct mal_worker *worker, struct mal_error *err) {
    struct mal_change change = {0};
    bool ok = mal_engine_base_change(worker->engine, mal_clock_unix_ms(), &change, err) &&
              mal_worker_persist(worker, &change, NULL, 0, err);
    if (ok) mal_worker_publish(worker, &change);
    mal_change_finish(&change);
    return ok;
}

static bool refill_queue(struct mal_worker *worker, struct mal_error *err) {
    struct mal_job_row *rows = NULL;
    size_t n = 0;
    if (!mal_store_queued_jobs(worker->store, &rows, &n, err)) return false;
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        struct mal_queued_job *job = mal_calloc(1, sizeof *job);
        if (!job || strlen(rows[i].id) >= sizeof job->id) {
            ok =
                job ? mal_fail(err, MAL_CORRUPT, "job id '%.64s' is too long", rows[i].id)
                    : mal_fail(err, MAL_NO_MEMORY, "job queue");
            mal_free(job);
            break;
        }
        strcpy(job->id, rows[i].id);
        job->kind = rows[i].kind;
        job->n_facts = rows[i].n_facts;
        job->to_version = rows[i].to_version;
        pthread_mutex_lock(&worker->lock);
        mal_worker_count_room(worker, job->n_facts, 1);
        pthread_mutex_unlock(&worker->lock);
        mal_worker_submit(worker, job);
    }
    mal_job_rows_free(rows, n);
    return ok;
}

static void tell_live(struct mal_worker *worker, const char *weights_hash) {
    int64_t versions[MAL_MAX_VERSIONS_IN_MEMORY];
    size_t n = mal_engine_versions(worker->engine, versions, MAL_MAX_VERSIONS_IN_MEMORY);
    mal_status_set_live(worker->o.status, mal_engine_live(worker->engine), weights_hash,
                        versions, n, mal_engine_device_bytes(worker->engine));
}

enum mal_work mal_worker_turn(struct mal_worker *worker, enum mal_work work) {
    double now = mal_clock_seconds();
    enum mal_work before = worker->work;
    if (before != MAL_WORK_NONE)
        mal_count_seconds(&worker->o.metrics->work_ns[before], now - worker->work_since);
    worker->work = work;
    worker->work_since = now;
    return before;
}

void mal_worker_tell_delta_bytes(struct mal_worker *worker) {
    int64_t bytes;
    struct mal_error err = {0};
    if (mal_store_delta_bytes(worker->store, &bytes, &err)) {
        mal_status_set_delta_bytes(worker->o.status, bytes);
    } else {
        mal_log("warning", "deltas not counted", "{s:s}", "detail", err.text);
    }
}

/* The modules stay those the database was made with, and so do its hashes. */
static bool open_engine(struct mal_worker *worker, struct mal_error *err) {
    struct mal_engine_options options = worker->o.engine;
    char *modules = NULL;
    if (!mal_store_open_reader(&worker->store, worker->o.db, err)) return false;
    if (!mal_history_digest_form(worker->store, &options.form, err))
        return mal_fail_wrap(err, "%s", worker->o.db);
    if (!mal_store_get_meta(worker->store, "modules", &modules, err)) return false;
    options.modules_json = modules;
    bool ok = mal_engine_open(&worker->engine, &options, err);
    mal_free(modules);
    return ok;
}

static bool load(struct mal_worker *worker, struct mal_error *err) {
    bool empty = false;
    if (!open_engine(worker, err)) return false;
    if (!mal_engine_recover(worker->engine, worker->store, &empty, err)) return false;
    if (!mal_suites_check(worker->o.suites, worker->engine, err)) return false;
    if (!mal_worker_load_editor(worker, err)) return false;
    mal_worker_tell_joint(worker);
    mal_idle_tell(worker);
    if (empty) {
        if (!publish_base(worker, err)) return false;
    } else {
        struct mal_version_row row = {0};
        if (!mal_store_get_version(worker->store, mal_engine_live(worker->engine), &row,
                                   err)) {
            return false;
        }
        tell_live(worker, row.weights_hash);
        mal_version_row_finish(&row);
        mal_worker_tell_delta_bytes(worker);
    }
    mal_worker_resume_load(worker);
    return mal_writer_call(worker->o.writer, requeue, &worker->n_requeued, err) &&
           refill_queue(worker, err) && mal_reader_start(worker, err);
}

void mal_worker_publish(struct mal_worker *worker, struct mal_change *change) {
    mal_engine_publish(worker->engine, change);
    mal_worker_tell_joint(worker);
    tell_live(worker, change->row.weights_hash);
}

/* ---- Thread ---- */

bool mal_worker_stopping(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    bool stop = worker->stop;
    worker->beat_ms = mal_monotonic_ms();
    pthread_mutex_unlock(&worker->lock);
    return stop;
}

int64_t mal_worker_silence_ms(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    int64_t now = mal_monotonic_ms();
    int64_t ms = worker->waiting ? 0 : now - worker->beat_ms;
    int64_t read_ms = worker->read_beat_ms ? now - worker->read_beat_ms : 0;
    pthread_mutex_unlock(&worker->lock);
    return read_ms > ms ? read_ms : ms;
}

/* Under the lock; ms < 0: until something is asked. */
static void wait_asked(struct mal_worker *worker, int64_t ms) {
    worker->waiting = true;
    if (ms < 0) {
        pthread_cond_wait(&worker->asked, &worker->lock);
    } else {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += ms / 1000;
        until.tv_nsec += ms % 1000 * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&worker->asked, &worker->lock, &until);
    }
    worker->waiting = false;
    worker->beat_ms = mal_monotonic_ms();
}

bool mal_worker_pause(struct mal_worker *worker, int64_t ms, struct mal_error *err) {
    int64_t until = mal_monotonic_ms() + ms;
    while (!mal_worker_stopping(worker)) {
        int64_t left = until - mal_monotonic_ms();
        if (left <= 0) return true;
        pthread_mutex_lock(&worker->lock);
        if (!mal_worker_reads_wait(worker) && !worker->stop) wait_asked(worker, left);
        pthread_mutex_unlock(&worker->lock);
        if (!mal_worker_serve_reads(worker, err)) return false;
    }
    return mal_fail(err, MAL_CANCELLED, "the daemon is stopping");
}

/* So that it is the first that is heard of this thread. */
static void tell_ready(struct mal_worker *worker) {
    mal_loop_post(worker->o.loop, &worker->ready_task);
    pthread_mutex_lock(&worker->lock);
    while (!worker->told_ready && !worker->stop)
        wait_asked(worker, -1);
    pthread_mutex_unlock(&worker->lock);
}

/* Under the lock: whether somebody waits for the thread. */
static bool is_asked(const struct mal_worker *worker) {
    return worker->stop || mal_worker_reads_wait(worker) || worker->jobs ||
           worker->evaluations;
}

/* Waits for something to do. *out_idle: nothing came for a while, and there is work that
 * nobody asks for. */
static void wait_for_work(struct mal_worker *worker, bool *out_idle) {
    *out_idle = false;
    pthread_mutex_lock(&worker->lock);
    int64_t ms;
    while (!worker->stop && !mal_worker_reads_wait(worker) && !mal_evaluate_due(worker) &&
           (ms = mal_worker_until_batch(worker)) != 0) {
        bool idle = ms < 0 && mal_idle_pending(worker);
        wait_asked(worker, idle ? IDLE_MS : ms);
        if (!idle || is_asked(worker)) continue;
        *out_idle = true;
        break;
    }
    pthread_mutex_unlock(&worker->lock);
}

/* A slice of an evaluation, then a batch: neither waits for all of the other. */
static bool work(struct mal_worker *worker, struct mal_error *err) {
    pthread_mutex_lock(&worker->lock);
    bool evaluate = !worker->stop && mal_evaluate_due(worker);
    pthread_mutex_unlock(&worker->lock);
    if (evaluate && !mal_evaluate_step(worker, err)) return false;
    pthread_mutex_lock(&worker->lock);
    bool batch = !worker->stop && mal_worker_until_batch(worker) == 0;
    bool small = batch && worker->jobs->kind == MAL_JOB_ROLLBACK; /* takes no room */
    pthread_mutex_unlock(&worker->lock);
    if (!batch) return true;
    if (small || !mal_disk_low(worker->o.disk)) return mal_worker_run_batch(worker, err);
    return evaluate || mal_worker_pause(worker, LOW_DISK_MS, err);
}

static bool serve(struct mal_worker *worker, struct mal_error *err) {
    while (true) {
        bool idle;
        wait_for_work(worker, &idle);
        while (idle) { /* until somebody asks */
            if (!mal_idle_step(worker, err)) return false;
            pthread_mutex_lock(&worker->lock);
            idle = !is_asked(worker);
            pthread_mutex_unlock(&worker->lock);
            idle = idle && mal_idle_pending(worker);
        }
        pthread_mutex_lock(&worker->lock);
        bool stop = worker->stop;
        bool reads = mal_worker_reads_wait(worker);
        pthread_mutex_unlock(&worker->lock);
        if (stop) return true;
        if (reads && !mal_worker_serve_reads(worker, err)) return false;
        if (!work(worker, err)) return false;
    }
}

static void *worker_main(void *arg) {
    struct mal_worker *worker = arg;
    struct mal_error err = {0};
    if (load(worker, &err) && !mal_worker_stopping(worker)) {
        worker->loaded_version = mal_engine_live(worker->engine);
        tell_ready(worker);
        if (serve(worker, &err)) err = (struct mal_error){0};
    }
    if (err.status == MAL_CANCELLED && mal_worker_stopping(worker))
        err = (struct mal_error){0};
    pthread_mutex_lock(&worker->lock);
    worker->stop = true; /* no read comes in any more */
    pthread_cond_signal(&worker->read_asked);
    pthread_mutex_unlock(&worker->lock);
    mal_reader_join(worker);
    pthread_mutex_lock(&worker->lock);
    struct mal_read *read = worker->reads;
    worker->reads = NULL;
    worker->last_read = &worker->reads;
    pthread_mutex_unlock(&worker->lock);
    while (read) {
        struct mal_read *next = read->next;
        mal_fail(&read->err, MAL_NOT_READY, "the daemon is stopping");
        mal_worker_finish_read(worker, read);
        read = next;
    }
    worker->end_err = err;
    mal_loop_post(worker->o.loop, &worker->end_task);
    return NULL;
}

/* ---- Start and stop ---- */

bool mal_worker_start(struct mal_worker **out, const struct mal_worker_options *options,
                      struct mal_error *err) {
    struct mal_worker *worker = mal_calloc(1, sizeof *worker);
    if (!worker) return mal_fail(err, MAL_NO_MEMORY, "worker");
    worker->o = *options;
    worker->last_job = &worker->jobs;
    worker->last_evaluation = &worker->evaluations;
    worker->last_read = &worker->reads;
    worker->work = MAL_WORK_NONE;
    worker->ready_task = (struct mal_task){.run = run_ready, .arg = worker};
    worker->change_task = (struct mal_task){.run = run_changed, .arg = worker};
    worker->end_task = (struct mal_task){.run = run_ended, .arg = worker};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->asked, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&worker->read_asked, NULL);
    pthread_mutex_init(&worker->lock, NULL);
    bool staging = mal_stager_create(&worker->stager, worker->o.writer,
                                     mal_worker_written, worker, err);
    *out = worker; /* before the thread: its tasks may run at once */
    if (!staging || pthread_create(&worker->thread, NULL, worker_main, worker)) {
        *out = NULL;
        mal_stager_destroy(worker->stager);
        pthread_cond_destroy(&worker->asked);
        pthread_cond_destroy(&worker->read_asked);
        pthread_mutex_destroy(&worker->lock);
        mal_free(worker);
        return staging && mal_fail(err, MAL_NO_MEMORY, "worker: no thread");
    }
    return true;
}

void mal_worker_stop(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    worker->stop = true;
    pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
}

static void free_jobs(struct mal_queued_job *job) {
    while (job) {
        struct mal_queued_job *next = job->next;
        mal_free(job);
        job = next;
    }
}

void mal_worker_destroy(struct mal_worker *worker) {
    if (!worker) return;
    mal_worker_stop(worker);
    pthread_join(worker->thread, NULL);
    free_jobs(worker->jobs);
    free_jobs(worker->evaluations);
    mal_evaluate_finish(worker);
    mal_idle_finish(&worker->idle);
    mal_worker_cut_off_forget(worker);
    mal_store_close(worker->store);
    mal_engine_close(worker->engine);
    mal_stager_destroy(worker->stager);
    pthread_cond_destroy(&worker->asked);
    pthread_cond_destroy(&worker->read_asked);
    pthread_mutex_destroy(&worker->lock);
    mal_free(worker);
}
