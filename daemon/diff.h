/* diff.h - how far the weights of two stored versions are apart. */
#ifndef MAL_DIFF_H
#define MAL_DIFF_H

#include "sql/store.h"

struct mal_module_diff {
    char *name;  /* owned */
    double norm; /* ||T_b - T_a||_F */
};

/* For every edit module that a version up to the later one has changed, by name; from the
 * database alone, on any thread. */
bool mal_diff_modules(struct mal_store *store, int64_t a, int64_t b,
                      struct mal_module_diff **out, size_t *out_n,
                      struct mal_error *err) MAL_CHECK;
void mal_module_diffs_free(struct mal_module_diff *modules, size_t n); /* takes NULL */

#endif
