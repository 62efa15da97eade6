/* attn.h - what attention forward and backward share: tiles of products between rows, and
 * sums of rows weighted by a tile.
 *
 * A block works on a square tile of scores, SIZE rows by SIZE columns, of one head of one
 * sequence. What it multiplies goes through a chunk of shared memory, row by row as it
 * lies in device memory: some channels of all rows for the products, some rows with all
 * their channels for the sums. Of both, a thread has elements that lie apart: lane i of a
 * warp has rows i / 8 + 4 r and columns i % 8 + 8 c (or the four channels from 4 (i % 8)
 * + 32 c on), so that a warp reads without conflicts, and rows beyond those that are
 * there are left out four at a time.
 *
 * Every product is one chain of fused additions over the channels, in order: forward and
 * backward find the same scores, to the bit, with any size of tile. (Of one query alone,
 * without a tile, forward adds up in another order.)
 *
 * Heads of more than ATTN_CHANNELS channels are done in slabs of as many, each by a block
 * of its own that computes the scores again. */
#ifndef MAL_CUDA_ATTN_H
#define MAL_CUDA_ATTN_H

#include "cuda/impl.h"
#include "cuda/number.h"

enum { ATTN_CHANNELS = 256 };

__host__ __device__ static inline int64_t attn_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Of a tile: SIZE is 32 or 64. */
template <int SIZE> struct attn_tile {
    enum {
        WARPS = SIZE / 8,
        THREADS = 32 * WARPS,
        BLOCKS = 512 / THREADS,       /* that a multiprocessor has room for, at least */
        MORE_BLOCKS = 640 / THREADS,  /* likewise, where less is in registers */
        ROW_THREADS = THREADS / SIZE, /* to a row, where a row is looked at */
        LD = SIZE + 4,                /* floats from row to row */
        DEPTH = SIZE == 32 ? 64 : 32, /* channels of a chunk */
        LD_CHUNK = DEPTH + 4,
        CHUNK = 2 * SIZE * LD_CHUNK / 4 /* float4 */
    };

    /* Products: how warps share the tile, and how many rows and columns a thread has. */
    enum {
        COL_WARPS = 2,
        ROW_WARPS = WARPS / COL_WARPS,
        ROWS = SIZE / (4 * ROW_WARPS),
        COLS = SIZE / (8 * COL_WARPS)
    };
};

/* Rows of one head: the first n, `ld` floats apart. */
struct attn_rows {
    const float *x;
    int ld, n;

    /* Those from row i on, `most` of them. */
    __device__ attn_rows from(int i, int most) const {
        return {x + (int64_t)i * ld, ld, min(n - i, most)};
    }
};

/* What is the same for all blocks. */
struct attn_how {
    struct mal_attn attn;
    bool packs; /* rows of all matrices are whole, aligned packs of four floats */
};

static inline bool attn_aligned(const void *x, int64_t ld) {
    return (uintptr_t)x % 16 == 0 && ld % 4 == 0;
}

static inline attn_how attn_how_of(const struct mal_attn *attn) {
    bool packs = attn->head_size % 4 == 0 && attn_aligned(attn->q, attn->ld_q) &&
                 attn_aligned(attn->k, attn->ld_k) && attn_aligned(attn->v, attn->ld_v);
    return {*attn, packs};
}

static inline int64_t attn_slabs(const struct mal_attn *attn) {
    return (attn->head_size + ATTN_CHANNELS - 1) / ATTN_CHANNELS;
}

/* ---- A head of a sequence ---- */

/* Keys [first, end) of a sequence. */
struct attn_range {
    int first, end;
};

/* Kept in shared memory: every thread has use for all of it, now and then. */
struct attn_head {
    int head, kv_head;
    int64_t q_row, k_row; /* the first of each */
    int n_queries, n_keys;
    int position; /* of the first query; negative only where positions mean nothing */
    attn_rows q, k, v;
};

__device__ static inline attn_rows attn_head_rows(const float *x, int64_t ld, int64_t row,
                                                  int n, int64_t head, int64_t d) {
    return {x + row * ld + head * d, (int)ld, n};
}

__device__ static inline attn_head attn_head_of(const struct mal_attn &attn, int64_t s,
                                                int head) {
    int row = attn.q_start[s], n = attn.q_start[s + 1] - row;
    int k_row = attn.k_start[s], keys = attn.k_len[s];
    int kv_head = head / (int)(attn.n_heads / attn.n_kv_heads);
    return {head,
            kv_head,
            row,
            k_row,
            n,
            keys,
            keys - n,
            attn_head_rows(attn.q, attn.ld_q, row, n, head, attn.head_size),
            attn_head_rows(attn.k, attn.ld_k, k_row, keys, kv_head, attn.head_size),
            attn_head_rows(attn.v, attn.ld_v, k_row, keys, kv_head, attn.head_size)};
}

/* What some of n queries from position p on see: of one, all it sees. */
__device__ static inline attn_range attn_seen(const struct mal_attn &attn, int n_keys,
                                              int p, int n) {
    if (!attn.causal) return {0, n_keys};
    bool far = attn.window && p >= attn.window;
    return {far ? p - (int)attn.window + 1 : 0, min(p + n, n_keys)};
}

/* What is added to the score of a query at p and a key at t. */
__device__ static inline float attn_bias(const struct mal_attn &attn, int head, int p,
                                         int t) {
    int span = (int)attn.rel_span, distance = max(-span, min(t - p, span));
    return attn.rel_bias[head * (2 * attn.rel_span + 1) + span + distance];
}

__device__ static inline float attn_capped(float x, float cap) {
    return cap * tanhf(x / cap);
}

/* ---- Loading ---- */

/* Up to four floats, at least one; zeros beyond. */
__device__ static inline float4 attn_part(const float *x, int left) {
    return make_float4(x[0], left > 1 ? x[1] : 0, left > 2 ? x[2] : 0,
                       left > 3 ? x[3] : 0);
}

__device__ static inline void attn_add(float w, const float4 &x, float4 &y) {
    y.x = fmaf(w, x.x, y.x);
    y.y = fmaf(w, x.y, y.y);
    y.z = fmaf(w, x.z, y.z);
    y.w = fmaf(w, x.w, y.w);
}

/* x, or those of it that `left` has room for; `more`: added to what is there. */
__device__ static inline void attn_store(float *to, float4 x, int left, bool packs,
                                         bool more) {
    if (left <= 0) return;
    if (more) attn_add(1, packs ? *(float4 *)to : attn_part(to, left), x);
    if (packs) {
        *(float4 *)to = x;
        return;
    }
    to[0] = x.x;
    if (left > 1) to[1] = x.y;
    if (left > 2) to[2] = x.z;
    if (left > 3) to[3] = x.w;
}

/* The same, rounded; nothing is ever added to it. */
__device__ static inline void attn_store(mal_bf16 *to, float4 x, int left, bool packs,
                                         bool) {
    const float from[4] = {x.x, x.y, x.z, x.w};
    mal_pack<mal_bf16> y;
#pragma unroll
    for (int i = 0; i < 4; i++)
        mal_set(y.x + i, from[i]);
    if (packs && left > 0) {
        *(mal_pack<mal_bf16> *)to = y;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < left) to[i] = y.x[i];
}

/* Channels [c, c + WIDTH) of ROWS rows by THREADS threads, held in registers between read
 * and write; zeros where nothing is, channels being those before `end`. */
template <int ROWS, int WIDTH, int THREADS> struct attn_load {
    enum { PACKS = WIDTH / 4, STEP = THREADS / PACKS, N = ROWS / STEP };

    static_assert(THREADS % PACKS == 0 && ROWS % STEP == 0, "whole rows at a time");
    float4 x[N];

    __device__ void read(const attn_rows &rows, int c, int end, bool packs) {
        int row = threadIdx.x / PACKS, left = end - c - threadIdx.x % PACKS * 4;
        const float *from = rows.x + (int64_t)row * rows.ld + (end - left);
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = make_float4(0, 0, 0, 0);
        if (left <= 0) return;
        if (packs) {
#pragma unroll
            for (int i = 0; i < N; i++, from += (int64_t)STEP * rows.ld)
                if (row + i * STEP < rows.n) x[i] = *(const float4 *)from;
        } else {
#pragma unroll
            for (int i = 0; i < N; i++, from += (int64_t)STEP * rows.ld)
                if (row + i * STEP < rows.n) x[i] = attn_part(from, left);
        }
    }

    __device__ void write(float *to, int ld) const {
        int row = threadIdx.x / PACKS, at = threadIdx.x % PACKS * 4;
#pragma unroll
        for (int i = 0; i < N; i++)
            *(float4 *)(to + (row + i * STEP) * ld + at) = x[i];
    }
};

/* ---- Products ---- */

template <int SIZE> struct attn_products {
    using tile = attn_tile<SIZE>;
    float x[tile::ROWS][tile::COLS];

    __device__ static int row(int r) {
        return threadIdx.x % 32 / 8 +
               4 * (threadIdx.x / 32 / tile::COL_WARPS + tile::ROW_WARPS * r);
    }

    __device__ static int col(int c) {
        return threadIdx.x % 8 +
               8 * (threadIdx.x / 32 % tile::COL_WARPS + tile::COL_WARPS * c);
    }

    /* f(row, column, x) for all elements of this thread. */
    template <typename F> __device__ void each(F f) {
#pragma unroll
        for (int r = 0; r < tile::ROWS; r++) {
#pragma unroll
            for (int c = 0; c < tile::COLS; c++)
                f(row(r), col(c), x[r][c]);
        }
    }

    template <int ROWS> __device__ void add(const float *a, const float *b, int depth) {
#pragma unroll 1
        for (int d = 0; d < depth; d += 4) {
            float4 y[tile::COLS];
#pragma unroll
            for (int c = 0; c < tile::COLS; c++)
                y[c] = *(const float4 *)(b + col(c) * tile::LD_CHUNK + d);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float4 z = *(const float4 *)(a + row(r) * tile::LD_CHUNK + d);
#pragma unroll
                for (int c = 0; c < tile::COLS; c++) {
                    x[r][c] = fmaf(z.x, y[c].x, x[r][c]);
                    x[r][c] = fmaf(z.y, y[c].y, x[r][c]);
                    x[r][c] = fmaf(z.z, y[c].z, x[r][c]);
                    x[r][c] = fmaf(z.w, y[c].w, x[r][c]);
                }
            }
        }
    }

    /* x := the products of rows a with rows b, of d channels. The block's threads meet in
     * here before the chunk is written, at least once. */
    __device__ void compute(const attn_rows &a, const attn_rows &b, int d, bool packs,
                            float4 *chunk) {
        float *to_a = (float *)chunk, *to_b = to_a + SIZE * tile::LD_CHUNK;
        int n = (a.n - 4 * (int)(threadIdx.x / 32 / tile::COL_WARPS) +
                 4 * tile::ROW_WARPS - 1) /
                (4 * tile::ROW_WARPS); /* rows of a thread that are there */
        each([](int, int, float &y) { y = 0; });
        for (int c = 0; c < d; c += tile::DEPTH) {
            attn_load<SIZE, tile::DEPTH, tile::THREADS> load_a, load_b;
            load_a.read(a, c, d, packs);
            load_b.read(b, c, d, packs);
            __syncthreads();
            load_a.write(to_a, tile::LD_CHUNK);
            load_b.write(to_b, tile::LD_CHUNK);
            __syncthreads();
            int depth = min(d - c, (int)tile::DEPTH);
            static_assert(tile::ROWS == 4, "the cases below");
            if (n > 3)
                add<4>(to_a, to_b, depth);
            else if (n == 3)
                add<3>(to_a, to_b, depth);
            else if (n == 2)
                add<2>(to_a, to_b, depth);
            else if (n == 1)
                add<1>(to_a, to_b, depth);
        }
    }
};

/* ---- Sums ---- */

/* For every row of a tile CHANNELS channels (64, 128 or 256) from `first` on. */
template <int SIZE, int CHANNELS> struct attn_sums {
    using tile = attn_tile<SIZE>;

    enum {
        COL_WARPS = CHANNELS < 128 ? 2 : 4,
        ROW_WARPS = tile::WARPS / COL_WARPS,
        ROWS = SIZE / (4 * ROW_WARPS), /* of a thread */
        PACKS = CHANNELS / (32 * COL_WARPS),
        FIT = tile::CHUNK * 4 / CHANNELS, /* rows in a chunk */
        DEPTH = FIT >= SIZE ? SIZE
                : FIT >= 32 ? 32
                            : 16
    };

    float4 x[ROWS][PACKS];

    __device__ static int row(int r) {
        return threadIdx.x % 32 / 8 + 4 * (threadIdx.x / 32 / COL_WARPS + ROW_WARPS * r);
    }

    __device__ static int channel(int c) {
        return threadIdx.x % 8 * 4 + 32 * (threadIdx.x / 32 % COL_WARPS + COL_WARPS * c);
    }

    /* f(row, channel, x) for all packs of this thread. */
    template <typename F> __device__ void each(F f) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < PACKS; c++)
                f(row(r), channel(c), x[r][c]);
        }
    }

    __device__ void clear() {
        each([](int, int, float4 &y) { y = make_float4(0, 0, 0, 0); });
    }

    __device__ void scale(const float *factor) {
        each([=](int r, int, float4 &y) {
            float f = factor[r];
            y = make_float4(f * y.x, f * y.y, f * y.z, f * y.w);
        });
    }

    template <int MOST>
    __device__ void add_chunk(const float *weights, const float *chunk, int depth) {
        for (int d = 0; d < depth; d += 4) {
            float4 z[4][PACKS];
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int c = 0; c < PACKS; c++)
                    z[i][c] = *(const float4 *)(chunk + (d + i) * CHANNELS + channel(c));
            }
#pragma unroll
            for (int r = 0; r < MOST; r++) {
                float4 w = *(const float4 *)(weights + row(r) * tile::LD + d);
#pragma unroll
                for (int c = 0; c < PACKS; c++) {
                    attn_add(w.x, z[0][c], x[r][c]);
                    attn_add(w.y, z[1][c], x[r][c]);
                    attn_add(w.z, z[2][c], x[r][c]);
                    attn_add(w.w, z[3][c], x[r][c]);
                }
            }
        }
    }

    /* Adds the rows z, channels [first, end), weighted by the tile, of which n rows are
     * there; its columns beyond those of z are finite. The block's threads meet in here
     * before the tile is read. */
    __device__ void add(const float *weights, int n, const attn_rows &z, int first,
                        int end, bool packs, float4 *chunk) {
        float *to = (float *)chunk;
        int warp = threadIdx.x / 32 / COL_WARPS; /* rows of a thread that are there: */
        n = (n - 4 * warp + 4 * ROW_WARPS - 1) / (4 * ROW_WARPS);
        for (int j = 0; j < z.n; j += DEPTH) {
            attn_load<DEPTH, CHANNELS, tile::THREADS> load;
            load.read(z.from(j, DEPTH), first, end, packs);
            __syncthreads();
            load.write(to, CHANNELS);
            __syncthreads();
            int depth = min(z.n - j, (int)DEPTH);
            if (n > ROWS / 4 * 3)
                add_chunk<ROWS>(weights + j, to, depth);
            else if (n > ROWS / 2)
                add_chunk<ROWS / 4 * 3>(weights + j, to, depth);
            else if (n > ROWS / 4)
                add_chunk<ROWS / 2>(weights + j, to, depth);
            else if (n > 0)
                add_chunk<ROWS / 4>(weights + j, to, depth);
        }
    }

    /* Rows [from, n), channels [first, end), of which row 0 belongs to row `to` of y;
     * `more`: added to what is there. */
    template <typename Y>
    __device__ void store(Y *y, int64_t to, int64_t ld, int from, int n, int first,
                          int end, bool packs, bool more) {
        int left = end - first - channel(0);
        Y *at = y + (to + row(0)) * ld + first + channel(0);
#pragma unroll
        for (int r = 0; r < ROWS; r++, at += 4 * ROW_WARPS * ld) {
            if (row(r) < from || row(r) >= n) continue;
#pragma unroll
            for (int c = 0; c < PACKS; c++)
                attn_store(at + channel(c) - channel(0), x[r][c],
                           left + channel(0) - channel(c), packs, more);
        }
    }
};

#endif
