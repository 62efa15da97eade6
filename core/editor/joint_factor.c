/* joint_factor.c - Cholesky factors of joint systems, kept while few rows join: a fact
 * then costs triangular solves with its rows, not a factorisation. */
#include "core/editor/joint_impl.h"

#include <assert.h>

enum { SHARE = 16 /* of the order: rows that may join */ };

int64_t mal_joint_room(int64_t n) {
    return n / SHARE;
}

static struct mal_joint_factor *factor_of(const struct mal_joint *joint, size_t m) {
    return &joint->factors[m % joint->n_factors];
}

static int64_t order(const struct mal_joint *joint, size_t m) {
    return mal_model_edit(joint->model, m)->d_in;
}

/* What stands in a factor's memory. */
struct parts {
    double *inverses; /* of the blocks on l's diagonal */
    double *w;        /* (room, d_in) */
    float *u;         /* (room, d_in) */
};

static struct parts parts_of(const struct mal_joint *joint,
                             const struct mal_joint_factor *factor, int64_t d_in) {
    struct parts parts = {.inverses = factor->l + d_in * d_in};
    parts.w = parts.inverses + mal_inverses64(joint->be, d_in);
    parts.u = (float *)(parts.w + mal_joint_room(d_in) * d_in);
    return parts;
}

size_t mal_joint_factor_bytes(const struct mal_backend *be, int64_t n) {
    size_t order = (size_t)n, room = (size_t)mal_joint_room(n);
    size_t inverses = be ? (size_t)mal_inverses64(be, n) : 0;
    return (order * order + inverses) * sizeof(double) +
           room * order * (sizeof(double) + sizeof(float));
}

/* A takes on the rows that it lacks, the last ones first: after an error, too, it lacks
 * the pending ones and no others. */
static bool settle(struct mal_joint *joint, struct mal_joint_factor *factor,
                   const struct mal_pace *pace, struct mal_error *err) {
    if (factor->module < 0) return true;
    size_t m = (size_t)factor->module;
    int64_t d_in = order(joint, m), depth = mal_joint_depth(joint, d_in);
    const float *u = parts_of(joint, factor, d_in).u;
    while (factor->pending > 0) {
        int64_t k = factor->pending < depth ? factor->pending : depth;
        factor->pending -= k;
        mal_syrk64(joint->be, d_in, k, 1, u + factor->pending * d_in, d_in, true, 1,
                   joint->a[m], d_in);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

static bool drop(struct mal_joint *joint, struct mal_joint_factor *factor,
                 const struct mal_pace *pace, struct mal_error *err) {
    if (!settle(joint, factor, pace, err)) return false;
    factor->module = -1;
    factor->n = 0;
    return true;
}

bool mal_joint_factor_add(struct mal_joint *joint, size_t m, const float *u, int64_t n,
                          int sign, const struct mal_pace *pace, struct mal_joined *out,
                          bool *out_held, struct mal_error *err) {
    struct mal_joint_factor *factor = factor_of(joint, m);
    int64_t d_in = order(joint, m);
    *out = (struct mal_joined){0};
    *out_held = n == 0;
    if (factor->module != (int64_t)m || n == 0) return true;
    if (sign < 0 || factor->n + n > mal_joint_room(d_in))
        return drop(joint, factor, pace, err);
    struct parts parts = parts_of(joint, factor, d_in);
    double *w = parts.w + factor->n * d_in;
    mal_convert(joint->be, n * d_in, w, MAL_F64, u, MAL_F32);
    mal_solve_rows64(joint->be, true, n, d_in, factor->l, d_in, parts.inverses, w, d_in);
    *out = (struct mal_joined){.made = factor->made, .row = factor->n};
    *out_held = factor->pending == factor->n;
    if (*out_held) {
        mal_backend_copy(joint->be, parts.u + factor->n * d_in, u,
                         (size_t)(n * d_in) * sizeof *u);
        factor->pending += n;
    }
    factor->n += n;
    return true;
}

static bool factorise(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                      struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(joint->model, m);
    struct mal_joint_factor *factor = factor_of(joint, m);
    if (!drop(joint, factor, pace, err)) return false;
    factor->made++;
    mal_backend_copy(joint->be, factor->l, joint->a[m],
                     (size_t)(lin->d_in * lin->d_in) * sizeof(double));
    if (!mal_cholesky_check(pace, lin->name, "joint system", lin->d_in, factor->l,
                            joint->info, err)) {
        if (err->status == MAL_NUMERIC) joint->whole = false; /* made anew, it may be */
        return false;
    }
    mal_invert_blocks64(joint->be, lin->d_in, factor->l, lin->d_in,
                        parts_of(joint, factor, lin->d_in).inverses);
    factor->module = (int64_t)m;
    return true;
}

bool mal_joint_factor(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                      const double **out, struct mal_error *err) {
    struct mal_joint_factor *factor = factor_of(joint, m);
    *out = factor->l;
    return (factor->module == (int64_t)m && factor->n == 0) ||
           factorise(joint, m, pace, err);
}

/* ---- Before they are asked for ---- */

static bool shares(const struct mal_joint *joint, size_t m) {
    return m >= joint->n_factors || m + joint->n_factors < joint->n_modules;
}

/* The first module whose factor is not ready; n_modules: none. */
static size_t find_unready(const struct mal_joint *joint) {
    for (size_t m = 0; m < joint->n_modules; m++) {
        const struct mal_joint_factor *factor = factor_of(joint, m);
        bool made = factor->module == (int64_t)m;
        if (!shares(joint, m) &&
            (!made || 2 * factor->n > mal_joint_room(order(joint, m))))
            return m;
    }
    return joint->n_modules;
}

bool mal_joint_is_ready(const struct mal_joint *joint) {
    return find_unready(joint) == joint->n_modules;
}

bool mal_joint_make_ready(struct mal_joint *joint, const struct mal_progress *progress,
                          struct mal_error *err) {
    size_t m = find_unready(joint);
    struct mal_joint_ticker ticker = mal_joint_ticker(joint, progress, MAL_STAGE_SOLVE);
    struct mal_pace pace = mal_joint_pace(joint, &ticker);
    ticker.done = (int64_t)m;
    return m == joint->n_modules || factorise(joint, m, &pace, err);
}

/* ---- Solving ---- */

struct buffers {
    double *small; /* (room, room): I + w w', then its factor */
    double *z;     /* (n, room) */
};

static struct buffers place(struct mal_arena *arena, int64_t d_in, int64_t n) {
    size_t room = (size_t)mal_joint_room(d_in);
    struct buffers b = {.small = mal_arena_alloc(arena, room * room * sizeof(double))};
    b.z = mal_arena_alloc(arena, (size_t)n * room * sizeof(double));
    return b;
}

size_t mal_joint_solve_bytes(int64_t d_in, int64_t n) {
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place(&counting, d_in, n);
    return counting.peak;
}

/* y (n, d_in) := y (I - w' (I + w w')^-1 w) */
static bool correct(const struct mal_joint *joint, const struct mal_joint_factor *factor,
                    const struct mal_pace *pace, int64_t n, double *y,
                    const struct buffers *b, struct mal_error *err) {
    const char *module = mal_model_edit(joint->model, (size_t)factor->module)->name;
    int64_t d_in = order(joint, (size_t)factor->module), k = factor->n;
    const double *w = parts_of(joint, factor, d_in).w;
    struct mal_gemm64 product = {.m = k,
                                 .n = k,
                                 .k = d_in,
                                 .a = w,
                                 .a_dtype = MAL_F64,
                                 .b = w,
                                 .b_dtype = MAL_F64,
                                 .trans_b = true,
                                 .c = b->small,
                                 .alpha = 1};
    if (!mal_pace_gemm64(pace, &product, err)) return false;
    mal_add_ridge(joint->be, k, 1, b->small);
    if (!mal_cholesky_check(pace, module, "rows that joined", k, b->small, joint->info,
                            err))
        return false;
    product.m = n;
    product.a = y;
    product.c = b->z;
    if (!mal_pace_gemm64(pace, &product, err) ||
        !mal_cholesky_solve_rows(pace, k, n, b->small, b->z, err))
        return false;
    product = (struct mal_gemm64){.m = n,
                                  .n = d_in,
                                  .k = k,
                                  .a = b->z,
                                  .a_dtype = MAL_F64,
                                  .b = w,
                                  .b_dtype = MAL_F64,
                                  .c = y,
                                  .alpha = -1,
                                  .beta = 1};
    return mal_pace_gemm64(pace, &product, err);
}

bool mal_joint_begin_solve(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                           struct mal_error *err) {
    return factor_of(joint, m)->module == (int64_t)m || factorise(joint, m, pace, err);
}

bool mal_joint_first_half(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                          const struct mal_joined *joined, const float *u, int64_t n,
                          double *b, struct mal_error *err) {
    const struct mal_joint_factor *factor = factor_of(joint, m);
    int64_t d_in = order(joint, m);
    struct parts parts = parts_of(joint, factor, d_in);
    assert(factor->module == (int64_t)m);
    if (joined->made == factor->made) {
        mal_backend_copy(joint->be, b, parts.w + joined->row * d_in,
                         (size_t)(n * d_in) * sizeof *b);
        return true;
    }
    mal_convert(joint->be, n * d_in, b, MAL_F64, u, MAL_F32);
    return mal_cholesky_half_rows(pace, true, d_in, n, factor->l, parts.inverses, b, err);
}

bool mal_joint_second_half(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                           int64_t n, double *b, struct mal_arena *scratch,
                           struct mal_error *err) {
    const struct mal_joint_factor *factor = factor_of(joint, m);
    int64_t d_in = order(joint, m);
    if (factor->n > 0) {
        struct buffers buffers = place(scratch, d_in, n);
        if (!correct(joint, factor, pace, n, b, &buffers, err)) return false;
    }
    return mal_cholesky_half_rows(pace, false, d_in, n, factor->l,
                                  parts_of(joint, factor, d_in).inverses, b, err);
}
