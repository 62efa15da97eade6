/* log.c - log lines. */
#include "daemon/log.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "proto/wire.h"

static void write_line(const char *text, size_t bytes) {
    while (bytes) {
        ssize_t n = write(STDERR_FILENO, text, bytes);
        if (n <= 0) return; /* nobody is left to tell */
        text += n;
        bytes -= (size_t)n;
    }
}

void mal_log(const char *level, const char *event, const char *format, ...) {
    char time[32];
    mal_format_time(mal_clock_unix_ms(), time);
    json_t *line =
        json_pack("{s:s,s:s,s:s}", "time", time, "level", level, "event", event);
    if (format) {
        va_list args;
        va_start(args, format);
        json_t *more = json_vpack_ex(NULL, 0, format, args);
        va_end(args);
        if (line && more) json_object_update(line, more);
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
