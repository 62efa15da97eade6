/* fact_lines.h - NDJSON through the decoder, cut as a test likes. */
#ifndef MAL_TEST_FACT_LINES_H
#define MAL_TEST_FACT_LINES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "proto/wire.h"

enum { MAX_FACTS = 4, MAX_LINE = 2000 };

static inline bool take_fact(void *arg, const struct mal_fact *fact, const char *json,
                             size_t index, struct mal_error *err) {
    size_t *n = arg;
    assert_int_equal(index, (*n)++);
    assert_non_null(strstr(json, "\"prompt\""));
    return fact->prompt && fact->target;
}

/* Lines that arrive `piece` bytes at a time, each exactly as long as it says. */
static inline bool decode_lines(const char *body, size_t bytes, size_t piece,
                                struct mal_error *err) {
    size_t n = 0;
    struct mal_fact_lines *lines = NULL;
    struct mal_fact_lines_options options = {
        .max_facts = MAX_FACTS, .max_line = MAX_LINE, .take = take_fact, .arg = &n};
    if (!mal_fact_lines_create(&lines, &options, err)) return false;
    bool ok = true;
    for (size_t at = 0; at < bytes && ok; at += piece) {
        size_t part = bytes - at < piece ? bytes - at : piece;
        char *copy = malloc(part);
        assert_non_null(copy);
        memcpy(copy, body + at, part);
        ok = mal_fact_lines_add(lines, copy, part, err);
        free(copy);
    }
    ok = ok && mal_fact_lines_end(lines, err);
    if (ok) assert_int_equal(mal_fact_lines_count(lines), n);
    mal_fact_lines_destroy(lines);
    return ok;
}

#endif
