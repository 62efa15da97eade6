/* digest.cu - SHA-256 and sums of squares of pieces of weights.
 *
 * A hash is a chain, so a piece is one thread's work; those of all tensors run side by
 * side, in one launch. */
#include "cuda/impl.h"
#include "cuda/number.h"
#include "cuda/reduce.h"

enum { LIST = 32, LANES = 8, WORDS = 16, BLOCK_BYTES = 64, PACK_BYTES = 16 };

/* What one launch works on; pieces of all runs are counted through. */
struct piece_list {
    struct mal_pieces run[LIST];
    int64_t n;               /* runs */
    int64_t first[LIST + 1]; /* the first piece of each run */
    int64_t bytes;           /* of a piece */
};

/* ---- SHA-256 (FIPS 180-4) ---- */

__constant__ const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2};

__device__ inline uint32_t rotate(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

/* Words of the message are big-endian. */
__device__ inline uint32_t swap_bytes(uint32_t x) {
    return x >> 24 | (x >> 8 & 0xff00u) | (x << 8 & 0xff0000u) | x << 24;
}

/* One block of the message into the state; w is used up. */
__device__ inline void compress(uint32_t (&state)[8], uint32_t (&w)[WORDS]) {
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
#pragma unroll
    for (int i = 0; i < 64; i++) {
        if (i >= WORDS) {
            uint32_t x = w[(i + 1) % WORDS], y = w[(i + 14) % WORDS];
            w[i % WORDS] += w[(i + 9) % WORDS] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) +
                            (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
        }
        uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                      ((e & f) ^ (~e & g)) + sha_k[i] + w[i % WORDS];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                      ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

/* ---- Elements ---- */

/* The bits of an element as it is hashed: its own, or those of the value in a type that
 * has it exactly. */
template <typename T> __device__ inline uint32_t stored_bits(T x) {
    return x.bits;
}

template <> __device__ inline uint32_t stored_bits(float x) {
    return f32_bits(x);
}

template <typename T, typename W> __device__ inline uint32_t bits_of(W x) {
    T y;
    mal_set(&y, mal_widen(x));
    return stored_bits(y);
}

template <> __device__ inline uint32_t bits_of<mal_bf16>(mal_bf16 x) {
    return x.bits;
}

template <> __device__ inline uint32_t bits_of<mal_f16>(mal_f16 x) {
    return x.bits;
}

/* A block's elements of type W, hashed as T's. */
template <typename W, typename T> struct elements {
    static const int N = BLOCK_BYTES / sizeof(T), PACK = PACK_BYTES / sizeof(W);

    mal_pack<W, PACK> packs[N / PACK];

    __device__ W operator[](int i) const {
        return packs[i / PACK].x[i % PACK];
    }

    __device__ void load(const W *x, bool aligned) {
#pragma unroll
        for (int i = 0; i < N / PACK; i++) {
            if (aligned) {
                packs[i] = *(const mal_pack<W, PACK> *)(x + i * PACK);
                continue;
            }
#pragma unroll
            for (int j = 0; j < PACK; j++)
                packs[i].x[j] = x[i * PACK + j];
        }
    }

    /* The first n, and behind them zeros. */
    __device__ void load_some(const W *x, int n) {
#pragma unroll
        for (int i = 0; i < N; i++)
            packs[i / PACK].x[i % PACK] = i < n ? x[i] : W{};
    }
};

template <typename W, typename T>
__device__ inline void take_words(const elements<W, T> &x, uint32_t (&w)[WORDS]) {
    const int each = 4 / sizeof(T);
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        uint32_t word = 0;
#pragma unroll
        for (int j = 0; j < each; j++)
            word |= bits_of<T>(x[i * each + j]) << (j * 8 * (int)sizeof(T));
        w[i] = swap_bytes(word);
    }
}

/* Of the first n. Element i goes to sum i mod LANES, what is left after the last LANES of
 * a piece to `total`: the CPU's order. */
template <typename W, typename T>
__device__ inline void add_squares(const elements<W, T> &x, int n, double (&sums)[LANES],
                                   double *total) {
#pragma unroll
    for (int i = 0; i < elements<W, T>::N; i++) {
        double value = (double)mal_widen(x[i]);
        if (i < n / LANES * LANES) {
            sums[i % LANES] += value * value;
        } else if (i < n) {
            *total += value * value;
        }
    }
}

/* ---- A piece ---- */

/* The last block with elements, of which it has n, and the padding. */
template <typename W, typename T>
__device__ void finish(uint32_t (&state)[8], const W *x, int n, int64_t bytes,
                       double (&sums)[LANES], double *total) {
    elements<W, T> last;
    uint32_t w[WORDS];
    int end = n * (int)sizeof(T);
    last.load_some(x, n);
    add_squares(last, n, sums, total);
    take_words(last, w);
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        if (i == end / 4) w[i] |= 0x80000000u >> end % 4 * 8;
    if (end >= BLOCK_BYTES - 8) { /* no room for the length */
        compress(state, w);
#pragma unroll
        for (int i = 0; i < WORDS; i++)
            w[i] = 0;
    }
    w[WORDS - 2] = (uint32_t)(bytes >> 29);
    w[WORDS - 1] = (uint32_t)(bytes << 3);
    compress(state, w);
}

/* The next block is on its way while one is hashed. */
template <typename W, typename T>
__device__ void digest_piece(const W *x, int64_t n, uint32_t *hash, double *sum) {
    const int N = elements<W, T>::N;
    const bool aligned = (uintptr_t)x % PACK_BYTES == 0;
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    double sums[LANES] = {0}, total = 0;
    elements<W, T> next;
    if (n >= N) next.load(x, aligned);
    for (int64_t i = 0; i + N <= n; i += N) {
        uint32_t w[WORDS];
        take_words(next, w);
        add_squares(next, N, sums, &total);
        if (i + 2 * N <= n) next.load(x + i + N, aligned);
        compress(state, w);
    }
    finish<W, T>(state, x + n / N * N, (int)(n % N), n * (int64_t)sizeof(T), sums,
                 &total);
    for (int k = 0; k < LANES; k++)
        total += sums[k];
    for (int k = 0; k < 8; k++)
        hash[k] = swap_bytes(state[k]);
    *sum = total;
}

template <typename W, typename T>
__device__ void digest_of(const struct mal_pieces *run, int64_t piece, int64_t bytes) {
    int64_t each = bytes / (int64_t)sizeof(T), from = piece * each;
    int64_t left = run->n - from;
    digest_piece<W, T>((const W *)run->w + from, left < each ? left : each,
                       (uint32_t *)run->hashes + 8 * piece, run->sums + piece);
}

/* One warp a block, so that pieces are spread over the multiprocessors. */
__global__ static void digest_pieces(const __grid_constant__ struct piece_list list) {
    int64_t piece = (int64_t)blockIdx.x * MAL_WARP + threadIdx.x;
    int64_t r = 0;
    while (r < list.n && piece >= list.first[r + 1])
        r++;
    if (r == list.n) return;
    const struct mal_pieces *run = &list.run[r];
    piece -= list.first[r];
    if (run->w_dtype == MAL_BF16) {
        digest_of<mal_bf16, mal_bf16>(run, piece, list.bytes);
    } else if (run->w_dtype == MAL_F16) {
        digest_of<mal_f16, mal_f16>(run, piece, list.bytes);
    } else if (run->dtype == MAL_BF16) {
        digest_of<float, mal_bf16>(run, piece, list.bytes);
    } else if (run->dtype == MAL_F16) {
        digest_of<float, mal_f16>(run, piece, list.bytes);
    } else {
        digest_of<float, float>(run, piece, list.bytes);
    }
}

void mal_cuda_digest_pieces(struct mal_backend *be, int64_t bytes,
                            const struct mal_pieces *tensors, size_t n) {
    struct mal_cuda *cu = mal_cuda_of(be);
    for (size_t done = 0; done < n; done += LIST) {
        struct piece_list list; /* of which runs from n on are not read */
        list.bytes = bytes;
        list.n = list.first[0] = 0;
        for (; list.n < LIST && done + (size_t)list.n < n; list.n++) {
            list.run[list.n] = tensors[done + (size_t)list.n];
            list.first[list.n + 1] =
                list.first[list.n] + mal_n_pieces(&list.run[list.n], bytes);
        }
        unsigned blocks = (unsigned)((list.first[list.n] + MAL_WARP - 1) / MAL_WARP);
        if (blocks > 0) MAL_LAUNCH(cu, digest_pieces, blocks, MAL_WARP, 0, list);
    }
}
