/* orthonormal.h - thin QR by Cholesky factors of Gram matrices: Q = X R^-1 with X'X =
 * R'R, made again from what it gives until Q'Q = I to rounding (CholeskyQR2 of Fukaya et
 * al., ScalA 2014). Nearly all of it is products, which run at a device's full speed and
 * in slices. Where X'X is not positive definite in fp64, as with equal keys, mal_qr64()
 * goes on from what there is. */
#ifndef MAL_ORTHONORMAL_H
#define MAL_ORTHONORMAL_H

#include "core/arena.h"
#include "core/editor/cholesky.h"

struct mal_orthonormal {
    double *work[3]; /* (n, n) each */
    double *info;    /* (3) */
};

/* Buffers for n rows, from an arena that may only be counting. */
struct mal_orthonormal mal_orthonormal_place(struct mal_arena *arena, int64_t n);

/* The rows of x (n, m), m >= n, finite, become orthonormal; with *out_r (n, n), upper
 * triangular with zeros below and one of the work buffers, x' was (the new x)' r. All is
 * fp64 device memory. */
bool mal_orthonormalise(const struct mal_pace *pace, int64_t n, int64_t m, double *x,
                        const struct mal_orthonormal *buffers, const double **out_r,
                        struct mal_error *err) MAL_CHECK;

#endif
