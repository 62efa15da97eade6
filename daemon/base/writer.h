/* writer.h - the thread that owns the one writing store handle.
 *
 * Every SQL write is a function run there, in the order of asking, but for one that
 * stages a version: others are run between its chunks. Those that wait together and may
 * share a transaction are made durable by one commit. A second thread copies the log into
 * the database. After an MAL_IO nothing more is written: `fatal` is called once, on
 * either thread, and the process is to stop and recover. */
#ifndef MAL_WRITER_H
#define MAL_WRITER_H

#include "daemon/base/loop.h"
#include "daemon/base/metrics.h"
#include "sql/store.h"

struct mal_writer;

/* One write, owned by who asks until `done` has been called. */
struct mal_write {
    bool (*fn)(struct mal_store *store, void *arg, struct mal_error *err);
    void *arg;
    /* NULL: `fn` has its own transaction. Else it makes only one, a short one, which may
     * be one with those of its neighbours; where that fails, or a neighbour fails in the
     * middle, all are rolled back: what `fn` did beside is to be undone, and it is called
     * again, alone. */
    void (*undo)(struct mal_write *write);
    /* On the writer's thread once it is committed, in the order of commits: what follows
     * from that. NULL: nothing. */
    void (*committed)(struct mal_write *write);
    void (*done)(
        struct mal_write *write); /* on the writer's thread, `ok` and `err` filled */
    bool ok;
    struct mal_error err;
    /* the writer's own */
    struct mal_write *next;
    struct mal_loop *loop;
    struct mal_task task;
    void (*on_loop)(struct mal_write *write);
};

/* `store` stays the caller's and must be left alone until the writer is destroyed;
 * `metrics` outlives it. */
bool mal_writer_create(struct mal_writer **out, struct mal_store *store,
                       void (*fatal)(void *arg, const struct mal_error *err),
                       void *fatal_arg, struct mal_metrics *metrics,
                       struct mal_error *err) MAL_CHECK;
/* Finishes what was asked for, then ends, with what is left of the log in the database
 * where that does not take long. Takes NULL. False: the disk failed at that, and the log
 * keeps it. */
bool mal_writer_destroy(struct mal_writer *writer, struct mal_error *err) MAL_CHECK;

/* Grows with each commit, before anybody is told of it; any thread. What was read from
 * the database is as it was while this has not changed. */
uint64_t mal_writer_commits(struct mal_writer *writer);

/* How many writes wait, the one being done among them; any thread. */
size_t mal_writer_waiting(struct mal_writer *writer);

/* Asynchronous; fn, arg and done are set. */
void mal_writer_begin(struct mal_writer *writer, struct mal_write *write);
/* As begin, but `done` runs on the loop. */
void mal_writer_post(struct mal_writer *writer, struct mal_loop *loop,
                     struct mal_write *write);
/* Waits for the result. Not from the writer's own thread or the loop. */
bool mal_writer_call(struct mal_writer *writer,
                     bool (*fn)(struct mal_store *store, void *arg,
                                struct mal_error *err),
                     void *arg, struct mal_error *err) MAL_CHECK;

#endif
