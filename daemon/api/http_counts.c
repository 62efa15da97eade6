/* http_counts.c - a row for each route, and one for what is none. */
#include "daemon/api/http_counts.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/api/exposition.h"
#include "daemon/api/router.h"
#include "daemon/base/metrics.h"
#include "daemon/http/server.h"

static const char *const methods[] = {"GET",    "HEAD",  "POST",    "PUT",
                                      "DELETE", "PATCH", "OPTIONS", "other"};

enum { N_METHODS = sizeof methods / sizeof *methods };

struct line {
    int method, status;
    uint64_t n;
};

struct row {
    struct line *lines; /* (n), owned */
    size_t n, room;
    uint64_t timed;
    struct mal_histogram seconds;
};

struct mal_http_counts {
    struct row *rows; /* (n_routes + 1), owned; the last: no route */
    size_t n_routes;
    uint64_t total;
};

bool mal_http_counts_create(struct mal_http_counts **out, struct mal_error *err) {
    struct mal_http_counts *counts = mal_calloc(1, sizeof *counts);
    if (!counts) return mal_fail(err, MAL_NO_MEMORY, "request counts");
    while (mal_routes[counts->n_routes].method)
        counts->n_routes++;
    counts->rows = mal_calloc(counts->n_routes + 1, sizeof *counts->rows);
    if (!counts->rows) {
        mal_free(counts);
        return mal_fail(err, MAL_NO_MEMORY, "request counts");
    }
    for (size_t i = 0; i <= counts->n_routes; i++)
        mal_histogram_init(&counts->rows[i].seconds, &mal_bounds_answer);
    *out = counts;
    return true;
}

void mal_http_counts_destroy(struct mal_http_counts *counts) {
    if (!counts) return;
    for (size_t i = 0; i <= counts->n_routes; i++)
        mal_free(counts->rows[i].lines);
    mal_free(counts->rows);
    mal_free(counts);
}

static int method_of(const struct mal_request *req) {
    int i = 0;
    if (req->head) return 1;
    while (i < N_METHODS - 1 && strcmp(methods[i], req->method))
        i++;
    return i;
}

/* NULL: out of memory, one request is not counted. */
static struct line *line_of(struct row *row, int method, int status) {
    for (size_t i = 0; i < row->n; i++) {
        struct line *line = &row->lines[i];
        if (line->method == method && line->status == status) return line;
    }
    if (row->n == row->room) {
        size_t room = row->room + 8;
        struct line *lines = mal_realloc(row->lines, room * sizeof *lines);
        if (!lines) return NULL;
        row->lines = lines;
        row->room = room;
    }
    struct line *line = &row->lines[row->n++];
    *line = (struct line){.method = method, .status = status};
    return line;
}

void mal_http_counts_add(struct mal_http_counts *counts, const struct mal_request *req,
                         int status) {
    const struct mal_route *route = req->route;
    struct row *row =
        &counts->rows[route ? (size_t)(route - mal_routes) : counts->n_routes];
    struct line *line = line_of(row, method_of(req), status);
    counts->total++;
    if (line) line->n++;
    if (req->waits) return;
    row->timed++;
    mal_histogram_add(&row->seconds, mal_clock_seconds() - req->began);
}

uint64_t mal_http_counts_total(const struct mal_http_counts *counts) {
    return counts->total;
}

void mal_http_counts_expose(const struct mal_http_counts *counts,
                            struct mal_exposition *out) {
    mal_expose(out, MAL_COUNTER, "malmend_http_requests_total",
               "Requests answered, by the pattern of their route.");
    for (size_t i = 0; i <= counts->n_routes; i++) {
        const struct row *row = &counts->rows[i];
        const char *route = i < counts->n_routes ? mal_routes[i].pattern : "other";
        for (size_t l = 0; l < row->n; l++) {
            char code[16];
            snprintf(code, sizeof code, "%d", row->lines[l].status);
            mal_expose_value(out, (double)row->lines[l].n, "route", route, "method",
                             methods[row->lines[l].method], "code", code, NULL);
        }
    }
    mal_expose(out, MAL_HISTOGRAM, "malmend_http_request_duration_seconds",
               "From a request's first line to its answer; without those that asked to "
               "wait for a job.");
    for (size_t i = 0; i <= counts->n_routes; i++) {
        const struct row *row = &counts->rows[i];
        if (!row->timed) continue;
        bool known = i < counts->n_routes;
        mal_expose_histogram(out, &row->seconds, "route",
                             known ? mal_routes[i].pattern : "other", "method",
                             known ? mal_routes[i].method : "other", NULL);
    }
}
