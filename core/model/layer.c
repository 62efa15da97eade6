/* layer.c - linear layers and the capture of what an editor wants of them. */
#include "core/model/model_impl.h"

#include <assert.h>

void mal_linear_fwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *x, float *y, bool add) {
    mal_gemm(be, &(struct mal_gemm){.m = n,
                                    .n = lin->d_out,
                                    .k = lin->d_in,
                                    .a = x,
                                    .b = lin->w,
                                    .b_dtype = lin->w_dtype,
                                    .trans_b = lin->transposed,
                                    .c = y,
                                    .alpha = 1,
                                    .beta = add ? 1 : 0,
                                    .bias = lin->bias});
}

void mal_linear_bwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *dy, float *dx) {
    mal_gemm(be, &(struct mal_gemm){.m = n,
                                    .n = lin->d_in,
                                    .k = lin->d_out,
                                    .a = dy,
                                    .b = lin->w,
                                    .b_dtype = lin->w_dtype,
                                    .trans_b = !lin->transposed,
                                    .c = dx,
                                    .alpha = 1});
}

void mal_keep_rows(struct mal_pass *pass, int64_t c, const float *x, int64_t ldx,
                   bool reduced, float *y) {
    if (reduced) {
        assert(ldx == c);
        mal_backend_copy(pass->be, y, x, (size_t)(pass->top.n * c) * sizeof *y);
    } else {
        mal_gather_rows(pass->be, pass->kept.n, c, pass->kept.rows, x, ldx, y, c);
    }
}

void mal_top_rows(struct mal_pass *pass, int64_t c, const float *x, int64_t ldx,
                  float *y) {
    mal_gather_rows(pass->be, pass->top.n, c, pass->top.rows, x, ldx, y, c);
}

bool mal_resume_at(struct mal_pass *pass, const struct mal_model *model, float *x) {
    if (!pass->resume) return false;
    mal_backend_copy(pass->be, x, pass->lower,
                     (size_t)(pass->n_tokens * model->info.n_channels) * sizeof *x);
    return true;
}

void mal_keep_lower(struct mal_pass *pass, const struct mal_model *model, int64_t block,
                    const float *x) {
    if (!pass->compare || pass->resume || block != model->lowest_edit_block) return;
    mal_backend_copy(pass->be, pass->lower, x,
                     (size_t)(pass->n_tokens * model->info.n_channels) * sizeof *x);
}

/* ---- What an editor wants of an edit module ---- */

void mal_capture_keys(struct mal_pass *pass, const struct mal_linear *lin, const float *x,
                      bool reduced) {
    if (!pass->u || lin->edit < 0) return;
    mal_keep_rows(pass, lin->d_in, x, lin->d_in, reduced, pass->u[lin->edit]);
}

bool mal_learns(const struct mal_pass *pass, const struct mal_linear *lin) {
    return pass->dw && lin->edit >= 0;
}

void mal_add_weight_grad(struct mal_pass *pass, const struct mal_linear *lin, int64_t n,
                         const float *x, const float *dy) {
    mal_gemm(pass->be, &(struct mal_gemm){.m = lin->d_in,
                                          .n = lin->d_out,
                                          .k = n,
                                          .a = x,
                                          .trans_a = true,
                                          .b = dy,
                                          .b_dtype = MAL_F32,
                                          .c = pass->dw[lin->edit],
                                          .alpha = 1,
                                          .beta = 1});
}

bool mal_capture_grads(struct mal_pass *pass, const struct mal_linear *lin, int64_t n,
                       const float *dy) {
    if (lin->edit < 0) return true;
    if (pass->g) {
        mal_backend_copy(pass->be, pass->g[lin->edit], dy,
                         (size_t)(n * lin->d_out) * sizeof *dy);
    }
    return --pass->left > 0;
}
