/* reads.c - answers to completions and scores, on the worker's thread between two slices
 * of its work, or on that of reads. */
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/worker/worker_impl.h"

enum { MAX_TOGETHER = 32 }; /* generations in one pass */

static void run_done(void *arg) {
    struct mal_read *read = arg;
    read->done(read);
}

static enum mal_read_outcome outcome_of(const struct mal_read *read) {
    if (read->ok) return MAL_READ_ANSWERED;
    if (read->err.status == MAL_CANCELLED) return MAL_READ_TIMED_OUT;
    bool asked = read->err.status == MAL_NOT_FOUND || read->err.status == MAL_INVALID;
    return asked ? MAL_READ_REFUSED : MAL_READ_FAILED;
}

static void count(struct mal_metrics *m, const struct mal_read *read) {
    mal_count(&m->read_outcomes[read->score][outcome_of(read)], 1);
    mal_histogram_add(&m->reads[read->score], mal_clock_seconds() - read->since);
    for (size_t i = 0; read->ok && i < read->n; i++) {
        if (read->score) {
            mal_count(&m->tokens_scored, read->scores[i].n_tokens);
        } else {
            mal_count(&m->tokens_prompted, read->gens[i].n_prompt);
            mal_count(&m->tokens_generated, read->gens[i].n_ids);
        }
    }
}

void mal_worker_finish_read(struct mal_worker *worker, struct mal_read *read) {
    count(worker->o.metrics, read);
    pthread_mutex_lock(&worker->lock);
    worker->n_reads--;
    worker->n_answered++;
    if (worker->beside) pthread_cond_signal(&worker->asked);
    pthread_mutex_unlock(&worker->lock);
    read->task = (struct mal_task){.run = run_done, .arg = read};
    mal_loop_post(worker->o.loop, &read->task);
}

void mal_worker_give_up(struct mal_worker *worker, struct mal_read *read) {
    pthread_mutex_lock(&worker->lock);
    read->given_up = true;
    pthread_mutex_unlock(&worker->lock);
}

/* Whether a read is still to be answered; if not, its error says why. */
static bool is_wanted(struct mal_worker *worker, struct mal_read *read) {
    pthread_mutex_lock(&worker->lock);
    bool given_up = read->given_up;
    pthread_mutex_unlock(&worker->lock);
    if (read->err.status != MAL_OK) return false;
    if (given_up) return mal_fail(&read->err, MAL_CANCELLED, "nobody waits for it");
    return mal_monotonic_ms() < read->deadline_ms ||
           mal_fail(&read->err, MAL_CANCELLED, "the answer was not ready in time");
}

struct scoring {
    struct mal_worker *worker;
    struct mal_read *read;
};

/* Asked between two steps. */
static bool stops(struct mal_worker *worker) {
    if (!worker->beside) return mal_worker_stopping(worker);
    pthread_mutex_lock(&worker->lock);
    bool stop = worker->stop;
    worker->read_beat_ms = mal_monotonic_ms();
    pthread_mutex_unlock(&worker->lock);
    return stop;
}

static bool go_on(void *arg) {
    const struct scoring *s = arg;
    return !stops(s->worker) && is_wanted(s->worker, s->read);
}

static bool score(struct mal_worker *worker, struct mal_read *read,
                  struct mal_error *err) {
    struct scoring s = {worker, read};
    return mal_engine_score(worker->engine, read->items, read->n, "/items", go_on, &s,
                            &read->scores, err);
}

/* Generations of several reads, side by side. */
struct generating {
    struct mal_worker *worker;
    struct mal_read **reads;
    size_t n;
    struct mal_generation *all; /* of the reads, in their order */
};

static bool have_ended(const struct mal_generation *gens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!gens[i].ended) return false;
    }
    return true;
}

/* Tells who follows; gives up who is late, without the others. */
static bool look(void *arg) {
    const struct generating *g = arg;
    struct mal_generation *gens = g->all;
    if (stops(g->worker)) return false;
    for (size_t i = 0; i < g->n; i++) {
        struct mal_read *read = g->reads[i];
        bool ended = read->err.status == MAL_OK && have_ended(gens, read->n);
        if (!ended && !is_wanted(g->worker, read)) {
            for (size_t k = 0; k < read->n; k++)
                gens[k].given_up = true;
        } else if (read->progress) {
            read->progress(read, gens);
        }
        gens += read->n;
    }
    return true;
}

/* All reads are generations on the same version. */
static bool generate(struct mal_worker *worker, struct mal_read **reads, size_t n,
                     struct mal_error *err) {
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += reads[i]->n;
    struct generating g = {worker, reads, n, reads[0]->gens};
    if (n == 1) return mal_engine_generate(worker->engine, g.all, total, look, &g, err);
    g.all = mal_malloc(total * sizeof *g.all);
    if (!g.all) return mal_fail(err, MAL_NO_MEMORY, "%zu generations", total);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(g.all + at, reads[i]->gens, reads[i]->n * sizeof *g.all);
        at += reads[i]->n;
    }
    bool ok = mal_engine_generate(worker->engine, g.all, total, look, &g, err);
    at = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(reads[i]->gens, g.all + at, reads[i]->n * sizeof *g.all);
        at += reads[i]->n;
    }
    mal_free(g.all);
    return ok;
}

/* All reads ask for the same version, and learn which it is. */
static bool answer(struct mal_worker *worker, struct mal_read **reads, size_t n,
                   struct mal_error *err) {
    int64_t version = reads[0]->version;
    struct mal_error why = {0};
    if (!mal_engine_begin_read(worker->engine, &version, &why))
        return mal_fail_at(err, why.status, "/model", "%s", why.text);
    for (size_t i = 0; i < n; i++)
        reads[i]->version = version;
    bool ok =
        reads[0]->score ? score(worker, reads[0], err) : generate(worker, reads, n, err);
    mal_engine_end_read(worker->engine);
    return ok;
}

static void clear_outputs(struct mal_read *read) {
    for (size_t i = 0; i < read->n; i++)
        mal_generation_finish(&read->gens[i]);
}

/* One pass over reads that go together; where it fails for several, each is tried alone
 * so that one bad request is not the others' error. False: the device failed. */
static bool run_together(struct mal_worker *worker, struct mal_read **reads, size_t n,
                         struct mal_error *err) {
    struct mal_error failure = {0};
    int64_t asked = reads[0]->version;
    bool ok = answer(worker, reads, n, &failure);
    mal_engine_name_read_failure(worker->engine, &failure);
    bool device = failure.status == MAL_DEVICE;
    if (!ok && n > 1 && !device && failure.status != MAL_CANCELLED) {
        for (size_t i = 0; i < n; i++) {
            clear_outputs(reads[i]);
            reads[i]->version = asked;
            if (!run_together(worker, &reads[i], 1, err)) device = true;
        }
        return !device;
    }
    if (failure.status == MAL_CANCELLED && stops(worker)) {
        failure = (struct mal_error){0};
        mal_fail(&failure, MAL_CANCELLED, "the daemon is stopping");
    }
    for (size_t i = 0; i < n; i++) {
        struct mal_read *read = reads[i];
        read->ok = ok && read->err.status == MAL_OK;
        if (!ok && read->err.status == MAL_OK) read->err = failure;
        if (read->ok && read->progress) read->progress(read, read->gens);
        mal_worker_finish_read(worker, read);
    }
    if (device) *err = failure;
    return !device;
}

bool mal_worker_answer_reads(struct mal_worker *worker, struct mal_error *err) {
    pthread_mutex_lock(&worker->lock);
    struct mal_read *list = worker->reads;
    worker->reads = NULL;
    worker->last_read = &worker->reads;
    pthread_mutex_unlock(&worker->lock);

    struct mal_read *due = NULL, **last = &due;
    while (list) {
        struct mal_read *read = list;
        list = read->next;
        read->next = NULL;
        if (is_wanted(worker, read)) {
            *last = read;
            last = &read->next;
        } else {
            mal_worker_finish_read(worker, read);
        }
    }
    bool ok = true;
    while (due) {
        struct mal_read *group[MAX_TOGETHER] = {due};
        size_t n = 1, gens = due->n;
        due = due->next;
        struct mal_read **p = group[0]->score ? NULL : &due;
        while (p && *p && n < MAX_TOGETHER) {
            struct mal_read *read = *p;
            if (read->score || read->version != group[0]->version ||
                gens + read->n > MAX_TOGETHER) {
                p = &read->next;
                continue;
            }
            *p = read->next;
            gens += read->n;
            group[n++] = read;
        }
        if (!run_together(worker, group, n, err)) ok = false;
    }
    return ok;
}

/* Of what reads take, between two rounds of them, while others wait. */
static const double WORK_PER_READ = 0.5;

bool mal_worker_share(struct mal_worker *worker, struct mal_error *err) {
    double now = mal_clock_seconds();
    if (now - worker->served_at < WORK_PER_READ * worker->served_for) return true;
    bool ok = mal_worker_serve_reads(worker, err);
    worker->served_at = mal_clock_seconds();
    worker->served_for = worker->served_at - now;
    return ok;
}

bool mal_worker_serve_reads(struct mal_worker *worker, struct mal_error *err) {
    if (worker->beside) return mal_reader_settle(worker, err);
    enum mal_work before = mal_worker_turn(worker, MAL_WORK_READS);
    bool ok = mal_worker_answer_reads(worker, err);
    (void)mal_worker_turn(worker, before);
    return ok;
}
