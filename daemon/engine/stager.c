/* stager.c - one write at a time on the writer's thread, which stages piece by piece. */
#include "daemon/engine/stager.h"

#include <pthread.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/base/log.h"

enum { FACTS_TOGETHER = 64, NOTHING = -1 };

struct mal_stager {
    struct mal_writer *writer;
    void (*told)(void *arg);
    void *arg;
    struct mal_write write;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    bool running;                     /* the write */
    bool reading;                     /* it is at a piece that was given */
    bool dropped;                     /* it is to leave the others */
    struct mal_history_value *values; /* (n_values), owned with their data */
    size_t n_values, at_value;
    struct mal_delta delta; /* borrowed */
    size_t at_part;
    int64_t version;      /* whose they are */
    int64_t staged;       /* a version of which something may be there, or NOTHING */
    bool unwanted;        /* that is to be forgotten first */
    struct mal_error err; /* the first since then */
};

/* ---- Pieces; under the lock, but for the work itself ---- */

static void forget_given(struct mal_stager *stager) {
    for (size_t i = stager->at_value; i < stager->n_values; i++)
        mal_free(stager->values[i].data);
    mal_free(stager->values);
    stager->values = NULL;
    stager->n_values = stager->at_value = 0;
    stager->delta = (struct mal_delta){0};
    stager->at_part = 0;
}

static bool has_work(const struct mal_stager *stager) {
    if (stager->err.status != MAL_OK || stager->dropped) return false;
    return stager->unwanted || stager->at_value < stager->n_values ||
           stager->at_part < stager->delta.n_parts;
}

static bool unstage(struct mal_stager *stager, struct mal_store *store,
                    struct mal_error *err) {
    int64_t version = stager->staged;
    pthread_mutex_unlock(&stager->lock);
    bool ok = mal_store_unstage(store, version, err);
    if (!ok) mal_log("warning", "unstage failed", "{s:s}", "detail", err->text);
    pthread_mutex_lock(&stager->lock);
    if (!ok) return false;
    stager->unwanted = false;
    stager->staged = NOTHING;
    return true;
}

static bool stage_values(struct mal_stager *stager, struct mal_store *store,
                         struct mal_error *err) {
    struct mal_history_value *values = stager->values + stager->at_value;
    size_t n = stager->n_values - stager->at_value;
    int64_t version = stager->version;
    if (n > FACTS_TOGETHER) n = FACTS_TOGETHER;
    pthread_mutex_unlock(&stager->lock);
    bool ok = mal_history_stage_values(store, version, values, n, err);
    for (size_t i = 0; i < n; i++)
        mal_free(values[i].data);
    pthread_mutex_lock(&stager->lock);
    stager->at_value += n;
    return ok;
}

static bool stage_part(struct mal_stager *stager, struct mal_store *store,
                       struct mal_error *err) {
    const struct mal_delta_part *part = &stager->delta.parts[stager->at_part++];
    int64_t version = stager->version;
    pthread_mutex_unlock(&stager->lock);
    bool ok = mal_history_stage_part(store, version, part, err);
    pthread_mutex_lock(&stager->lock);
    return ok;
}

static bool stage_piece(struct mal_stager *stager, struct mal_store *store,
                        struct mal_error *err) {
    stager->staged = stager->version;
    stager->reading = true;
    bool ok = stager->at_value < stager->n_values ? stage_values(stager, store, err)
                                                  : stage_part(stager, store, err);
    stager->reading = false;
    pthread_cond_broadcast(&stager->changed);
    return ok;
}

/* ---- The write ---- */

static bool run(struct mal_store *store, void *arg, struct mal_error *err) {
    struct mal_stager *stager = arg;
    bool ok = true;
    pthread_mutex_lock(&stager->lock);
    while (ok && has_work(stager))
        ok = stager->unwanted ? unstage(stager, store, err)
                              : stage_piece(stager, store, err);
    pthread_mutex_unlock(&stager->lock);
    return ok;
}

/* Under the lock. */
static void start(struct mal_stager *stager) {
    if (stager->running || !has_work(stager)) return;
    stager->running = true;
    mal_writer_begin(stager->writer, &stager->write);
}

static void end(struct mal_write *write) {
    struct mal_stager *stager = write->arg;
    pthread_mutex_lock(&stager->lock);
    if (!write->ok && stager->err.status == MAL_OK) stager->err = write->err;
    stager->running = false;
    start(stager);
    stager->told(stager->arg);
    pthread_cond_broadcast(&stager->changed);
    pthread_mutex_unlock(&stager->lock);
}

/* ---- Its life ---- */

bool mal_stager_create(struct mal_stager **out, struct mal_writer *writer,
                       void (*told)(void *arg), void *arg, struct mal_error *err) {
    struct mal_stager *stager = mal_calloc(1, sizeof *stager);
    if (!stager) return mal_fail(err, MAL_NO_MEMORY, "stager");
    *stager = (struct mal_stager){.writer = writer,
                                  .told = told,
                                  .arg = arg,
                                  .write = {.fn = run, .arg = stager, .done = end},
                                  .staged = NOTHING};
    pthread_mutex_init(&stager->lock, NULL);
    pthread_cond_init(&stager->changed, NULL);
    *out = stager;
    return true;
}

void mal_stager_destroy(struct mal_stager *stager) {
    if (!stager) return;
    pthread_mutex_lock(&stager->lock);
    while (stager->running)
        pthread_cond_wait(&stager->changed, &stager->lock);
    pthread_mutex_unlock(&stager->lock);
    forget_given(stager);
    pthread_cond_destroy(&stager->changed);
    pthread_mutex_destroy(&stager->lock);
    mal_free(stager);
}

/* ---- What is given ---- */

bool mal_stager_values(struct mal_stager *stager, int64_t version,
                       struct mal_history_value *values, size_t n,
                       struct mal_error *err) {
    struct mal_history_value *own = mal_calloc(n, sizeof *own);
    if (!own) return mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
    memcpy(own, values, n * sizeof *own);
    for (size_t i = 0; i < n; i++)
        values[i].data = NULL;
    pthread_mutex_lock(&stager->lock);
    stager->values = own;
    stager->n_values = n;
    stager->at_value = 0;
    stager->version = version;
    start(stager);
    pthread_mutex_unlock(&stager->lock);
    return true;
}

void mal_stager_delta(struct mal_stager *stager, int64_t version,
                      const struct mal_delta *delta) {
    pthread_mutex_lock(&stager->lock);
    stager->delta = *delta;
    stager->at_part = 0;
    stager->version = version;
    start(stager);
    pthread_mutex_unlock(&stager->lock);
}

/* ---- What becomes of it ---- */

bool mal_stager_busy(struct mal_stager *stager) {
    pthread_mutex_lock(&stager->lock);
    bool busy = stager->running;
    pthread_mutex_unlock(&stager->lock);
    return busy;
}

void mal_stager_settle(struct mal_stager *stager) {
    pthread_mutex_lock(&stager->lock);
    if (stager->unwanted && !stager->running) stager->err = (struct mal_error){0};
    start(stager);
    pthread_mutex_unlock(&stager->lock);
}

bool mal_stager_settled(struct mal_stager *stager, int64_t version,
                        struct mal_error *err) {
    pthread_mutex_lock(&stager->lock);
    bool ok = stager->err.status == MAL_OK;
    if (ok) {
        stager->staged = version; /* from here on */
    } else {
        *err = stager->err;
    }
    pthread_mutex_unlock(&stager->lock);
    return ok;
}

void mal_stager_kept(struct mal_stager *stager) {
    pthread_mutex_lock(&stager->lock);
    stager->staged = NOTHING;
    forget_given(stager);
    pthread_mutex_unlock(&stager->lock);
}

void mal_stager_drop(struct mal_stager *stager) {
    pthread_mutex_lock(&stager->lock);
    stager->dropped = true;
    while (stager->reading)
        pthread_cond_wait(&stager->changed, &stager->lock);
    stager->dropped = false;
    forget_given(stager);
    stager->err = (struct mal_error){0};
    stager->unwanted = stager->staged != NOTHING;
    start(stager);
    pthread_mutex_unlock(&stager->lock);
}
