/* writer.c - the queue of writes and the thread behind it, and the one that copies the
 * log. */
#include "daemon/base/writer.h"

#include <pthread.h>
#include <stdatomic.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"

enum { MOST_TOGETHER = 256 };

struct mal_writer {
    struct mal_store *store;
    void (*fatal)(void *arg, const struct mal_error *err);
    void *fatal_arg;
    struct mal_metrics *metrics;
    pthread_t thread, copier;
    pthread_mutex_t lock;
    pthread_cond_t asked, grown;
    struct mal_write *first, **last;
    size_t n_waiting;
    _Atomic uint64_t n_commits;
    bool stop;
    bool long_log;           /* it is to be copied */
    bool told;               /* fatal has been called */
    struct mal_error broken; /* the writer's thread only */
};

static void tell_fatal(struct mal_writer *writer, const struct mal_error *err) {
    pthread_mutex_lock(&writer->lock);
    bool told = writer->told;
    writer->told = true;
    pthread_mutex_unlock(&writer->lock);
    if (!told) writer->fatal(writer->fatal_arg, err);
}

/* What fails for the request's sake, and what fails for the database's. */
static void count(struct mal_writer *writer, const struct mal_write *write,
                  double seconds) {
    enum mal_status status = write->err.status;
    bool fault = status == MAL_IO || status == MAL_NO_SPACE || status == MAL_CORRUPT ||
                 status == MAL_NO_MEMORY;
    enum mal_write_outcome outcome = write->ok ? MAL_WRITE_COMMITTED
                                     : fault   ? MAL_WRITE_FAILED
                                               : MAL_WRITE_REFUSED;
    mal_count(&writer->metrics->write_outcomes[outcome], 1);
    mal_histogram_add(&writer->metrics->writes, seconds);
}

static bool is_broken(struct mal_writer *writer, struct mal_error *err) {
    if (writer->broken.status == MAL_OK &&
        mal_store_sound(writer->store, &writer->broken))
        return false;
    mal_fail(err, MAL_IO, "the database has failed: %s", writer->broken.text);
    return true;
}

static void run_write(struct mal_writer *writer, struct mal_write *write) {
    (void)mal_json_lacked();
    write->err = (struct mal_error){0};
    write->ok = !is_broken(writer, &write->err) &&
                write->fn(writer->store, write->arg, &write->err);
    if (!write->ok && write->err.status == MAL_IO && writer->broken.status == MAL_OK)
        writer->broken = write->err;
}

/* One transaction; false: nothing of it is there. A write that fails before it has
 * changed anything fails alone. */
static bool run_together(struct mal_writer *writer, struct mal_write *list,
                         struct mal_error *err) {
    struct mal_store *store = writer->store;
    bool clean = true;
    if (is_broken(writer, err) || !mal_store_begin_together(store, err)) return false;
    for (struct mal_write *p = list; p && clean; p = p->next) {
        int64_t before = mal_store_changes(store);
        run_write(writer, p);
        clean = p->ok || mal_store_changes(store) == before;
    }
    if (mal_store_end_together(store, clean, err)) return true;
    for (struct mal_write *p = list; p; p = p->next) {
        if (p->ok) p->undo(p);
        p->ok = false;
    }
    return false;
}

static void run(struct mal_writer *writer, struct mal_write *list) {
    struct mal_error err = {0};
    bool was_broken = writer->broken.status != MAL_OK;
    double begin = mal_clock_seconds();
    if (!list->next || !run_together(writer, list, &err)) {
        if (err.status == MAL_IO && !was_broken) writer->broken = err;
        for (struct mal_write *p = list; p; p = p->next)
            run_write(writer, p);
    }
    atomic_fetch_add(&writer->n_commits, 1);
    if (!was_broken && writer->broken.status != MAL_OK)
        tell_fatal(writer, &writer->broken);
    double seconds = mal_clock_seconds() - begin;
    while (list) {
        struct mal_write *write = list;
        list = list->next;
        if (!was_broken) count(writer, write, seconds);
        if (write->ok && write->committed) write->committed(write);
        write->done(write);
    }
}

/* ---- Taking turns ---- */

/* Under the lock: the first that waits and, where it shares, those after it that do. */
static struct mal_write *take(struct mal_writer *writer, size_t *out_n) {
    struct mal_write *list = writer->first, *last = list;
    size_t n = 1;
    while (last->undo && last->next && last->next->undo && n < MOST_TOGETHER) {
        last = last->next;
        n++;
    }
    writer->first = last->next;
    if (!writer->first) writer->last = &writer->first;
    last->next = NULL;
    *out_n = n;
    return list;
}

/* Under the lock, which it gives up meanwhile. */
static void run_waiting(struct mal_writer *writer) {
    while (writer->first) {
        size_t n;
        struct mal_write *list = take(writer, &n);
        pthread_mutex_unlock(&writer->lock);
        run(writer, list);
        pthread_mutex_lock(&writer->lock);
        writer->n_waiting -= n;
    }
}

/* Between the chunks of one that stages: the others that wait. */
static bool run_others(void *arg, struct mal_error *err) {
    struct mal_writer *writer = arg;
    pthread_mutex_lock(&writer->lock);
    run_waiting(writer);
    pthread_mutex_unlock(&writer->lock);
    return !is_broken(writer, err);
}

static void *writer_main(void *arg) {
    struct mal_writer *writer = arg;
    pthread_mutex_lock(&writer->lock);
    while (true) {
        run_waiting(writer);
        if (writer->stop) break;
        pthread_cond_wait(&writer->asked, &writer->lock);
    }
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

/* ---- Copying the log ---- */

static void on_long_log(void *arg) {
    struct mal_writer *writer = arg;
    pthread_mutex_lock(&writer->lock);
    writer->long_log = true;
    pthread_cond_signal(&writer->grown);
    pthread_mutex_unlock(&writer->lock);
}

static void *copier_main(void *arg) {
    struct mal_writer *writer = arg;
    pthread_mutex_lock(&writer->lock);
    while (!writer->stop) {
        if (!writer->long_log) {
            pthread_cond_wait(&writer->grown, &writer->lock);
            continue;
        }
        writer->long_log = false;
        pthread_mutex_unlock(&writer->lock);
        struct mal_error err = {0};
        if (!mal_store_copy_log(writer->store, &err)) tell_fatal(writer, &err);
        pthread_mutex_lock(&writer->lock);
    }
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

/* ---- Creation ---- */

static void stop(struct mal_writer *writer) {
    pthread_mutex_lock(&writer->lock);
    writer->stop = true;
    pthread_cond_signal(&writer->asked);
    pthread_cond_signal(&writer->grown);
    pthread_mutex_unlock(&writer->lock);
}

static void release(struct mal_writer *writer) {
    mal_store_between(writer->store, NULL, NULL);
    pthread_cond_destroy(&writer->grown);
    pthread_cond_destroy(&writer->asked);
    pthread_mutex_destroy(&writer->lock);
    mal_free(writer);
}

static bool start_threads(struct mal_writer *writer) {
    if (pthread_create(&writer->thread, NULL, writer_main, writer)) return false;
    if (!pthread_create(&writer->copier, NULL, copier_main, writer)) return true;
    stop(writer);
    pthread_join(writer->thread, NULL);
    return false;
}

bool mal_writer_create(struct mal_writer **out, struct mal_store *store,
                       void (*fatal)(void *arg, const struct mal_error *err),
                       void *fatal_arg, struct mal_metrics *metrics,
                       struct mal_error *err) {
    struct mal_writer *writer = mal_calloc(1, sizeof *writer);
    if (!writer) return mal_fail(err, MAL_NO_MEMORY, "store writer");
    writer->store = store;
    writer->fatal = fatal;
    writer->fatal_arg = fatal_arg;
    writer->metrics = metrics;
    writer->last = &writer->first;
    pthread_mutex_init(&writer->lock, NULL);
    pthread_cond_init(&writer->asked, NULL);
    pthread_cond_init(&writer->grown, NULL);
    bool ok = mal_store_share_log(store, on_long_log, writer, err);
    mal_store_between(store, run_others, writer);
    if (ok && !start_threads(writer))
        ok = mal_fail(err, MAL_NO_MEMORY, "store writer: no thread");
    if (ok) {
        *out = writer;
    } else {
        release(writer);
    }
    return ok;
}

bool mal_writer_destroy(struct mal_writer *writer, struct mal_error *err) {
    if (!writer) return true;
    stop(writer);
    mal_store_stop_copying(writer->store);
    pthread_join(writer->thread, NULL);
    pthread_join(writer->copier, NULL);
    bool ok = mal_store_copy_rest(writer->store, err);
    release(writer);
    return ok;
}

void mal_writer_begin(struct mal_writer *writer, struct mal_write *write) {
    write->next = NULL;
    write->ok = false;
    write->err = (struct mal_error){0};
    pthread_mutex_lock(&writer->lock);
    *writer->last = write;
    writer->last = &write->next;
    writer->n_waiting++;
    pthread_cond_signal(&writer->asked);
    pthread_mutex_unlock(&writer->lock);
}

uint64_t mal_writer_commits(struct mal_writer *writer) {
    return atomic_load(&writer->n_commits);
}

size_t mal_writer_waiting(struct mal_writer *writer) {
    pthread_mutex_lock(&writer->lock);
    size_t n = writer->n_waiting;
    pthread_mutex_unlock(&writer->lock);
    return n;
}

static void run_on_loop(void *arg) {
    struct mal_write *write = arg;
    write->on_loop(write);
}

static void hand_to_loop(struct mal_write *write) {
    write->task = (struct mal_task){.run = run_on_loop, .arg = write};
    mal_loop_post(write->loop, &write->task);
}

void mal_writer_post(struct mal_writer *writer, struct mal_loop *loop,
                     struct mal_write *write) {
    write->loop = loop;
    write->on_loop = write->done;
    write->done = hand_to_loop;
    mal_writer_begin(writer, write);
}

struct call {
    struct mal_write write; /* first */
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool over;
};

static void end_call(struct mal_write *write) {
    struct call *call = (struct call *)write;
    pthread_mutex_lock(&call->lock);
    call->over = true;
    pthread_cond_signal(&call->ended);
    pthread_mutex_unlock(&call->lock);
}

bool mal_writer_call(struct mal_writer *writer,
                     bool (*fn)(struct mal_store *store, void *arg,
                                struct mal_error *err),
                     void *arg, struct mal_error *err) {
    struct call call = {.write = {.fn = fn, .arg = arg, .done = end_call}};
    pthread_mutex_init(&call.lock, NULL);
    pthread_cond_init(&call.ended, NULL);
    mal_writer_begin(writer, &call.write);
    pthread_mutex_lock(&call.lock);
    while (!call.over)
        pthread_cond_wait(&call.ended, &call.lock);
    pthread_mutex_unlock(&call.lock);
    pthread_cond_destroy(&call.ended);
    pthread_mutex_destroy(&call.lock);
    if (!call.write.ok) *err = call.write.err;
    return call.write.ok;
}
