/* low_rank.h - a matrix as the product of two thin ones: the nearest there is. */
#ifndef MAL_LOW_RANK_H
#define MAL_LOW_RANK_H

#include "core/export/export.h"

/* What may be lost without being a loss, relative to T: adding T to fp32 weights ten
 * times its size loses as much. */
#define MAL_LOW_RANK_EXACT 0x1p-20

struct mal_low_rank {
    int64_t rank; /* 0: T is zero */
    float *left;  /* (rank, d_in): turned, owned */
    float *right; /* (rank, d_out), owned; left and right share the singular values */
    double norm;  /* ||T||, Frobenius */
    double error; /* ||T - left' right|| */
};

/* Of T (d_in, d_out): the smallest rank that loses no more than MAL_LOW_RANK_EXACT, at
 * most max_rank. `factors`, where their rank is not 0, are T but for its rounding, and
 * save the decomposition of all of T. `be` is a device "cpu". */
bool mal_low_rank_create(struct mal_low_rank *out, struct mal_backend *be, int64_t d_in,
                         int64_t d_out, const float *t,
                         const struct mal_export_factors *factors, int64_t max_rank,
                         struct mal_error *err) MAL_CHECK;
void mal_low_rank_finish(struct mal_low_rank *low); /* takes a zeroed one */

#endif
