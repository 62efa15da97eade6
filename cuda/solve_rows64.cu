/* solve_rows64.cu - rows through a Cholesky factor, with the inverses of the blocks on
 * its diagonal: what is left of a triangular solve is products, one after the other for
 * as many blocks as there are. For few rows they are own kernels, which read the factor
 * as fast as the memory gives it. */
#include "cuda/impl.h"
#include "cuda/reduce.h"

static const int BLOCK = MAL_INVERSE_BLOCK, TILE = 32, SIDE = 8;

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

/* As mal_gemm64() of operands in fp64, a (m,k) not transposed, m <= FEW, k <= BLOCK. In a
 * struct of its own: what has "gemm" in its name is taken for cuBLAS' when kernels are
 * looked at for races (tests/bench/gpu.py). */
struct few_rows {
    struct mal_gemm64 g;
};

/* a into shared memory, R rows of k. */
template <int R> __device__ inline void load_rows(const struct mal_gemm64 &g, double *x) {
    int thread = (int)(threadIdx.y * blockDim.x + threadIdx.x);
    for (int i = thread; i < R * (int)g.k; i += (int)(blockDim.x * blockDim.y)) {
        int64_t r = i / g.k;
        x[i] = r < g.m ? ((const double *)g.a)[r * g.lda + i % g.k] : 0;
    }
    __syncthreads();
}

__device__ inline void store(const struct mal_gemm64 &g, int64_t r, int64_t j,
                             double sum) {
    double *c = g.c + r * g.ldc + j;
    *c = g.alpha * sum + (g.beta == 0 ? 0 : g.beta * *c);
}

/* b (n,k): a warp a row of it. */
template <int R> __global__ static void few_by_rows(struct few_rows product) {
    MAL_SHARED(double, x);
    const struct mal_gemm64 &g = product.g;
    int warp = (int)threadIdx.y, lane = (int)threadIdx.x;
    load_rows<R>(g, x);
    for (int64_t j = (int64_t)blockIdx.x * WARPS + warp; j < g.n;
         j += (int64_t)gridDim.x * WARPS) {
        const double *b = (const double *)g.b + j * g.ldb;
        double sum[R] = {0};
#pragma unroll 8
        for (int k = lane; k < (int)g.k; k += MAL_WARP) {
            double value = b[k];
#pragma unroll
            for (int r = 0; r < R; r++)
                sum[r] += value * x[r * (int)g.k + k];
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            double all = mal_warp_sum(sum[r]);
            if (lane == 0 && r < g.m) store(g, r, j, all);
        }
    }
}

/* b (k,n): a thread block MAL_COLUMNS columns of it. */
template <int R> __global__ static void few_by_columns(struct few_rows product) {
    MAL_SHARED(double, x);
    const struct mal_gemm64 &g = product.g;
    int64_t j = (int64_t)blockIdx.x * MAL_COLUMNS + threadIdx.x;
    double sum[R] = {0};
    load_rows<R>(g, x);
#pragma unroll 8
    for (int k = (int)threadIdx.y; k < (int)g.k; k += MAL_GROUPS) {
        double value = j < g.n ? ((const double *)g.b)[k * g.ldb + j] : 0;
#pragma unroll
        for (int r = 0; r < R; r++)
            sum[r] += value * x[r * (int)g.k + k];
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        double all = mal_column_sum(sum[r]);
        if (threadIdx.y == 0 && j < g.n && r < g.m) store(g, r, j, all);
    }
}

template <int R> static void few(struct mal_cuda *cu, const struct mal_gemm64 *g) {
    size_t shared = (size_t)(R * g->k) * sizeof(double);
    if (g->trans_b) {
        int64_t blocks = mal_cuda_min((g->n + WARPS - 1) / WARPS, 4 * (int64_t)cu->n_sms);
        MAL_LAUNCH(cu, few_by_rows<R>, (unsigned)blocks, dim3(MAL_WARP, WARPS), shared,
                   few_rows{*g});
    } else {
        MAL_LAUNCH(cu, few_by_columns<R>,
                   (unsigned)((g->n + MAL_COLUMNS - 1) / MAL_COLUMNS),
                   dim3(MAL_COLUMNS, MAL_GROUPS), shared, few_rows{*g});
    }
}

static void multiply(struct mal_cuda *cu, const struct mal_gemm64 *g) {
    if (g->m > FEW) {
        mal_cuda_gemm64(&cu->base, g);
        return;
    }
    (g->m == 1 ? few<1> : g->m == 2 ? few<2> : g->m <= 4 ? few<4> : few<FEW>)(cu, g);
}

/* ---- Solving ---- */

/* Rows that pay for inverses which are not there. */
static const int MANY = 4 * BLOCK;

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
    int64_t at = q * BLOCK, w = mal_cuda_min(BLOCK, s->n - at), end = at + w;
    struct mal_gemm64 own = {.m = m, .n = w, .k = w};
    own.a = b + at, own.lda = ldb;
    own.b = s->inverses + at * BLOCK, own.ldb = BLOCK;
    own.c = x, own.ldc = BLOCK;
    own.a_dtype = own.b_dtype = MAL_F64;
    own.trans_b = s->first;
    own.alpha = 1;
    struct mal_gemm64 rest = own;
    rest.n = s->first ? s->n - end : at;
    rest.a = x, rest.lda = BLOCK;
    rest.b = s->l + (s->first ? end * s->ldl + at : at * s->ldl), rest.ldb = s->ldl;
    rest.c = s->first ? b + end : b, rest.ldc = ldb;
    rest.alpha = -1, rest.beta = 1;
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
    int64_t words = (int64_t)(cu->work_bytes / sizeof(double)), own = n * BLOCK;
    if (!inverses && (m < MANY || own > words / 2)) {
        mal_cuda_trsm64(be, true, first, m, n, l, ldl, b, ldb);
        return;
    }
    if (!inverses) { /* at the end of the workspace, for this once */
        words -= own;
        mal_cuda_invert_blocks64(be, n, l, ldl, (double *)cu->work + words);
        inverses = (double *)cu->work + words;
    }
    struct system s = {.n = n, .ldl = ldl, .first = first, .l = l, .inverses = inverses};
    int64_t blocks = (n + BLOCK - 1) / BLOCK, most = words / BLOCK;
    for (int64_t i = 0; i < m; i += most)
        for (int64_t q = 0; q < blocks; q++)
            solve_block(cu, &s, first ? q : blocks - 1 - q, mal_cuda_min(most, m - i),
                        b + i * ldb, ldb);
}
