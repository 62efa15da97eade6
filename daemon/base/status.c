/* status.c - the shared snapshot. */
#include "daemon/base/status.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/base/loop.h"

struct mal_daemon_status {
    pthread_mutex_t lock;
    struct mal_status_view now;
    uint64_t n_changes;
};

/* Locks, for what must be seen at once. */
static void begin_change(struct mal_daemon_status *status) {
    pthread_mutex_lock(&status->lock);
    status->n_changes++;
}

const char *mal_daemon_state_name(enum mal_daemon_state state) {
    static const char *const names[] = {"loading", "ready", "draining", "failed"};
    return names[state];
}

bool mal_status_create(struct mal_daemon_status **out, struct mal_error *err) {
    struct mal_daemon_status *status = mal_calloc(1, sizeof *status);
    if (!status) return mal_fail(err, MAL_NO_MEMORY, "status");
    pthread_mutex_init(&status->lock, NULL);
    status->now.live_version = -1;
    status->now.disk.free_bytes = -1;
    status->now.started_ms = mal_monotonic_ms();
    *out = status;
    return true;
}

void mal_status_destroy(struct mal_daemon_status *status) {
    if (!status) return;
    mal_status_view_finish(&status->now);
    pthread_mutex_destroy(&status->lock);
    mal_free(status);
}

/* Ready never follows draining or failed: a worker that finishes loading late changes
 * nothing. */
void mal_status_set_state(struct mal_daemon_status *status, enum mal_daemon_state state) {
    begin_change(status);
    if (state > status->now.state) status->now.state = state;
    pthread_mutex_unlock(&status->lock);
}

enum mal_daemon_state mal_status_state(struct mal_daemon_status *status) {
    pthread_mutex_lock(&status->lock);
    enum mal_daemon_state state = status->now.state;
    pthread_mutex_unlock(&status->lock);
    return state;
}

void mal_status_set_live(struct mal_daemon_status *status, int64_t version,
                         const char *weights_hash, const int64_t *versions, size_t n,
                         size_t device_bytes) {
    if (n > MAL_MAX_VERSIONS_IN_MEMORY) n = MAL_MAX_VERSIONS_IN_MEMORY;
    begin_change(status);
    struct mal_status_view *now = &status->now;
    now->live_version = version;
    snprintf(now->weights_hash, sizeof now->weights_hash, "%s", weights_hash);
    memcpy(now->versions, versions, n * sizeof *versions);
    now->n_versions = n;
    now->device_bytes = device_bytes;
    pthread_mutex_unlock(&status->lock);
}

int64_t mal_status_live(struct mal_daemon_status *status) {
    pthread_mutex_lock(&status->lock);
    int64_t version = status->now.live_version;
    pthread_mutex_unlock(&status->lock);
    return version;
}

void mal_status_set_editor(struct mal_daemon_status *status, const char *method) {
    begin_change(status);
    status->now.editor_method = method;
    pthread_mutex_unlock(&status->lock);
}

void mal_status_begin_batch(struct mal_daemon_status *status, char (*jobs)[MAL_ID_BYTES],
                            size_t n_jobs, int64_t n_facts, int64_t now_ms) {
    begin_change(status);
    mal_free(status->now.batch.jobs);
    status->now.batch = (struct mal_status_batch){
        .jobs = jobs, .n_jobs = n_jobs, .n_facts = n_facts, .started_ms = now_ms};
    pthread_mutex_unlock(&status->lock);
}

void mal_status_progress(struct mal_daemon_status *status, enum mal_stage stage,
                         int64_t done, int64_t total) {
    pthread_mutex_lock(&status->lock);
    if (stage != status->now.batch.stage) status->n_changes++;
    status->now.batch.stage = stage;
    status->now.batch.done = done < total ? done : total;
    status->now.batch.total = total;
    pthread_mutex_unlock(&status->lock);
}

void mal_status_end_batch(struct mal_daemon_status *status, double seconds) {
    begin_change(status);
    struct mal_status_view *now = &status->now;
    if (seconds >= 0) {
        now->last_batch_seconds = seconds;
        now->facts_per_second = seconds > 0 ? (double)now->batch.n_facts / seconds : 0;
    }
    mal_free(now->batch.jobs);
    now->batch = (struct mal_status_batch){0};
    pthread_mutex_unlock(&status->lock);
}

void mal_status_set_evaluation(struct mal_daemon_status *status,
                               const struct mal_status_evaluation *evaluation) {
    begin_change(status);
    status->now.evaluation =
        evaluation ? *evaluation : (struct mal_status_evaluation){.job = ""};
    pthread_mutex_unlock(&status->lock);
}

void mal_status_set_scrub(struct mal_daemon_status *status,
                          const struct mal_status_scrub *scrub) {
    begin_change(status);
    status->now.scrub = *scrub;
    pthread_mutex_unlock(&status->lock);
}

void mal_status_set_joint(struct mal_daemon_status *status,
                          const struct mal_status_joint *joint) {
    begin_change(status);
    status->now.joint = *joint;
    pthread_mutex_unlock(&status->lock);
}

void mal_status_set_delta_bytes(struct mal_daemon_status *status, int64_t bytes) {
    pthread_mutex_lock(&status->lock);
    status->now.delta_bytes = bytes;
    pthread_mutex_unlock(&status->lock);
}

void mal_status_set_disk(struct mal_daemon_status *status,
                         const struct mal_status_disk *disk) {
    pthread_mutex_lock(&status->lock);
    if (disk->low != status->now.disk.low) status->n_changes++;
    status->now.disk = *disk;
    pthread_mutex_unlock(&status->lock);
}

struct mal_status_disk mal_status_disk(struct mal_daemon_status *status) {
    pthread_mutex_lock(&status->lock);
    struct mal_status_disk disk = status->now.disk;
    pthread_mutex_unlock(&status->lock);
    return disk;
}

void mal_status_set_error(struct mal_daemon_status *status, char *problem) {
    begin_change(status);
    mal_free(status->now.last_error);
    status->now.last_error = problem;
    pthread_mutex_unlock(&status->lock);
}

uint64_t mal_status_changes(struct mal_daemon_status *status) {
    pthread_mutex_lock(&status->lock);
    uint64_t n = status->n_changes;
    pthread_mutex_unlock(&status->lock);
    return n;
}

bool mal_status_view(struct mal_daemon_status *status, struct mal_status_view *out,
                     struct mal_error *err) {
    pthread_mutex_lock(&status->lock);
    struct mal_status_view view = status->now;
    const struct mal_status_batch *batch = &status->now.batch;
    view.last_error = view.last_error ? mal_strdup(view.last_error) : NULL;
    bool ok = view.last_error || !status->now.last_error;
    view.batch.jobs = NULL;
    if (ok && batch->jobs) {
        view.batch.jobs = mal_malloc(batch->n_jobs * sizeof *batch->jobs);
        ok = view.batch.jobs != NULL;
        if (ok) memcpy(view.batch.jobs, batch->jobs, batch->n_jobs * sizeof *batch->jobs);
    }
    pthread_mutex_unlock(&status->lock);
    if (!ok) {
        mal_status_view_finish(&view);
        return mal_fail(err, MAL_NO_MEMORY, "status");
    }
    *out = view;
    return true;
}

void mal_status_view_finish(struct mal_status_view *view) {
    mal_free(view->batch.jobs);
    mal_free(view->last_error);
    view->batch.jobs = NULL;
    view->last_error = NULL;
}

bool mal_status_in_memory(struct mal_daemon_status *status, int64_t version) {
    bool found = false;
    pthread_mutex_lock(&status->lock);
    for (size_t i = 0; i < status->now.n_versions && !found; i++) {
        found = status->now.versions[i] == version;
    }
    pthread_mutex_unlock(&status->lock);
    return found;
}

bool mal_status_job_progress(struct mal_daemon_status *status, const char *job,
                             enum mal_stage *stage, int64_t *done, int64_t *total) {
    bool found = false;
    pthread_mutex_lock(&status->lock);
    const struct mal_status_batch *batch = &status->now.batch;
    for (size_t i = 0; batch->jobs && i < batch->n_jobs && !found; i++) {
        found = !strcmp(batch->jobs[i], job);
    }
    const struct mal_status_evaluation *evaluation = &status->now.evaluation;
    if (found) {
        *stage = batch->stage;
        *done = batch->done;
        *total = batch->total;
    } else if (!strcmp(evaluation->job, job)) {
        *stage = evaluation->stage;
        *done = evaluation->done;
        *total = evaluation->total;
        found = true;
    }
    pthread_mutex_unlock(&status->lock);
    return found;
}
