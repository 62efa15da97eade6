/* log.c - log lines. */
#include "daemon/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "core/utf8.h"
#include "proto/wire.h"

enum { GATHER_MS = 2, FLUSH_S = 1 };

static const char *const levels[] = {"info", "warning", "error"};
static _Atomic uint64_t lines[3], dropped;

/* One half fills while the other is written. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t asked, written;
    pthread_t thread;
    bool running, stop, writing;
    char halves[2][MAL_LOG_QUEUE_BYTES];
    int filling;
    size_t bytes;  /* in the half that fills */
    uint64_t lost; /* that would have followed */
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .asked = PTHREAD_COND_INITIALIZER};

static void write_text(const char *text, size_t bytes) {
    while (bytes) {
        ssize_t n = write(STDERR_FILENO, text, bytes);
        if (n < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = STDERR_FILENO, .events = POLLOUT}, 1, -1);
        } else if (n <= 0 && errno != EINTR) {
            return; /* nobody is left to tell */
        }
        if (n < 0) n = 0;
        text += n;
        bytes -= (size_t)n;
    }
}

/* ---- The queue ---- */

static void write_lost(uint64_t n) {
    char text[160], time[32];
    mal_format_time(mal_clock_unix_ms(), time);
    int bytes = snprintf(text, sizeof text,
                         "{\"time\":\"%s\",\"level\":\"warning\","
                         "\"event\":\"log lines dropped\",\"lines\":%" PRIu64 "}\n",
                         time, n);
    write_text(text, (size_t)bytes);
}

/* Under the lock, which it leaves: where lines come by the thousand, many are one write.
 */
static void gather(void) {
    pthread_mutex_unlock(&queue.lock);
    poll(NULL, 0, GATHER_MS);
    pthread_mutex_lock(&queue.lock);
}

static void *write_queue(void *arg) {
    pthread_mutex_lock(&queue.lock);
    while (true) {
        while (!queue.bytes && !queue.stop)
            pthread_cond_wait(&queue.asked, &queue.lock);
        if (!queue.bytes) break;
        if (!queue.stop) gather();
        const char *text = queue.halves[queue.filling];
        size_t bytes = queue.bytes;
        uint64_t lost = queue.lost;
        queue.filling = !queue.filling;
        queue.bytes = queue.lost = 0;
        queue.writing = true;
        pthread_mutex_unlock(&queue.lock);
        write_text(text, bytes);
        if (lost) write_lost(lost);
        pthread_mutex_lock(&queue.lock);
        queue.writing = false;
        pthread_cond_broadcast(&queue.written);
    }
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

bool mal_log_start(struct mal_error *err) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&queue.written, &attr);
    pthread_condattr_destroy(&attr);
    queue.running = !pthread_create(&queue.thread, NULL, write_queue, NULL);
    return queue.running || mal_fail(err, MAL_NO_MEMORY, "log: no thread");
}

/* Under the lock. */
static bool wait_written(void) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FLUSH_S;
    int rc = 0;
    while (rc != ETIMEDOUT && (queue.bytes || queue.writing))
        rc = pthread_cond_timedwait(&queue.written, &queue.lock, &until);
    return !queue.bytes && !queue.writing;
}

void mal_log_flush(void) {
    pthread_mutex_lock(&queue.lock);
    if (queue.running) (void)wait_written();
    pthread_mutex_unlock(&queue.lock);
}

/* A thread that nobody reads from is left behind: the process is about to end. */
void mal_log_stop(void) {
    if (!queue.running) return;
    pthread_mutex_lock(&queue.lock);
    bool all = wait_written();
    queue.running = false;
    queue.stop = true;
    pthread_cond_signal(&queue.asked);
    pthread_mutex_unlock(&queue.lock);
    if (all) {
        pthread_join(queue.thread, NULL);
    } else {
        pthread_detach(queue.thread);
    }
}

/* False: to be written here. */
static bool enqueue(int level, const char *text, size_t bytes) {
    size_t room = level ? MAL_LOG_QUEUE_BYTES : MAL_LOG_QUEUE_BYTES / 4 * 3;
    pthread_mutex_lock(&queue.lock);
    bool running = queue.running;
    if (running && queue.bytes + bytes > room) {
        queue.lost++;
        atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
    } else if (running) {
        memcpy(queue.halves[queue.filling] + queue.bytes, text, bytes);
        if (!queue.bytes) pthread_cond_signal(&queue.asked);
        queue.bytes += bytes;
    }
    pthread_mutex_unlock(&queue.lock);
    return running;
}

/* ---- Lines ---- */

static int level_of(const char *level) {
    int i = 0;
    while (i < 2 && strcmp(levels[i], level) != 0)
        i++;
    return i;
}

void mal_log_text(const char *text, char out[MAL_LOG_TEXT_BYTES]) {
    size_t left = strlen(text), at = 0;
    while (left && at < MAL_LOG_TEXT_BYTES - 4) {
        int32_t point;
        size_t n = mal_utf8_next(text, left, &point);
        at += mal_utf8_put(point < 0 ? 0xfffd : point, out + at);
        text += n;
        left -= n;
    }
    out[at] = 0;
}

uint64_t mal_log_lines(const char *level) {
    return atomic_load_explicit(&lines[level_of(level)], memory_order_relaxed);
}

uint64_t mal_log_dropped(void) {
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}

void mal_log(const char *level, const char *event, const char *format, ...) {
    int number = level_of(level);
    atomic_fetch_add_explicit(&lines[number], 1, memory_order_relaxed);
    char time[32];
    bool lacked = mal_json_lacked(); /* by what is being made: not for a line to forget */
    mal_format_time(mal_clock_unix_ms(), time);
    json_t *json =
        json_pack("{s:s,s:s,s:s}", "time", time, "level", level, "event", event);
    if (format) {
        va_list args;
        va_start(args, format);
        json_t *more = json_vpack_ex(NULL, 0, format, args);
        va_end(args);
        if (json && more) {
            json_object_update(json, more);
        } else if (json) { /* a field is not UTF-8, or memory is out */
            json_object_set_new(json, "lost", json_true());
        }
        json_decref(more);
    }
    char *text = mal_json_dump(json, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(json);
    char plain[256]; /* without memory, but that it happened */
    size_t n = text ? strlen(text) : 0;
    if (text) {
        text[n++] = '\n';
    } else {
        n = (size_t)snprintf(plain, sizeof plain,
                             "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\","
                             "\"lost\":true}\n",
                             time, level, event);
    }
    const char *line = text ? text : plain;
    if (!enqueue(number, line, n)) write_text(line, n);
    mal_free(text);
    mal_json_set_lacked(lacked);
}
