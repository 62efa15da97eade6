/* orthonormal.c - Gram matrix, Cholesky factor, triangular solve; and once more. */
#include "core/editor/orthonormal.h"

#include <assert.h>
#include <math.h>

/* Two do unless keys are nearly dependent. */
enum { MOST_PASSES = 4 };

/* ||Q'Q - I||_F of rows so well conditioned that after one more pass only its rounding
 * errors are left. */
static const double NEAR = 0.1;

struct run {
    const struct mal_pace *pace;
    int64_t n, m;
    double *x, *info;
    double *gram, *factor, *r; /* (n, n) */
};

struct mal_orthonormal mal_orthonormal_place(struct mal_arena *arena, int64_t n) {
    struct mal_orthonormal b = {0};
    for (int i = 0; i < 3; i++)
        b.work[i] = mal_arena_alloc(arena, (size_t)(n * n) * sizeof(double));
    b.info = mal_arena_alloc(arena, 3 * sizeof(double));
    return b;
}

static void swap(double **a, double **b) {
    double *t = *a;
    *a = *b;
    *b = t;
}

static bool multiply(const struct run *run, const double *a, bool trans_b,
                     const double *b, int64_t k, double *c, struct mal_error *err) {
    return mal_pace_gemm64(run->pace,
                           &(struct mal_gemm64){.m = run->n,
                                                .n = run->n,
                                                .k = k,
                                                .a = a,
                                                .a_dtype = MAL_F64,
                                                .b = b,
                                                .b_dtype = MAL_F64,
                                                .trans_b = trans_b,
                                                .c = c,
                                                .alpha = 1},
                           err);
}

/* gram = x x'; *out: ||gram - I||_F, by way of `factor`, as - 1 + 1 would lose what is
 * small. */
static bool make_gram(const struct run *run, double *out, struct mal_error *err) {
    struct mal_backend *be = run->pace->be;
    int64_t n = run->n;
    double sum = 0;
    if (!multiply(run, run->x, true, run->x, run->m, run->gram, err)) return false;
    mal_backend_copy(be, run->factor, run->gram, (size_t)(n * n) * sizeof *run->gram);
    mal_add_ridge(be, n, -1, run->factor);
    mal_dot(be, n, n, run->factor, MAL_F64, n, run->factor, MAL_F64, n, run->info + 2);
    mal_backend_download(be, &sum, run->info + 2, sizeof sum);
    if (!mal_backend_sync(be, err)) return false;
    *out = sqrt(sum);
    return true;
}

/* gram becomes its factor; *out: whether it has one. */
static bool factorise(const struct run *run, bool *out, struct mal_error *err) {
    struct mal_backend *be = run->pace->be;
    double info[2] = {0};
    mal_backend_zero(be, run->info, sizeof info);
    if (!mal_cholesky_factor(run->pace, run->n, run->gram, run->info, err)) return false;
    mal_backend_download(be, info, run->info, sizeof info);
    if (!mal_backend_sync(be, err)) return false;
    *out = info[0] == 0;
    return true;
}

/* r := factor r, the first time factor itself. */
static bool take_factor(struct run *run, bool first, struct mal_error *err) {
    if (first) {
        swap(&run->r, &run->factor);
        return true;
    }
    if (!multiply(run, run->factor, false, run->r, run->n, run->gram, err)) return false;
    swap(&run->r, &run->gram);
    return true;
}

/* x := factor^-1 x; *out_near: the new rows are orthonormal to rounding. *out_ok false:
 * the rows are too nearly dependent, and nothing has changed. */
static bool pass(struct run *run, bool first, bool *out_near, bool *out_ok,
                 struct mal_error *err) {
    struct mal_backend *be = run->pace->be;
    double off = 0;
    if (!make_gram(run, &off, err) || !factorise(run, out_ok, err)) return false;
    if (!*out_ok) return true;
    *out_near = off < NEAR;
    if (!mal_cholesky_solve_half(run->pace, run->n, run->m, run->gram, run->x, err))
        return false;
    mal_transpose_lower64(be, run->n, run->gram, run->factor);
    return take_factor(run, first, err) && mal_pace_step(run->pace, err);
}

static bool finish_by_qr(struct run *run, bool first, struct mal_error *err) {
    mal_qr64(run->pace->be, run->m, run->n, run->x, run->factor);
    return mal_pace_step(run->pace, err) && take_factor(run, first, err);
}

bool mal_orthonormalise(const struct mal_pace *pace, int64_t n, int64_t m, double *x,
                        const struct mal_orthonormal *buffers, const double **out_r,
                        struct mal_error *err) {
    assert(n > 0 && m >= n);
    struct run run = {.pace = pace,
                      .n = n,
                      .m = m,
                      .x = x,
                      .info = buffers->info,
                      .gram = buffers->work[0],
                      .factor = buffers->work[1],
                      .r = buffers->work[2]};
    bool near = false, ok = true;
    int i = 0;
    for (; ok && !near && i < MOST_PASSES; i++)
        if (!pass(&run, i == 0, &near, &ok, err)) return false;
    if (!near && !finish_by_qr(&run, !ok && i == 1, err)) return false;
    *out_r = run.r;
    return true;
}
