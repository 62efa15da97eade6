/* memit_solve.c - one module's shift from keys and residuals, beside second moments that
 * never change: their Cholesky factor is made once. */
#include <float.h>
#include <math.h>

#include "core/alloc.h"
#include "core/editor/factors.h"
#include "core/editor/memit_impl.h"
#include "core/editor/orthonormal.h"
#include "core/editor/solve.h"

struct mal_memit_factors {
    struct mal_backend *be;
    double *l[]; /* (n_modules) device, owned; NULL: not made, or not kept */
};

void mal_memit_factors_destroy(struct mal_memit_factors *factors, size_t n) {
    if (!factors) return;
    for (size_t m = 0; m < n; m++)
        mal_backend_free(factors->be, factors->l[m]);
    mal_free(factors);
}

static size_t square(int64_t n) {
    return (size_t)(n * n);
}

static void *device(const struct mal_memit_solve *s, size_t bytes,
                    struct mal_error *err) {
    void *memory = mal_backend_alloc(s->pace.be, bytes);
    if (!memory)
        mal_fail(err, MAL_NO_MEMORY, "module '%s': the solve (%zu bytes)", s->module,
                 bytes);
    return memory;
}

/* scale C on the device, the caller's; NULL: an error. */
static double *moments(const struct mal_memit_solve *s, double scale,
                       struct mal_error *err) {
    struct mal_backend *be = s->pace.be;
    size_t n = square(s->d_in);
    float *narrow = device(s, n * sizeof *narrow, err);
    double *wide = narrow ? device(s, n * sizeof *wide, err) : NULL;
    if (wide) {
        mal_backend_upload(be, narrow, s->memit->mom2[s->m], n * sizeof *narrow);
        mal_axpby64(be, &(struct mal_axpby64){.n = s->d_in,
                                              .c = s->d_in,
                                              .alpha = scale,
                                              .x = narrow,
                                              .x_dtype = MAL_F32,
                                              .ldx = s->d_in,
                                              .y = wide,
                                              .ldy = s->d_in});
    }
    mal_backend_free(be, narrow);
    return wide;
}

/* What the rounding of C to fp32 leaves open of its least eigenvalues: inputs that hardly
 * differ from sums of others make it singular, or less. Added where C is not positive
 * definite, and only there. */
static double margin(const struct mal_memit_solve *s) {
    const float *c = s->memit->mom2[s->m];
    double largest = 0;
    for (int64_t i = 0; i < s->d_in; i++)
        largest = fmax(largest, (double)c[i * s->d_in + i]);
    return s->mom2_weight * largest * 4 * (double)FLT_EPSILON;
}

/* ---- Many facts ---- */

static bool solve_dense(const struct mal_memit_solve *s, struct mal_delta_part *out,
                        struct mal_error *err) {
    struct mal_error own = {0};
    double *gram = moments(s, 1, err);
    if (!gram) return false;
    struct mal_solve solve = {.module = s->module,
                              .n = s->n,
                              .d_in = s->d_in,
                              .d_out = s->d_out,
                              .dtype = s->dtype,
                              .u = s->k,
                              .d = s->r,
                              .preserve_gram = gram,
                              .preserve_weight = s->mom2_weight,
                              .may_lack_ridge = true,
                              .tick = s->pace.tick,
                              .tick_arg = s->pace.arg};
    bool ok = mal_solve(s->pace.be, &solve, out, &own);
    solve.ridge = margin(s);
    if (!ok && own.status == MAL_NUMERIC)
        ok = mal_solve(s->pace.be, &solve, out, err);
    else if (!ok)
        mal_fail(err, own.status, "%s", own.text);
    mal_backend_free(s->pace.be, gram);
    return ok;
}

/* ---- Few facts ---- */

static bool is_kept(const struct mal_memit_solve *s) {
    size_t room = mal_backend_available(s->pace.be);
    return room == 0 || square(s->d_in) * sizeof(double) <= room / 4;
}

static struct mal_memit_factors *factors_of(const struct mal_memit_solve *s,
                                            struct mal_error *err) {
    struct mal_memit *memit = s->memit;
    if (memit->factors) return memit->factors;
    memit->factors = mal_calloc(1, sizeof *memit->factors +
                                       memit->n_modules * sizeof *memit->factors->l);
    if (memit->factors)
        memit->factors->be = s->pace.be;
    else
        mal_fail(err, MAL_NO_MEMORY, "module '%s': the solve", s->module);
    return memit->factors;
}

/* Where it can be made; NULL: an error. */
static double *make_factor(const struct mal_memit_solve *s, double ridge,
                           struct mal_error *err) {
    struct mal_backend *be = s->pace.be;
    double *l = moments(s, s->mom2_weight, err);
    double *info = l ? device(s, 2 * sizeof *info, err) : NULL;
    if (info) mal_add_ridge(be, s->d_in, ridge, l);
    bool ok = info && mal_cholesky_check(&s->pace, s->module, "matrix of second moments",
                                         s->d_in, l, info, err);
    mal_backend_free(be, info);
    if (ok) return l;
    mal_backend_free(be, l);
    return NULL;
}

/* L of mom2_weight C; *out_own: it is the caller's. */
static bool find_factor(const struct mal_memit_solve *s, double **out, bool *out_own,
                        struct mal_error *err) {
    struct mal_memit_factors *factors = factors_of(s, err);
    if (!factors) return false;
    *out_own = false;
    *out = factors->l[s->m];
    if (*out) return true;
    bool kept = is_kept(s);
    struct mal_error own = {0};
    double *l = make_factor(s, 0, &own);
    if (!l && own.status != MAL_NUMERIC) return mal_fail(err, own.status, "%s", own.text);
    if (!l) l = make_factor(s, margin(s), err);
    if (!l) return false;
    *out_own = !kept;
    *out = l;
    if (kept) factors->l[s->m] = l;
    return true;
}

struct buffers {
    double *w;     /* (n, d_in) K L'^-1, then its product with L^-1, then q */
    double *small; /* (n, n) */
    double *r;     /* (n, d_out) */
    double *right; /* (n, d_out) */
    double *info;
    struct mal_orthonormal qr;
};

static struct buffers place(const struct mal_memit_solve *s, struct mal_arena *arena) {
    size_t n = (size_t)s->n;
    return (struct buffers){
        .w = mal_arena_alloc(arena, n * (size_t)s->d_in * sizeof(double)),
        .small = mal_arena_alloc(arena, n * n * sizeof(double)),
        .r = mal_arena_alloc(arena, n * (size_t)s->d_out * sizeof(double)),
        .right = mal_arena_alloc(arena, n * (size_t)s->d_out * sizeof(double)),
        .info = mal_arena_alloc(arena, 2 * sizeof(double)),
        .qr = mal_orthonormal_place(arena, s->n)};
}

/* S = Y' X with Y = K A0^-1 (n, d_in) and X = (I + W W')^-1 R, A0 = L L' and W = K L'^-1
 * (Woodbury); QR makes the left side orthonormal, as in solve.c. */
static bool solve_with(const struct mal_memit_solve *s, const double *l,
                       const struct buffers *b, struct mal_delta_part *out,
                       struct mal_error *err) {
    const struct mal_pace *pace = &s->pace;
    struct mal_backend *be = pace->be;
    int64_t n = s->n, d_in = s->d_in, d_out = s->d_out;
    struct mal_gemm64 gram = {.m = n,
                              .n = n,
                              .k = d_in,
                              .a = b->w,
                              .a_dtype = MAL_F64,
                              .b = b->w,
                              .b_dtype = MAL_F64,
                              .trans_b = true,
                              .c = b->small,
                              .alpha = 1};
    mal_convert(be, n * d_in, b->w, MAL_F64, s->k, MAL_F32);
    mal_convert(be, n * d_out, b->r, MAL_F64, s->r, MAL_F32);
    if (!mal_cholesky_half_rows(pace, true, d_in, n, l, NULL, b->w, err) ||
        !mal_pace_gemm64(pace, &gram, err))
        return false;
    mal_add_ridge(be, n, 1, b->small);
    if (!mal_cholesky_check(pace, s->module, "system", n, b->small, b->info, err) ||
        !mal_cholesky_solve(pace, n, d_out, b->small, b->r, err) ||
        !mal_cholesky_half_rows(pace, false, d_in, n, l, NULL, b->w, err))
        return false;
    const double *r;
    if (!mal_orthonormalise(pace, n, d_in, b->w, &b->qr, &r, err)) return false;
    struct mal_gemm64 right = {.m = n,
                               .n = d_out,
                               .k = n,
                               .a = r,
                               .a_dtype = MAL_F64,
                               .b = b->r,
                               .b_dtype = MAL_F64,
                               .c = b->right,
                               .alpha = 1};
    return mal_pace_gemm64(pace, &right, err) &&
           mal_part_from_factors(be, s->module, d_in, d_out, n, s->dtype, b->w, b->right,
                                 out, err);
}

static bool solve_factors(const struct mal_memit_solve *s, struct mal_delta_part *out,
                          struct mal_error *err) {
    struct mal_arena arena;
    double *l = NULL;
    bool own = false;
    mal_arena_init_counting(&arena);
    place(s, &arena);
    size_t bytes = arena.peak;
    if (!find_factor(s, &l, &own, err)) return false;
    bool ok = mal_arena_init(&arena, s->pace.be, bytes, err) ||
              mal_fail_wrap(err, "module '%s': the solve", s->module);
    if (ok) {
        struct buffers b = place(s, &arena);
        ok = solve_with(s, l, &b, out, err);
        mal_arena_finish(&arena);
    }
    if (own) mal_backend_free(s->pace.be, l);
    return ok;
}

bool mal_memit_solve(const struct mal_memit_solve *s, struct mal_delta_part *out,
                     struct mal_error *err) {
    return mal_delta_factors_pay(s->d_in, s->d_out, s->n) ? solve_factors(s, out, err)
                                                          : solve_dense(s, out, err);
}
