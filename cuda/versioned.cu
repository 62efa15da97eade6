/* versioned.cu - the weights of versions: the same bits as on the CPU. Sums have one
 * order, stated in backend.h; nothing here goes through cuBLAS, and what is rounded is
 * rounded by core/round.h. */
#include "cuda/impl.h"
#include "cuda/number.h"
#include "cuda/reduce.h"

/* ---- Factors ---- */

/* A block makes a (SIDE, SIDE) tile of t, a thread EACH x EACH elements of it in
 * registers; DEPTH of the rank at a time goes through shared memory. */
enum { SIDE = 128, DEPTH = 8, EACH = 8, TILE_THREADS = SIDE / EACH * (SIDE / EACH) };

/* One factor as (rank, n): element (p, i) is at p * step_p + i * step_i. */
struct side {
    const float *x;
    int64_t n, step_p, step_i;
};

/* Ranks [p, p + DEPTH) of elements [i0, i0 + SIDE): each thread's four go to registers
 * first, so that the next ones are on their way while the present ones are multiplied. */
struct fetched {
    float of[SIDE * DEPTH / TILE_THREADS];
};

/* Neighbouring threads take what lies side by side in memory. */
__device__ static void place_of(const struct side &s, int at, int *p, int *i) {
    if (s.step_i == 1) {
        *p = at / SIDE;
        *i = at % SIDE;
    } else {
        *p = at % DEPTH;
        *i = at / DEPTH;
    }
}

__device__ static void fetch(const struct side &s, int64_t i0, int64_t p0, int64_t rank,
                             struct fetched *out) {
#pragma unroll
    for (int k = 0; k < SIDE * DEPTH / TILE_THREADS; k++) {
        int p, i;
        place_of(s, (int)threadIdx.x + k * TILE_THREADS, &p, &i);
        bool there = i0 + i < s.n && p0 + p < rank;
        out->of[k] = there ? s.x[(p0 + p) * s.step_p + (i0 + i) * s.step_i] : 0;
    }
}

__device__ static void store(const struct side &s, const struct fetched &in,
                             float tile[DEPTH][SIDE + 4]) {
#pragma unroll
    for (int k = 0; k < SIDE * DEPTH / TILE_THREADS; k++) {
        int p, i;
        place_of(s, (int)threadIdx.x + k * TILE_THREADS, &p, &i);
        tile[p][i] = in.of[k];
    }
}

/* t (rows.n, cols.n) += rows' cols, one fma per rank in order. A rank beyond the last is
 * not multiplied, as fma(0, 0, -0) would be +0. */
__global__ static void __launch_bounds__(TILE_THREADS, 2)
    apply_factors(struct side rows, struct side cols, int64_t rank, float *t) {
    __shared__ __align__(16) float a[2][DEPTH][SIDE + 4], b[2][DEPTH][SIDE + 4];
    int64_t i0 = (int64_t)blockIdx.y * SIDE, j0 = (int64_t)blockIdx.x * SIDE;
    /* Elements of a thread are in two groups of four, half a tile apart: reads of shared
     * memory by a warp then fall on different banks. */
    int row = (int)threadIdx.x / (SIDE / EACH) * 4,
        col = (int)threadIdx.x % (SIDE / EACH) * 4;
    float sum[EACH][EACH];
#pragma unroll
    for (int r = 0; r < EACH; r++) {
        int64_t i = i0 + row + r % 4 + r / 4 * (SIDE / 2);
#pragma unroll
        for (int c = 0; c < EACH; c++) {
            int64_t j = j0 + col + c % 4 + c / 4 * (SIDE / 2);
            sum[r][c] = i < rows.n && j < cols.n ? t[i * cols.n + j] : 0;
        }
    }

    struct fetched next_a, next_b;
    fetch(rows, i0, 0, rank, &next_a);
    fetch(cols, j0, 0, rank, &next_b);
    for (int64_t p0 = 0, turn = 0; p0 < rank; p0 += DEPTH, turn ^= 1) {
        store(rows, next_a, a[turn]);
        store(cols, next_b, b[turn]);
        __syncthreads();
        fetch(rows, i0, p0 + DEPTH, rank, &next_a);
        fetch(cols, j0, p0 + DEPTH, rank, &next_b);
        int depth = rank - p0 < DEPTH ? (int)(rank - p0) : DEPTH;
#pragma unroll
        for (int p = 0; p < DEPTH; p++) {
            if (p >= depth) break;
            __align__(16) float x[EACH], y[EACH];
            *(float4 *)x = *(const float4 *)&a[turn][p][row];
            *(float4 *)(x + 4) = *(const float4 *)&a[turn][p][row + SIDE / 2];
            *(float4 *)y = *(const float4 *)&b[turn][p][col];
            *(float4 *)(y + 4) = *(const float4 *)&b[turn][p][col + SIDE / 2];
#pragma unroll
            for (int r = 0; r < EACH; r++)
#pragma unroll
                for (int c = 0; c < EACH; c++)
                    sum[r][c] = fmaf(x[r], y[c], sum[r][c]);
        }
    }

#pragma unroll
    for (int r = 0; r < EACH; r++) {
        int64_t i = i0 + row + r % 4 + r / 4 * (SIDE / 2);
#pragma unroll
        for (int c = 0; c < EACH; c++) {
            int64_t j = j0 + col + c % 4 + c / 4 * (SIDE / 2);
            if (i < rows.n && j < cols.n) t[i * cols.n + j] = sum[r][c];
        }
    }
}

void mal_cuda_apply_factors(struct mal_backend *be, int64_t d_in, int64_t d_out,
                            int64_t rank, const float *l, const float *r, bool transposed,
                            float *t) {
    struct mal_cuda *cu = mal_cuda_of(be);
    struct side in = {l, d_in, 1, rank}, out = {r, d_out, d_out, 1};
    struct side rows = transposed ? out : in, cols = transposed ? in : out;
    dim3 grid((unsigned)((cols.n + SIDE - 1) / SIDE),
              (unsigned)((rows.n + SIDE - 1) / SIDE));
    MAL_LAUNCH(cu, apply_factors, grid, TILE_THREADS, 0, rows, cols, rank, t);
}

/* ---- Dense ---- */

enum { SQUARE = 32, SQUARE_ROWS = 8 };

__global__ static void add_all(int64_t n, const float *s, float *t) {
    MAL_EACH(i, n)
    t[i] += s[i];
}

/* t (d_out, d_in) += s', through a square of shared memory so that both are read in rows.
 */
__global__ static void add_transposed(int64_t d_in, int64_t d_out, const float *s,
                                      float *t) {
    __shared__ float square[SQUARE][SQUARE + 1];
    int64_t i0 = (int64_t)blockIdx.x * SQUARE, j0 = (int64_t)blockIdx.y * SQUARE;
    for (int r = (int)threadIdx.y; r < SQUARE; r += SQUARE_ROWS) {
        int64_t i = i0 + r, j = j0 + threadIdx.x;
        if (i < d_in && j < d_out) square[r][threadIdx.x] = s[i * d_out + j];
    }
    __syncthreads();
    for (int r = (int)threadIdx.y; r < SQUARE; r += SQUARE_ROWS) {
        int64_t i = i0 + threadIdx.x, j = j0 + r;
        if (i < d_in && j < d_out) t[j * d_in + i] += square[threadIdx.x][r];
    }
}

void mal_cuda_apply_dense(struct mal_backend *be, int64_t d_in, int64_t d_out,
                          const float *s, bool transposed, float *t) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (!transposed) {
        int64_t n = d_in * d_out;
        MAL_LAUNCH(cu, add_all, mal_cuda_grid(cu, n), MAL_THREADS, 0, n, s, t);
        return;
    }
    dim3 grid((unsigned)((d_in + SQUARE - 1) / SQUARE),
              (unsigned)((d_out + SQUARE - 1) / SQUARE));
    MAL_LAUNCH(cu, add_transposed, grid, dim3(SQUARE, SQUARE_ROWS), 0, d_in, d_out, s, t);
}

/* ---- Rounding ---- */

__device__ static float rounded(float x, enum mal_dtype dtype) {
    return dtype == MAL_F16 ? round_to_f16(x) : dtype == MAL_BF16 ? round_to_bf16(x) : x;
}

template <typename W>
__global__ static void round_weight(int64_t n, const W *w0, const float *t,
                                    enum mal_dtype dtype, W *w) {
    MAL_EACH(i, n)
    mal_set(w + i, rounded(mal_widen(w0[i]) + t[i], dtype));
}

template <typename W>
static void round_as(struct mal_cuda *cu, int64_t n, const void *w0, const float *t,
                     enum mal_dtype dtype, void *w) {
    auto kernel = round_weight<W>;
    MAL_LAUNCH(cu, kernel, mal_cuda_grid(cu, n), MAL_THREADS, 0, n, (const W *)w0, t,
               dtype, (W *)w);
}

void mal_cuda_round_weight(struct mal_backend *be, int64_t n, const void *w0,
                           const float *t, enum mal_dtype dtype, void *w,
                           enum mal_dtype w_dtype) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (w_dtype == MAL_F16)
        round_as<mal_f16>(cu, n, w0, t, dtype, w);
    else if (w_dtype == MAL_BF16)
        round_as<mal_bf16>(cu, n, w0, t, dtype, w);
    else
        round_as<float>(cu, n, w0, t, dtype, w);
}

/* ---- Norm ---- */

static const int64_t PARTS = 1024;

__global__ static void sum_squares_parts(int64_t n, const float *x, double *part) {
    double sum = 0;
    MAL_EACH(i, n)
    sum += (double)x[i] * (double)x[i];
    sum = mal_block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

void mal_cuda_sum_squares(struct mal_backend *be, int64_t n, const float *x,
                          double *out) {
    struct mal_cuda *cu = mal_cuda_of(be);
    double *part = (double *)cu->work;
    int64_t blocks = (n + MAL_THREADS - 1) / MAL_THREADS;
    unsigned grid = (unsigned)(blocks < 1 ? 1 : blocks < PARTS ? blocks : PARTS);
    MAL_LAUNCH(cu, sum_squares_parts, grid, MAL_THREADS, 0, n, x, part);
    mal_cuda_add_parts(cu, grid, part, false, out);
}
