/* editor_ops.cu - what hyper-network and editors do row by row and column by column. */
#include <float.h>

#include "cuda/impl.h"
#include "cuda/reduce.h"

/* ---- Normalizer ---- */

__global__ static void normalize_rows(int64_t n, int64_t du, int64_t dg, const float *u,
                                      int64_t ldu, const float *g, int64_t ldg,
                                      const float *mean, const float *std, float *h) {
    int64_t c = du + dg;
    MAL_EACH_ROW(i, n)
    MAL_EACH(j, c) {
        float x = j < du ? u[i * ldu + j] : g[i * ldg + j - du];
        h[i * c + j] = (x - mean[j]) / (std[j] + FLT_EPSILON);
    }
}

void mal_cuda_normalize_rows(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                             const float *u, int64_t ldu, const float *g, int64_t ldg,
                             const float *mean, const float *std, float *h) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, normalize_rows, mal_cuda_grid_rows(cu, n, du + dg), MAL_THREADS, 0, n,
               du, dg, u, ldu, g, ldg, mean, std, h);
}

__global__ static void column_stats(int64_t n, int64_t c, const float *x, int64_t ldx,
                                    double *mean, double *m2) {
    int64_t j = (int64_t)blockIdx.x * MAL_COLUMNS + threadIdx.x;
    double sum = 0;
    for (int64_t i = threadIdx.y; j < c && i < n; i += MAL_GROUPS)
        sum += (double)x[i * ldx + j];
    double middle = mal_column_sum(sum) / (double)n, square = 0;
    for (int64_t i = threadIdx.y; j < c && i < n; i += MAL_GROUPS) {
        double d = (double)x[i * ldx + j] - middle;
        square += d * d;
    }
    square = mal_column_sum(square);
    if (threadIdx.y > 0 || j >= c) return;
    mean[j] = middle;
    m2[j] = square;
}

static void columns(struct mal_cuda *cu, int64_t n, int64_t c, const float *x,
                    int64_t ldx, double *mean, double *m2) {
    if (c == 0) return;
    MAL_LAUNCH(cu, column_stats, (unsigned)((c + MAL_COLUMNS - 1) / MAL_COLUMNS),
               dim3(MAL_COLUMNS, MAL_GROUPS), 0, n, c, x, ldx, mean, m2);
}

void mal_cuda_column_stats(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                           const float *u, int64_t ldu, const float *g, int64_t ldg,
                           double *mean, double *m2) {
    struct mal_cuda *cu = mal_cuda_of(be);
    columns(cu, n, du, u, ldu, mean, m2);
    columns(cu, n, dg, g, ldg, mean + du, m2 + du);
}

/* ---- Hyper-network and value differences ---- */

__global__ static void block_fwd(int64_t n, int64_t c, const float *z, const float *scale,
                                 const float *shift, float *h) {
    MAL_EACH_ROW(i, n)
    MAL_EACH(j, c) {
        float x = z[i * c + j];
        h[i * c + j] += scale[j] * (x < 0 ? 0 : x) + shift[j];
    }
}

void mal_cuda_block_fwd(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                        const float *scale, const float *shift, float *h) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, block_fwd, mal_cuda_grid_rows(cu, n, c), MAL_THREADS, 0, n, c, z,
               scale, shift, h);
}

/* A block a row. */
__global__ static void edit_diffs(int64_t da, int64_t dc, float lr, const float *a,
                                  int64_t lda, const float *b, int64_t ldb,
                                  const float *c, int64_t ldc, float *d, int64_t ldd) {
    int64_t i = blockIdx.x;
    double product = 0;
    for (int64_t j = threadIdx.x; j < da; j += blockDim.x)
        product += (double)a[i * lda + j] * (double)b[i * ldb + j];
    float factor = (float)(-(double)lr * mal_block_sum(product));
    for (int64_t j = threadIdx.x; j < dc; j += blockDim.x)
        d[i * ldd + j] = factor * c[i * ldc + j];
}

void mal_cuda_edit_diffs(struct mal_backend *be, int64_t n, int64_t da, int64_t dc,
                         float lr, const float *a, int64_t lda, const float *b,
                         int64_t ldb, const float *c, int64_t ldc, float *d,
                         int64_t ldd) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, edit_diffs, (unsigned)n, MAL_THREADS, 0, da, dc, lr, a, lda, b, ldb, c,
               ldc, d, ldd);
}
