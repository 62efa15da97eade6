/* status.h - what the daemon is doing now, for whoever asks: written by the worker, read
 * by the loop, behind one mutex that is never held for longer than a copy. */
#ifndef MAL_STATUS_H
#define MAL_STATUS_H

#include <stdint.h>

#include "core/editor/edit.h"
#include "core/hash.h"
#include "daemon/base/ids.h"

enum mal_daemon_state { MAL_LOADING, MAL_READY, MAL_DRAINING, MAL_FAILED };

const char *mal_daemon_state_name(enum mal_daemon_state state);

enum { MAL_MAX_VERSIONS_IN_MEMORY = 256 };

struct mal_status_batch {
    char (*jobs)[MAL_ID_BYTES]; /* (n_jobs), owned; NULL: no batch is running */
    size_t n_jobs;
    int64_t n_facts, done, total, started_ms;
    enum mal_stage stage;
};

/* An evaluation, which goes on between batches. */
struct mal_status_evaluation {
    char job[MAL_ID_BYTES]; /* "": none is running */
    int64_t version, n_facts, done, total, started_ms;
    enum mal_stage stage;
};

/* The idle daemon's walk over the live facts: how many of them since the walk began
 * anew, how many of those were wrong, and how many walks are over. */
struct mal_status_scrub {
    bool enabled;
    int64_t position, total, wrong, failing, passes;
};

/* The joint solve's matrices in memory. */
struct mal_status_joint {
    int64_t bytes, facts; /* members in them */
    bool stale;           /* behind the live version: brought up to date when needed */
};

struct mal_status_disk {
    int64_t free_bytes; /* -1: not known yet */
    bool low;           /* no further edits */
};

/* A copy of everything; mal_status_view_finish() frees it. */
struct mal_status_view {
    enum mal_daemon_state state;
    int64_t live_version; /* -1: none yet */
    char weights_hash[MAL_HASH_HEX];
    int64_t versions[MAL_MAX_VERSIONS_IN_MEMORY]; /* in memory, ascending */
    size_t n_versions;
    struct mal_status_batch batch;
    struct mal_status_evaluation evaluation;
    const char *editor_method; /* NULL: there is no editor yet */
    double facts_per_second, last_batch_seconds;
    size_t device_bytes;
    int64_t delta_bytes; /* of the versions that are not pruned */
    struct mal_status_scrub scrub;
    struct mal_status_joint joint;
    struct mal_status_disk disk;
    int64_t started_ms;
    char *last_error; /* a Problem as JSON, owned; NULL: none */
};

struct mal_daemon_status;

bool mal_status_create(struct mal_daemon_status **out, struct mal_error *err) MAL_CHECK;
void mal_status_destroy(struct mal_daemon_status *status); /* takes NULL */

void mal_status_set_state(struct mal_daemon_status *status, enum mal_daemon_state state);
enum mal_daemon_state mal_status_state(struct mal_daemon_status *status);
void mal_status_set_live(struct mal_daemon_status *status, int64_t version,
                         const char *weights_hash, const int64_t *versions, size_t n,
                         size_t device_bytes);
int64_t mal_status_live(struct mal_daemon_status *status); /* -1: none yet */
/* `method` stays valid for ever. */
void mal_status_set_editor(struct mal_daemon_status *status, const char *method);
/* Takes over `jobs`. */
void mal_status_begin_batch(struct mal_daemon_status *status, char (*jobs)[MAL_ID_BYTES],
                            size_t n_jobs, int64_t n_facts, int64_t now_ms);
void mal_status_progress(struct mal_daemon_status *status, enum mal_stage stage,
                         int64_t done, int64_t total);
/* `seconds` < 0: the batch failed and says nothing about rates. */
void mal_status_end_batch(struct mal_daemon_status *status, double seconds);
/* NULL: none is running. */
void mal_status_set_evaluation(struct mal_daemon_status *status,
                               const struct mal_status_evaluation *evaluation);
void mal_status_set_scrub(struct mal_daemon_status *status,
                          const struct mal_status_scrub *scrub);
void mal_status_set_joint(struct mal_daemon_status *status,
                          const struct mal_status_joint *joint);
void mal_status_set_delta_bytes(struct mal_daemon_status *status, int64_t bytes);
void mal_status_set_disk(struct mal_daemon_status *status,
                         const struct mal_status_disk *disk);
struct mal_status_disk mal_status_disk(struct mal_daemon_status *status);
/* Takes over `problem`. */
void mal_status_set_error(struct mal_daemon_status *status, char *problem);

/* Grows with each change but those of what only flows: progress within a stage, bytes
 * free on the disk. */
uint64_t mal_status_changes(struct mal_daemon_status *status);
bool mal_status_view(struct mal_daemon_status *status, struct mal_status_view *out,
                     struct mal_error *err) MAL_CHECK;
void mal_status_view_finish(struct mal_status_view *view);
bool mal_status_in_memory(struct mal_daemon_status *status, int64_t version);
/* Where the batch with this job, or the evaluation, stands; false: it is in none. */
bool mal_status_job_progress(struct mal_daemon_status *status, const char *job,
                             enum mal_stage *stage, int64_t *done, int64_t *total);

#endif
