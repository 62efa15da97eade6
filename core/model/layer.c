/* layer.c - linear layers, and what an editor wants of them. */
#include "core/model/model_impl.h"

#include <assert.h>

void mal_linear_fwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const void *x, enum mal_dtype x_dtype, float *y, int64_t ld_y,
                    bool add) {
    mal_gemm(be, &(struct mal_gemm){.m = n,
                                    .n = lin->d_out,
                                    .k = lin->d_in,
                                    .a = x_dtype == MAL_F32 ? x : NULL,
                                    .a16 = x_dtype == MAL_F32 ? NULL : x,
                                    .b = lin->w,
                                    .b_dtype = lin->w_dtype,
                                    .trans_b = lin->transposed,
                                    .c = y,
                                    .ldc = ld_y,
                                    .alpha = 1,
                                    .beta = add ? 1 : 0,
                                    .bias = lin->bias});
}

struct mal_linear mal_linear_part(const struct mal_linear *lin, int64_t from, int64_t n) {
    assert(lin->transposed && from + n <= lin->d_out);
    size_t skipped = (size_t)(from * lin->d_in) * mal_dtype_size(lin->w_dtype);
    struct mal_linear part = *lin;
    part.w = (const char *)lin->w + skipped;
    part.bias = lin->bias ? lin->bias + from : NULL;
    part.d_out = n;
    return part;
}

/* The weights of b lie behind those of a, as rows of one matrix, and so do the biases;
 * which are there in both, or in neither. */
static bool follows(const struct mal_linear *a, const struct mal_linear *b) {
    if (!a->transposed || !b->transposed || a->d_in != b->d_in) return false;
    size_t bytes = (size_t)(a->d_in * a->d_out) * mal_dtype_size(a->w_dtype);
    return a->w_dtype == b->w_dtype && (const char *)a->w + bytes == b->w &&
           (a->bias ? b->bias == a->bias + a->d_out : !b->bias);
}

void mal_linears_fwd(struct mal_backend *be, const struct mal_linear *const *layers,
                     size_t n_layers, int64_t n, const void *x, enum mal_dtype x_dtype,
                     float *y, int64_t ld_y) {
    bool joins = x_dtype != MAL_F32;
    for (size_t i = 0; i < n_layers;) {
        struct mal_linear one = *layers[i++];
        while (joins && i < n_layers && follows(&one, layers[i]))
            one.d_out += layers[i++]->d_out;
        mal_linear_fwd(be, &one, n, x, x_dtype, y, ld_y, false);
        y += one.d_out;
    }
}

void mal_linear_bwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *dy, int64_t ld_dy, float *dx, bool add) {
    mal_gemm(be, &(struct mal_gemm){.m = n,
                                    .n = lin->d_in,
                                    .k = lin->d_out,
                                    .a = dy,
                                    .lda = ld_dy,
                                    .b = lin->w,
                                    .b_dtype = lin->w_dtype,
                                    .trans_b = !lin->transposed,
                                    .c = dx,
                                    .alpha = 1,
                                    .beta = add ? 1 : 0});
}

void mal_keep_rows(struct mal_pass *pass, const struct mal_lane *lane, int64_t c,
                   const float *x, int64_t ldx, bool reduced, float *y) {
    const struct mal_row_set *set = reduced ? &lane->top : &lane->kept;
    mal_gather_rows(pass->be, set->n, c, reduced ? NULL : set->rows, x, ldx, y, c);
}

void mal_top_rows(struct mal_pass *pass, const struct mal_lane *lane, int64_t c,
                  const float *x, int64_t ldx, float *y) {
    mal_gather_rows(pass->be, lane->top.n, c, lane->top.rows, x, ldx, y, c);
}

/* ---- What an editor wants of an edit module ---- */

void mal_capture_keys(struct mal_pass *pass, const struct mal_lane *lane,
                      const struct mal_linear *lin, const float *x, bool reduced) {
    if (!pass->u || lin->edit < 0 || !pass->u[lin->edit]) return;
    mal_gather_rows(pass->be, lane->top.n, lin->d_in, reduced ? NULL : lane->top.rows, x,
                    lin->d_in, pass->u[lin->edit], lin->d_in);
}

bool mal_learns(const struct mal_pass *pass, const struct mal_linear *lin) {
    return pass->dw && lin->edit >= 0;
}

/* c (m, n) += a' b over k rows. */
static void add_product(struct mal_backend *be, int64_t k, int64_t m, const float *a,
                        int64_t lda, int64_t n, const float *b, int64_t ldb, float *c) {
    mal_gemm(be, &(struct mal_gemm){.m = m,
                                    .n = n,
                                    .k = k,
                                    .a = a,
                                    .lda = lda,
                                    .trans_a = true,
                                    .b = b,
                                    .b_dtype = MAL_F32,
                                    .ldb = ldb,
                                    .c = c,
                                    .alpha = 1,
                                    .beta = 1});
}

void mal_add_weight_grad(struct mal_pass *pass, const struct mal_linear *lin, int64_t n,
                         const float *x, const float *dy, int64_t ld_dy) {
    if (!mal_learns(pass, lin)) return;
    float *dw = pass->dw[lin->edit];
    const struct mal_linear *bias = lin->own_bias;
    if (pass->dw_as_stored && lin->transposed)
        add_product(pass->be, n, lin->d_out, dy, ld_dy, lin->d_in, x, 0, dw);
    else
        add_product(pass->be, n, lin->d_in, x, 0, lin->d_out, dy, ld_dy, dw);
    if (bias && bias->edit >= 0)
        add_product(pass->be, n, 1, pass->ones, 0, lin->d_out, dy, ld_dy,
                    pass->dw[bias->edit]);
}

bool mal_capture_grads(struct mal_pass *pass, const struct mal_lane *lane,
                       const struct mal_linear *lin, int64_t n, const float *dy,
                       int64_t ld_dy) {
    if (lin->edit < 0) return true;
    if (pass->g) {
        assert(n == lane->top.n || n == lane->n_tokens);
        const int32_t *rows = n == lane->top.n ? NULL : lane->top.rows;
        mal_gather_rows(pass->be, lane->top.n, lin->d_out, rows, dy, ld_dy,
                        pass->g[lin->edit], lin->d_out);
    }
    return --pass->left > 0;
}
