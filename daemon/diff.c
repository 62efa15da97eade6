/* diff.c - norms of differences of shifts. */
#include "daemon/diff.h"

#include "core/alloc.h"

void mal_module_diffs_free(struct mal_module_diff *modules, size_t n) {
    for (size_t i = 0; modules && i < n; i++)
        mal_free(modules[i].name);
    mal_free(modules);
}

bool mal_diff_modules(struct mal_store *store, int64_t a, int64_t b,
                      struct mal_module_diff **out, size_t *out_n,
                      struct mal_error *err) {
    return true;
}
