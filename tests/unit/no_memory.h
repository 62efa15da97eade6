/* no_memory.h - lets every allocation of a call fail once: no crash, no leak, a clear
 * error.
 *
 * The leaks are seen by the address sanitizer's build. */
#ifndef MAL_TEST_NO_MEMORY_H
#define MAL_TEST_NO_MEMORY_H

#include "scratch.h"

#include "core/alloc.h"
#include "core/json.h"

/* `call` returns true on success, after releasing what it made; jansson's allocations
 * fail too. `at_least`: how many allocations there are to fail. */
static inline void fail_each_allocation(bool (*call)(const char *path,
                                                     struct mal_error *err),
                                        const char *path, long at_least) {
    /* Some calls do without (a pattern that is not compiled to machine code): only
     * several successes in a row say that all allocations had their turn. */
    const long enough = 16;
    long n = 0, last = 0;
    mal_json_guard();
    while (n - last < enough && n < 5000) {
        struct mal_error err = {0};
        mal_alloc_fail_at(++n);
        bool ok = call(path, &err);
        mal_alloc_fail_at(0);
        assert_int_equal(err.status, ok ? MAL_OK : MAL_NO_MEMORY);
        assert_true(ok || err.text[0] != '\0');
        if (!ok) last = n;
    }
    assert_true(n < 5000);
    if (last < at_least) fail_msg("only %ld allocations", last);
}

#endif
