/* gemm.cu - c = alpha op(a) op(b) + beta c + bias, through cuBLAS.
 *
 * bf16 weights: a is rounded to bf16, if it is not in it already; sums are fp32. fp16
 * weights are widened, and both rounded to TF32: fp16 has its 10 bits, and activations
 * beyond fp16's range stay finite. fp32 weights: fp32, or TF32 where the caller allows
 * it. On "cuda:N:fp32" everything is widened to fp32. Row-major products are column-major
 * ones of the transposes: c' = op(b)' op(a)'. */
#include <assert.h>
#include <limits.h>

#include "cuda/convert.h"
#include "cuda/libraries.h"

/* ---- Bias ---- */

__global__ static void set_bias(int64_t m, int64_t n, const float *bias, float *c,
                                int64_t ldc) {
    MAL_EACH_ROW(i, m)
    MAL_EACH(j, n)
    c[i * ldc + j] = bias[j];
}

__global__ static void add_bias(int64_t m, int64_t n, const float *bias, float *c,
                                int64_t ldc) {
    MAL_EACH_ROW(i, m)
    MAL_EACH(j, n)
    c[i * ldc + j] += bias[j];
}

/* ---- Products ---- */

/* A product whose operands are of one type. */
static void multiply(struct mal_cuda *cu, const struct mal_gemm *g, const void *a,
                     int64_t lda, const void *b, int64_t ldb, cudaDataType_t type,
                     cublasComputeType_t compute) {
    cublasStatus_t code = mal_blas()->gemm_ex(
        cu->blas, g->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
        g->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, mal_cuda_int(g->n), mal_cuda_int(g->m),
        mal_cuda_int(g->k), &g->alpha, b, type, mal_cuda_stride(ldb), a, type,
        mal_cuda_stride(lda), &g->beta, g->c, CUDA_R_32F, mal_cuda_int(g->ldc), compute,
        CUBLAS_GEMM_DEFAULT);
    mal_cuda_check_blas(cu, code, "cublasGemmEx");
}

/* How many rows of `row` bytes the workspace holds. */
static int64_t rows_in_work(const struct mal_cuda *cu, int64_t row) {
    int64_t rows = (int64_t)cu->work_bytes / (row > 0 ? row : 1);
    assert(rows > 0);
    return rows;
}

/* a is rounded to bf16, a slice of its rows at a time; unless it is already. */
static void multiply_bf16(struct mal_cuda *cu, const struct mal_gemm *g) {
    if (g->a16) {
        multiply(cu, g, g->a16, g->lda, g->b, g->ldb, CUDA_R_16BF, CUBLAS_COMPUTE_32F);
        return;
    }
    int64_t most = rows_in_work(cu, g->k * (int64_t)sizeof(uint16_t));
    for (int64_t i = 0; i < g->m; i += most) {
        struct mal_gemm part = *g;
        part.m = g->m - i < most ? g->m - i : most;
        part.c = g->c + i * g->ldc;
        int64_t rows = g->trans_a ? g->k : part.m, cols = g->trans_a ? part.m : g->k;
        mal_cuda_convert_rows(cu, rows, cols, g->a + (g->trans_a ? i : i * g->lda),
                              MAL_F32, g->lda, cu->work, MAL_BF16);
        multiply(cu, &part, cu->work, cols, g->b, g->ldb, CUDA_R_16BF,
                 CUBLAS_COMPUTE_32F);
    }
}

/* b is widened, a slice of c's columns at a time. */
static void multiply_widened(struct mal_cuda *cu, const struct mal_gemm *g,
                             cublasComputeType_t compute) {
    int64_t most = rows_in_work(cu, g->k * (int64_t)sizeof(float));
    for (int64_t j = 0; j < g->n; j += most) {
        struct mal_gemm part = *g;
        part.n = g->n - j < most ? g->n - j : most;
        part.c = g->c + j;
        int64_t rows = g->trans_b ? part.n : g->k, cols = g->trans_b ? g->k : part.n;
        const uint16_t *b = (const uint16_t *)g->b + (g->trans_b ? j * g->ldb : j);
        mal_cuda_convert_rows(cu, rows, cols, b, g->b_dtype, g->ldb, cu->work, MAL_F32);
        multiply(cu, &part, g->a, g->lda, cu->work, cols, CUDA_R_32F, compute);
    }
}

void mal_cuda_gemm(struct mal_backend *be, const struct mal_gemm *g) {
    struct mal_cuda *cu = mal_cuda_of(be);
    struct mal_gemm product = *g;
    bool first =
        g->bias && g->beta == 0; /* starting from the bias costs no pass of its own */
    dim3 grid = mal_cuda_grid_rows(cu, g->m, g->n);
    if (first) {
        MAL_LAUNCH(cu, set_bias, grid, MAL_THREADS, 0, g->m, g->n, g->bias, g->c, g->ldc);
        product.beta = 1;
    }
    bool rough = !cu->exact && (g->tf32 || g->b_dtype != MAL_F32);
    cublasComputeType_t compute =
        rough ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    if (g->b_dtype == MAL_F32)
        multiply(cu, &product, g->a, g->lda, g->b, g->ldb, CUDA_R_32F, compute);
    else if (g->b_dtype == MAL_BF16 && rough)
        multiply_bf16(cu, &product);
    else
        multiply_widened(cu, &product, compute);
    if (g->bias && !first)
        MAL_LAUNCH(cu, add_bias, grid, MAL_THREADS, 0, g->m, g->n, g->bias, g->c, g->ldc);
}
