/* worker.h - the thread that owns engine and device: loads, edits in batches, answers
 * reads.
 *
 * Jobs run in the order they were committed; an evaluation begins in its turn, and then
 * lets changes pass between its slices. Reads (completions, scores) come first: between
 * two jobs all that wait, and while a batch runs those that wait at the end of each
 * slice; or they are a second thread's, beside all that (reader.c). Nothing of a batch is
 * visible before it is durable. */
#ifndef MAL_WORKER_H
#define MAL_WORKER_H

#include "daemon/base/disk.h"
#include "daemon/base/ids.h"
#include "daemon/base/loop.h"
#include "daemon/base/metrics.h"
#include "daemon/base/status.h"
#include "daemon/base/writer.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/suites.h"
#include "daemon/worker/retention.h"

struct mal_worker;

struct mal_worker_options {
    struct mal_engine_options engine;
    const char *db;
    const char *resume_path; /* where a batch that takes long is saved, */
    double save_every;       /* and how often, seconds */
    const char *data;  /* facts to make an editor on where there is none; NULL: the first
                        * batch */
    int64_t max_queue; /* facts that may wait */
    int64_t max_batch_facts;
    int64_t batch_window_ms; /* how long the oldest job waits for company */
    int64_t read_timeout_ms;
    bool scrub;                /* look for live facts that are wrong while idle */
    int64_t consolidate_after; /* versions since the last one; 0: never by itself */
    struct mal_loop *loop;
    struct mal_writer *writer;
    struct mal_daemon_status *status;
    struct mal_retention *retention;
    struct mal_disk *disk;
    const struct mal_suites *suites;
    struct mal_metrics *metrics;
    /* All on the loop. */
    void *arg;
    void (*ready)(void *arg, struct mal_engine *engine);
    void (*changed)(void *arg); /* some job's state has changed */
    void (*ended)(void *arg,
                  const struct mal_error *err); /* err->status MAL_OK: was told to */
};

/* Strings of `options` are borrowed until the end. Returns at once; loading goes on. */
bool mal_worker_start(struct mal_worker **out, const struct mal_worker_options *options,
                      struct mal_error *err) MAL_CHECK;
/* Gives up the running batch (it stays in the database and runs after the next start) and
 * fails waiting reads; `ended` follows. */
void mal_worker_stop(struct mal_worker *worker);
/* After `ended`, or before the loop ever ran. Closes the engine. Takes NULL. */
void mal_worker_destroy(struct mal_worker *worker);

/* How long its thread has been in one slice of work, or in waiting for the writer, or the
 * thread of reads in one step; 0 while there is nothing to do. Any thread. */
int64_t mal_worker_silence_ms(struct mal_worker *worker);

/* ---- Jobs; any thread ---- */

/* Room for a job of n facts: MAL_BUSY when there is none. Jobs without facts have their
 * own, so that a rollback is not kept out by the edits it is to undo. Given up by
 * mal_worker_release() or used up by mal_worker_submit(). */
bool mal_worker_reserve(struct mal_worker *worker, int64_t n_facts,
                        struct mal_error *err) MAL_CHECK;
void mal_worker_release(struct mal_worker *worker, int64_t n_facts);

struct mal_queued_job {
    struct mal_queued_job *next;
    char id[MAL_ID_BYTES];
    enum mal_job_kind kind;
    int64_t n_facts, to_version; /* to_version: as in mal_job_row */
    /* the worker's own */
    int64_t since_ms; /* monotonic */
    int64_t order;    /* of submission */
    int64_t part; /* of a batch that was split: none but its own join it; 0: of none */
    bool tried;   /* and reading for that has been tried as often as it is */
};

/* The job is in the database. Takes over `job` (from mal_calloc). */
void mal_worker_submit(struct mal_worker *worker, struct mal_queued_job *job);
/* Takes a job that has not begun out of the queue, owned by the caller; NULL: it is not
 * there. */
struct mal_queued_job *mal_worker_withdraw(struct mal_worker *worker, const char *id);
/* Puts it back in its place. */
void mal_worker_restore(struct mal_worker *worker, struct mal_queued_job *job);

struct mal_queue_view {
    int64_t jobs, facts, capacity;
    int64_t reads; /* that wait or are computed */
    double oldest_seconds;
};

void mal_worker_queue(struct mal_worker *worker, struct mal_queue_view *out);

/* ---- Reads; loop thread ---- */

struct mal_read {
    int64_t version;                    /* -1: live; the answer: the one that was used */
    bool score;                         /* items, not gens */
    struct mal_generation *gens;        /* (n) */
    const struct mal_score_item *items; /* (n) */
    struct mal_score *scores;           /* out (n), owned by the asker */
    size_t n;
    /* On the worker's thread, before `done`: whenever there may be more of the gens,
     * which have `follow` set, and when they have ended. NULL: not wanted. */
    void (*progress)(struct mal_read *read, const struct mal_generation *gens);
    void (*done)(struct mal_read *read); /* on the loop */
    bool ok;
    struct mal_error err;
    /* the worker's own */
    struct mal_read *next;
    int64_t deadline_ms;
    bool given_up;
    double since;
    struct mal_task task;
};

/* MAL_BUSY: too many wait. Otherwise `done` follows. A version that is not in memory is
 * MAL_NOT_FOUND. */
bool mal_worker_read(struct mal_worker *worker, struct mal_read *read,
                     struct mal_error *err) MAL_CHECK;
/* Nobody waits for it any more: no further tokens are made, and `done` follows with
 * MAL_CANCELLED. Any thread, before `done`. */
void mal_worker_give_up(struct mal_worker *worker, struct mal_read *read);

#endif
