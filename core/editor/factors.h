/* factors.h - a shift computed in fp64 becomes what is stored: rounded to the type that
 * mal_delta_dtype() gives for `dtype`, that of the weight in the checkpoint. */
#ifndef MAL_FACTORS_H
#define MAL_FACTORS_H

#include "core/backend.h"
#include "core/delta.h"

/* s (d_in, d_out) fp64 on the device. NaN or a value beyond fp32 is MAL_NUMERIC naming
 * the module. *out is owned by the caller; its rounding_error is exact. */
bool mal_part_from_dense(struct mal_backend *be, const char *module, int64_t d_in,
                         int64_t d_out, enum mal_dtype dtype, const double *s,
                         struct mal_delta_part *out, struct mal_error *err) MAL_CHECK;

/* S = q' right with q (rank, d_in), whose rows are orthonormal, and right (rank, d_out),
 * both fp64 on the device. The norm is that of `right`. The rounding error is not
 * measured through the products (as dear as a dense shift) but put together from the
 * roundings of both factors, taken as independent: sqrt(sum_k |dq_k|^2 |right_k|^2 +
 * |dright|^2) / |right|. */
bool mal_part_from_factors(struct mal_backend *be, const char *module, int64_t d_in,
                           int64_t d_out, int64_t rank, enum mal_dtype dtype,
                           const double *q, const double *right,
                           struct mal_delta_part *out, struct mal_error *err) MAL_CHECK;

#endif
