/* bisect.h - which facts of a refused batch to keep. */
#ifndef MAL_BISECT_H
#define MAL_BISECT_H

#include "core/error.h"

/* What stays of a batch of n facts. */
struct mal_bisect {
    size_t *kept, n_kept;         /* ascending, owned */
    size_t *rejected, n_rejected; /* ascending, owned: all others */
    size_t n_undecided;           /* of the rejected: the last ones, for want of tries */
    size_t n_tries;
};

/* Searches facts to keep of those [0, n), n > 0, that do not pass all together. `try`
 * makes a change of some facts alone (ascending, at least one) and says whether it
 * passes; false: an error, which ends the search.
 *
 * Facts are taken in order, each joining those kept when they pass together with it: the
 * kept ones as a whole have passed (unless there are none), and where a change that
 * passes still does without some of its facts, no rejected fact could be kept with them.
 * k bad facts among n cost about k (log2 n + 2) tries, never more than max_tries: facts
 * undecided then are rejected. */
bool mal_bisect_run(struct mal_bisect *out, size_t n, size_t max_tries,
                    bool (*try)(void *arg, const size_t *facts, size_t n, bool *passes,
                                struct mal_error *err),
                    void *arg, struct mal_error *err) MAL_CHECK;
void mal_bisect_finish(struct mal_bisect *bisect); /* takes a zeroed one */

#endif
