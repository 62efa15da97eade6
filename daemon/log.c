/* log.c - log lines. */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
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
    bool lacked = mal_json_lacked(); /* by what is being made: not for a line to forget */
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
    char *text = mal_json_dump(line, JSON_COMPACT);
    json_decref(line);
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
    write_line(text ? text : plain, n); /* one write, so that two threads' never mix */
    mal_free(text);
    mal_json_set_lacked(lacked);
}
