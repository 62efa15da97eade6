/* worker_impl.h - what the worker's files share: its queue, and the steps of its thread.
 */
#ifndef MAL_WORKER_IMPL_H
#define MAL_WORKER_IMPL_H

#include <pthread.h>

#include "daemon/worker.h"

struct mal_worker {
    struct mal_worker_options o;
    pthread_t thread;
    struct mal_engine *engine;
    struct mal_store *store;            /* a reader of this thread */
    int64_t loaded_version, n_requeued; /* how loading ended */

    pthread_mutex_t lock; /* of what follows, never held over work */
    pthread_cond_t asked;
    struct mal_queued_job *jobs, **last_job;
    int64_t n_jobs, n_facts; /* facts: waiting or reserved */
    struct mal_read *reads, **last_read;
    size_t n_reads;
    bool stop, change_posted, persisted;

    struct mal_task ready_task, change_task, end_task;
    struct mal_error end_err; /* why the thread ended */
};

/* While loading: the editor there is, or one made from the given file. */
bool mal_worker_load_editor(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* Makes an editor on these facts where there is none yet. */
bool mal_worker_need_editor(struct mal_worker *worker, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_error *err) MAL_CHECK;

/* What a job takes of the queue's capacity. */
int64_t mal_worker_room(int64_t n_facts);
bool mal_worker_stopping(struct mal_worker *worker);
void mal_worker_announce(struct mal_worker *worker); /* `changed`, soon */

/* Answers the reads that wait now, not those that come meanwhile. False: the device
 * failed. */
bool mal_worker_serve_reads(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
void mal_worker_finish_read(struct mal_worker *worker, struct mal_read *read);

/* Runs the jobs at the head of the queue that go together. False: the thread must end. */
bool mal_worker_run_batch(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* Makes a prepared change durable, answering reads meanwhile. */
bool mal_worker_persist(struct mal_worker *worker, struct mal_change *change,
                        const char *const *jobs, size_t n_jobs,
                        struct mal_error *err) MAL_CHECK;
/* After that: prunes versions, answering reads meanwhile. What fails is logged. */
void mal_worker_prune(struct mal_worker *worker);
/* Publishes a durable change and tells the status. */
void mal_worker_publish(struct mal_worker *worker, struct mal_change *change);
/* Waits up to `ms`, answering reads. */
bool mal_worker_pause(struct mal_worker *worker, int64_t ms,
                      struct mal_error *err) MAL_CHECK;

#endif
