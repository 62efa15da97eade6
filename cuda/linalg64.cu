/* linalg64.cu - the solve's linear algebra in fp64, through cuBLAS and cuSOLVER.
 *
 * fp32 operands are widened slice by slice (over k) into the workspace. Row-major lower
 * triangles are column-major upper ones. */
#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "cuda/convert.h"
#include "cuda/libraries.h"
#include "cuda/number.h"
#include "cuda/reduce.h"

/* ---- Products ---- */

/* The largest c of one product with a widened operand: what keeps a deep slice of both in
 * the workspace. */
enum { TILE = 16384 };

/* Rows [i, i + rows) and columns [j, j + cols) of an operand as fp64: in place, or
 * widened to *work, which is advanced. */
static const double *operand(struct mal_cuda *cu, const void *x, enum mal_dtype dtype,
                             int64_t i, int64_t rows, int64_t j, int64_t cols,
                             int64_t *ld, double **work) {
    if (dtype == MAL_F64) return (const double *)x + i * *ld + j;
    double *y = *work;
    mal_cuda_convert_rows(cu, rows, cols, (const float *)x + i * *ld + j, MAL_F32, *ld, y,
                          MAL_F64);
    *ld = cols;
    *work += rows * cols;
    return y;
}

static void multiply(struct mal_cuda *cu, const struct mal_gemm64 *g, int64_t i,
                     int64_t m, int64_t j, int64_t n, int64_t p, int64_t k) {
    double *work = (double *)cu->work;
    int64_t lda = g->lda, ldb = g->ldb;
    const double *a = g->trans_a ? operand(cu, g->a, g->a_dtype, p, k, i, m, &lda, &work)
                                 : operand(cu, g->a, g->a_dtype, i, m, p, k, &lda, &work);
    const double *b = g->trans_b ? operand(cu, g->b, g->b_dtype, j, n, p, k, &ldb, &work)
                                 : operand(cu, g->b, g->b_dtype, p, k, j, n, &ldb, &work);
    double beta = p == 0 ? g->beta : 1;
    cublasStatus_t code = mal_blas()->dgemm(
        cu->blas, g->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
        g->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, mal_cuda_int(n), mal_cuda_int(m),
        mal_cuda_int(k), &g->alpha, b, mal_cuda_stride(ldb), a, mal_cuda_stride(lda),
        &beta, g->c + i * g->ldc + j, mal_cuda_int(g->ldc));
    mal_cuda_check_blas(cu, code, "cublasDgemm");
}

void mal_cuda_gemm64(struct mal_backend *be, const struct mal_gemm64 *g) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool in_place = g->a_dtype == MAL_F64 && g->b_dtype == MAL_F64;
    int64_t tile = in_place ? INT_MAX : TILE;
    for (int64_t i = 0; i < g->m; i += tile) {
        int64_t m = mal_cuda_min(tile, g->m - i);
        for (int64_t j = 0; j < g->n; j += tile) {
            int64_t n = mal_cuda_min(tile, g->n - j);
            int64_t words = (int64_t)(cu->work_bytes / sizeof(double));
            int64_t step = in_place ? INT_MAX : words / (m + n), p = 0;
            do { /* once for k = 0 too: c = beta c */
                multiply(cu, g, i, m, j, n, p, mal_cuda_min(step, g->k - p));
                p += step;
            } while (p < g->k);
        }
    }
}

/* c (n,n) lower = alpha x'x + beta c of columns x (k,n), or of rows x (n,k). */
struct syrk {
    int64_t n, k, ldx, ldc;
    double alpha, beta;
    const double *x;
    bool trans;
    double *c;
};

static void syrk(struct mal_cuda *cu, const struct syrk *s) {
    cublasStatus_t code = mal_blas()->dsyrk(
        cu->blas, CUBLAS_FILL_MODE_UPPER, s->trans ? CUBLAS_OP_N : CUBLAS_OP_T,
        mal_cuda_int(s->n), mal_cuda_int(s->k), &s->alpha, s->x, mal_cuda_stride(s->ldx),
        &s->beta, s->c, mal_cuda_int(s->ldc));
    mal_cuda_check_blas(cu, code, "cublasDsyrk");
}

/* Of a rank-k update that is made of products; small on the host, so that tests have
 * several. */
#ifdef MAL_CUDA_ON_HOST
enum { BLOCK = 16 };
#else
enum { BLOCK = 512 };
#endif

/* cuBLAS emulates products, not rank-k updates: all but blocks on the diagonal is made of
 * those. */
static void syrk_in_blocks(struct mal_cuda *cu, const struct syrk *s) {
    int64_t step = s->trans ? 1 : s->ldx; /* from a row of c to the next, in x */
    for (int64_t i = 0; i < s->n; i += BLOCK) {
        struct syrk diagonal = *s;
        diagonal.n = mal_cuda_min(BLOCK, s->n - i);
        diagonal.x = s->x + i * step;
        diagonal.c = s->c + i * s->ldc + i;
        syrk(cu, &diagonal);
        if (i == 0) continue;
        cublasStatus_t code = mal_blas()->dgemm(
            cu->blas, s->trans ? CUBLAS_OP_N : CUBLAS_OP_T,
            s->trans ? CUBLAS_OP_T : CUBLAS_OP_N, mal_cuda_int(i),
            mal_cuda_int(diagonal.n), mal_cuda_int(s->k), &s->alpha, s->x,
            mal_cuda_stride(s->ldx), diagonal.x, mal_cuda_stride(s->ldx), &s->beta,
            s->c + i * s->ldc, mal_cuda_int(s->ldc));
        mal_cuda_check_blas(cu, code, "cublasDgemm");
    }
}

void mal_cuda_syrk64(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                     const float *a, int64_t lda, bool trans, double beta, double *c,
                     int64_t ldc) {
    struct mal_cuda *cu = mal_cuda_of(be);
    int64_t step = (int64_t)(cu->work_bytes / sizeof(double)) / n, p = 0;
    assert(step > 0);
    do {
        int64_t slice = mal_cuda_min(step, k - p);
        int64_t rows = trans ? slice : n, cols = trans ? n : slice;
        mal_cuda_convert_rows(cu, rows, cols, a + (trans ? p * lda : p), MAL_F32, lda,
                              cu->work, MAL_F64);
        struct syrk s = {
            n,     slice, cols, ldc, alpha, p == 0 ? beta : 1, (const double *)cu->work,
            trans, c};
        (cu->emulates64 ? syrk_in_blocks : syrk)(cu, &s);
        p += step;
    } while (p < k);
}

void mal_cuda_trsm64(struct mal_backend *be, bool right, bool trans_l, int64_t m,
                     int64_t n, const double *l, int64_t ldl, double *b, int64_t ldb) {
    struct mal_cuda *cu = mal_cuda_of(be);
    double one = 1;
    cublasStatus_t code = mal_blas()->dtrsm(
        cu->blas, right ? CUBLAS_SIDE_LEFT : CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_UPPER,
        trans_l ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, mal_cuda_int(n),
        mal_cuda_int(m), &one, l, mal_cuda_int(ldl), b, mal_cuda_int(ldb));
    mal_cuda_check_blas(cu, code, "cublasDtrsm");
}

/* ---- QR ---- */

__global__ static void take_r(int64_t m, int64_t n, const double *a, double *r) {
    MAL_EACH(i, n * n) {
        int64_t row = i / n, col = i % n;
        r[i] = col < row ? 0 : a[col * m + row];
    }
}

void mal_cuda_transpose_lower64(struct mal_backend *be, int64_t n, const double *l,
                                double *y) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, take_r, mal_cuda_grid(cu, n * n), MAL_THREADS, 0, n, n, l, y);
}

/* The solver's scratch in host memory, kept for the next time. */
static bool host_scratch(struct mal_cuda *cu, size_t bytes) {
    if (bytes <= cu->solver_host_bytes) return true;
    char *mem = (char *)realloc(cu->solver_host, bytes);
    if (!mem) return mal_fail(&cu->base.error, MAL_NO_MEMORY, "scratch of cuSOLVER");
    cu->solver_host = mem;
    cu->solver_host_bytes = bytes;
    return true;
}

static bool factor(struct mal_cuda *cu, int64_t m, int64_t n, double *a, double *tau,
                   char *work, size_t work_bytes) {
    size_t device = 0, host = 0;
    cusolverStatus_t code =
        mal_solver()->geqrf_size(cu->solver, cu->solver_params, m, n, CUDA_R_64F, a, m,
                                 CUDA_R_64F, tau, CUDA_R_64F, &device, &host);
    if (!mal_cuda_check_solver(cu, code, "cusolverDnXgeqrf_bufferSize")) return false;
    if (device > work_bytes)
        return mal_fail(&cu->base.error, MAL_NO_MEMORY,
                        "a QR of (%lld, %lld) needs %zu bytes", (long long)m,
                        (long long)n, device);
    if (!host_scratch(cu, host)) return false;
    code = mal_solver()->geqrf(cu->solver, cu->solver_params, m, n, CUDA_R_64F, a, m,
                               CUDA_R_64F, tau, CUDA_R_64F, work, device, cu->solver_host,
                               host, cu->info);
    return mal_cuda_check_solver(cu, code, "cusolverDnXgeqrf");
}

static void form(struct mal_cuda *cu, int64_t m, int64_t n, double *a, const double *tau,
                 char *work, size_t work_bytes) {
    int words = 0;
    cusolverStatus_t code =
        mal_solver()->orgqr_size(cu->solver, mal_cuda_int(m), mal_cuda_int(n),
                                 mal_cuda_int(n), a, mal_cuda_int(m), tau, &words);
    if (!mal_cuda_check_solver(cu, code, "cusolverDnDorgqr_bufferSize")) return;
    if ((size_t)words * sizeof(double) > work_bytes) {
        mal_fail(&cu->base.error, MAL_NO_MEMORY, "a QR of (%lld, %lld) needs %d words",
                 (long long)m, (long long)n, words);
        return;
    }
    code =
        mal_solver()->orgqr(cu->solver, mal_cuda_int(m), mal_cuda_int(n), mal_cuda_int(n),
                            a, mal_cuda_int(m), tau, (double *)work, words, cu->info);
    mal_cuda_check_solver(cu, code, "cusolverDnDorgqr");
}

void mal_cuda_qr64(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r) {
    struct mal_cuda *cu = mal_cuda_of(be);
    double *tau = (double *)cu->work;
    size_t tau_bytes = ((size_t)n * sizeof *tau + 255) / 256 * 256;
    char *work = cu->work + tau_bytes;
    if (!factor(cu, m, n, a, tau, work, cu->work_bytes - tau_bytes)) return;
    MAL_LAUNCH(cu, take_r, mal_cuda_grid(cu, n * n), MAL_THREADS, 0, m, n,
               (const double *)a, r);
    form(cu, m, n, a, tau, work, cu->work_bytes - tau_bytes);
}

/* ---- Rows ---- */

template <typename X> __global__ static void axpby(struct mal_axpby64 add) {
    const X *x = (const X *)add.x;
    MAL_EACH_ROW(i, add.n)
    MAL_EACH(j, add.c) {
        double *y = add.y + i * add.ldy + j;
        double from = x ? (double)x[i * add.ldx + j] : 1;
        *y = add.alpha * from + (add.beta == 0 ? 0 : add.beta * *y);
    }
}

void mal_cuda_axpby64(struct mal_backend *be, const struct mal_axpby64 *add) {
    struct mal_cuda *cu = mal_cuda_of(be);
    auto kernel = add->x_dtype == MAL_F64 ? axpby<double> : axpby<float>;
    MAL_LAUNCH(cu, kernel, mal_cuda_grid_rows(cu, add->n, add->c), MAL_THREADS, 0, *add);
}

/* A block a row; y is written where rows are. */
template <typename Y>
__global__ static void round_rows(int64_t c, const double *x, bool rows, Y *y,
                                  double *sums) {
    int64_t i = blockIdx.x;
    double sum = 0, lost = 0;
    for (int64_t j = threadIdx.x; j < c; j += blockDim.x) {
        double from = x[i * c + j];
        Y rounded;
        mal_set(&rounded, (float)from);
        if (rows) y[i * c + j] = rounded;
        double off = (double)mal_widen(rounded) - from;
        sum += from * from;
        lost += off * off;
    }
    sum = mal_block_sum(sum);
    lost = mal_block_sum(lost);
    if (threadIdx.x == 0) {
        sums[2 * i] = sum;
        sums[2 * i + 1] = lost;
    }
}

enum { SQUARE = 32, SQUARE_ROWS = 8 };

/* y (c,n) = x' through a square of shared memory, so that both are walked in rows. */
template <typename Y>
__global__ static void round_transposed(int64_t n, int64_t c, const double *x, Y *y) {
    __shared__ float square[SQUARE][SQUARE + 1];
    int64_t i0 = (int64_t)blockIdx.y * SQUARE, j0 = (int64_t)blockIdx.x * SQUARE;
    for (int r = (int)threadIdx.y; r < SQUARE; r += SQUARE_ROWS) {
        int64_t i = i0 + r, j = j0 + threadIdx.x;
        if (i < n && j < c) square[r][threadIdx.x] = (float)x[i * c + j];
    }
    __syncthreads();
    for (int r = (int)threadIdx.y; r < SQUARE; r += SQUARE_ROWS) {
        int64_t i = i0 + threadIdx.x, j = j0 + r;
        if (i < n && j < c) mal_set(y + j * n + i, square[threadIdx.x][r]);
    }
}

template <typename Y>
static void round_as(struct mal_cuda *cu, int64_t n, int64_t c, const double *x,
                     bool transposed, Y *y, double *sums) {
    auto rows = round_rows<Y>;
    auto turn = round_transposed<Y>;
    MAL_LAUNCH(cu, rows, (unsigned)n, MAL_THREADS, 0, c, x, !transposed, y, sums);
    if (!transposed) return;
    dim3 grid((unsigned)((c + SQUARE - 1) / SQUARE),
              (unsigned)((n + SQUARE - 1) / SQUARE));
    MAL_LAUNCH(cu, turn, grid, dim3(SQUARE, SQUARE_ROWS), 0, n, c, x, y);
}

void mal_cuda_round_rows(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                         bool transposed, void *y, enum mal_dtype y_dtype, double *sums) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (y_dtype == MAL_F32)
        round_as(cu, n, c, x, transposed, (float *)y, sums);
    else
        round_as(cu, n, c, x, transposed, (mal_bf16 *)y, sums);
}
