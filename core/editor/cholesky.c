/* cholesky.c - left-looking Cholesky and its triangular solves in panels: nearly all the
 * work is in matrix products, which are cut into slices. */
#include "core/editor/cholesky.h"

enum { PANEL = 512, MIN_ROWS = 64 };

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

bool mal_pace_step(const struct mal_pace *pace, struct mal_error *err) {
    if (!pace->tick) return true;
    /* What is queued must be done first: a read served by tick waits for it otherwise. */
    if (!mal_backend_sync(pace->be, err)) return false;
    if (pace->tick(pace->arg)) return true;
    return mal_fail(err, MAL_CANCELLED, "the solve was cancelled");
}

void mal_add_ridge(struct mal_backend *be, int64_t n, double ridge, double *a) {
    mal_axpby64(be, &(struct mal_axpby64){
                        .n = n, .c = 1, .alpha = ridge, .beta = 1, .y = a, .ldy = n + 1});
}

static const void *element(const void *data, enum mal_dtype dtype, int64_t i) {
    return (const char *)data + (size_t)i * mal_dtype_size(dtype);
}

bool mal_pace_gemm64(const struct mal_pace *pace, const struct mal_gemm64 *g,
                     struct mal_error *err) {
    if (g->m == 0 || g->n == 0) return true;
    int64_t lda = g->lda ? g->lda : g->trans_a ? g->m : g->k;
    int64_t ldc = g->ldc ? g->ldc : g->n;
    int64_t per_row = g->n * g->k;
    int64_t rows = per_row > 0 ? mal_backend_slice_fma(pace->be) / per_row : g->m;
    if (rows < MIN_ROWS) rows = MIN_ROWS;
    if (!pace->tick) rows = g->m;
    for (int64_t i = 0; i < g->m; i += rows) {
        struct mal_gemm64 slice = *g;
        slice.m = min64(rows, g->m - i);
        slice.a = element(g->a, g->a_dtype, g->trans_a ? i : i * lda);
        slice.lda = lda;
        slice.c = g->c + i * ldc;
        slice.ldc = ldc;
        mal_gemm64(pace->be, &slice);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

bool mal_cholesky_factor(const struct mal_pace *pace, int64_t n, double *a, double *info,
                         struct mal_error *err) {
    for (int64_t j = 0; j < n; j += PANEL) {
        int64_t w = min64(PANEL, n - j);
        double *panel = a + j * n; /* rows from j on, columns [0, j) are done */
        /* a[j:, j:j+w] -= l[j:, :j] l[j:j+w, :j]' */
        struct mal_gemm64 update = {.m = n - j,
                                    .n = w,
                                    .k = j,
                                    .a = panel,
                                    .a_dtype = MAL_F64,
                                    .lda = n,
                                    .b = panel,
                                    .b_dtype = MAL_F64,
                                    .ldb = n,
                                    .trans_b = true,
                                    .c = panel + j,
                                    .ldc = n,
                                    .alpha = -1,
                                    .beta = 1};
        if (j > 0 && !mal_pace_gemm64(pace, &update, err)) return false;
        mal_potrf64(pace->be, w, panel + j, n, j, info);
        /* l[j+w:, j:j+w] = a[j+w:, j:j+w] l[j:j+w, j:j+w]'^-1 */
        double *below = panel + w * n + j;
        mal_solve_rows64(pace->be, true, n - j - w, w, panel + j, n, NULL, below, n);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

bool mal_cholesky_check(const struct mal_pace *pace, const char *module, const char *what,
                        int64_t n, double *a, double *info, struct mal_error *err) {
    double host[2] = {0};
    mal_backend_zero(pace->be, info, sizeof host);
    if (!mal_cholesky_factor(pace, n, a, info, err)) return false;
    mal_backend_download(pace->be, host, info, sizeof host);
    if (!mal_backend_sync(pace->be, err)) return false;
    if (host[0] == 0) return true;
    return mal_fail(
        err, MAL_NUMERIC,
        "module '%s': the %s of %lld is not positive definite: pivot %g in row %lld",
        module, what, (long long)n, host[1], (long long)host[0] - 1);
}

/* Panel after panel from the top. */
bool mal_cholesky_solve_half(const struct mal_pace *pace, int64_t n, int64_t m,
                             const double *l, double *b, struct mal_error *err) {
    for (int64_t j = 0; j < n; j += PANEL) {
        int64_t w = min64(PANEL, n - j);
        struct mal_gemm64 update = {.m = w,
                                    .n = m,
                                    .k = j,
                                    .a = l + j * n,
                                    .a_dtype = MAL_F64,
                                    .lda = n,
                                    .b = b,
                                    .b_dtype = MAL_F64,
                                    .c = b + j * m,
                                    .alpha = -1,
                                    .beta = 1};
        if (j > 0 && !mal_pace_gemm64(pace, &update, err)) return false;
        mal_trsm64(pace->be, false, false, w, m, l + j * n + j, n, b + j * m, m);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

/* b := l'^-1 b, panel after panel from the bottom. */
static bool solve_backward(const struct mal_pace *pace, int64_t n, int64_t m,
                           const double *l, double *b, struct mal_error *err) {
    for (int64_t j = (n - 1) / PANEL * PANEL; j >= 0; j -= PANEL) {
        int64_t w = min64(PANEL, n - j), below = n - j - w;
        struct mal_gemm64 update = {.m = w,
                                    .n = m,
                                    .k = below,
                                    .a = l + (j + w) * n + j,
                                    .a_dtype = MAL_F64,
                                    .lda = n,
                                    .trans_a = true,
                                    .b = b + (j + w) * m,
                                    .b_dtype = MAL_F64,
                                    .c = b + j * m,
                                    .alpha = -1,
                                    .beta = 1};
        if (below > 0 && !mal_pace_gemm64(pace, &update, err)) return false;
        mal_trsm64(pace->be, false, true, w, m, l + j * n + j, n, b + j * m, m);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

bool mal_cholesky_solve(const struct mal_pace *pace, int64_t n, int64_t m,
                        const double *l, double *b, struct mal_error *err) {
    return mal_cholesky_solve_half(pace, n, m, l, b, err) &&
           solve_backward(pace, n, m, l, b, err);
}

bool mal_cholesky_half_rows(const struct mal_pace *pace, bool first, int64_t n, int64_t m,
                            const double *l, const double *inverses, double *b,
                            struct mal_error *err) {
    int64_t rows = 2 * mal_backend_slice_fma(pace->be) / (n * n + 1);
    if (rows < MIN_ROWS) rows = MIN_ROWS;
    if (!pace->tick) rows = m;
    for (int64_t i = 0; i < m; i += rows) {
        int64_t k = min64(rows, m - i);
        mal_solve_rows64(pace->be, first, k, n, l, n, inverses, b + i * n, n);
        if (!mal_pace_step(pace, err)) return false;
    }
    return true;
}

bool mal_cholesky_solve_rows(const struct mal_pace *pace, int64_t n, int64_t m,
                             const double *l, double *b, struct mal_error *err) {
    return mal_cholesky_half_rows(pace, true, n, m, l, NULL, b, err) &&
           mal_cholesky_half_rows(pace, false, n, m, l, NULL, b, err);
}
