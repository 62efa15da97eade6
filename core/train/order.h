/* order.h - which facts each training step takes: epochs over all of them, each in an
 * order of its own, cut into steps. Everything follows from the seed and three counters,
 * so a run that is resumed goes on as it would have. */
#ifndef MAL_TRAIN_ORDER_H
#define MAL_TRAIN_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_train_order {
    size_t n_facts;
    int64_t min_edits, max_edits; /* facts a step; drawn log-uniformly between them */
    bool shuffle;
    uint64_t seed;
    int64_t epochs;
    /* where it stands */
    int64_t step, epoch;
    size_t at;     /* facts of this epoch already taken */
    size_t *facts; /* (n_facts) order of `made_for`, owned */
    int64_t made_for;
};

/* `out` is filled in up to `epochs` by the caller, and may have counters of an earlier
 * run. */
bool mal_train_order_init(struct mal_train_order *order, struct mal_error *err) MAL_CHECK;
void mal_train_order_finish(struct mal_train_order *order); /* takes a zeroed one */

/* The facts of the next step, borrowed until the next call, and the seed of its draws (0:
 * none, without shuffle). False: all epochs are done. */
bool mal_train_order_next(struct mal_train_order *order, const size_t **out_facts,
                          size_t *out_n, uint64_t *out_seed);

/* Facts taken so far, and in all. */
int64_t mal_train_order_done(const struct mal_train_order *order);
int64_t mal_train_order_total(const struct mal_train_order *order);

#endif
