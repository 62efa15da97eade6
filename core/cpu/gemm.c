/* gemm.c - c = alpha op(a) op(b) + beta c + bias, through BLAS. */
#include <string.h>

#include "core/cpu/blas.h"
#include "core/cpu/cpu.h"
#include "core/simd.h"

static void set_row(int64_t n, const float *x, float *y) {
    memcpy(y, x, (size_t)n * sizeof *y);
}

static void bias_rows(const struct mal_gemm *g,
                      void (*row)(int64_t, const float *, float *)) {
#pragma omp parallel for schedule(static) if (g->m * g->n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < g->m; i++)
        row(g->n, g->bias, g->c + i * g->ldc);
}

static MAL_SIMD void finish_row(int64_t n, float alpha, const float *sums, float beta,
                                const float *bias, float *c) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < n; j++) {
        float y = alpha * sums[j] + (bias ? bias[j] : 0);
        c[j] = beta == 0 ? y : y + beta * c[j];
    }
}

void mal_cpu_gemm_finish(const struct mal_gemm *g, int64_t i, int64_t rows, int64_t j,
                         int64_t cols, bool first, const float *sums, int64_t ld_sums) {
    const float *bias = first && g->bias ? g->bias + j : NULL;
    for (int64_t r = 0; r < rows; r++)
        finish_row(cols, g->alpha, sums + r * ld_sums, first ? g->beta : 1, bias,
                   g->c + (i + r) * g->ldc + j);
}

void mal_cpu_gemm(struct mal_backend *be, const struct mal_gemm *g) {
    bool large = g->n * g->k > 16 * PARALLEL_ELEMENTS;
    if ((large || g->b_dtype != MAL_F32) && mal_cpu_gemm_thin(be, g)) return;
    if (g->b_dtype == MAL_BF16 && ((struct mal_cpu *)be)->bf16) {
        mal_cpu_gemm_bf16(be, g);
        return;
    }
    if (g->b_dtype != MAL_F32) {
        mal_cpu_gemm16(be, g);
        return;
    }
    float beta = g->beta;
    /* Starting from the bias costs no pass over c: BLAS would fill it with zeros instead.
     */
    if (g->bias && beta == 0) {
        bias_rows(g, set_row);
        beta = 1;
    }
    cblas_sgemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans,
                g->trans_b ? CblasTrans : CblasNoTrans, mal_blas_int(g->m),
                mal_blas_int(g->n), mal_blas_int(g->k), g->alpha, g->a,
                mal_blas_int(g->lda), g->b, mal_blas_int(g->ldb), beta, g->c,
                mal_blas_int(g->ldc));
    if (g->bias && g->beta != 0) bias_rows(g, mal_cpu_add_row);
}
