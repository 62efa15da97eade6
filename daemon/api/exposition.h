/* exposition.h - Prometheus' text format 0.0.4, written into memory. */
#ifndef MAL_EXPOSITION_H
#define MAL_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>

struct mal_histogram;

enum mal_family { MAL_COUNTER, MAL_GAUGE, MAL_HISTOGRAM };

#define MAL_EXPOSITION_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct mal_exposition {
    char *text; /* from mal_malloc, with a closing zero; owned */
    size_t bytes, room;
    bool failed; /* memory is out */
    /* the family's own; borrowed */
    const char *name, *help; /* help NULL: its head is written */
    enum mal_family type;
};

/* Begins a family; `help` is one line. What follows belongs to it; of one without samples
 * nothing is written. */
void mal_expose(struct mal_exposition *out, enum mal_family type, const char *name,
                const char *help);

/* A sample; labels as name, value, ..., NULL. A value of NULL reads as "". */
void mal_expose_value(struct mal_exposition *out, double value, ...)
    __attribute__((sentinel));
void mal_expose_histogram(struct mal_exposition *out, const struct mal_histogram *h, ...)
    __attribute__((sentinel));

#endif
