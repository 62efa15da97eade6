/* loop.c - the loop over libuv. */
#include "daemon/base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <uv.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/pool.h"

enum { N_WORKERS = 4 };

struct call {
    void (*fn)(void *arg);
    void *arg;
};

struct list {
    struct mal_task *first, **last;
};

struct mal_loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_poll_t poll;
    uv_timer_t alarm;
    uv_timer_t every;
    uv_async_t heard; /* a signal */
    bool has_uv, has_lock, polling;
    struct call ready, tick, stop, again;
    pthread_mutex_t lock; /* of the lists */
    struct list posted, worked;
    struct mal_pool *pool;
};

struct work {
    struct mal_task task; /* of the pool, then of the loop */
    struct mal_loop *loop;
    void (*work)(void *arg);
    void (*after)(void *arg);
    void *arg;
};

/* Signals come here and not to libuv, which lets them end the process once its handles
 * are closed, while the database is not. */
static const int SIGNALS[] = {SIGTERM, SIGINT, SIGHUP};
static struct mal_loop *_Atomic hearing;
static atomic_int stops, hangups;

static void run_list(struct mal_loop *loop, struct list *list) {
    pthread_mutex_lock(&loop->lock);
    struct mal_task *task = list->first;
    list->first = NULL;
    list->last = &list->first;
    pthread_mutex_unlock(&loop->lock);
    while (task) {
        struct mal_task *next = task->next; /* the task may free itself */
        task->run(task->arg);
        task = next;
    }
}

static void run_posted(uv_async_t *wake) {
    struct mal_loop *loop = wake->data;
    run_list(loop, &loop->posted);
    run_list(loop, &loop->worked);
}

static bool fail_uv(int rc, const char *what, struct mal_error *err) {
    return mal_fail(err, rc == UV_ENOMEM ? MAL_NO_MEMORY : MAL_IO, "%s: %s", what,
                    uv_strerror(rc));
}

/* libuv aborts where its table of descriptors cannot grow, which it does at the start. */
static void *grow_or_end(void *mem, size_t bytes) {
    void *larger = mal_realloc(mem, bytes);
    if (larger) return larger;
    static const char why[] = "malmend serve: event loop: out of memory\n";
    mal_log_flush();
    (void)!write(STDERR_FILENO, why, sizeof why - 1);
    _exit(1); /* whatever matters is in the database */
}

/* ---- Signals ---- */

static void on_signal(int number) {
    int before = errno;
    struct mal_loop *loop = hearing;
    atomic_fetch_add(number == SIGHUP ? &hangups : &stops, 1);
    if (loop) uv_async_send(&loop->heard);
    errno = before;
}

static void on_signals(uv_async_t *heard) {
    struct mal_loop *loop = heard->data;
    for (int n = atomic_exchange(&stops, 0); n > 0; n--)
        loop->stop.fn(loop->stop.arg);
    for (int n = atomic_exchange(&hangups, 0); n > 0; n--)
        loop->again.fn(loop->again.arg);
}

static bool hear(struct mal_loop *loop, int number, struct mal_error *err) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    hearing = loop;
    if (!sigaction(number, &action, NULL)) return true;
    return mal_fail(err, MAL_IO, "signals: %s", strerror(errno));
}

/* The process ends, and with its own exit code. */
static void ignore_signals(const struct mal_loop *loop) {
    if (hearing != loop) return;
    for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++)
        signal(SIGNALS[i], SIG_IGN);
    hearing = NULL;
}

/* ---- The loop ---- */

bool mal_loop_create(struct mal_loop **out, struct mal_error *err) {
    uv_replace_allocator(mal_malloc, grow_or_end, mal_calloc, mal_free);
    struct mal_loop *loop = mal_calloc(1, sizeof *loop);
    if (!loop) return mal_fail(err, MAL_NO_MEMORY, "event loop");
    loop->posted.last = &loop->posted.first;
    loop->worked.last = &loop->worked.first;
    int rc = uv_loop_init(&loop->uv);
    if (rc) {
        fail_uv(rc, "event loop", err);
        goto fail;
    }
    loop->has_uv = true;
    if (pthread_mutex_init(&loop->lock, NULL)) {
        mal_fail(err, MAL_NO_MEMORY, "event loop: mutex");
        goto fail;
    }
    loop->has_lock = true;
    rc = uv_async_init(&loop->uv, &loop->wake, run_posted);
    if (!rc) rc = uv_timer_init(&loop->uv, &loop->alarm);
    if (!rc) rc = uv_timer_init(&loop->uv, &loop->every);
    if (!rc) rc = uv_async_init(&loop->uv, &loop->heard, on_signals);
    if (rc) {
        fail_uv(rc, "event loop", err);
        goto fail;
    }
    if (!mal_pool_create(&loop->pool, N_WORKERS, err)) goto fail;
    loop->wake.data = loop->alarm.data = loop->every.data = loop;
    loop->heard.data = loop;
    *out = loop;
    return true;

fail:
    mal_loop_destroy(loop);
    return false;
}

static void close_handle(uv_handle_t *handle, void *arg) {
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void mal_loop_destroy(struct mal_loop *loop) {
    if (!loop) return;
    ignore_signals(loop);
    mal_pool_destroy(loop->pool);
    if (loop->pool) run_list(loop, &loop->worked); /* what frees the work */
    if (loop->has_uv) {
        uv_walk(&loop->uv, close_handle, NULL);
        uv_run(&loop->uv, UV_RUN_DEFAULT);
        uv_loop_close(&loop->uv);
    }
    if (loop->has_lock) pthread_mutex_destroy(&loop->lock);
    mal_free(loop);
}

void mal_loop_run(struct mal_loop *loop) {
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void mal_loop_stop(struct mal_loop *loop) {
    uv_stop(&loop->uv);
}

static void post(struct mal_loop *loop, struct list *list, struct mal_task *task) {
    task->next = NULL;
    pthread_mutex_lock(&loop->lock);
    *list->last = task;
    list->last = &task->next;
    /* Under the lock: once the task is visible the loop may end and the handle be closed.
     */
    uv_async_send(&loop->wake);
    pthread_mutex_unlock(&loop->lock);
}

void mal_loop_post(struct mal_loop *loop, struct mal_task *task) {
    post(loop, &loop->posted, task);
}

static void after_work(void *arg) {
    struct work *work = arg;
    work->after(work->arg);
    mal_free(work);
}

static void do_work(void *arg) {
    struct work *work = arg;
    work->work(work->arg);
    work->task = (struct mal_task){.run = after_work, .arg = work};
    post(work->loop, &work->loop->worked, &work->task);
}

bool mal_loop_work(struct mal_loop *loop, void (*fn)(void *arg), void (*after)(void *arg),
                   void *arg, struct mal_error *err) {
    struct work *work = mal_calloc(1, sizeof *work);
    if (!work) return mal_fail(err, MAL_NO_MEMORY, "work item");
    *work = (struct work){.task = {.run = do_work, .arg = work},
                          .loop = loop,
                          .work = fn,
                          .after = after,
                          .arg = arg};
    mal_pool_add(loop->pool, &work->task);
    return true;
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct mal_loop *loop = poll->data;
    loop->ready.fn(loop->ready.arg);
}

static void on_alarm(uv_timer_t *timer) {
    struct mal_loop *loop = timer->data;
    loop->ready.fn(loop->ready.arg);
}

bool mal_loop_watch(struct mal_loop *loop, int fd, void (*ready)(void *arg), void *arg,
                    struct mal_error *err) {
    loop->ready = (struct call){ready, arg};
    int rc = uv_poll_init(&loop->uv, &loop->poll, fd);
    if (rc) return fail_uv(rc, "watch", err);
    loop->poll.data = loop;
    loop->polling = true;
    rc = uv_poll_start(&loop->poll, UV_READABLE, on_readable);
    if (rc) return fail_uv(rc, "watch", err);
    return true;
}

void mal_loop_unwatch(struct mal_loop *loop) {
    if (!loop->polling) return;
    loop->polling = false;
    uv_timer_stop(&loop->alarm);
    uv_poll_stop(&loop->poll);
    uv_close((uv_handle_t *)&loop->poll, NULL);
}

void mal_loop_alarm(struct mal_loop *loop, int64_t ms) {
    if (ms < 0) {
        uv_timer_stop(&loop->alarm);
    } else {
        uv_update_time(&loop->uv);
        uv_timer_start(&loop->alarm, on_alarm, (uint64_t)ms, 0);
    }
}

static void on_every(uv_timer_t *timer) {
    struct mal_loop *loop = timer->data;
    loop->tick.fn(loop->tick.arg);
}

bool mal_loop_every(struct mal_loop *loop, int64_t ms, void (*tick)(void *arg), void *arg,
                    struct mal_error *err) {
    loop->tick = (struct call){tick, arg};
    int rc = uv_timer_start(&loop->every, on_every, (uint64_t)ms, (uint64_t)ms);
    if (rc) return fail_uv(rc, "timer", err);
    return true;
}

bool mal_loop_on_stop_signal(struct mal_loop *loop, void (*stop)(void *arg), void *arg,
                             struct mal_error *err) {
    signal(SIGPIPE, SIG_IGN);
    loop->stop = (struct call){stop, arg};
    return hear(loop, SIGTERM, err) && hear(loop, SIGINT, err);
}

bool mal_loop_on_hangup(struct mal_loop *loop, void (*hangup)(void *arg), void *arg,
                        struct mal_error *err) {
    loop->again = (struct call){hangup, arg};
    return hear(loop, SIGHUP, err);
}

int64_t mal_monotonic_ms(void) {
    return (int64_t)(mal_clock_seconds() * 1000);
}
