/* norm.cu - layer norm and RMS norm over rows, RMS norm over heads; statistics in fp64,
 * computed again backwards.
 *
 * A block a row. A thread keeps its columns in registers from the first pass over the row
 * to the last; of rows longer than that, the rest is read again for every pass. */
#include "cuda/impl.h"
#include "cuda/number.h"
#include "cuda/reduce.h"

enum { MOST_THREADS = 512, LEAST_BLOCKS = 2 /* of them on a processor */ };

/* Packs of each array that a thread keeps. */
enum { KEPT_FWD = 4, KEPT_BWD = 2 };

/* f(p, columns) for every pack of columns that is this thread's: the first N as they are
 * kept, others as load(p) gives them. */
template <int N, typename T, typename Load, typename F>
__device__ static void each_column(int packs, const T (&kept)[N], Load load, F f) {
#pragma unroll
    for (int k = 0; k < N; k++) {
        int p = (int)(threadIdx.x + k * blockDim.x);
        if (p < packs) f(p, kept[k]);
    }
    for (int p = (int)(threadIdx.x + N * blockDim.x); p < packs; p += blockDim.x)
        f(p, load(p));
}

template <int N, typename T, typename Load>
__device__ static void keep_columns(int packs, T (&kept)[N], Load load) {
#pragma unroll
    for (int k = 0; k < N; k++) {
        int p = (int)(threadIdx.x + k * blockDim.x);
        if (p < packs) kept[k] = load(p);
    }
}

/* (x - mean) times the returned scale is the normalised row. each(f) calls f for every x
 * of this thread. */
template <typename Each>
__device__ static double row_stats(const struct mal_norm &norm, Each each, double *mean) {
    double c = (double)norm.c, sum = 0, square = 0, middle = 0;
    if (!norm.rms) {
        each([&](float x) { sum += (double)x; });
        middle = mal_block_sum(sum) / c;
    }
    each([&](float x) {
        double d = (double)x - middle;
        square = fma(d, d, square);
    });
    *mean = middle;
    return 1 / sqrt(mal_block_sum(square) / c + (double)norm.eps);
}

/* ---- Forward ---- */

template <int W, typename Y>
__global__ static void __launch_bounds__(MOST_THREADS, LEAST_BLOCKS)
    fwd_rows(struct mal_norm norm, const float *x, Y *y) {
    int packs = (int)(norm.c / W);
    int64_t row = (int64_t)blockIdx.x * packs;
    const mal_floats<W> *gain = (const mal_floats<W> *)norm.gain,
                        *bias = (const mal_floats<W> *)norm.bias;
    auto load = [=](int p) { return ((const mal_floats<W> *)x)[row + p]; };
    mal_floats<W> kept[KEPT_FWD];
    keep_columns(packs, kept, load);

    auto each_x = [&](auto f) {
        each_column(packs, kept, load, [&](int, const mal_floats<W> &in) {
            for (int w = 0; w < W; w++)
                f(in.x[w]);
        });
    };
    double mean, scale = row_stats(norm, each_x, &mean);

    each_column(packs, kept, load, [&](int p, const mal_floats<W> &in) {
        mal_floats<W> g = gain[p], b = {};
        mal_pack<Y, W> out;
        if (bias) b = bias[p];
        for (int w = 0; w < W; w++) {
            float z = (float)(((double)in.x[w] - mean) * scale);
            mal_set(&out.x[w], fmaf(z, g.x[w], b.x[w]));
        }
        ((mal_pack<Y, W> *)y)[row + p] = out;
    });
}

/* ---- Backward ---- */

template <int W> struct columns { mal_floats<W> x, dy; };

template <int W>
__global__ static void __launch_bounds__(MOST_THREADS, LEAST_BLOCKS)
    bwd_rows(struct mal_norm norm, const float *x, const float *dy, float *dx) {
    int packs = (int)(norm.c / W);
    int64_t row = (int64_t)blockIdx.x * packs;
    const mal_floats<W> *gain = (const mal_floats<W> *)norm.gain;
    auto load = [=](int p) {
        columns<W> in;
        in.x = ((const mal_floats<W> *)x)[row + p];
        in.dy = ((const mal_floats<W> *)dy)[row + p];
        return in;
    };
    columns<W> kept[KEPT_BWD];
    keep_columns(packs, kept, load);

    auto each_x = [&](auto f) {
        each_column(packs, kept, load, [&](int, const columns<W> &in) {
            for (int w = 0; w < W; w++)
                f(in.x.x[w]);
        });
    };
    double mean, scale = row_stats(norm, each_x, &mean);

    double sum_d = 0, sum_dx = 0;
    each_column(packs, kept, load, [&](int p, const columns<W> &in) {
        mal_floats<W> g = gain[p];
        for (int w = 0; w < W; w++) {
            double d = (double)in.dy.x[w] * (double)g.x[w];
            sum_d += d;
            sum_dx = fma(d, (double)in.x.x[w] - mean, sum_dx);
        }
    });
    double c = (double)norm.c, shift = norm.rms ? 0 : mal_block_sum(sum_d) / c;
    double slope = mal_block_sum(sum_dx) * scale * scale / c;

    each_column(packs, kept, load, [&](int p, const columns<W> &in) {
        mal_floats<W> g = gain[p], out = ((mal_floats<W> *)dx)[row + p];
        for (int w = 0; w < W; w++) {
            double d = (double)in.dy.x[w] * (double)g.x[w];
            out.x[w] += (float)(scale * (d - shift - slope * ((double)in.x.x[w] - mean)));
        }
        ((mal_floats<W> *)dx)[row + p] = out;
    });
}

/* ---- Entries ---- */

/* As many as keep the whole row, if that can be. */
static unsigned threads_of(int64_t packs, int64_t kept) {
    int64_t threads = ((packs + kept - 1) / kept + 31) / 32 * 32;
    return threads < MOST_THREADS ? (unsigned)threads : (unsigned)MOST_THREADS;
}

template <typename Y>
static void norm_rows(struct mal_cuda *cu, const struct mal_norm *norm, const float *x,
                      Y *y) {
    bool wide = norm->c % MAL_WIDE == 0 && mal_starts_pack(norm->gain) &&
                mal_starts_pack(norm->bias) && mal_starts_pack(x) && mal_starts_pack(y);
    auto norm_fwd = wide ? fwd_rows<MAL_WIDE, Y> : fwd_rows<1, Y>;
    MAL_LAUNCH(cu, norm_fwd, (unsigned)norm->n,
               threads_of(wide ? norm->c / MAL_WIDE : norm->c, KEPT_FWD), 0, *norm, x, y);
}

void mal_cuda_norm_fwd(struct mal_backend *be, const struct mal_norm *norm,
                       const float *x, void *y, enum mal_dtype y_dtype) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (y_dtype == MAL_F32)
        norm_rows(cu, norm, x, (float *)y);
    else
        norm_rows(cu, norm, x, (mal_bf16 *)y);
}

void mal_cuda_norm_bwd(struct mal_backend *be, const struct mal_norm *norm,
                       const float *x, const float *dy, float *dx) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = norm->c % MAL_WIDE == 0 && mal_starts_pack(norm->gain) &&
                mal_starts_pack(x) && mal_starts_pack(dy) && mal_starts_pack(dx);
    auto norm_bwd = wide ? bwd_rows<MAL_WIDE> : bwd_rows<1>;
    MAL_LAUNCH(cu, norm_bwd, (unsigned)norm->n,
               threads_of(wide ? norm->c / MAL_WIDE : norm->c, KEPT_BWD), 0, *norm, x, dy,
               dx);
}

/* ---- Of heads: a warp each, whose lanes read their few channels again for each pass. */

enum { HEADS = 4 /* of a block */ };

/* The first channel of this warp's head in rows of stride ld; NULL: it has none. */
template <typename X>
__device__ static X *own_head(const struct mal_head_norm &norm, X *x, int64_t ld) {
    int64_t i = (int64_t)blockIdx.x * HEADS + threadIdx.x / MAL_WARP;
    if (i >= norm.n * norm.n_heads) return NULL;
    return x + i / norm.n_heads * ld + i % norm.n_heads * norm.head_size;
}

__device__ static double head_scale(const struct mal_head_norm &norm, const float *x) {
    double square = 0;
    for (int64_t j = threadIdx.x % MAL_WARP; j < norm.head_size; j += MAL_WARP)
        square = fma((double)x[j], (double)x[j], square);
    return 1 / sqrt(mal_warp_sum(square) / (double)norm.head_size + (double)norm.eps);
}

__global__ static void fwd_heads(struct mal_head_norm norm, float *x, int64_t ldx) {
    float *head = own_head(norm, x, ldx);
    if (!head) return;
    double scale = head_scale(norm, head);
    for (int64_t j = threadIdx.x % MAL_WARP; j < norm.head_size; j += MAL_WARP)
        head[j] = (float)((double)head[j] * scale) * norm.gain[j];
}

__global__ static void bwd_heads(struct mal_head_norm norm, const float *x, int64_t ldx,
                                 float *dy, int64_t ld_dy) {
    const float *head = own_head(norm, x, ldx);
    float *d = own_head(norm, dy, ld_dy);
    if (!head) return;
    double scale = head_scale(norm, head), sum_dx = 0;
    for (int64_t j = threadIdx.x % MAL_WARP; j < norm.head_size; j += MAL_WARP)
        sum_dx = fma((double)d[j] * (double)norm.gain[j], (double)head[j], sum_dx);
    double slope = mal_warp_sum(sum_dx) * scale * scale / (double)norm.head_size;
    for (int64_t j = threadIdx.x % MAL_WARP; j < norm.head_size; j += MAL_WARP) {
        double own = (double)d[j] * (double)norm.gain[j];
        d[j] = (float)(scale * (own - slope * (double)head[j]));
    }
}

static unsigned blocks_of_heads(const struct mal_head_norm *norm) {
    return (unsigned)((norm->n * norm->n_heads + HEADS - 1) / HEADS);
}

void mal_cuda_head_norm_fwd(struct mal_backend *be, const struct mal_head_norm *norm,
                            float *x, int64_t ldx) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, fwd_heads, blocks_of_heads(norm), HEADS * MAL_WARP, 0, *norm, x, ldx);
}

void mal_cuda_head_norm_bwd(struct mal_backend *be, const struct mal_head_norm *norm,
                            const float *x, int64_t ldx, float *dy, int64_t ld_dy) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, bwd_heads, blocks_of_heads(norm), HEADS * MAL_WARP, 0, *norm, x, ldx,
               dy, ld_dy);
}
