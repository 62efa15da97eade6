/* layer.c - linear layers and the capture of what an editor wants of them. */
#include "core/model/pass.h"

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
    if (reduced && (ldx == c || ldx == 0)) {
        mal_backend_copy(pass->be, y, x, (size_t)(pass->n_kept * c) * sizeof *y);
    } else {
        assert(!reduced);
        mal_gather_rows(pass->be, pass->n_kept, c, pass->kept, x, ldx, y, c);
    }
}

void mal_capture_keys(struct mal_pass *pass, const struct mal_linear *lin, const float *x,
                      bool reduced) {
    if (!pass->u || lin->edit < 0) return;
    mal_keep_rows(pass, lin->d_in, x, lin->d_in, reduced, pass->u[lin->edit]);
}

bool mal_capture_grads(struct mal_pass *pass, const struct mal_linear *lin,
                       const float *dy) {
    if (lin->edit < 0) return true;
    mal_backend_copy(pass->be, pass->g[lin->edit], dy,
                     (size_t)(pass->n_kept * lin->d_out) * sizeof *dy);
    return --pass->left > 0;
}
