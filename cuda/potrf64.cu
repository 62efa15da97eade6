/* potrf64.cu - Cholesky in fp64 of the small blocks on a panel's diagonal: own kernels,
 * since what a bad pivot was must be told, and nothing be done after one. */
#include "cuda/impl.h"
#include "cuda/reduce.h"

/* Size of a block; a warp has a lane for each of its rows. */
static const int NB = MAL_WARP, ROWS = 128, SIDE = 256 / NB;

typedef double block_t[NB][NB + 1]; /* a column's rows in different banks */

/* One warp: the block of order n in place. info as mal_potrf64(); row0: of its first row.
 */
__global__ static void factor_block(int n, double *a, int64_t lda, int64_t row0,
                                    double *info) {
    __shared__ block_t l;
    int row = (int)threadIdx.x;
    if (info[0] != 0) return;
    for (int j = 0; row < n && j <= row; j++)
        l[row][j] = a[row * lda + j];
    __syncwarp();
    for (int j = 0; j < n; j++) {
        double pivot = l[j][j];
        if (!(pivot > 0) || !isfinite(pivot)) { /* the same in every lane */
            if (row == 0) {
                info[0] = (double)(row0 + j + 1);
                info[1] = pivot;
            }
            return;
        }
        double root = sqrt(pivot), mine = row > j && row < n ? l[row][j] / root : 0;
        __syncwarp();
        if (row == j) l[j][j] = root;
        if (row > j && row < n) l[row][j] = mine;
        __syncwarp();
        for (int k = j + 1; row < n && k <= row; k++)
            l[row][k] -= mine * l[k][j];
        __syncwarp();
    }
    for (int j = 0; row < n && j <= row; j++)
        a[row * lda + j] = l[row][j];
}

/* A thread a row of b (m, NB): b := b l'^-1. */
__global__ static void solve_rows(int64_t m, const double *l, double *b, int64_t ld,
                                  const double *info) {
    __shared__ block_t factor;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x;
    if (info[0] != 0) return;
    for (int i = (int)threadIdx.x; i < NB * NB; i += ROWS)
        factor[i / NB][i % NB] = i % NB <= i / NB ? l[i / NB * ld + i % NB] : 0;
    __syncthreads();
    if (row >= m) return;

    double x[NB];
#pragma unroll
    for (int j = 0; j < NB; j++) {
        double sum = b[row * ld + j];
#pragma unroll
        for (int k = 0; k < j; k++)
            sum -= x[k] * factor[j][k];
        x[j] = sum / factor[j][j];
    }
#pragma unroll
    for (int j = 0; j < NB; j++)
        b[row * ld + j] = x[j];
}

/* Lower triangle of c (m, m) -= p p', p (m, NB) in the columns before it; a thread block
 * a block of c. */
__global__ static void update_rest(int64_t m, const double *p, double *c, int64_t ld,
                                   const double *info) {
    __shared__ block_t left, right;
    if (blockIdx.y > blockIdx.x || info[0] != 0) return;
    int64_t i0 = (int64_t)blockIdx.x * NB, j0 = (int64_t)blockIdx.y * NB;
    int col = (int)threadIdx.x % NB, first = (int)threadIdx.x / NB;
    for (int r = first; r < NB; r += SIDE) {
        left[r][col] = i0 + r < m ? p[(i0 + r) * ld + col] : 0;
        right[r][col] = j0 + r < m ? p[(j0 + r) * ld + col] : 0;
    }
    __syncthreads();
    for (int r = first; r < NB; r += SIDE) {
        int64_t i = i0 + r, j = j0 + col;
        if (i >= m || j > i) continue;
        double sum = 0;
        for (int k = 0; k < NB; k++)
            sum += left[r][k] * right[col][k];
        c[i * ld + j] -= sum;
    }
}

void mal_cuda_potrf64(struct mal_backend *be, int64_t n, double *a, int64_t lda,
                      int64_t row0, double *info) {
    struct mal_cuda *cu = mal_cuda_of(be);
    for (int64_t j = 0; j < n; j += NB) {
        double *block = a + j * lda + j;
        int64_t w = n - j < NB ? n - j : NB, m = n - j - w;
        MAL_LAUNCH(cu, factor_block, 1, NB, 0, (int)w, block, lda, row0 + j, info);
        if (m == 0) return;
        unsigned blocks = (unsigned)((m + NB - 1) / NB);
        double *below = block + NB * lda;
        MAL_LAUNCH(cu, solve_rows, (unsigned)((m + ROWS - 1) / ROWS), ROWS, 0, m,
                   (const double *)block, below, lda, (const double *)info);
        MAL_LAUNCH(cu, update_rest, dim3(blocks, blocks), 256, 0, m,
                   (const double *)below, below + NB, lda, (const double *)info);
    }
}
