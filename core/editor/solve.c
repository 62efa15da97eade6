/* solve.c - the aggregation of value differences into one shift (core/README.md section
 * 3, step 4): S = (U'U + e^lamda I)^-1 U'D, Gram and factorisation in fp64. */
#include "core/editor/solve.h"

#include "core/arena.h"
#include "core/clock.h"
#include "core/editor/factors.h"
#include "core/editor/orthonormal.h"
#include "core/editor/system.h"

/* ---- Memory ---- */

struct buffers {
    struct mal_system sys;
    struct mal_orthonormal qr;
    double *rhs;   /* primal (d_in, d_out), dual (n, d_out) */
    double *q;     /* factors: (n, d_in), its rows the columns of Q */
    double *right; /* factors: (n, d_out) */
    double *shift; /* dense: (d_in, d_out); in the primal system that is rhs */
};

static double *doubles(struct mal_arena *arena, int64_t n) {
    return mal_arena_alloc(arena, (size_t)n * sizeof(double));
}

/* `system`: there is one to solve, not only a product. */
static void place(struct buffers *out, const struct mal_solve *s, struct mal_backend *be,
                  struct mal_arena *arena, bool system) {
    int64_t n = s->n, d_in = s->d_in, d_out = s->d_out;
    bool dual = mal_system_is_dual(s),
         factors = dual && mal_delta_factors_pay(d_in, d_out, n);
    struct buffers b = {0};
    mal_system_place(&b.sys, s, be, arena, system);
    if (system) b.rhs = doubles(arena, b.sys.order * d_out);
    if (factors) {
        b.qr = mal_orthonormal_place(arena, n);
        b.q = doubles(arena, n * d_in);
        b.right = doubles(arena, n * d_out);
    } else {
        b.shift = system && !dual ? b.rhs : doubles(arena, d_in * d_out);
    }
    *out = b;
}

static size_t bytes_for(const struct mal_solve *s, bool system) {
    struct mal_arena counting;
    struct buffers b;
    mal_arena_init_counting(&counting);
    place(&b, s, NULL, &counting, system);
    return counting.peak;
}

size_t mal_solve_bytes(int64_t n, int64_t d_in, int64_t d_out) {
    return bytes_for(&(struct mal_solve){.n = n, .d_in = d_in, .d_out = d_out}, true);
}

/* Buffers in the caller's scratch, or in `own`, which is finished afterwards either way.
 */
static bool acquire(struct mal_arena *own, struct mal_backend *be,
                    const struct mal_solve *s, bool system, struct buffers *out,
                    struct mal_error *err) {
    *own = (struct mal_arena){.be = be};
    struct mal_arena *arena = s->scratch ? s->scratch : own;
    if (!mal_arena_reserve(arena, bytes_for(s, system), err))
        return mal_fail_wrap(err, "module '%s': the solve", s->module);
    mal_arena_reset(arena, 0);
    place(out, s, be, arena, system);
    return true;
}

/* ---- Putting out ---- */

/* Factors S = left' x with left the fp32 rows u (n, d_in): QR brings the left side to
 * orthonormal columns, since u' (u u' + ridge)^-1 d rounded as it stands would lose S
 * where u is ill-conditioned. */
static bool put_factors(const struct buffers *b, double alpha, const void *x,
                        enum mal_dtype dtype, struct mal_delta_part *out,
                        struct mal_error *err) {
    const struct mal_solve *s = b->sys.s;
    const struct mal_pace *pace = &b->sys.pace;
    struct mal_backend *be = pace->be;
    const double *r;
    mal_convert(be, s->n * s->d_in, b->q, MAL_F64, s->u, MAL_F32);
    if (!mal_orthonormalise(pace, s->n, s->d_in, b->q, &b->qr, &r, err)) return false;
    struct mal_gemm64 product = {.m = s->n,
                                 .n = s->d_out,
                                 .k = s->n,
                                 .a = r,
                                 .a_dtype = MAL_F64,
                                 .b = x,
                                 .b_dtype = dtype,
                                 .c = b->right,
                                 .alpha = alpha};
    return mal_pace_gemm64(pace, &product, err) &&
           mal_part_from_factors(be, s->module, s->d_in, s->d_out, s->n, s->dtype, b->q,
                                 b->right, out, err);
}

static bool put_dense(const struct buffers *b, const double *shift,
                      struct mal_delta_part *out, struct mal_error *err) {
    const struct mal_solve *s = b->sys.s;
    return mal_part_from_dense(b->sys.pace.be, s->module, s->d_in, s->d_out, s->dtype,
                               shift, out, err);
}

/* ---- Entries ---- */

static bool solve_primal(const struct buffers *b, struct mal_delta_part *out,
                         struct mal_error *err) {
    const struct mal_solve *s = b->sys.s;
    return mal_system_factorise(&b->sys, err) &&
           mal_system_multiply_out(&b->sys, 1, s->d, MAL_F32, b->rhs, err) &&
           mal_system_solve(&b->sys, s->d_out, b->rhs, err) &&
           put_dense(b, b->rhs, out, err);
}

static bool solve_dual(const struct buffers *b, struct mal_delta_part *out,
                       struct mal_error *err) {
    const struct mal_solve *s = b->sys.s;
    if (!mal_system_factorise(&b->sys, err)) return false;
    mal_convert(b->sys.pace.be, s->n * s->d_out, b->rhs, MAL_F64, s->d, MAL_F32);
    if (!mal_system_solve(&b->sys, s->d_out, b->rhs, err)) return false;
    if (b->q) return put_factors(b, 1, b->rhs, MAL_F64, out, err);
    return mal_system_multiply_out(&b->sys, 1, b->rhs, MAL_F64, b->shift, err) &&
           put_dense(b, b->shift, out, err);
}

bool mal_solve(struct mal_backend *be, const struct mal_solve *solve,
               struct mal_delta_part *out, struct mal_error *err) {
    double start = mal_clock_seconds();
    struct mal_arena arena;
    struct buffers b;
    if (!acquire(&arena, be, solve, true, &b, err)) return false;
    bool ok = mal_system_check(&b.sys, err);
    if (ok && b.sys.dual) {
        ok = solve_dual(&b, out, err);
    } else if (ok) {
        ok = solve_primal(&b, out, err);
    }
    mal_arena_finish(&arena);
    if (solve->seconds) solve->seconds[1] += mal_clock_seconds() - start;
    return ok;
}

bool mal_outer_shift(struct mal_backend *be, const struct mal_solve *solve, double alpha,
                     struct mal_delta_part *out, struct mal_error *err) {
    double start = mal_clock_seconds();
    struct mal_arena arena;
    struct buffers b;
    if (!acquire(&arena, be, solve, false, &b, err)) return false;
    bool ok = mal_system_check(&b.sys, err);
    if (ok && b.q) {
        ok = put_factors(&b, alpha, solve->d, MAL_F32, out, err);
    } else if (ok) {
        ok = mal_system_multiply_out(&b.sys, alpha, solve->d, MAL_F32, b.shift, err) &&
             put_dense(&b, b.shift, out, err);
    }
    mal_arena_finish(&arena);
    if (solve->seconds) solve->seconds[1] += mal_clock_seconds() - start;
    return ok;
}
