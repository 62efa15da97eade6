/* exposition.c - families, samples, labels, numbers. */
#include "daemon/api/exposition.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/utf8.h"
#include "daemon/base/metrics.h"

/* ---- Text ---- */

static void add(struct mal_exposition *out, const char *text, size_t bytes) {
    if (out->failed) return;
    if (out->bytes + bytes + 1 > out->room) {
        size_t room = 2 * (out->bytes + bytes) + 4096;
        char *grown = mal_realloc(out->text, room);
        if (!grown) {
            out->failed = true;
            return;
        }
        out->text = grown;
        out->room = room;
    }
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
    out->text[out->bytes] = 0;
}

static void add_text(struct mal_exposition *out, const char *text) {
    add(out, text, strlen(text));
}

/* As few digits as read back to the same number. */
static void add_number(struct mal_exposition *out, double value) {
    char text[32];
    if (isnan(value)) {
        add_text(out, "NaN");
    } else if (isinf(value)) {
        add_text(out, value > 0 ? "+Inf" : "-Inf");
    } else {
        int n = 0;
        for (int digits = 15; digits <= 17; digits++) {
            n = snprintf(text, sizeof text, "%.*g", digits, value);
            if (strtod(text, NULL) == value) break;
        }
        add(out, text, (size_t)n);
    }
}

/* Backslash, quote and line feed are escaped; what is not UTF-8 becomes U+FFFD. */
static void add_label_value(struct mal_exposition *out, const char *value) {
    size_t left = strlen(value);
    while (left) {
        int32_t point;
        size_t n = mal_utf8_next(value, left, &point);
        if (point < 0) {
            add_text(out, "\xef\xbf\xbd");
        } else if (point == '\n') {
            add_text(out, "\\n");
        } else {
            if (point == '\\' || point == '"') add_text(out, "\\");
            add(out, value, n);
        }
        value += n;
        left -= n;
    }
}

/* ---- Samples ---- */

void mal_expose(struct mal_exposition *out, enum mal_family type, const char *name,
                const char *help) {
    out->name = name;
    out->help = help;
    out->type = type;
}

static void add_head(struct mal_exposition *out) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    if (!out->help) return;
    add_text(out, "# HELP ");
    add_text(out, out->name);
    add_text(out, " ");
    add_text(out, out->help);
    add_text(out, "\n# TYPE ");
    add_text(out, out->name);
    add_text(out, " ");
    add_text(out, types[out->type]);
    add_text(out, "\n");
    out->help = NULL;
}

/* `bound`: of a bucket; NaN: it is none. */
static void add_labels(struct mal_exposition *out, va_list labels, double bound) {
    const char *between = "{";
    const char *name;
    while ((name = va_arg(labels, const char *))) {
        const char *value = va_arg(labels, const char *);
        add_text(out, between);
        add_text(out, name);
        add_text(out, "=\"");
        add_label_value(out, value ? value : "");
        add_text(out, "\"");
        between = ",";
    }
    if (!isnan(bound)) {
        add_text(out, between);
        add_text(out, "le=\"");
        add_number(out, bound);
        add_text(out, "\"");
        between = ",";
    }
    if (*between == ',') add_text(out, "}");
}

static void add_sample(struct mal_exposition *out, const char *suffix, va_list labels,
                       double bound, double value) {
    va_list copy;
    va_copy(copy, labels);
    add_head(out);
    add_text(out, out->name);
    add_text(out, suffix);
    add_labels(out, copy, bound);
    va_end(copy);
    add_text(out, " ");
    add_number(out, value);
    add_text(out, "\n");
}

void mal_expose_value(struct mal_exposition *out, double value, ...) {
    va_list labels;
    va_start(labels, value);
    add_sample(out, "", labels, (double)NAN, value);
    va_end(labels);
}

/* The count is that of the buckets, which others add to meanwhile. */
void mal_expose_histogram(struct mal_exposition *out, const struct mal_histogram *h,
                          ...) {
    va_list labels;
    va_start(labels, h);
    double sum = (double)mal_counted(&h->sum_ns) / 1e9;
    uint64_t count = 0;
    for (size_t i = 0; i <= h->bounds->n; i++) {
        count += mal_counted(&h->in[i]);
        double bound = i < h->bounds->n ? h->bounds->at[i] : (double)INFINITY;
        add_sample(out, "_bucket", labels, bound, (double)count);
    }
    add_sample(out, "_sum", labels, (double)NAN, sum);
    add_sample(out, "_count", labels, (double)NAN, (double)count);
    va_end(labels);
}
