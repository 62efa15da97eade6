/* reader.c - the thread that answers reads beside the worker's changes.
 *
 * A read's kernels are small and many, and each waits for those of a large product that
 * it meets: on an H100 an answer of 8 tokens from GPT-J took ten times as long beside
 * passes of an edit. So at the end of a slice the worker waits for the reads there are.
 */
#include "core/clock.h"
#include "daemon/worker/worker_impl.h"

bool mal_reader_settle(struct mal_worker *worker, struct mal_error *err) {
    pthread_mutex_lock(&worker->lock);
    uint64_t asked = worker->n_answered + worker->n_reads;
    worker->waiting = true;
    while (worker->n_answered < asked && !worker->stop &&
           worker->reader_err.status == MAL_OK)
        pthread_cond_wait(&worker->asked, &worker->lock);
    worker->waiting = false;
    worker->beat_ms = mal_monotonic_ms(); /* not as long ago as the wait was long */
    bool failed = worker->reader_err.status != MAL_OK;
    if (failed) *err = worker->reader_err;
    pthread_mutex_unlock(&worker->lock);
    return !failed;
}

bool mal_worker_reads_wait(const struct mal_worker *worker) {
    return worker->beside ? worker->reader_err.status != MAL_OK : worker->reads != NULL;
}

/* False: it is to end. */
static bool wait_for_reads(struct mal_worker *worker) {
    pthread_mutex_lock(&worker->lock);
    worker->read_beat_ms = 0;
    while (!worker->reads && !worker->stop)
        pthread_cond_wait(&worker->read_asked, &worker->lock);
    bool stop = worker->stop;
    if (!stop) worker->read_beat_ms = mal_monotonic_ms();
    pthread_mutex_unlock(&worker->lock);
    return !stop;
}

static void *reader_main(void *arg) {
    struct mal_worker *worker = arg;
    struct mal_error err = {0};
    while (wait_for_reads(worker)) {
        double begin = mal_clock_seconds();
        bool ok = mal_worker_answer_reads(worker, &err);
        mal_count_seconds(&worker->o.metrics->work_ns[MAL_WORK_READS],
                          mal_clock_seconds() - begin);
        if (ok) continue;
        pthread_mutex_lock(&worker->lock);
        worker->reader_err = err; /* the worker ends with it */
        worker->read_beat_ms = 0;
        pthread_cond_signal(&worker->asked);
        pthread_mutex_unlock(&worker->lock);
        break;
    }
    return NULL;
}

bool mal_reader_start(struct mal_worker *worker, struct mal_error *err) {
    if (!mal_engine_reads_beside(worker->engine)) return true;
    if (pthread_create(&worker->reader, NULL, reader_main, worker))
        return mal_fail(err, MAL_NO_MEMORY, "reads: no thread");
    worker->beside = true; /* no read is let in before the daemon is ready */
    return true;
}

void mal_reader_join(struct mal_worker *worker) {
    if (worker->beside) pthread_join(worker->reader, NULL);
}
