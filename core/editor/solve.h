/* solve.h - S = (U'U + e^lamda I + w K0'K0)^-1 U'D, the paper's aggregation
 * (core/README.md 3.4) with keys to preserve, in fp64.
 *
 * Primal (d_in, d_in) when n >= d_in or with preservation keys, which are added to the
 * Gram matrix; dual S = U'(UU' + e^lamda I)^-1 D (n, n) otherwise.
 * Gram by rank-k update, Cholesky in blocks with `tick` between them. The result is put
 * out as factors with an orthonormal left side (thin QR in fp64) where that is smaller
 * than the dense shift, else dense. */
#ifndef MAL_SOLVE_H
#define MAL_SOLVE_H

#include "core/arena.h"
#include "core/delta.h"

struct mal_solve {
    const char *module; /* name, for the delta and for errors; copied */
    int64_t n, d_in, d_out;
    enum mal_dtype dtype;        /* of the weight in the checkpoint: factors.h */
    const float *u, *d;          /* (n, d_in), (n, d_out), device memory */
    struct mal_arena *scratch;   /* reserved and overwritten; NULL: memory of its own */
    double ridge;                /* e^lamda, > 0 */
    bool may_lack_ridge;         /* >= 0: keys to preserve are expected to be enough */
    const double *preserve_gram; /* K0'K0 (d_in, d_in), lower, device; NULL: none */
    double preserve_weight;      /* finite, >= 0 */
    bool (*tick)(void *);        /* between blocks, may be NULL; false: MAL_CANCELLED */
    void *tick_arg;
    double *seconds; /* [2]: adds the Gram matrix's time, the rest's; NULL: not wanted */
};

/* Device bytes mal_solve() allocates for these sizes. */
size_t mal_solve_bytes(int64_t n, int64_t d_in, int64_t d_out);

/* A matrix that is not positive definite is MAL_NUMERIC naming module, row and pivot.
 * *out is owned by the caller. */
bool mal_solve(struct mal_backend *be, const struct mal_solve *solve,
               struct mal_delta_part *out, struct mal_error *err) MAL_CHECK;

/* MEND: S = alpha left' right for left (n, d_in), right (n, d_out) fp32 on the device. */
bool mal_outer_shift(struct mal_backend *be, const struct mal_solve *solve, double alpha,
                     struct mal_delta_part *out, struct mal_error *err) MAL_CHECK;

#endif
