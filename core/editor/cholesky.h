/* cholesky.h - fp64 Cholesky in panels, so that a large factorisation can be interrupted.
 *
 * Built from the device's own operations on panels of bounded work; between two of them
 * the device is waited for and `tick` called, which is where queued reads are served. */
#ifndef MAL_CHOLESKY_H
#define MAL_CHOLESKY_H

#include "core/backend.h"

struct mal_pace {
    struct mal_backend *be;
    bool (*tick)(void *); /* NULL: nobody waits; false: MAL_CANCELLED */
    void *arg;
};

bool mal_pace_step(const struct mal_pace *pace, struct mal_error *err) MAL_CHECK;

/* a (n,n) += ridge I */
void mal_add_ridge(struct mal_backend *be, int64_t n, double ridge, double *a);

/* mal_gemm64() in slices of rows of c. */
bool mal_pace_gemm64(const struct mal_pace *pace, const struct mal_gemm64 *g,
                     struct mal_error *err) MAL_CHECK;

/* Lower triangle of a (n,n) := l with a = l l'; info (2 doubles on the device, zeroed by
 * the caller) as mal_potrf64() leaves it. The upper triangle is not kept. */
bool mal_cholesky_factor(const struct mal_pace *pace, int64_t n, double *a, double *info,
                         struct mal_error *err) MAL_CHECK;

/* The same, waited for: one that is not positive definite is MAL_NUMERIC naming the
 * module, `what` it is ("system"), row and pivot. */
bool mal_cholesky_check(const struct mal_pace *pace, const char *module, const char *what,
                        int64_t n, double *a, double *info,
                        struct mal_error *err) MAL_CHECK;

/* b (n,m) := l^-1 b */
bool mal_cholesky_solve_half(const struct mal_pace *pace, int64_t n, int64_t m,
                             const double *l, double *b, struct mal_error *err) MAL_CHECK;
/* b (n,m) := (l l')^-1 b */
bool mal_cholesky_solve(const struct mal_pace *pace, int64_t n, int64_t m,
                        const double *l, double *b, struct mal_error *err) MAL_CHECK;
/* mal_solve_rows64() in slices of rows. */
bool mal_cholesky_half_rows(const struct mal_pace *pace, bool first, int64_t n, int64_t m,
                            const double *l, const double *inverses, double *b,
                            struct mal_error *err) MAL_CHECK;
/* The same on rows: b (m,n) := b (l l')^-1 */
bool mal_cholesky_solve_rows(const struct mal_pace *pace, int64_t n, int64_t m,
                             const double *l, double *b, struct mal_error *err) MAL_CHECK;

#endif
