/* solve_grad.c - forward and backward of S = A^-1 U'D. The factorisation is made anew in
 * the backward pass: it is a small part of a training step, and keeping one of every
 * module would take more memory than all else.
 *
 * Dual, with K = UU' + r I, r = e^lamda: S = U'B with B = K^-1 D, and U A^-1 = K^-1 U, so
 * that dL/dD = E = K^-1 U m and <A^-1 m, S> = <U A^-1 m, B> = <E, B>. */
#include "core/editor/solve_grad.h"

#include "core/editor/system.h"

struct buffers {
    struct mal_system sys;
    double *s;     /* (order, d_out): S, or B */
    double *x, *y; /* (max of n and d_in, d_out) */
};

static void place(struct buffers *out, const struct mal_solve *s, struct mal_backend *be,
                  struct mal_arena *arena) {
    int64_t rows = s->n > s->d_in ? s->n : s->d_in;
    size_t row = (size_t)s->d_out * sizeof(double);
    mal_system_place(&out->sys, s, be, arena, true);
    out->s = mal_arena_alloc(arena, (size_t)out->sys.order * row);
    out->x = mal_arena_alloc(arena, (size_t)rows * row);
    out->y = mal_arena_alloc(arena, (size_t)rows * row);
}

size_t mal_solve_grad_bytes(const struct mal_solve *solve) {
    struct mal_arena counting;
    struct buffers b;
    mal_arena_init_counting(&counting);
    place(&b, solve, NULL, &counting);
    return counting.peak;
}

static bool acquire(struct mal_arena *own, struct mal_backend *be,
                    const struct mal_solve *solve, struct buffers *out,
                    struct mal_error *err) {
    *own = (struct mal_arena){.be = be};
    struct mal_arena *arena = solve->scratch ? solve->scratch : own;
    if (!mal_arena_reserve(arena, mal_solve_grad_bytes(solve), err))
        return mal_fail_wrap(err, "module '%s': the solve", solve->module);
    mal_arena_reset(arena, 0);
    place(out, solve, be, arena);
    return true;
}

/* b->s := S (primal) or B (dual); the system is factorised. */
static bool solve_forward(const struct buffers *b, struct mal_error *err) {
    const struct mal_system *sys = &b->sys;
    const struct mal_solve *s = sys->s;
    if (!mal_system_check(sys, err) || !mal_system_factorise(sys, err)) return false;
    if (sys->dual) {
        mal_convert(sys->pace.be, s->n * s->d_out, b->s, MAL_F64, s->d, MAL_F32);
    } else if (!mal_system_multiply_out(sys, 1, s->d, MAL_F32, b->s, err)) {
        return false;
    }
    return mal_system_solve(sys, s->d_out, b->s, err);
}

bool mal_solve_shift(struct mal_backend *be, const struct mal_solve *solve, float *shift,
                     struct mal_error *err) {
    struct mal_arena own;
    struct buffers b;
    if (!acquire(&own, be, solve, &b, err)) return false;
    bool ok = solve_forward(&b, err);
    const double *s = b.s;
    if (ok && b.sys.dual) {
        ok = mal_system_multiply_out(&b.sys, 1, b.s, MAL_F64, b.y, err);
        s = b.y;
    }
    if (ok) mal_convert(be, solve->d_in * solve->d_out, shift, MAL_F32, s, MAL_F64);
    ok = ok && mal_backend_sync(be, err);
    mal_arena_finish(&own);
    return ok;
}

/* ---- Backward ---- */

/* c (n, d_out) := U x for x (d_in, d_out) */
static bool multiply_in(const struct mal_system *sys, const void *x, enum mal_dtype dtype,
                        double *c, struct mal_error *err) {
    const struct mal_solve *s = sys->s;
    struct mal_gemm64 product = {.m = s->n,
                                 .n = s->d_out,
                                 .k = s->d_in,
                                 .a = s->u,
                                 .a_dtype = MAL_F32,
                                 .b = x,
                                 .b_dtype = dtype,
                                 .c = c,
                                 .alpha = 1};
    return mal_pace_gemm64(&sys->pace, &product, err);
}

/* <x, s> over `rows` rows, into *out, on the host once the device is waited for. */
static bool product_of(const struct mal_system *sys, int64_t rows, const double *x,
                       const double *s, double *out, struct mal_error *err) {
    struct mal_backend *be = sys->pace.be;
    mal_dot(be, rows, sys->s->d_out, x, MAL_F64, 0, s, MAL_F64, 0, sys->info);
    mal_backend_download(be, out, sys->info, sizeof *out);
    return mal_backend_sync(be, err);
}

static bool bwd_dual(const struct buffers *b, const float *m, float *dd, double *x_s,
                     struct mal_error *err) {
    const struct mal_system *sys = &b->sys;
    const struct mal_solve *s = sys->s;
    if (!multiply_in(sys, m, MAL_F32, b->x, err) ||
        !mal_system_solve(sys, s->d_out, b->x, err) ||
        !product_of(sys, s->n, b->x, b->s, x_s, err)) {
        return false;
    }
    mal_convert(sys->pace.be, s->n * s->d_out, dd, MAL_F32, b->x, MAL_F64);
    return true;
}

/* w <X, K0'K0 S> = <X, (A - U'U - r I) S> = <UX, D - US> - r <X, S>, with UX in y; x is
 * overwritten. */
static bool preserved(const struct buffers *b, double x_s, double *out,
                      struct mal_error *err) {
    const struct mal_system *sys = &b->sys;
    const struct mal_solve *s = sys->s;
    struct mal_backend *be = sys->pace.be;
    double products[2] = {0};
    if (!multiply_in(sys, b->s, MAL_F64, b->x, err)) return false;
    mal_dot(be, s->n, s->d_out, b->y, MAL_F64, 0, s->d, MAL_F32, 0, sys->info);
    mal_dot(be, s->n, s->d_out, b->y, MAL_F64, 0, b->x, MAL_F64, 0, sys->info + 1);
    mal_backend_download(be, products, sys->info, sizeof products);
    if (!mal_backend_sync(be, err)) return false;
    *out = products[0] - products[1] - s->ridge * x_s;
    return true;
}

static bool bwd_primal(const struct buffers *b, const float *m, float *dd, double *x_s,
                       double *preserve, struct mal_error *err) {
    const struct mal_system *sys = &b->sys;
    const struct mal_solve *s = sys->s;
    mal_convert(sys->pace.be, s->d_in * s->d_out, b->x, MAL_F64, m, MAL_F32);
    if (!mal_system_solve(sys, s->d_out, b->x, err) ||
        !product_of(sys, s->d_in, b->x, b->s, x_s, err) ||
        !multiply_in(sys, b->x, MAL_F64, b->y, err)) {
        return false;
    }
    if (preserve && s->preserve_gram && !preserved(b, *x_s, preserve, err)) return false;
    mal_convert(sys->pace.be, s->n * s->d_out, dd, MAL_F32, b->y, MAL_F64);
    return true;
}

bool mal_solve_bwd(struct mal_backend *be, const struct mal_solve *solve, const float *m,
                   float *dd, double *d_lamda, double *d_preserve,
                   struct mal_error *err) {
    struct mal_arena own;
    struct buffers b;
    double x_s = 0, preserve = 0; /* <A^-1 m, S>, w <A^-1 m, K0'K0 S> */
    if (!acquire(&own, be, solve, &b, err)) return false;
    bool ok = solve_forward(&b, err);
    if (ok && b.sys.dual) {
        ok = bwd_dual(&b, m, dd, &x_s, err);
    } else if (ok) {
        ok = bwd_primal(&b, m, dd, &x_s, d_preserve ? &preserve : NULL, err);
    }
    ok = ok && mal_backend_sync(be, err);
    mal_arena_finish(&own);
    if (!ok) return false;
    *d_lamda = -solve->ridge * x_s;
    if (d_preserve) *d_preserve = -preserve;
    return true;
}
