/* worker_impl.h - what the worker's files share: its queue, and the steps of its thread.
 */
#ifndef MAL_WORKER_IMPL_H
#define MAL_WORKER_IMPL_H

#include <pthread.h>

#include "core/editor/resume.h"
#include "daemon/engine/stager.h"
#include "daemon/worker/worker.h"

/* A walk over the live facts of one version, and what followed from it. */
struct mal_idle {
    int64_t version; /* that is walked over */
    int64_t after;   /* seq of the last fact looked at */
    int64_t total, position, wrong, failing, passes;
    int64_t *found; /* (n_found) seqs to be repaired, as many as a repair takes on: the
                     * wrong ones, or, where none is, those that fail */
    size_t n_found, found_room;
    bool walked;                      /* to the end, and repaired where that helped */
    bool unwritten;                   /* some results found no room, which was told */
    int64_t repaired;                 /* version that a repair made last, */
    int64_t wrong_then, failing_then; /* and how many were so before it */
    int64_t consolidated;             /* version at which that was thought of last */
    int64_t refused;                  /* version at which it measured worse */
    int64_t unready; /* version in which nothing is made ready for a change */
};

/* An evaluation that has begun. */
struct mal_evaluating {
    struct mal_queued_job *job; /* owned; NULL: there is none */
    char *suite;                /* whose facts they are, owned; NULL: they are its own */
    struct mal_fact *own;       /* (n_own), owned */
    size_t n_own;
    struct mal_evaluation *evaluation;
    struct mal_status_evaluation status; /* what is told of it */
};

struct mal_worker {
    struct mal_worker_options o;
    pthread_t thread;
    struct mal_engine *engine;
    struct mal_store *store; /* a reader of this thread */
    struct mal_stager *stager;
    int64_t loaded_version, n_requeued; /* how loading ended */

    pthread_mutex_t lock; /* of what follows, never held over work */
    pthread_cond_t asked;
    struct mal_queued_job *jobs, **last_job; /* changes */
    struct mal_queued_job *evaluations, **last_evaluation;
    int64_t n_jobs;          /* of both */
    int64_t n_facts, n_bare; /* facts, and jobs without any: waiting or reserved */
    int64_t n_submitted;
    int64_t n_queued; /* facts of the jobs */
    int64_t n_parts;  /* of batches that were split, so far */
    struct mal_read *reads, **last_read;
    size_t n_reads;
    bool stop, told_ready, change_posted;
    bool written;    /* a write has ended, or the stager has something to tell */
    bool waiting;    /* for something to do */
    int64_t beat_ms; /* monotonic: when the thread last came by between two slices */

    /* The thread of reads, where they run beside changes (reader.c). */
    bool beside;
    pthread_t reader;
    pthread_cond_t read_asked;
    struct mal_error reader_err; /* under the lock: the device failed there */
    uint64_t n_answered;         /* reads so far, also under the lock */
    int64_t read_beat_ms;        /* and when it last came by between two steps; 0: idle */

    /* The jobs of the batch that was saved when the last run ended (worker_resume.c). */
    char (*cut_off)[MAL_ID_BYTES]; /* (n_cut_off), owned */
    size_t n_cut_off;

    struct mal_idle idle;
    struct mal_evaluating evaluating;

    enum mal_work work; /* what the thread does since work_since */
    double work_since;
    double served_at, served_for; /* when the last round of reads ended, its seconds */

    struct mal_task ready_task, change_task, end_task;
    struct mal_error end_err; /* why the thread ended */
};

/* ---- Jobs that run together (batch.c) ---- */

struct mal_job_batch {
    struct mal_queued_job *jobs; /* owned list, in order */
    size_t n_jobs;
    const char **ids;       /* (n_jobs), borrowed from jobs, the array owned */
    struct mal_fact *facts; /* (n_facts), owned */
    int64_t *seqs;          /* (n_facts), owned */
    size_t n_facts, capacity;
    size_t *first; /* (n_jobs + 1) facts of each job, owned */
    json_t *texts; /* keys: what the facts are taught in, owned */
};

/* Under the lock: milliseconds until the head of the queue should run, -1: nothing waits.
 */
int64_t mal_worker_until_batch(const struct mal_worker *worker);

/* Into the status, where it is for who runs the daemon to look at, and no fault of a
 * job's request. */
void mal_worker_tell_error(struct mal_worker *worker, const struct mal_error *why);

/* A read that the disk fails SQLite takes for a damaged page, and the next one may be
 * right: *left tries, MAL_WORKER_TRIES at first, with a pause between. False: no more, or
 * another error. */
enum { MAL_WORKER_TRIES = 4 };

bool mal_worker_try_again(struct mal_worker *worker, int *left,
                          struct mal_error *err) MAL_CHECK;

/* Jobs that begin, are done, were refused by the gate, have failed. These wait while the
 * disk is full. */
bool mal_worker_start_jobs(struct mal_worker *worker, const char *const *ids, size_t n,
                           struct mal_error *err) MAL_CHECK;
bool mal_worker_done(struct mal_worker *worker, const char *id, const char *result,
                     struct mal_error *err) MAL_CHECK;
bool mal_worker_reject(struct mal_worker *worker, enum mal_job_kind kind, const char *id,
                       const char *result, const char *problem,
                       struct mal_error *err) MAL_CHECK;
bool mal_worker_fail_jobs(struct mal_worker *worker, enum mal_job_kind kind,
                          const char *const *ids, size_t n, const struct mal_error *why,
                          struct mal_error *err) MAL_CHECK;
/* Which numbers the gate refused, by a job's result; owned, NULL: not known. */
json_t *mal_worker_failed_tests(const char *result);
/* Whether the thread can go on after this error of jobs, which is named after its cause.
 * If not, those that the next start is not to find again have failed, and *err is what it
 * ends with. */
bool mal_worker_survive(struct mal_worker *worker, enum mal_job_kind kind,
                        const char *const *ids, size_t n, struct mal_error *why,
                        struct mal_error *err) MAL_CHECK;

/* ---- What each kind of job does (jobs.c) ---- */

/* Ticks of a change: the status, reads, and whether to go on. */
struct mal_run {
    struct mal_worker *worker;
    struct mal_error read_err; /* the device failed while answering a read */
};

struct mal_progress mal_run_progress(struct mal_run *run);

/* Runs the batch to a published version, or to the gate's refusal of a single job. On an
 * error nothing has changed. */
bool mal_worker_run_jobs(struct mal_worker *worker, const struct mal_job_batch *batch,
                         struct mal_error *err) MAL_CHECK;
/* Before a change of the live facts' system: nothing, or a version of its own. */
bool mal_worker_solve_anew(struct mal_worker *worker, const struct mal_progress *progress,
                           struct mal_error *err) MAL_CHECK;
/* A prepared change becomes durable, then live; or it is forgotten. */
bool mal_worker_apply(struct mal_worker *worker, struct mal_change *change,
                      const char *const *jobs, size_t n_jobs,
                      const struct mal_progress *progress,
                      struct mal_error *err) MAL_CHECK;

/* A change's stages and rounds of repair, into the metrics. */
void mal_worker_count_change(struct mal_worker *worker, const struct mal_change *change);

/* The joint system's size, into the status. */
void mal_worker_tell_joint(struct mal_worker *worker);

/* ---- A batch that is cut off (worker_resume.c) ---- */

/* Where an edit of this batch is saved, and its text; mal_worker_resume_finish(). */
bool mal_worker_resume_init(struct mal_worker *worker, const struct mal_job_batch *batch,
                            struct mal_resume *out, struct mal_error *err) MAL_CHECK;
void mal_worker_resume_finish(struct mal_resume *resume); /* takes a zeroed one */
/* The batch has ended: nothing is to be resumed. What fails is logged. */
void mal_worker_resume_done(struct mal_worker *worker);
/* While loading: which jobs a batch that was cut off was of. What fails is logged. */
void mal_worker_resume_load(struct mal_worker *worker);
/* Under the lock: how many jobs at the head of the queue are to be that batch again; 0:
 * there is none, or they are not the same any more. */
size_t mal_worker_cut_off(const struct mal_worker *worker);
void mal_worker_cut_off_forget(struct mal_worker *worker);

/* ---- Evaluations (worker_evaluate.c) ---- */

/* Under the lock: whether one has begun, or may: no change that was asked for before it
 * still waits. */
bool mal_evaluate_due(const struct mal_worker *worker);
/* Begins one, or goes on with a slice of it. False: the thread must end. */
bool mal_evaluate_step(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
void mal_evaluate_finish(struct mal_worker *worker);

/* ---- What an idle daemon does (idle.c) ---- */

/* How far its walk is, into the status. */
void mal_idle_tell(struct mal_worker *worker);
/* Whether there is something to do. */
bool mal_idle_pending(struct mal_worker *worker);
/* A step of it, tens of milliseconds; or a repair, or a consolidation, which serve reads
 * meanwhile. False: the thread must end. */
bool mal_idle_step(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
void mal_idle_finish(struct mal_idle *idle);

/* While loading: the editor there is, or one made from the given file. */
bool mal_worker_load_editor(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* Makes an editor on these facts where there is none yet. */
bool mal_worker_need_editor(struct mal_worker *worker, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_error *err) MAL_CHECK;

/* Takes the room of a job in the queue (`by` 1), or gives it back (-1); under the lock.
 */
void mal_worker_count_room(struct mal_worker *worker, int64_t n_facts, int by);
/* The thread's time goes to `work` from here on; what it went to before. */
enum mal_work mal_worker_turn(struct mal_worker *worker, enum mal_work work);
/* Asked between two slices by the worker's own thread, whose sign of life it is. */
bool mal_worker_stopping(struct mal_worker *worker);
void mal_worker_announce(struct mal_worker *worker); /* `changed`, soon */

/* ---- Reads (reads.c, reader.c) ---- */

/* Answers the reads that wait now, not those that come meanwhile; or lets their own
 * thread do so. False: the device failed. */
bool mal_worker_serve_reads(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* The same between two slices of a change: but where the next reads wait already, the
 * change goes on for half the time that the last ones took, so that it ends, too. */
bool mal_worker_share(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* Under the lock: whether there is a reason for that call. */
bool mal_worker_reads_wait(const struct mal_worker *worker);
/* What either thread does with them. */
bool mal_worker_answer_reads(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* The thread of reads, if the engine has them beside its changes. */
bool mal_reader_start(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
void mal_reader_join(struct mal_worker *worker); /* after `stop`; if it was started */
/* Waits until the reads that there are now have been answered. False: the device failed.
 */
bool mal_reader_settle(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
void mal_worker_finish_read(struct mal_worker *worker, struct mal_read *read);

/* Runs the jobs at the head of the queue that go together. False: the thread must end. */
bool mal_worker_run_batch(struct mal_worker *worker, struct mal_error *err) MAL_CHECK;
/* How large all deltas are, into the status. */
void mal_worker_tell_delta_bytes(struct mal_worker *worker);
/* Publishes a durable change and tells the status. */
void mal_worker_publish(struct mal_worker *worker, struct mal_change *change);
/* Waits up to `ms`, answering reads. */
bool mal_worker_pause(struct mal_worker *worker, int64_t ms,
                      struct mal_error *err) MAL_CHECK;

/* ---- What it has written (worker_write.c) ---- */

/* Makes a prepared change durable, answering reads meanwhile. */
bool mal_worker_persist(struct mal_worker *worker, struct mal_change *change,
                        const char *const *jobs, size_t n_jobs,
                        struct mal_error *err) MAL_CHECK;
/* What live facts measure in the live version goes into their rows. */
bool mal_worker_note_results(struct mal_worker *worker,
                             const struct mal_fact_result *results, size_t n,
                             struct mal_error *err) MAL_CHECK;
/* After that: prunes versions, answering reads meanwhile, and tells the status what is
 * stored. What fails is logged. */
void mal_worker_prune(struct mal_worker *worker);
/* On the writer's thread: something is written. */
void mal_worker_written(void *arg);

#endif
