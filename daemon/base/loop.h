/* loop.h - the one thread that talks to clients: tasks from other threads, timers,
 * signals.
 *
 * Only the loop's own thread may call these functions, except mal_loop_post(). Nothing
 * that runs on the loop may block: parsing of large bodies goes through mal_loop_work(),
 * SQL writes through the writer, device work through the worker. */
#ifndef MAL_LOOP_H
#define MAL_LOOP_H

#include <stdint.h>

#include "core/error.h"

struct mal_loop;

/* Something to run on the loop; embedded in what it works on, so that handing it over
 * cannot fail. It must not be posted again before it has run. */
struct mal_task {
    struct mal_task *next;
    void (*run)(void *arg);
    void *arg;
};

bool mal_loop_create(struct mal_loop **out, struct mal_error *err) MAL_CHECK;
void mal_loop_destroy(
    struct mal_loop *loop); /* takes NULL; closes what was opened on it */

void mal_loop_run(struct mal_loop *loop); /* until mal_loop_stop() */
void mal_loop_stop(struct mal_loop *loop);

/* Any thread. Tasks of one thread run in the order they were posted. */
void mal_loop_post(struct mal_loop *loop, struct mal_task *task);

/* `work` on another thread, then `after` on the loop; both get `arg`. */
bool mal_loop_work(struct mal_loop *loop, void (*work)(void *arg),
                   void (*after)(void *arg), void *arg, struct mal_error *err) MAL_CHECK;

/* Calls `ready` whenever `fd` is readable. One descriptor a loop. */
bool mal_loop_watch(struct mal_loop *loop, int fd, void (*ready)(void *arg), void *arg,
                    struct mal_error *err) MAL_CHECK;
void mal_loop_unwatch(struct mal_loop *loop);
/* Arms the one-shot timer: the watched descriptor's `ready` is called after `ms` too; -1:
 * never. */
void mal_loop_alarm(struct mal_loop *loop, int64_t ms);

bool mal_loop_every(struct mal_loop *loop, int64_t ms, void (*tick)(void *arg), void *arg,
                    struct mal_error *err) MAL_CHECK;
/* SIGTERM and SIGINT, which are ignored once the loop is destroyed; SIGPIPE is from here
 * on. */
bool mal_loop_on_stop_signal(struct mal_loop *loop, void (*stop)(void *arg), void *arg,
                             struct mal_error *err) MAL_CHECK;

/* SIGHUP, which ends the process no more. */
bool mal_loop_on_hangup(struct mal_loop *loop, void (*hangup)(void *arg), void *arg,
                        struct mal_error *err) MAL_CHECK;

/* Milliseconds of a clock that only goes forward; any thread. */
int64_t mal_monotonic_ms(void);

#endif
