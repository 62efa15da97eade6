/* attn_bwd.cu - gradients of attention; probabilities are computed again from what the
 * forward pass kept, a tile at a time.
 *
 * With p the probabilities and dp = dout v': ds = p (dp - <dout, out>), dq = scale ds k,
 * dk = scale ds' q, dv = p' dout. Nothing is added to by two blocks: where one tile holds
 * all keys of a sequence, a block makes the gradients of one key head and its query heads
 * out of the same tiles. Else a block makes dq of a tile of queries, another dk and dv of
 * a tile of keys, over all query heads in turn, each from scores of its own. */
#include "cuda/attn.h"

/* What is the same for all blocks. */
struct bwd_how {
    struct mal_attn attn;
    const float *out, *norm, *dout;
    int64_t ld_out, ld_dout;
    struct mal_attn_grads grads;
    bool packs; /* as in attn_how, of gradients, too */
};

/* Of a tile's queries, in shared memory. */
template <int SIZE> struct query_stats {
    float max[SIZE], log_sum[SIZE];
    float delta[SIZE]; /* <dout, out> */
};

/* A head of a sequence, in shared memory. */
struct bwd_head {
    attn_head of;
    attn_rows out, dout;
};

/* A tile of a head of a sequence with n_keys keys: queries from position p on, keys from
 * t on, so many of them. */
struct bwd_tile {
    int head, n_keys;
    int p, t, queries, keys;
};

__device__ static bwd_head head_of(const bwd_how &how, int64_t s, int head) {
    const struct mal_attn &attn = how.attn;
    attn_head of = attn_head_of(attn, s, head);
    return {
        of,
        attn_head_rows(how.out, how.ld_out, of.q_row, of.n_queries, head, attn.head_size),
        attn_head_rows(how.dout, how.ld_dout, of.q_row, of.n_queries, head,
                       attn.head_size)};
}

/* ---- <dout, out> ---- */

enum { DELTA_THREADS = 4 }; /* to a row */

/* The same in all threads of the row; all threads of the warp take part. */
__device__ static float row_delta(const float *a, const float *b, int d, bool there,
                                  bool packs) {
    int lane = threadIdx.x % DELTA_THREADS;
    double sum = 0;
    if (there && packs) {
#pragma unroll 4
        for (int c = 4 * lane; c < d; c += 4 * DELTA_THREADS) {
            float4 x = *(const float4 *)(a + c), y = *(const float4 *)(b + c);
            sum = fma((double)x.x, (double)y.x, sum);
            sum = fma((double)x.y, (double)y.y, sum);
            sum = fma((double)x.z, (double)y.z, sum);
            sum = fma((double)x.w, (double)y.w, sum);
        }
    } else if (there) {
        for (int c = lane; c < d; c += DELTA_THREADS)
            sum = fma((double)a[c], (double)b[c], sum);
    }
    for (int step = DELTA_THREADS / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return (float)sum;
}

/* To the first channel of the head in dq: blocks that make dk read it there, before dq
 * itself is written. */
__global__ static void attn_deltas(bwd_how how) {
    int heads = (int)how.attn.n_heads, d = (int)how.attn.head_size;
    int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / DELTA_THREADS;
    int64_t row = i / heads, at = i % heads * d;
    bool there = row < how.attn.n_queries;
    float delta = row_delta(how.dout + row * how.ld_dout + at,
                            how.out + row * how.ld_out + at, d, there, how.packs);
    if (there && threadIdx.x % DELTA_THREADS == 0)
        how.grads.dq[row * how.grads.ld_q + at] = delta;
}

/* Of the queries from i on; `kept`: delta is in dq, else it is computed. What is written
 * can be read after the block's next meeting. */
template <int SIZE>
__device__ static void load_stats(const bwd_how &how, const bwd_head &in, int i,
                                  bool kept, query_stats<SIZE> *stats) {
    static_assert(attn_tile<SIZE>::ROW_THREADS == DELTA_THREADS, "as many rows");
    int r = threadIdx.x / DELTA_THREADS, d = (int)how.attn.head_size;
    int64_t row = in.of.q_row + i + r;
    bool there = i + r < in.of.n_queries;
    float delta = 0;
    if (!kept) {
        attn_rows a = in.dout.from(i + r, 1), b = in.out.from(i + r, 1);
        delta = row_delta(a.x, b.x, d, there, how.packs);
    }
    if (!there || threadIdx.x % DELTA_THREADS != 0) return;
    const float *norm = how.norm + 2 * (row * how.attn.n_heads + in.of.head);
    stats->max[r] = norm[0];
    stats->log_sum[r] = norm[1];
    stats->delta[r] =
        kept ? how.grads.dq[row * how.grads.ld_q + (int64_t)in.of.head * d] : delta;
}

/* ---- Elements of a tile ---- */

/* Element (r, c) of a tile with KEYS_DOWN has key r and query c, else query r and key c.
 */
template <bool KEYS_DOWN>
__device__ static bool is_seen(const struct mal_attn &attn, const bwd_tile &at, int r,
                               int c) {
    int query = KEYS_DOWN ? c : r, key = KEYS_DOWN ? r : c;
    attn_range seen = attn_seen(attn, at.n_keys, at.p + query, 1);
    return query < at.queries && key < at.keys && at.t + key >= seen.first &&
           at.t + key < seen.end;
}

/* weights := probabilities, for products of queries with keys. */
template <bool KEYS_DOWN, int SIZE>
__device__ static void probabilities(const struct mal_attn &attn, const bwd_tile &at,
                                     const query_stats<SIZE> &stats,
                                     attn_products<SIZE> &products, float *weights) {
    float scale = attn.scale;
    if (attn.rel_bias)
        products.each([&](int r, int c, float &x) {
            int p = at.p + (KEYS_DOWN ? c : r), t = at.t + (KEYS_DOWN ? r : c);
            x = fmaf(scale, x, attn_bias(attn, at.head, p, t));
        });
    else
        products.each([=](int, int, float &x) { x *= scale; });
    if (attn.cap > 0)
        products.each([&](int, int, float &x) { x = attn_capped(x, attn.cap); });
    products.each([&](int r, int c, float &x) {
        int query = KEYS_DOWN ? c : r;
        float y = expf(x - stats.max[query] - stats.log_sum[query]);
        weights[r * attn_tile<SIZE>::LD + c] =
            is_seen<KEYS_DOWN>(attn, at, r, c) ? y : 0.0f;
    });
}

/* The slope of what capped the score of probability y. */
template <int SIZE>
__device__ static float cap_slope(float cap, const query_stats<SIZE> &stats, int query,
                                  float y) {
    if (!(y > 0)) return 0;
    float t = (logf(y) + stats.max[query] + stats.log_sum[query]) / cap;
    return 1 - t * t;
}

/* weights, probabilities, become scale * ds, for products of dout with values. */
template <bool KEYS_DOWN, int SIZE>
__device__ static void score_grads(const struct mal_attn &attn, const bwd_tile &at,
                                   const query_stats<SIZE> &stats,
                                   attn_products<SIZE> &products, float *weights) {
    float scale = attn.scale;
    if (attn.cap > 0)
        products.each([&](int r, int c, float &x) {
            int query = KEYS_DOWN ? c : r;
            float delta = stats.delta[query];
            float slope =
                cap_slope(attn.cap, stats, query, weights[r * attn_tile<SIZE>::LD + c]);
            x = fmaf(slope, x - delta, delta);
        });
    products.each([&](int r, int c, float &x) {
        float *w = weights + r * attn_tile<SIZE>::LD + c;
        float y = scale * (*w * (x - stats.delta[KEYS_DOWN ? c : r]));
        *w = is_seen<KEYS_DOWN>(attn, at, r, c) ? y : 0.0f;
    });
}

/* ---- Queries: dq ---- */

template <int SIZE, int CHANNELS>
__global__ static void __launch_bounds__(attn_tile<SIZE>::THREADS,
                                         attn_tile<SIZE>::BLOCKS)
    bwd_queries(bwd_how how) {
    using tile = attn_tile<SIZE>;
    __shared__ float4 chunk[tile::CHUNK], weights4[SIZE * tile::LD / 4];
    __shared__ query_stats<SIZE> stats;
    __shared__ bwd_head in;
    const struct mal_attn &attn = how.attn;
    const attn_head &of = in.of;
    int heads = (int)attn.n_heads, d = (int)attn.head_size;
    int slab = (int)blockIdx.z * ATTN_CHANNELS;
    int i = (int)(gridDim.y - 1 - blockIdx.y) * SIZE; /* who sees most goes first */
    if (threadIdx.x == 0) in = head_of(how, blockIdx.x / heads, (int)blockIdx.x % heads);
    __syncthreads();
    if (i >= of.n_queries) return;

    float *weights = (float *)weights4;
    int queries = min(of.n_queries - i, SIZE), p = of.position + i;
    attn_range some = attn_seen(attn, of.n_keys, p, queries);
    load_stats(how, in, i, false, &stats);
    attn_sums<SIZE, CHANNELS> sums;
    sums.clear();
    for (int j = some.first; j < some.end; j += SIZE) {
        bwd_tile at = {of.head, of.n_keys, p, j, queries, min(some.end - j, SIZE)};
        attn_products<SIZE> products;
        products.compute(of.q.from(i, SIZE), of.k.from(j, at.keys), d, how.packs, chunk);
        probabilities<false>(attn, at, stats, products, weights);
        products.compute(in.dout.from(i, SIZE), of.v.from(j, at.keys), d, how.packs,
                         chunk);
        score_grads<false>(attn, at, stats, products, weights);
        sums.add(weights, queries, of.k.from(j, at.keys), slab, d, how.packs, chunk);
    }
    sums.store(how.grads.dq + of.head * d, of.q_row + i, how.grads.ld_q, 0, queries, slab,
               d, how.packs, false);
}

/* ---- Keys: dk and dv ---- */

enum { MAKE_DV = 1, MAKE_DK = 2 };

/* Queries [first, end) of a sequence: those that see some of n keys from j on. */
__device__ static attn_range who_sees(const struct mal_attn &attn, const attn_head &of,
                                      int j, int n) {
    attn_range all = {0, of.n_queries};
    if (!attn.causal) return all;
    all.first = max(0, j - of.position);
    int64_t end = (int64_t)j + n - 1 + attn.window - of.position;
    if (attn.window && end < all.end) all.end = (int)end;
    return all;
}

/* The row of dk and dv that is key 0's, and the first key that has one. */
struct key_grads {
    int64_t row;
    int first;
};

__device__ static key_grads grads_of(const bwd_how &how, const attn_head &of) {
    if (how.grads.all_keys) return {of.k_row, 0};
    return {of.q_row - of.position, of.position};
}

template <int SIZE, int CHANNELS, int MAKE>
__global__ static void __launch_bounds__(attn_tile<SIZE>::THREADS,
                                         attn_tile<SIZE>::BLOCKS) bwd_keys(bwd_how how) {
    using tile = attn_tile<SIZE>;
    __shared__ float4 chunk[tile::CHUNK], weights4[SIZE * tile::LD / 4];
    __shared__ query_stats<SIZE> stats;
    __shared__ bwd_head in;
    const struct mal_attn &attn = how.attn;
    const attn_head &of = in.of;
    int kv_heads = (int)attn.n_kv_heads, group = (int)attn.n_heads / kv_heads;
    int kv_head = (int)blockIdx.x % kv_heads, d = (int)attn.head_size;
    int slab = (int)blockIdx.z * ATTN_CHANNELS;
    int64_t s = blockIdx.x / kv_heads;
    if (threadIdx.x == 0) in = head_of(how, s, kv_head * group);
    __syncthreads();
    int j = grads_of(how, of).first + (int)blockIdx.y * SIZE;
    if (j >= of.n_keys) return;

    float *weights = (float *)weights4;
    int keys = min(of.n_keys - j, SIZE);
    attn_range some = who_sees(attn, of, j, keys);
    attn_sums<SIZE, CHANNELS> dv, dk;
    dv.clear();
    dk.clear();
    for (int g = 0; g < group; g++) {
        __syncthreads();
        if (threadIdx.x == 0) in = head_of(how, s, kv_head * group + g);
        __syncthreads();
        for (int i = some.first; i < some.end; i += SIZE) {
            int queries = min(some.end - i, SIZE);
            bwd_tile at = {of.head, of.n_keys, of.position + i, j, queries, keys};
            load_stats(how, in, i, true, &stats);
            attn_products<SIZE> products;
            products.compute(of.k.from(j, keys), of.q.from(i, queries), d, how.packs,
                             chunk);
            probabilities<true>(attn, at, stats, products, weights);
            if (MAKE & MAKE_DV)
                dv.add(weights, keys, in.dout.from(i, queries), slab, d, how.packs,
                       chunk);
            if (!(MAKE & MAKE_DK)) continue;
            products.compute(of.v.from(j, keys), in.dout.from(i, queries), d, how.packs,
                             chunk);
            score_grads<true>(attn, at, stats, products, weights);
            dk.add(weights, keys, of.q.from(i, queries), slab, d, how.packs, chunk);
        }
    }
    int64_t row = grads_of(how, of).row + j;
    if (MAKE & MAKE_DV)
        dv.store(how.grads.dv + kv_head * d, row, how.grads.ld_kv, 0, keys, slab, d,
                 how.packs, false);
    if (MAKE & MAKE_DK)
        dk.store(how.grads.dk + kv_head * d, row, how.grads.ld_kv, 0, keys, slab, d,
                 how.packs, false);
}

/* ---- All of a key head ---- */

/* weights := its transposed. All threads of the block take part. */
template <int SIZE> __device__ static void transpose(float *weights) {
    enum { LD = attn_tile<SIZE>::LD };

    attn_products<SIZE> kept;
    __syncthreads();
    kept.each([=](int r, int c, float &x) { x = weights[r * LD + c]; });
    __syncthreads();
    kept.each([=](int r, int c, float &x) { weights[c * LD + r] = x; });
}

/* grad (dk or dv) := or += rows z, of queries, weighted by the tile. */
template <int SIZE, int CHANNELS>
__device__ static void whole_keys(const bwd_how &how, const attn_head &of,
                                  const float *weights, const attn_rows &z, float4 *chunk,
                                  float *grad, bool more) {
    int d = (int)how.attn.head_size;
    for (int c = 0; c < d; c += CHANNELS) {
        attn_sums<SIZE, CHANNELS> sums;
        sums.clear();
        sums.add(weights, of.n_keys, z, c, d, how.packs, chunk);
        key_grads to = grads_of(how, of);
        sums.store(grad + of.kv_head * d, to.row, how.grads.ld_kv, to.first, of.n_keys, c,
                   d, how.packs, more);
    }
}

/* dq of queries from i on. */
template <int SIZE, int CHANNELS>
__device__ static void whole_queries(const bwd_how &how, const attn_head &of,
                                     const float *weights, int i, float4 *chunk) {
    int d = (int)how.attn.head_size, n = min(of.n_queries - i, SIZE);
    for (int c = 0; c < d; c += CHANNELS) {
        attn_sums<SIZE, CHANNELS> sums;
        sums.clear();
        sums.add(weights, n, of.k, c, d, how.packs, chunk);
        sums.store(how.grads.dq + of.head * d, of.q_row + i, how.grads.ld_q, 0, n, c, d,
                   how.packs, false);
    }
}

/* A tile holds all keys, and its weights serve all channels, CHANNELS at a time. From the
 * second tile of queries on, dk and dv are added to in memory. */
template <int SIZE, int CHANNELS>
__global__ static void __launch_bounds__(attn_tile<SIZE>::THREADS,
                                         attn_tile<SIZE>::BLOCKS) bwd_whole(bwd_how how) {
    using tile = attn_tile<SIZE>;
    __shared__ float4 chunk[tile::CHUNK], weights4[SIZE * tile::LD / 4];
    __shared__ query_stats<SIZE> stats;
    __shared__ bwd_head in;
    const struct mal_attn &attn = how.attn;
    const attn_head &of = in.of;
    int kv_heads = (int)attn.n_kv_heads, group = (int)attn.n_heads / kv_heads;
    int first = (int)blockIdx.x % kv_heads * group, d = (int)attn.head_size;
    float *weights = (float *)weights4;
    bool more = false;
    for (int g = 0; g < group; g++) {
        __syncthreads();
        if (threadIdx.x == 0) in = head_of(how, blockIdx.x / kv_heads, first + g);
        __syncthreads();
        for (int i = 0; i < of.n_queries; i += SIZE, more = true) {
            int n = min(of.n_queries - i, SIZE);
            bwd_tile at = {of.head, of.n_keys, of.position + i, 0, n, of.n_keys};
            load_stats(how, in, i, false, &stats);
            attn_products<SIZE> products;
            products.compute(of.k, of.q.from(i, SIZE), d, how.packs, chunk);
            probabilities<true>(attn, at, stats, products, weights);
            whole_keys<SIZE, CHANNELS>(how, of, weights, in.dout.from(i, SIZE), chunk,
                                       how.grads.dv, more);
            products.compute(of.v, in.dout.from(i, SIZE), d, how.packs, chunk);
            score_grads<true>(attn, at, stats, products, weights);
            whole_keys<SIZE, CHANNELS>(how, of, weights, of.q.from(i, SIZE), chunk,
                                       how.grads.dk, more);
            transpose<SIZE>(weights);
            whole_queries<SIZE, CHANNELS>(how, of, weights, i, chunk);
        }
    }
    if (more) return;
    attn_rows none = {of.q.x, of.q.ld, 0};
    whole_keys<SIZE, CHANNELS>(how, of, weights, none, chunk, how.grads.dv, false);
    whole_keys<SIZE, CHANNELS>(how, of, weights, none, chunk, how.grads.dk, false);
}

/* ---- Launching ---- */

template <int SIZE> static void launch_whole(struct mal_cuda *cu, const bwd_how &how) {
    const struct mal_attn &attn = how.attn;
    auto attn_bwd = attn.head_size <= 64 ? bwd_whole<SIZE, 64> : bwd_whole<SIZE, 128>;
    int64_t blocks = attn.n_seqs * attn.n_kv_heads;
    MAL_LAUNCH(cu, attn_bwd, (unsigned)blocks, attn_tile<SIZE>::THREADS, 0, how);
}

template <int SIZE> static void launch_keys(struct mal_cuda *cu, const bwd_how &how) {
    const struct mal_attn &attn = how.attn;
    int64_t keys = how.grads.all_keys ? attn.max_keys : attn.max_queries;
    dim3 grid((unsigned)(attn.n_seqs * attn.n_kv_heads),
              (unsigned)((keys + SIZE - 1) / SIZE), attn_slabs(&attn));
    if (attn.head_size <= 128) {
        auto attn_bwd_keys = attn.head_size <= 64
                                 ? bwd_keys<SIZE, 64, MAKE_DV | MAKE_DK>
                                 : bwd_keys<SIZE, 128, MAKE_DV | MAKE_DK>;
        MAL_LAUNCH(cu, attn_bwd_keys, grid, attn_tile<SIZE>::THREADS, 0, how);
        return;
    }
    auto attn_bwd_dv = bwd_keys<SIZE, 256, MAKE_DV>;
    auto attn_bwd_dk = bwd_keys<SIZE, 256, MAKE_DK>;
    MAL_LAUNCH(cu, attn_bwd_dv, grid, attn_tile<SIZE>::THREADS, 0, how);
    MAL_LAUNCH(cu, attn_bwd_dk, grid, attn_tile<SIZE>::THREADS, 0, how);
}

template <int SIZE> static void launch_queries(struct mal_cuda *cu, const bwd_how &how) {
    const struct mal_attn &attn = how.attn;
    auto attn_bwd_queries = attn.head_size <= 64    ? bwd_queries<SIZE, 64>
                            : attn.head_size <= 128 ? bwd_queries<SIZE, 128>
                                                    : bwd_queries<SIZE, 256>;
    dim3 grid((unsigned)(attn.n_seqs * attn.n_heads),
              (unsigned)((attn.max_queries + SIZE - 1) / SIZE), attn_slabs(&attn));
    MAL_LAUNCH(cu, attn_bwd_queries, grid, attn_tile<SIZE>::THREADS, 0, how);
}

static void launch_deltas(struct mal_cuda *cu, const bwd_how &how) {
    int64_t threads = how.attn.n_queries * how.attn.n_heads * DELTA_THREADS;
    if (threads == 0) return;
    MAL_LAUNCH(cu, attn_deltas, (unsigned)((threads + MAL_THREADS - 1) / MAL_THREADS),
               MAL_THREADS, 0, how);
}

void mal_cuda_attn_bwd(struct mal_backend *be, const struct mal_attn *attn,
                       const float *out, int64_t ld_out, const float *norm,
                       const float *dout, int64_t ld_dout,
                       const struct mal_attn_grads *grads) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool packs = attn_how_of(attn).packs && attn_aligned(out, ld_out) &&
                 attn_aligned(dout, ld_dout) && attn_aligned(grads->dq, grads->ld_q) &&
                 attn_aligned(grads->dk, grads->ld_kv) &&
                 attn_aligned(grads->dv, grads->ld_kv);
    bwd_how how = {*attn, out, norm, dout, ld_out, ld_dout, *grads, packs};
    if (attn->max_keys <= 32) {
        launch_whole<32>(cu, how);
    } else if (attn->max_keys <= 64) {
        launch_whole<64>(cu, how);
    } else {
        launch_deltas(cu, how);
        if (attn->max_queries <= 32) {
            launch_keys<32>(cu, how);
            launch_queries<32>(cu, how);
        } else {
            launch_keys<64>(cu, how);
            launch_queries<64>(cu, how);
        }
    }
}
