/* solve.c - the aggregation of value differences into one shift (core/README.md section
 * 3, step 4): S = (U'U + e^lamda I)^-1 U'D, Gram and factorisation in fp64. */
#include "core/editor/solve.h"

#include <assert.h>
#include <math.h>

#include "core/arena.h"
#include "core/clock.h"
#include "core/editor/cholesky.h"
#include "core/editor/factors.h"

enum {
    EYE = 64,       /* the ridge is added through an identity of this size */
    MIN_DEPTH = 512 /* rows a slice of a Gram matrix takes in at least */
};

/* ---- Which system, and its memory ---- */

struct buffers {
    double *info;  /* (4): pivot report; sums of squares of u and d */
    double *eye;   /* (EYE, EYE) */
    double *gram;  /* primal (d_in, d_in), dual (n, n); in the end R of the QR */
    double *rhs;   /* primal (d_in, d_out), dual (n, d_out) */
    double *q;     /* factors: (n, d_in), its rows the columns of Q */
    double *right; /* factors: (n, d_out) */
    double *shift; /* dense: (d_in, d_out); in the primal system that is rhs */
};

static bool is_dual(const struct mal_solve *s) {
    return s->n < s->d_in && !s->preserve_gram;
}

static double *doubles(struct mal_arena *arena, int64_t n) {
    return mal_arena_alloc(arena, (size_t)n * sizeof(double));
}

/* `system`: there is one to solve, not only a product. */
static struct buffers place(struct mal_arena *arena, const struct mal_solve *s,
                            bool system) {
    int64_t n = s->n, d_in = s->d_in, d_out = s->d_out;
    bool dual = is_dual(s), factors = dual && mal_delta_factors_pay(d_in, d_out, n);
    int64_t order = dual ? n : d_in;
    struct buffers b = {.info = doubles(arena, 4),
                        .eye = doubles(arena, (int64_t)EYE * EYE)};
    if (system || factors) b.gram = doubles(arena, order * order);
    if (system) b.rhs = doubles(arena, order * d_out);
    if (factors) {
        b.q = doubles(arena, n * d_in);
        b.right = doubles(arena, n * d_out);
    } else {
        b.shift = system && !dual ? b.rhs : doubles(arena, d_in * d_out);
    }
    return b;
}

static size_t bytes_for(const struct mal_solve *s, bool system) {
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place(&counting, s, system);
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
    assert(s->n > 0 && s->d_in > 0 && s->d_out > 0);
    *own = (struct mal_arena){.be = be};
    struct mal_arena *arena = s->scratch ? s->scratch : own;
    if (!mal_arena_reserve(arena, bytes_for(s, system), err))
        return mal_fail_wrap(err, "module '%s': the solve", s->module);
    mal_arena_reset(arena, 0);
    *out = place(arena, s, system);
    return true;
}

/* ---- Steps ---- */

static bool check_finite(struct mal_backend *be, const struct mal_solve *s,
                         const struct buffers *b, struct mal_error *err) {
    double sums[2] = {0};
    mal_sum_squares(be, s->n * s->d_in, s->u, b->info + 2);
    mal_sum_squares(be, s->n * s->d_out, s->d, b->info + 3);
    mal_backend_download(be, sums, b->info + 2, sizeof sums);
    if (!mal_backend_sync(be, err)) return false;
    for (int i = 0; i < 2; i++) {
        if (!isfinite(sums[i])) {
            return mal_fail(err, MAL_NUMERIC,
                            "module '%s': the %s have a NaN or infinite value", s->module,
                            i == 0 ? "keys" : "value differences");
        }
    }
    return true;
}

/* How many of n rows a slice of work takes, at `per_row` multiply-adds a row. */
static int64_t depth(const struct mal_pace *pace, int64_t n, int64_t per_row) {
    int64_t rows = MAL_SLICE_FMA / per_row;
    if (rows < MIN_DEPTH) rows = MIN_DEPTH;
    return pace->tick && rows < n ? rows : n;
}

/* lower triangle of gram := u'u + w K0'K0 (primal) or u u' (dual) */
static bool multiply_gram(const struct mal_pace *pace, const struct mal_solve *s,
                          const struct buffers *b, struct mal_error *err) {
    if (is_dual(s)) {
        mal_syrk64(pace->be, s->n, s->d_in, 1, s->u, s->d_in, false, 0, b->gram, s->n);
        return mal_pace_step(pace, err);
    }
    double before = s->preserve_gram ? s->preserve_weight : 0;
    if (s->preserve_gram) {
        mal_backend_copy(pace->be, b->gram, s->preserve_gram,
                         (size_t)(s->d_in * s->d_in) * sizeof *b->gram);
    }
    int64_t rows = depth(pace, s->n, s->d_in * s->d_in / 2 + 1);
    for (int64_t i = 0; i < s->n; i += rows) {
        int64_t k = s->n - i < rows ? s->n - i : rows;
        mal_syrk64(pace->be, s->d_in, k, 1, s->u + i * s->d_in, s->d_in, true,
                   i > 0 ? 1 : before, b->gram, s->d_in);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

static void add_ridge(struct mal_backend *be, double ridge, int64_t n,
                      const struct buffers *b) {
    double eye[EYE * EYE] = {0};
    for (int i = 0; i < EYE; i++)
        eye[i * EYE + i] = 1;
    mal_backend_upload(be, b->eye, eye, sizeof eye);
    for (int64_t i = 0; i < n; i += EYE) {
        int64_t w = n - i < EYE ? n - i : EYE;
        mal_gemm64(be, &(struct mal_gemm64){.m = w,
                                            .n = w,
                                            .k = w,
                                            .a = b->eye,
                                            .a_dtype = MAL_F64,
                                            .lda = EYE,
                                            .b = b->eye,
                                            .b_dtype = MAL_F64,
                                            .ldb = EYE,
                                            .c = b->gram + i * n + i,
                                            .ldc = n,
                                            .alpha = ridge,
                                            .beta = 1});
    }
}

/* c (d_in, d_out) := alpha u' x for rows x (n, d_out), a slice of the rows at a time. */
static bool multiply_out(const struct mal_pace *pace, const struct mal_solve *s,
                         double alpha, const void *x, enum mal_dtype dtype, double *c,
                         struct mal_error *err) {
    int64_t rows = depth(pace, s->n, s->d_in * s->d_out);
    for (int64_t i = 0; i < s->n; i += rows) {
        int64_t k = s->n - i < rows ? s->n - i : rows;
        const char *x_i =
            (const char *)x + (size_t)(i * s->d_out) * mal_dtype_size(dtype);
        mal_gemm64(pace->be, &(struct mal_gemm64){.m = s->d_in,
                                                  .n = s->d_out,
                                                  .k = k,
                                                  .a = s->u + i * s->d_in,
                                                  .a_dtype = MAL_F32,
                                                  .trans_a = true,
                                                  .b = x_i,
                                                  .b_dtype = dtype,
                                                  .c = c,
                                                  .alpha = alpha,
                                                  .beta = i > 0});
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

/* gram := what is to be factorised, of the given order; the time it took is told apart.
 */
static bool make_system(const struct mal_pace *pace, const struct mal_solve *s,
                        const struct buffers *b, int64_t order, struct mal_error *err) {
    double start = mal_clock_seconds();
    if (!multiply_gram(pace, s, b, err)) return false;
    add_ridge(pace->be, s->ridge, order, b);
    if (!s->seconds) return true;
    if (!mal_backend_sync(pace->be, err)) return false;
    double spent = mal_clock_seconds() - start;
    s->seconds[0] += spent;
    s->seconds[1] -= spent; /* mal_solve() adds the whole there */
    return true;
}

static bool factorise(const struct mal_pace *pace, const struct mal_solve *s,
                      const struct buffers *b, int64_t order, struct mal_error *err) {
    double info[2] = {0};
    mal_backend_zero(pace->be, b->info, sizeof info);
    if (!mal_cholesky_factor(pace, order, b->gram, b->info, err)) return false;
    mal_backend_download(pace->be, info, b->info, sizeof info);
    if (!mal_backend_sync(pace->be, err)) return false;
    if (info[0] == 0) return true;
    return mal_fail(
        err, MAL_NUMERIC,
        "module '%s': the system of %lld is not positive definite: pivot %g in row %lld",
        s->module, (long long)order, info[1], (long long)info[0] - 1);
}

/* Factors S = left' x with left the fp32 rows u (n, d_in): QR brings the left side to
 * orthonormal columns, since u' (u u' + ridge)^-1 d rounded as it stands would lose S
 * where u is ill-conditioned. */
static bool put_factors(const struct mal_pace *pace, const struct mal_solve *s,
                        const struct buffers *b, double alpha, const void *x,
                        enum mal_dtype dtype, struct mal_delta_part *out,
                        struct mal_error *err) {
    struct mal_backend *be = pace->be;
    mal_convert(be, s->n * s->d_in, b->q, MAL_F64, s->u, MAL_F32);
    mal_qr64(be, s->d_in, s->n, b->q, b->gram);
    if (!mal_pace_step(pace, err)) return false;
    struct mal_gemm64 product = {.m = s->n,
                                 .n = s->d_out,
                                 .k = s->n,
                                 .a = b->gram,
                                 .a_dtype = MAL_F64,
                                 .b = x,
                                 .b_dtype = dtype,
                                 .c = b->right,
                                 .alpha = alpha};
    return mal_pace_gemm64(pace, &product, err) &&
           mal_part_from_factors(be, s->module, s->d_in, s->d_out, s->n, b->q, b->right,
                                 out, err);
}

/* ---- Entries ---- */

static bool solve_primal(const struct mal_pace *pace, const struct mal_solve *s,
                         const struct buffers *b, struct mal_delta_part *out,
                         struct mal_error *err) {
    return make_system(pace, s, b, s->d_in, err) && factorise(pace, s, b, s->d_in, err) &&
           multiply_out(pace, s, 1, s->d, MAL_F32, b->rhs, err) &&
           mal_cholesky_solve(pace, s->d_in, s->d_out, b->gram, b->rhs, err) &&
           mal_part_from_dense(pace->be, s->module, s->d_in, s->d_out, b->rhs, out, err);
}

static bool solve_dual(const struct mal_pace *pace, const struct mal_solve *s,
                       const struct buffers *b, struct mal_delta_part *out,
                       struct mal_error *err) {
    if (!make_system(pace, s, b, s->n, err) || !factorise(pace, s, b, s->n, err))
        return false;
    mal_convert(pace->be, s->n * s->d_out, b->rhs, MAL_F64, s->d, MAL_F32);
    if (!mal_cholesky_solve(pace, s->n, s->d_out, b->gram, b->rhs, err)) return false;
    if (b->q) return put_factors(pace, s, b, 1, b->rhs, MAL_F64, out, err);
    return multiply_out(pace, s, 1, b->rhs, MAL_F64, b->shift, err) &&
           mal_part_from_dense(pace->be, s->module, s->d_in, s->d_out, b->shift, out,
                               err);
}

bool mal_solve(struct mal_backend *be, const struct mal_solve *solve,
               struct mal_delta_part *out, struct mal_error *err) {
    if (!isfinite(solve->ridge) || !(solve->ridge > 0)) {
        return mal_fail(err, MAL_NUMERIC,
                        "module '%s': the ridge e^lamda is %g, not a positive number",
                        solve->module, solve->ridge);
    }
    if (!isfinite(solve->preserve_weight) || solve->preserve_weight < 0) {
        return mal_fail(err, MAL_NUMERIC,
                        "module '%s': the weight of the preservation keys is %g",
                        solve->module, solve->preserve_weight);
    }
    struct mal_pace pace = {.be = be, .tick = solve->tick, .arg = solve->tick_arg};
    double start = mal_clock_seconds();
    struct mal_arena arena;
    struct buffers b;
    if (!acquire(&arena, be, solve, true, &b, err)) return false;
    bool ok = check_finite(be, solve, &b, err);
    if (ok && is_dual(solve)) {
        ok = solve_dual(&pace, solve, &b, out, err);
    } else if (ok) {
        ok = solve_primal(&pace, solve, &b, out, err);
    }
    mal_arena_finish(&arena);
    if (solve->seconds) solve->seconds[1] += mal_clock_seconds() - start;
    return ok;
}

bool mal_outer_shift(struct mal_backend *be, const struct mal_solve *solve, double alpha,
                     struct mal_delta_part *out, struct mal_error *err) {
    struct mal_pace pace = {.be = be, .tick = solve->tick, .arg = solve->tick_arg};
    double start = mal_clock_seconds();
    struct mal_arena arena;
    struct buffers b;
    if (!acquire(&arena, be, solve, false, &b, err)) return false;
    bool ok = check_finite(be, solve, &b, err);
    if (ok && b.q) {
        ok = put_factors(&pace, solve, &b, alpha, solve->d, MAL_F32, out, err);
    } else if (ok) {
        ok = multiply_out(&pace, solve, alpha, solve->d, MAL_F32, b.shift, err) &&
             mal_part_from_dense(be, solve->module, solve->d_in, solve->d_out, b.shift,
                                 out, err);
    }
    mal_arena_finish(&arena);
    if (solve->seconds) solve->seconds[1] += mal_clock_seconds() - start;
    return ok;
}
