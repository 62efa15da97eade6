/* system.h - the normal equations of one edit module, for the solve and its backward
 * pass: primal A = U'U + e^lamda I + w K0'K0 (d_in, d_in), or dual K = UU' + e^lamda I
 * (n, n) where that is smaller and nothing is preserved. fp64 throughout. */
#ifndef MAL_SYSTEM_H
#define MAL_SYSTEM_H

#include "core/arena.h"
#include "core/editor/cholesky.h"
#include "core/editor/solve.h"

struct mal_system {
    struct mal_pace pace;
    const struct mal_solve *s; /* borrowed */
    bool dual;
    int64_t order; /* n or d_in */
    double *info;  /* (4): pivot report; sums of squares of u and d */
    double *gram;  /* (order, order): the system, then its Cholesky factor */
};

bool mal_system_is_dual(const struct mal_solve *s);
/* Buffers from `arena`, which may only be counting; `gram` where there is a system to
 * solve. */
void mal_system_place(struct mal_system *out, const struct mal_solve *s,
                      struct mal_backend *be, struct mal_arena *arena, bool gram);

/* Keys and value differences with a NaN or infinite value: MAL_NUMERIC naming the module.
 */
bool mal_system_check(const struct mal_system *sys, struct mal_error *err) MAL_CHECK;
/* Makes and factorises the system; one that is not positive definite is MAL_NUMERIC
 * naming module, row and pivot. */
bool mal_system_factorise(const struct mal_system *sys, struct mal_error *err) MAL_CHECK;
/* b (order, columns) := system^-1 b */
bool mal_system_solve(const struct mal_system *sys, int64_t columns, double *b,
                      struct mal_error *err) MAL_CHECK;

/* c (d_in, d_out) := alpha U'x for rows x (n, d_out) of `dtype`. */
bool mal_system_multiply_out(const struct mal_system *sys, double alpha, const void *x,
                             enum mal_dtype dtype, double *c,
                             struct mal_error *err) MAL_CHECK;

#endif
