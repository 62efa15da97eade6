/* solve_rows64.cu - rows through a Cholesky factor, with the inverses of the blocks on
 * its diagonal: what is left of a triangular solve is products, one after the other for
 * as many blocks as there are. For few rows they are own kernels, which read the factor
 * as fast as the memory gives it. */
#include <assert.h>

#include "cuda/impl.h"
#include "cuda/libraries.h"
#include "cuda/reduce.h"

static const int BLOCK = MAL_INVERSE_BLOCK, TILE = 32, SIDE = 8;

static int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- Inverses ---- */

typedef double tile_t[TILE][TILE + 1]; /* a column's rows in different banks */

/* Of x (rows, columns), with zeros around it. */
__device__ inline void load(tile_t &tile, const double *x, int64_t ld, int64_t rows,
                            int64_t columns) {
    int j = (int)threadIdx.x;
    for (int i = (int)threadIdx.y; i < TILE; i += SIDE)
        tile[i][j] = i < rows && j < columns ? x[i * ld + j] : 0;
}

/* x := l^-1 x; both were just written. Rows of zeros under l stay. */
__device__ inline void solve_tile(const tile_t &l, tile_t &x) {
    int j = (int)threadIdx.x, first = (int)threadIdx.y;
    for (int i = 0; i < TILE; i++) {
        __syncthreads(); /* row i is what is left of it */
        double value = l[i][i] == 0 ? 0 : x[i][j] / l[i][i];
        for (int k = first; k < TILE; k += SIDE)
            if (k > i) x[k][j] -= l[k][i] * value;
    }
    __syncthreads();
    for (int i = first; i < TILE; i += SIDE)
        if (l[i][i] != 0) x[i][j] /= l[i][i];
}

/* Column tile j0 of the inverse y (ld BLOCK) of l (order n), from the top: y_i = l_ii^-1
 * (e_i - sum over k < i of l_ik y_k), in tiles. */
__device__ void invert_columns(int64_t n, const double *l, int64_t ldl, int64_t j0,
                               double *y) {
    __shared__ tile_t left, right;
    int j = (int)threadIdx.x, first = (int)threadIdx.y;
    for (int64_t i0 = 0; i0 < j0; i0 += TILE)
        for (int i = first; i < TILE; i += SIDE)
            if (j0 + j < n) y[(i0 + i) * BLOCK + j0 + j] = 0;
    for (int64_t i0 = j0; i0 < n; i0 += TILE) {
        double sum[TILE / SIDE];
        for (int q = 0; q < TILE / SIDE; q++)
            sum[q] = i0 == j0 && first + q * SIDE == j ? 1 : 0;
        for (int64_t k0 = j0; k0 < i0; k0 += TILE) {
            __syncthreads(); /* the tiles have been read, and y written */
            load(left, l + i0 * ldl + k0, ldl, n - i0, n - k0);
            load(right, y + k0 * BLOCK + j0, BLOCK, n - k0, n - j0);
            __syncthreads();
            for (int k = 0; k < TILE; k++)
                for (int q = 0; q < TILE / SIDE; q++)
                    sum[q] -= left[first + q * SIDE][k] * right[k][j];
        }
        __syncthreads();
        load(left, l + i0 * ldl + i0, ldl, n - i0, n - i0);
        for (int q = 0; q < TILE / SIDE; q++)
            right[first + q * SIDE][j] = sum[q];
        solve_tile(left, right);
        for (int i = first; i < TILE; i += SIDE)
            if (i0 + i < n && j0 + j < n) y[(i0 + i) * BLOCK + j0 + j] = right[i][j];
    }
}

/* A thread block a column tile of a block. */
__global__ static void invert_blocks(int64_t n, const double *l, int64_t ldl,
                                     double *inverses) {
    int64_t at = (int64_t)blockIdx.y * BLOCK, j0 = (int64_t)blockIdx.x * TILE;
    int64_t order = n - at < BLOCK ? n - at : BLOCK;
    if (j0 < order)
        invert_columns(order, l + at * ldl + at, ldl, j0, inverses + at * BLOCK);
}

void mal_cuda_invert_blocks64(struct mal_backend *be, int64_t n, const double *l,
                              int64_t ldl, double *inverses) {
    struct mal_cuda *cu = mal_cuda_of(be);
    dim3 grid(BLOCK / TILE, (unsigned)((n + BLOCK - 1) / BLOCK));
    MAL_LAUNCH(cu, invert_blocks, grid, dim3(TILE, SIDE), 0, n, l, ldl, inverses);
}

/* ---- Products of few rows ---- */

enum { FEW = 8, WARPS = 8 };

/* y (m,n) = alpha x (m,k) op(a) + beta y, k <= BLOCK */
struct product {
    int64_t m, n, k;
    bool trans_a;
    double alpha, beta;
    const double *x, *a;
    double *y;
    int64_t ldx, lda, ldy;
};

/* x into shared memory, R rows of k. */
template <int R> __device__ inline void load_rows(const struct product &p, double *x) {
    int thread = (int)(threadIdx.y * blockDim.x + threadIdx.x);
    for (int i = thread; i < R * (int)p.k; i += (int)(blockDim.x * blockDim.y)) {
        int64_t r = i / p.k;
        x[i] = r < p.m ? p.x[r * p.ldx + i % p.k] : 0;
    }
    __syncthreads();
}

__device__ inline void store(const struct product &p, int64_t r, int64_t j, double sum) {
    double *y = p.y + r * p.ldy + j;
    *y = p.alpha * sum + (p.beta == 0 ? 0 : p.beta * *y);
}

/* a (n,k): a warp a row of it. */
template <int R> __global__ static void few_by_rows(struct product p) {
    MAL_SHARED(double, x);
    int warp = (int)threadIdx.y, lane = (int)threadIdx.x;
    load_rows<R>(p, x);
    for (int64_t j = (int64_t)blockIdx.x * WARPS + warp; j < p.n;
         j += (int64_t)gridDim.x * WARPS) {
        const double *a = p.a + j * p.lda;
        double sum[R] = {0};
#pragma unroll 8
        for (int k = lane; k < (int)p.k; k += MAL_WARP) {
            double value = a[k];
#pragma unroll
            for (int r = 0; r < R; r++)
                sum[r] += value * x[r * (int)p.k + k];
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            double all = mal_warp_sum(sum[r]);
            if (lane == 0 && r < p.m) store(p, r, j, all);
        }
    }
}

/* a (k,n): a thread block MAL_COLUMNS columns of it. */
template <int R> __global__ static void few_by_columns(struct product p) {
    MAL_SHARED(double, x);
    int64_t j = (int64_t)blockIdx.x * MAL_COLUMNS + threadIdx.x;
    double sum[R] = {0};
    load_rows<R>(p, x);
#pragma unroll 8
    for (int k = (int)threadIdx.y; k < (int)p.k; k += MAL_GROUPS) {
        double value = j < p.n ? p.a[k * p.lda + j] : 0;
#pragma unroll
        for (int r = 0; r < R; r++)
            sum[r] += value * x[r * (int)p.k + k];
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        double all = mal_column_sum(sum[r]);
        if (threadIdx.y == 0 && j < p.n && r < p.m) store(p, r, j, all);
    }
}

template <int R> static void few(struct mal_cuda *cu, const struct product *p) {
    size_t shared = (size_t)(R * p->k) * sizeof(double);
    if (p->trans_a) {
        int64_t blocks = min_of((p->n + WARPS - 1) / WARPS, 4 * (int64_t)cu->n_sms);
        MAL_LAUNCH(cu, few_by_rows<R>, (unsigned)blocks, dim3(MAL_WARP, WARPS), shared,
                   *p);
    } else {
        MAL_LAUNCH(cu, few_by_columns<R>,
                   (unsigned)((p->n + MAL_COLUMNS - 1) / MAL_COLUMNS),
                   dim3(MAL_COLUMNS, MAL_GROUPS), shared, *p);
    }
}

static void multiply(struct mal_cuda *cu, const struct product *p) {
    if (p->m > FEW) {
        cublasStatus_t code = mal_blas()->dgemm(
            cu->blas, p->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N,
            mal_cuda_int(p->n), mal_cuda_int(p->m), mal_cuda_int(p->k), &p->alpha, p->a,
            mal_cuda_int(p->lda), p->x, mal_cuda_int(p->ldx), &p->beta, p->y,
            mal_cuda_int(p->ldy));
        mal_cuda_check_blas(cu, code, "cublasDgemm");
        return;
    }
    (p->m == 1 ? few<1> : p->m == 2 ? few<2> : p->m <= 4 ? few<4> : few<FEW>)(cu, p);
}

/* ---- Solving ---- */

struct system {
    int64_t n, ldl;
    bool first;
    const double *l, *inverses;
};

/* Block q of the unknowns x, and what it is in the blocks that follow: b := b - x op(l).
 */
static void solve_block(struct mal_cuda *cu, const struct system *s, int64_t q, int64_t m,
                        double *b, int64_t ldb) {
    double *x = (double *)cu->work;
    int64_t at = q * BLOCK, w = min_of(BLOCK, s->n - at), end = at + w;
    struct product own = {.m = m,
                          .n = w,
                          .k = w,
                          .trans_a = s->first,
                          .alpha = 1,
                          .x = b + at,
                          .a = s->inverses + at * BLOCK,
                          .y = x,
                          .ldx = ldb,
                          .lda = BLOCK,
                          .ldy = BLOCK};
    struct product rest = {.m = m,
                           .n = s->first ? s->n - end : at,
                           .k = w,
                           .trans_a = s->first,
                           .alpha = -1,
                           .beta = 1,
                           .x = x,
                           .a = s->l + (s->first ? end * s->ldl + at : at * s->ldl),
                           .y = s->first ? b + end : b,
                           .ldx = BLOCK,
                           .lda = s->ldl,
                           .ldy = ldb};
    struct mal_axpby64 copy = {
        .n = m, .c = w, .alpha = 1, .x = x, .ldx = BLOCK, .y = b + at, .ldy = ldb};
    copy.x_dtype = MAL_F64;
    multiply(cu, &own);
    if (rest.n > 0) multiply(cu, &rest);
    mal_cuda_axpby64(&cu->base, &copy);
}

void mal_cuda_solve_rows64(struct mal_backend *be, bool first, int64_t m, int64_t n,
                           const double *l, int64_t ldl, const double *inverses,
                           double *b, int64_t ldb) {
    struct mal_cuda *cu = mal_cuda_of(be);
    struct system s = {.n = n, .ldl = ldl, .first = first, .l = l, .inverses = inverses};
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    int64_t most = (int64_t)(cu->work_bytes / sizeof(double)) / BLOCK;
    if (!inverses) {
        mal_cuda_trsm64(be, true, first, m, n, l, ldl, b, ldb);
        return;
    }
    for (int64_t i = 0; i < m; i += most)
        for (int64_t q = 0; q < blocks; q++)
            solve_block(cu, &s, first ? q : blocks - 1 - q, min_of(most, m - i),
                        b + i * ldb, ldb);
}
