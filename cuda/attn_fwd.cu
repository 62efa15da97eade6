/* attn_fwd.cu - attention: softmax over tiles of keys with a running maximum and sum, so
 * that no more than a tile of scores exists at a time.
 *
 * A block has a tile of queries of one head. One query alone has no tile: there, a few
 * lanes have a key each, every group of them a softmax of its own over the keys it met,
 * and the parts are merged. */
#include <math.h>

#include "cuda/attn.h"
#include "cuda/number.h"

/* ---- Tiles of queries ---- */

/* Of a row: largest score and sum of exp(score - largest) so far. */
struct running {
    float max, sum;
};

/* Over THREADS threads side by side. */
template <int THREADS> __device__ static float row_max(float x) {
    for (int step = THREADS / 2; step > 0; step /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, x, step);
        x = other > x ? other : x;
    }
    return x;
}

template <int THREADS> __device__ static float row_sum(float x) {
    for (int step = THREADS / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* Scores of a row become probabilities up to the factor that the end of all tiles gives.
 * `row` holds the products of a query at p with keys from t on; each of the row's threads
 * has every ROW_THREADS-th. Returns what multiplies earlier sums. */
template <int SIZE>
__device__ static float softmax_step(const struct mal_attn &attn, const attn_head &of,
                                     int p, int t, float *row, running *run) {
    enum { EACH = attn_tile<SIZE>::ROW_THREADS, N = SIZE / EACH };

    int lane = threadIdx.x % EACH;
    attn_range seen = attn_seen(attn, of.n_keys, p, 1);
    float x[N], max = run->max, sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = attn.scale * row[lane + i * EACH];
    if (attn.rel_bias) {
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = fmaf(attn.scale, row[lane + i * EACH],
                        attn_bias(attn, of.head, p, t + lane + i * EACH));
    }
    if (attn.cap > 0) {
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = attn_capped(x[i], attn.cap);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        int key = t + lane + i * EACH;
        if (key < seen.first || key >= seen.end) x[i] = -INFINITY;
        max = x[i] > max ? x[i] : max;
    }
    max = row_max<EACH>(max);
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = expf(x[i] - max);
        row[lane + i * EACH] = x[i];
        sum += x[i];
    }
    float factor = expf(run->max - max);
    run->sum = run->sum * factor + row_sum<EACH>(sum);
    run->max = max;
    return factor;
}

/* The end of a row: what its sums are multiplied by. */
__device__ static float finish_row(const running &run, float *norm) {
    if (norm) {
        norm[0] = run.max;
        norm[1] = (float)log((double)run.sum);
    }
    return 1.0f / run.sum;
}

/* A block's queries: those from i on, the first at p. */
struct query_tile {
    int i, p, n;
    int row; /* of this thread, where a row has some */
    bool tells;
};

template <int SIZE> __device__ static query_tile tile_of(const attn_head &of) {
    enum { EACH = attn_tile<SIZE>::ROW_THREADS };

    int i = (int)(gridDim.y - 1 - blockIdx.y) * SIZE; /* who sees most goes first */
    return {i, of.position + i, min(of.n_queries - i, SIZE), (int)threadIdx.x / EACH,
            threadIdx.x % EACH == 0};
}

__device__ static float *norm_of(float *norm, const attn_head &of, int n_heads,
                                 const query_tile &at) {
    if (!norm || at.row >= at.n) return NULL;
    return norm + 2 * ((of.q_row + at.i + at.row) * n_heads + of.head);
}

/* What attention gives: rows of fp32, or rounded to bf16. */
struct attn_out {
    void *x;
    int64_t ld;
    bool bf16;

    __device__ void set(int64_t row, int64_t channel, float y) const {
        if (bf16)
            mal_set((mal_bf16 *)x + row * ld + channel, y);
        else
            ((float *)x)[row * ld + channel] = y;
    }

    /* A tile's first n rows from `row` on, channels [first, d) of the head. */
    template <typename Sums>
    __device__ void put(Sums &sums, int64_t row, int head, int n, int first, int d,
                        bool packs) const {
        if (bf16)
            sums.store((mal_bf16 *)x + head * d, row, ld, 0, n, first, d, packs, false);
        else
            sums.store((float *)x + head * d, row, ld, 0, n, first, d, packs, false);
    }
};

/* One tile of keys after another; CHANNELS of the values. */
template <int SIZE, int CHANNELS>
__global__ static void __launch_bounds__(attn_tile<SIZE>::THREADS,
                                         attn_tile<SIZE>::BLOCKS)
    fwd_tile(attn_how how, attn_out out, float *norm) {
    using tile = attn_tile<SIZE>;
    __shared__ float4 chunk[tile::CHUNK], weights4[SIZE * tile::LD / 4];
    __shared__ float factor[SIZE];
    __shared__ attn_head of;
    const struct mal_attn &attn = how.attn;
    int heads = (int)attn.n_heads, d = (int)attn.head_size;
    int slab = (int)blockIdx.z * ATTN_CHANNELS;
    if (threadIdx.x == 0)
        of = attn_head_of(attn, blockIdx.x / heads, (int)(blockIdx.x % heads));
    __syncthreads();
    query_tile at = tile_of<SIZE>(of);
    if (at.n <= 0) return;

    float *weights = (float *)weights4;
    attn_range some = attn_seen(attn, of.n_keys, at.p, at.n);
    running run = {-INFINITY, 0};
    attn_sums<SIZE, CHANNELS> sums;
    sums.clear();
    /* Every query sees a key of the first tile: a window begins at most SIZE - 1 keys
     * later for the last query than for the first. */
    for (int j = some.first; j < some.end; j += SIZE) {
        int n = min(some.end - j, SIZE);
        attn_products<SIZE> products;
        products.compute(of.q.from(at.i, SIZE), of.k.from(j, n), d, how.packs, chunk);
        products.each([=](int r, int c, float x) { weights[r * tile::LD + c] = x; });
        __syncthreads();
        float earlier = softmax_step<SIZE>(attn, of, at.p + at.row, j,
                                           weights + at.row * tile::LD, &run);
        if (at.tells) factor[at.row] = earlier;
        __syncthreads();
        if (j > some.first) sums.scale(factor);
        sums.add(weights, at.n, of.v.from(j, n), slab, d, how.packs, chunk);
    }

    __syncthreads(); /* factors have been read */
    if (at.tells)
        factor[at.row] = finish_row(run, slab == 0 ? norm_of(norm, of, heads, at) : NULL);
    __syncthreads();
    sums.scale(factor);
    out.put(sums, of.q_row + at.i, of.head, at.n, slab, d, how.packs);
}

/* A tile holds all keys, and its weights serve all channels, CHANNELS at a time. */
template <int SIZE, int CHANNELS>
__global__ static void __launch_bounds__(attn_tile<SIZE>::THREADS,
                                         attn_tile<SIZE>::MORE_BLOCKS)
    fwd_whole(attn_how how, attn_out out, float *norm) {
    using tile = attn_tile<SIZE>;
    __shared__ float4 chunk[tile::CHUNK], weights4[SIZE * tile::LD / 4];
    __shared__ float factor[SIZE];
    __shared__ attn_head of;
    const struct mal_attn &attn = how.attn;
    int heads = (int)attn.n_heads, d = (int)attn.head_size;
    if (threadIdx.x == 0)
        of = attn_head_of(attn, blockIdx.x / heads, (int)(blockIdx.x % heads));
    __syncthreads();
    query_tile at = tile_of<SIZE>(of);
    if (at.n <= 0) return;

    float *weights = (float *)weights4;
    running run = {-INFINITY, 0};
    attn_products<SIZE> products;
    products.compute(of.q.from(at.i, SIZE), of.k, d, how.packs, chunk);
    products.each([=](int r, int c, float x) { weights[r * tile::LD + c] = x; });
    __syncthreads();
    softmax_step<SIZE>(attn, of, at.p + at.row, 0, weights + at.row * tile::LD, &run);
    if (at.tells) factor[at.row] = finish_row(run, norm_of(norm, of, heads, at));
    for (int c = 0; c < d; c += CHANNELS) {
        attn_sums<SIZE, CHANNELS> sums;
        sums.clear();
        sums.add(weights, at.n, of.v, c, d, how.packs, chunk);
        sums.scale(factor);
        out.put(sums, of.q_row + at.i, of.head, at.n, c, d, how.packs);
    }
}

template <int SIZE>
static void fwd_tiles(struct mal_cuda *cu, const attn_how &how, const attn_out &out,
                      float *norm) {
    const struct mal_attn &attn = how.attn;
    auto attn_fwd = attn.head_size <= 64    ? fwd_tile<SIZE, 64>
                    : attn.head_size <= 128 ? fwd_tile<SIZE, 128>
                                            : fwd_tile<SIZE, 256>;
    dim3 grid((unsigned)(attn.n_seqs * attn.n_heads),
              (unsigned)((attn.max_queries + SIZE - 1) / SIZE), attn_slabs(&attn));
    if (attn.max_keys <= SIZE) {
        attn_fwd = attn.head_size <= 64 ? fwd_whole<SIZE, 64> : fwd_whole<SIZE, 128>;
        grid.z = 1;
    }
    MAL_LAUNCH(cu, attn_fwd, grid, attn_tile<SIZE>::THREADS, 0, how, out, norm);
}

/* ---- One query ---- */

enum {
    LANES = 16, /* share a key; a warp has two at a time */
    MOST_WARPS = 8,
    WARP_KEYS = 16,   /* where there are so many, for every warp */
    SPLIT_KEYS = 128, /* to a block, at least, if there are more for a head */
    MOST_SPLITS = 64
};

/* Keys that a lane has in hand. */
template <int W, int HEADS> struct ahead_of {
    enum { KEYS = W == 1 || HEADS > 1 ? 2 : 4 };
};

/* Part of a softmax: its largest score, the sum of exp(score - largest), and the sum of
 * the values with those weights. In memory, the three one after another. */
template <int FLOATS> struct part { float max, sum, x[FLOATS]; };

/* What turns weights that are relative to `from` to such relative to `to`. */
__device__ static float change_max(float from, float to) {
    return from == -INFINITY ? 0.0f : expf(from - to);
}

/* The W * UNITS channels of this lane of a head's row. */
template <int W, int UNITS>
__device__ static void load_lane(const float *row, int d, bool there, float *x) {
    int lane = threadIdx.x % LANES;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        int c = (lane + LANES * u) * W;
        mal_floats<W> y = {};
        if (there && c < d) y = *(const mal_floats<W> *)(row + c);
#pragma unroll
        for (int w = 0; w < W; w++)
            x[u * W + w] = y.x[w];
    }
}

/* Adds AHEAD keys with their values; the score of one that is not there is -INFINITY. */
template <int AHEAD, int N>
__device__ static void add_keys(const float (&score)[AHEAD], const float (&v)[AHEAD][N],
                                part<N> *so_far) {
    float max = so_far->max, p[AHEAD], sum = 0;
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        max = score[i] > max ? score[i] : max;
    float base = max == -INFINITY ? 0.0f : max, factor = change_max(so_far->max, max);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        p[i] = expf(score[i] - base);
        sum += p[i];
    }
    so_far->max = max;
    so_far->sum = so_far->sum * factor + sum;
#pragma unroll
    for (int c = 0; c < N; c++) {
        float x = so_far->x[c] * factor;
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            x = fmaf(p[i], v[i][c], x);
        so_far->x[c] = x;
    }
}

/* Some keys, every warp its share of them, two times AHEAD at a time. */
template <int W, int UNITS, int HEADS>
__device__ static void lone_keys(const struct mal_attn &attn, const attn_head &of,
                                 attn_range keys, const float (&q)[HEADS][W * UNITS],
                                 part<W * UNITS> (&so_far)[HEADS]) {
    enum { N = W * UNITS, AHEAD = ahead_of<W, HEADS>::KEYS };

    int d = (int)attn.head_size, half = threadIdx.x % 32 / LANES;
    int step = (int)blockDim.x / LANES * AHEAD;
    int j = keys.first + (int)threadIdx.x / 32 * 2 * AHEAD;
    for (; j < keys.end; j += step) {
        float x[AHEAD][N], score[HEADS][AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int key = j + half + 2 * i;
            load_lane<W, UNITS>(of.k.x + (int64_t)key * of.k.ld, d, key < keys.end, x[i]);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int key = j + half + 2 * i;
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float y = 0;
#pragma unroll
                for (int c = 0; c < N; c++)
                    y = fmaf(q[h][c], x[i][c], y);
                y = row_sum<LANES>(y);
                float bias =
                    attn.rel_bias ? attn_bias(attn, of.head + h, of.position, key) : 0.0f;
                y = fmaf(attn.scale, y, bias);
                if (attn.cap > 0) y = attn_capped(y, attn.cap);
                score[h][i] = key < keys.end ? y : -INFINITY;
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int key = j + half + 2 * i;
            load_lane<W, UNITS>(of.v.x + (int64_t)key * of.v.ld, d, key < keys.end, x[i]);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            add_keys<AHEAD>(score[h], x, &so_far[h]);
    }
}

/* The two halves of a warp put together, in the first. */
template <int N> __device__ static void merge_halves(part<N> *so_far) {
    float other = __shfl_xor_sync(0xffffffffu, so_far->max, LANES);
    float max = other > so_far->max ? other : so_far->max;
    float mine = change_max(so_far->max, max), its = change_max(other, max);
    so_far->max = max;
    so_far->sum =
        so_far->sum * mine + __shfl_xor_sync(0xffffffffu, so_far->sum, LANES) * its;
#pragma unroll
    for (int c = 0; c < N; c++)
        so_far->x[c] =
            so_far->x[c] * mine + __shfl_xor_sync(0xffffffffu, so_far->x[c], LANES) * its;
}

template <int W, int UNITS>
__device__ static void keep_part(const part<W * UNITS> &so_far, float *to) {
    int lane = threadIdx.x % LANES;
    if (lane == 0) {
        to[0] = so_far.max;
        to[1] = so_far.sum;
    }
#pragma unroll
    for (int c = 0; c < W * UNITS; c++)
        to[2 + (lane + LANES * (c / W)) * W + c % W] = so_far.x[c];
}

/* Where the result of a query goes: to a part, if there are others, else to out and norm.
 */
struct lone_result {
    float *part, *norm;
    int64_t row, channel; /* of out, the head's first */
};

/* By all threads of a block: n parts with d channels each, `stride` floats apart. */
__device__ static void merge_parts(const float *parts, int n, int stride, int d,
                                   const attn_out &out, const lone_result &to) {
    float max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = parts[i * stride] > max ? parts[i * stride] : max;
    for (int i = 0; i < n; i++)
        sum += parts[i * stride + 1] * change_max(parts[i * stride], max);
    for (int c = threadIdx.x; c < d; c += (int)blockDim.x) {
        float x = 0;
        for (int i = 0; i < n; i++)
            x += parts[i * stride + 2 + c] * change_max(parts[i * stride], max);
        if (to.part)
            to.part[2 + c] = x;
        else
            out.set(to.row, to.channel + c, x * (1.0f / sum));
    }
    if (threadIdx.x != 0) return;
    if (to.part) {
        to.part[0] = max;
        to.part[1] = sum;
    } else if (to.norm) {
        to.norm[0] = max;
        to.norm[1] = (float)log((double)sum);
    }
}

/* HEADS heads that share keys, of one sequence; with gridDim.y > 1 some of the keys, the
 * result being a part. */
template <int W, int UNITS, int HEADS>
__global__ static void __launch_bounds__(32 * MOST_WARPS, 2)
    fwd_lone(struct mal_attn attn, attn_out out, float *norm, float *parts) {
    enum { N = W * UNITS, STRIDE = 2 + N * LANES };

    __shared__ attn_head of;
    __shared__ float shared[MOST_WARPS][HEADS][STRIDE];
    int blocks = (int)attn.n_heads / HEADS, d = (int)attn.head_size;
    int64_t s = blockIdx.x / blocks;
    if (threadIdx.x == 0) of = attn_head_of(attn, s, (int)(blockIdx.x % blocks) * HEADS);
    __syncthreads();
    if (of.n_queries == 0) return;

    attn_range keys = attn_seen(attn, of.n_keys, of.position, 1);
    int each = (keys.end - keys.first + (int)gridDim.y - 1) / (int)gridDim.y;
    keys.first += each * (int)blockIdx.y;
    keys.end = min(keys.end, keys.first + each);
    float q[HEADS][N];
    part<N> so_far[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        load_lane<W, UNITS>(of.q.x + h * d, d, true, q[h]);
        so_far[h].max = -INFINITY;
        so_far[h].sum = 0;
#pragma unroll
        for (int c = 0; c < N; c++)
            so_far[h].x[c] = 0;
    }
    lone_keys<W, UNITS, HEADS>(attn, of, keys, q, so_far);

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        merge_halves(&so_far[h]);
        if (lane < LANES) keep_part<W, UNITS>(so_far[h], shared[warp][h]);
    }
    __syncthreads();
    for (int h = 0; h < HEADS; h++) {
        int64_t at = of.q_row * attn.n_heads + of.head + h;
        int64_t i = ((s * attn.n_heads + of.head + h) * gridDim.y + blockIdx.y);
        lone_result to = {gridDim.y > 1 ? parts + i * (2 + d) : NULL,
                          norm ? norm + 2 * at : NULL, of.q_row,
                          (int64_t)(of.head + h) * d};
        merge_parts(shared[0][h], (int)blockDim.x / 32, HEADS * STRIDE, d, out, to);
    }
}

/* The parts of every head. */
__global__ static void attn_merge(struct mal_attn attn, int n, const float *parts,
                                  attn_out out, float *norm) {
    int heads = (int)attn.n_heads, d = (int)attn.head_size, head = blockIdx.x % heads;
    int64_t s = blockIdx.x / heads, row = attn.q_start[s];
    if (attn.q_start[s + 1] == row) return;
    lone_result to = {NULL, norm ? norm + 2 * (row * heads + head) : NULL, row,
                      (int64_t)head * d};
    merge_parts(parts + (int64_t)blockIdx.x * n * (2 + d), n, 2 + d, d, out, to);
}

/* Into how many parts the keys of a head go, so that all of the device has work. */
static int64_t lone_splits(const struct mal_cuda *cu, const struct mal_attn *attn,
                           int64_t keys, int64_t blocks) {
    int64_t n = attn_least(2 * cu->n_sms / blocks, keys / SPLIT_KEYS);
    int64_t part_bytes = (attn->head_size + 2) * (int64_t)sizeof(float);
    int64_t room = (int64_t)cu->work_bytes / (attn->n_seqs * attn->n_heads * part_bytes);
    n = attn_least(attn_least(n, room), MOST_SPLITS);
    return n > 1 ? n : 1;
}

static void fwd_lone_queries(struct mal_cuda *cu, const attn_how &how,
                             const attn_out &out, float *norm) {
    const struct mal_attn &attn = how.attn;
    int64_t d = attn.head_size, keys = attn.max_keys, heads = 1;
    if (attn.window) keys = attn_least(keys, attn.window);
    if (how.packs && d <= 128 && attn.n_heads / attn.n_kv_heads % 4 == 0) heads = 4;
    auto attn_fwd = !how.packs   ? fwd_lone<1, 16, 1>
                    : d > 128    ? fwd_lone<4, 4, 1>
                    : heads == 1 ? (d > 64 ? fwd_lone<4, 2, 1> : fwd_lone<4, 1, 1>)
                                 : (d > 64 ? fwd_lone<4, 2, 4> : fwd_lone<4, 1, 4>);

    int64_t blocks = attn.n_seqs * attn.n_heads / heads;
    int64_t splits = lone_splits(cu, &attn, keys, blocks);
    int64_t warps = (keys / splits + WARP_KEYS - 1) / WARP_KEYS;
    warps = warps < 1 ? 1 : attn_least(warps, MOST_WARPS);
    float *parts = (float *)cu->work;
    MAL_LAUNCH(cu, attn_fwd, dim3((unsigned)blocks, (unsigned)splits),
               (unsigned)(32 * warps), 0, attn, out, norm, parts);
    if (splits == 1) return;
    MAL_LAUNCH(cu, attn_merge, (unsigned)(attn.n_seqs * attn.n_heads), 128, 0, attn,
               (int)splits, parts, out, norm);
}

void mal_cuda_attn_fwd(struct mal_backend *be, const struct mal_attn *attn, void *y,
                       enum mal_dtype y_dtype, int64_t ld_y, float *norm) {
    struct mal_cuda *cu = mal_cuda_of(be);
    attn_how how = attn_how_of(attn);
    attn_out out = {y, ld_y, y_dtype == MAL_BF16};
    how.packs = how.packs && attn_aligned(y, ld_y);
    if (attn->max_queries == 1 && attn->head_size <= ATTN_CHANNELS)
        fwd_lone_queries(cu, how, out, norm);
    else if (attn->max_queries <= 32 && (attn->max_keys <= 32 || attn->max_keys > 64))
        fwd_tiles<32>(cu, how, out, norm);
    else
        fwd_tiles<64>(cu, how, out, norm);
}
