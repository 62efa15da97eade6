/* normalizer.h - running statistics of (u, g) rows, as the reference keeps them
 * (core/README.md 3). */
#ifndef MAL_NORMALIZER_H
#define MAL_NORMALIZER_H

#include "core/backend.h"

/* Host memory, owned; all fp32 as in the editor file. */
struct mal_normalizer {
    int64_t size; /* d_in + d_out */
    float n;      /* rows seen (times modules of the shape) */
    float *mean, *var,
        *std; /* (size); var: sum of squared differences, std: see the update */
};

bool mal_normalizer_init(struct mal_normalizer *norm, int64_t size,
                         struct mal_error *err) MAL_CHECK;
void mal_normalizer_finish(struct mal_normalizer *norm);
bool mal_normalizer_copy(struct mal_normalizer *dst, const struct mal_normalizer *src,
                         struct mal_error *err) MAL_CHECK; /* dst is initialised by it */

/* Takes in a batch of B rows with the given column means and sums of squared differences
 * (fp64, host, from mal_column_stats): n' = n + B, delta = mean_B - mean, mean += B delta
 * / n', var += B var_unbiased + n B delta^2 / n' (the first term 0 when B = 1), std =
 * sqrt(var / (n' - 1 + eps)). */
void mal_normalizer_update(struct mal_normalizer *norm, int64_t rows, const double *mean,
                           const double *m2);

/* For the identity network, before it divides by them: of the deviations of keys (d_in),
 * and of those of gradients, what is 0 becomes the mean of the others and what is below a
 * hundredth of that mean the hundredth. All else stays as it is (core/README.md 3). */
void mal_normalizer_lift(struct mal_normalizer *norm, int64_t d_in);

#endif
