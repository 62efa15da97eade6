/* log.c - log lines. */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/utf8.h"
#include "proto/wire.h"

static void write_line(const char *text, size_t bytes) {
    while (bytes) {
        ssize_t n = write(STDERR_FILENO, text, bytes);
        if (n <= 0) return; /* nobody is left to tell */
        text += n;
        bytes -= (size_t)n;
    }
}

static const char *const levels[] = {"info", "warning", "error"};
static _Atomic uint64_t lines[3];

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

void mal_log(const char *level, const char *event, const char *format, ...) {
    atomic_fetch_add_explicit(&lines[level_of(level)], 1, memory_order_relaxed);
    char time[32];
    mal_format_time(mal_clock_unix_ms(), time);
    json_t *line =
        json_pack("{s:s,s:s,s:s}", "time", time, "level", level, "event", event);
    if (format) {
        va_list args;
        va_start(args, format);
        json_t *more = json_vpack_ex(NULL, 0, format, args);
        va_end(args);
        if (line && more) {
            json_object_update(line, more);
        } else if (line) { /* a field is not UTF-8, or memory is out */
            json_object_set_new(line, "lost", json_true());
        }
        json_decref(more);
    }
    size_t n = line ? json_dumpb(line, NULL, 0, JSON_COMPACT) : 0;
    char *text = n ? mal_malloc(n + 1) : NULL;
    if (text) {
        json_dumpb(line, text, n, JSON_COMPACT);
        text[n] = '\n';
        write_line(text, n + 1); /* one write, so that lines of two threads never mix */
        mal_free(text);
    }
    json_decref(line);
}
