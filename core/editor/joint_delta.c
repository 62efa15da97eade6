/* joint_delta.c - the shift that a change makes, as factors or dense. */
#include <assert.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/factors.h"
#include "core/editor/joint_change_impl.h"
#include "core/editor/orthonormal.h"
#include "core/editor/solve.h"

static int64_t total_rows(const struct mal_joint_change *change, size_t m) {
    int64_t n = 0;
    for (const struct mal_joint_group *g = change->groups; g; g = g->next)
        n += mal_edit_rows_n(&g->rows, m);
    return n;
}

struct buffers {
    double *q; /* factors: (n, d_in) the rows A'^-1 u, then orthonormal */
    struct mal_orthonormal qr;
    double *right; /* (n, d_out) */
    double *s;     /* dense: (d_in, d_out) */
};

static struct buffers place(struct mal_arena *arena, const struct mal_linear *lin,
                            int64_t n, bool factors) {
    struct buffers b = {0};
    size_t d_in = (size_t)lin->d_in, d_out = (size_t)lin->d_out, rows = (size_t)n;
    if (!factors) {
        b.s = mal_arena_alloc(arena, d_in * d_out * sizeof(double));
        return b;
    }
    b.q = mal_arena_alloc(arena, rows * d_in * sizeof(double));
    b.qr = mal_orthonormal_place(arena, n);
    b.right = mal_arena_alloc(arena, rows * d_out * sizeof(double));
    return b;
}

/* What the shift is rounded for (factors.h). Where texts leave the system later it is
 * fp32 whatever the weight is: what S is off by, E, then becomes A'^-1 A E, which of
 * texts that nothing else holds is hundreds of times as much. */
static enum mal_dtype shift_of(const struct mal_joint *joint,
                               const struct mal_linear *lin) {
    return joint->held ? MAL_F32 : lin->dtype;
}

/* S' - S = (A'^-1 U_c') R = Q (r R) */
static bool make_factors(struct mal_joint_change *change, size_t m,
                         const struct buffers *b, int64_t n, const struct mal_pace *pace,
                         struct mal_delta_part *out, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(change->joint->model, m);
    struct mal_backend *be = change->joint->be;
    const double *r;
    int64_t row = 0;
    if (!mal_joint_begin_solve(change->joint, m, pace, err)) return false;
    for (const struct mal_joint_group *g = change->groups; g; g = g->next) {
        int64_t rows = mal_edit_rows_n(&g->rows, m);
        if (!mal_joint_first_half(change->joint, m, pace, &g->joined[m], g->rows.u[m],
                                  rows, b->q + row * lin->d_in, err))
            return false;
        row += rows;
    }
    size_t mark = mal_arena_mark(&change->scratch);
    if (!mal_joint_second_half(change->joint, m, pace, n, b->q, &change->scratch, err))
        return false;
    mal_arena_reset(&change->scratch, mark);
    if (!mal_orthonormalise(pace, n, lin->d_in, b->q, &b->qr, &r, err)) return false;
    row = 0;
    for (const struct mal_joint_group *g = change->groups; g; g = g->next) {
        int64_t rows = mal_edit_rows_n(&g->rows, m);
        struct mal_gemm64 product = {.m = n,
                                     .n = lin->d_out,
                                     .k = rows,
                                     .a = r + row,
                                     .a_dtype = MAL_F64,
                                     .lda = n,
                                     .b = g->r[m],
                                     .b_dtype = MAL_F64,
                                     .c = b->right,
                                     .alpha = 1,
                                     .beta = row > 0};
        if (!mal_pace_gemm64(pace, &product, err)) return false;
        row += rows;
    }
    return mal_part_from_factors(be, lin->name, lin->d_in, lin->d_out, n,
                                 shift_of(change->joint, lin), b->q, b->right, out, err);
}

static bool make_dense(struct mal_joint_change *change, size_t m, const struct buffers *b,
                       const struct mal_pace *pace, struct mal_delta_part *out,
                       struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(change->joint->model, m);
    const double *factor = NULL;
    for (const struct mal_joint_group *g = change->groups; g; g = g->next) {
        struct mal_gemm64 product = {.m = lin->d_in,
                                     .n = lin->d_out,
                                     .k = mal_edit_rows_n(&g->rows, m),
                                     .a = g->rows.u[m],
                                     .a_dtype = MAL_F32,
                                     .trans_a = true,
                                     .b = g->r[m],
                                     .b_dtype = MAL_F64,
                                     .c = b->s,
                                     .alpha = 1,
                                     .beta = g != change->groups};
        if (!mal_pace_gemm64(pace, &product, err)) return false;
    }
    return mal_joint_factor(change->joint, m, pace, &factor, err) &&
           mal_cholesky_solve(pace, lin->d_in, lin->d_out, factor, b->s, err) &&
           mal_part_from_dense(change->joint->be, lin->name, lin->d_in, lin->d_out,
                               shift_of(change->joint, lin), b->s, out, err);
}

/* In a system of this change alone the residuals are the values, and the dual form of the
 * solve is the smaller. */
static bool make_alone(struct mal_joint_change *change, size_t m,
                       const struct mal_pace *pace, struct mal_delta_part *out,
                       struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(change->joint->model, m);
    const struct mal_joint_group *g = change->groups;
    struct mal_backend *be = change->joint->be;
    assert(!g->next);
    int64_t n = mal_edit_rows_n(&g->rows, m);
    float *d = mal_backend_alloc(be, (size_t)(n * lin->d_out) * sizeof *d);
    if (!d) return mal_fail(err, MAL_NO_MEMORY, "module '%s': the solve", lin->name);
    mal_convert(be, n * lin->d_out, d, MAL_F32, g->r[m], MAL_F64);
    struct mal_solve solve = {.module = lin->name,
                              .n = n,
                              .d_in = lin->d_in,
                              .d_out = lin->d_out,
                              .dtype = lin->dtype,
                              .u = g->rows.u[m],
                              .d = d,
                              .scratch = &change->scratch,
                              .ridge = mal_joint_ridge(change->joint->editor, m),
                              .tick = pace->tick,
                              .tick_arg = pace->arg};
    bool ok = mal_solve(be, &solve, out, err);
    mal_backend_free(be, d);
    return ok;
}

static bool make_part(struct mal_joint_change *change, size_t m,
                      const struct mal_pace *pace, struct mal_delta_part *out,
                      struct mal_error *err) {
    if (change->joint->alone) return make_alone(change, m, pace, out, err);
    const struct mal_linear *lin = mal_model_edit(change->joint->model, m);
    int64_t n = total_rows(change, m);
    bool factors = mal_delta_factors_pay(lin->d_in, lin->d_out, n);
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place(&counting, lin, n, factors);
    size_t bytes = counting.peak + (factors ? mal_joint_solve_bytes(lin->d_in, n) : 0);
    if (!mal_arena_reserve(&change->scratch, bytes, err))
        return mal_fail_wrap(err, "module '%s': the solve", lin->name);
    mal_arena_reset(&change->scratch, 0);
    struct buffers b = place(&change->scratch, lin, n, factors);
    return factors ? make_factors(change, m, &b, n, pace, out, err)
                   : make_dense(change, m, &b, pace, out, err);
}

bool mal_joint_delta(struct mal_joint_change *change, struct mal_delta *out,
                     struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    double start = mal_clock_seconds();
    struct mal_joint_ticker ticker =
        mal_joint_ticker(joint, change->progress, MAL_STAGE_SOLVE);
    struct mal_pace pace = mal_joint_pace(joint, &ticker);
    struct mal_delta delta = {.parts = mal_calloc(joint->n_modules, sizeof *delta.parts)};
    if (!delta.parts) return mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t m = 0; change->groups && m < joint->n_modules; m++) {
        ticker.done = (int64_t)m;
        if (!make_part(change, m, &pace, &delta.parts[delta.n_parts], err)) {
            mal_delta_finish(&delta);
            return false;
        }
        delta.n_parts++;
    }
    mal_delta_sort(&delta);
    *out = delta;
    change->report->seconds[MAL_STAGE_SOLVE] += mal_clock_seconds() - start;
    return true;
}
