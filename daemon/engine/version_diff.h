/* version_diff.h - how far the weights of two stored versions are apart. */
#ifndef MAL_VERSION_DIFF_H
#define MAL_VERSION_DIFF_H

#include "sql/store.h"

struct mal_module_diff {
    char *name;  /* owned */
    double norm; /* ||T_b - T_a||_F */
    int64_t d_in, d_out;
    float *sum; /* T_b - T_a (d_in, d_out), owned; NULL: zero */
};

struct mal_diff {
    struct mal_module_diff *modules; /* (n) all that either version's row names */
    size_t n;
    bool stored; /* false: a delta between the two was pruned, there are no modules */
};

/* From the database alone, on any thread: adds up the deltas that lead to one of the
 * versions and not to the other. Takes as much memory as T of all modules. */
bool mal_diff_versions(struct mal_store *store, const struct mal_version_row *a,
                       const struct mal_version_row *b, struct mal_diff *out,
                       struct mal_error *err) MAL_CHECK;
void mal_diff_finish(struct mal_diff *diff); /* takes a zeroed one */

#endif
