/* facts_file.h - what tests of files of facts share. */
#ifndef MAL_TEST_FACTS_FILE_H
#define MAL_TEST_FACTS_FILE_H

#include "scratch.h"

#include "core/facts.h"

struct loaded {
    struct mal_fact *facts;
    size_t n;
};

static inline struct loaded load(const char *text) {
    struct mal_error err = {0};
    struct loaded l = {0};
    assert_ok(mal_facts_load(&l.facts, &l.n, scratch_text("facts", text), &err), &err);
    return l;
}

#endif
