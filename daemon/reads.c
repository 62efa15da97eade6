/* reads.c - the worker's answers to completions and scores. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/worker_impl.h"

enum { MAX_TOGETHER = 32 }; /* generations in one pass */

static void run_done(void *arg) {
    struct mal_read *read = arg;
    read->done(read);
}

void mal_worker_finish_read(struct mal_worker *worker, struct mal_read *read) {
    pthread_mutex_lock(&worker->lock);
    worker->n_reads--;
    pthread_mutex_unlock(&worker->lock);
    read->task = (struct mal_task){.run = run_done, .arg = read};
    mal_loop_post(worker->o.loop, &read->task);
}

struct patience {
    struct mal_worker *worker;
    int64_t deadline_ms;
};

static bool go_on(void *arg) {
    const struct patience *p = arg;
    return !mal_worker_stopping(p->worker) && mal_monotonic_ms() < p->deadline_ms;
}

static bool score(struct mal_worker *worker, struct mal_read *read,
                  struct mal_error *err) {
    struct patience p = {worker, read->deadline_ms};
    return mal_engine_score(worker->engine, read->version, read->items, read->n, "/items",
                            go_on, &p, &read->scores, err);
}

/* All reads are generations on the same version. */
static bool generate(struct mal_worker *worker, struct mal_read **reads, size_t n,
                     struct mal_error *err) {
    size_t total = 0;
    struct patience p = {.worker = worker};
    for (size_t i = 0; i < n; i++) {
        total += reads[i]->n;
        if (reads[i]->deadline_ms > p.deadline_ms) p.deadline_ms = reads[i]->deadline_ms;
    }
    if (n == 1) {
        return mal_engine_generate(worker->engine, reads[0]->version, reads[0]->gens,
                                   total, go_on, &p, err);
    }
    struct mal_generation *all = mal_malloc(total * sizeof *all);
    if (!all) return mal_fail(err, MAL_NO_MEMORY, "%zu generations", total);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(all + at, reads[i]->gens, reads[i]->n * sizeof *all);
        at += reads[i]->n;
    }
    bool ok = mal_engine_generate(worker->engine, reads[0]->version, all, total, go_on,
                                  &p, err);
    at = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(reads[i]->gens, all + at, reads[i]->n * sizeof *all);
        at += reads[i]->n;
    }
    mal_free(all);
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
    bool ok = reads[0]->score ? score(worker, reads[0], &failure)
                              : generate(worker, reads, n, &failure);
    bool device = failure.status == MAL_DEVICE;
    if (!ok && n > 1 && !device && failure.status != MAL_CANCELLED) {
        for (size_t i = 0; i < n; i++) {
            clear_outputs(reads[i]);
            if (!run_together(worker, &reads[i], 1, err)) device = true;
        }
        return !device;
    }
    if (failure.status == MAL_CANCELLED && !mal_worker_stopping(worker)) {
        failure = (struct mal_error){0};
        mal_fail(&failure, MAL_CANCELLED, "the answer was not ready in time");
    }
    for (size_t i = 0; i < n; i++) {
        reads[i]->ok = ok;
        reads[i]->err = failure;
        mal_worker_finish_read(worker, reads[i]);
    }
    if (device) *err = failure;
    return !device;
}

static bool is_due(struct mal_worker *worker, struct mal_read *read) {
    int64_t asked = read->version;
    if (asked < 0) read->version = mal_engine_live(worker->engine);
    if (!mal_engine_has(worker->engine, read->version)) {
        return mal_fail(&read->err, MAL_NOT_FOUND, "version %lld is not in memory",
                        (long long)read->version);
    }
    if (mal_monotonic_ms() < read->deadline_ms) return true;
    return mal_fail(&read->err, MAL_CANCELLED, "the answer was not ready in time");
}

bool mal_worker_serve_reads(struct mal_worker *worker, struct mal_error *err) {
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
        if (is_due(worker, read)) {
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
