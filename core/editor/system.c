/* system.c - making and factorising the normal equations, a slice at a time. */
#include "core/editor/system.h"

#include <assert.h>
#include <math.h>

#include "core/clock.h"

enum { MIN_DEPTH = 512 /* rows a slice of a Gram matrix takes in at least */ };

bool mal_system_is_dual(const struct mal_solve *s) {
    return s->n < s->d_in && !s->preserve_gram;
}

static double *doubles(struct mal_arena *arena, int64_t n) {
    return mal_arena_alloc(arena, (size_t)n * sizeof(double));
}

void mal_system_place(struct mal_system *out, const struct mal_solve *s,
                      struct mal_backend *be, struct mal_arena *arena, bool gram) {
    assert(s->n > 0 && s->d_in > 0 && s->d_out > 0);
    *out = (struct mal_system){.pace = {.be = be, .tick = s->tick, .arg = s->tick_arg},
                               .s = s,
                               .dual = mal_system_is_dual(s)};
    out->order = out->dual ? s->n : s->d_in;
    out->info = doubles(arena, 4);
    if (gram) out->gram = doubles(arena, out->order * out->order);
}

bool mal_system_check(const struct mal_system *sys, struct mal_error *err) {
    struct mal_backend *be = sys->pace.be;
    const struct mal_solve *s = sys->s;
    double sums[2] = {0};
    mal_sum_squares(be, s->n * s->d_in, s->u, sys->info + 2);
    mal_sum_squares(be, s->n * s->d_out, s->d, sys->info + 3);
    mal_backend_download(be, sums, sys->info + 2, sizeof sums);
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
    int64_t rows = mal_backend_slice_fma(pace->be) / per_row;
    if (rows < MIN_DEPTH) rows = MIN_DEPTH;
    return pace->tick && rows < n ? rows : n;
}

/* lower triangle of gram := U'U + w K0'K0 (primal) or UU' (dual) */
static bool multiply_gram(const struct mal_system *sys, struct mal_error *err) {
    const struct mal_pace *pace = &sys->pace;
    const struct mal_solve *s = sys->s;
    if (sys->dual) {
        mal_syrk64(pace->be, s->n, s->d_in, 1, s->u, s->d_in, false, 0, sys->gram, s->n);
        return mal_pace_step(pace, err);
    }
    double start = 0; /* what the first slice finds */
    if (s->preserve_gram) {
        start = s->preserve_weight;
        mal_backend_copy(pace->be, sys->gram, s->preserve_gram,
                         (size_t)(s->d_in * s->d_in) * sizeof(double));
    }
    int64_t rows = depth(pace, s->n, s->d_in * s->d_in / 2 + 1);
    for (int64_t i = 0; i < s->n; i += rows) {
        int64_t k = s->n - i < rows ? s->n - i : rows;
        mal_syrk64(pace->be, s->d_in, k, 1, s->u + i * s->d_in, s->d_in, true,
                   i > 0 ? 1 : start, sys->gram, s->d_in);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

/* The time it took is told apart. */
static bool make(const struct mal_system *sys, struct mal_error *err) {
    double start = mal_clock_seconds(), *seconds = sys->s->seconds;
    if (!multiply_gram(sys, err)) return false;
    mal_add_ridge(sys->pace.be, sys->order, sys->s->ridge, sys->gram);
    if (!seconds) return true;
    if (!mal_backend_sync(sys->pace.be, err)) return false;
    double spent = mal_clock_seconds() - start;
    seconds[0] += spent;
    seconds[1] -= spent; /* mal_solve() adds the whole there */
    return true;
}

static bool check_weights(const struct mal_solve *s, struct mal_error *err) {
    if (!isfinite(s->ridge) || s->ridge < 0 || (s->ridge == 0 && !s->may_lack_ridge)) {
        return mal_fail(err, MAL_NUMERIC,
                        "module '%s': the ridge e^lamda is %g, not a positive number",
                        s->module, s->ridge);
    }
    if (isfinite(s->preserve_weight) && s->preserve_weight >= 0) return true;
    return mal_fail(err, MAL_NUMERIC,
                    "module '%s': the weight of the preservation keys is %g", s->module,
                    s->preserve_weight);
}

bool mal_system_factorise(const struct mal_system *sys, struct mal_error *err) {
    return check_weights(sys->s, err) && make(sys, err) &&
           mal_cholesky_check(&sys->pace, sys->s->module, "system", sys->order, sys->gram,
                              sys->info, err);
}

bool mal_system_solve(const struct mal_system *sys, int64_t columns, double *b,
                      struct mal_error *err) {
    return mal_cholesky_solve(&sys->pace, sys->order, columns, sys->gram, b, err);
}

bool mal_system_multiply_out(const struct mal_system *sys, double alpha, const void *x,
                             enum mal_dtype dtype, double *c, struct mal_error *err) {
    const struct mal_pace *pace = &sys->pace;
    const struct mal_solve *s = sys->s;
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
