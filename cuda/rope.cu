/* rope.cu - rotary positions: angles once a pass, then pairs of channels turned by them.
 *
 * A block a row. Angles are turned into cosines and sines in fp64, as on the CPU: fp32's
 * own lose digits far from 0. */
#include <math.h>

#include "cuda/impl.h"

static unsigned threads_of(int64_t n) {
    return n < MAL_THREADS ? (unsigned)(n + 31) / 32 * 32 : (unsigned)MAL_THREADS;
}

__global__ static void angles_of_rows(int64_t half, const int32_t *pos,
                                      const float *inv_freq, float *cs) {
    int64_t i = blockIdx.x;
    for (int64_t j = threadIdx.x; j < half; j += blockDim.x) {
        double angle = (double)((float)pos[i] * inv_freq[j]);
        cs[i * 2 * half + j] = (float)cos(angle);
        cs[i * 2 * half + half + j] = (float)sin(angle);
    }
}

void mal_cuda_rope_angles(struct mal_backend *be, int64_t n, int64_t half,
                          const int32_t *pos, const float *inv_freq, float *cs) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, angles_of_rows, (unsigned)n, threads_of(half), 0, half, pos, inv_freq,
               cs);
}

/* ---- Turning ---- */

template <int W> struct alignas(W * sizeof(float)) pack { float x[W]; };

enum { WIDE = 4 };

/* W pairs are two packs side by side if interleaved, else two that are `half` apart; in
 * these 2 W channels, where are a and b of pair w? */
template <int W, bool interleaved>
__device__ static void turn(pack<W> cos_of, pack<W> sin_of, float sign, pack<W> *first,
                            pack<W> *second) {
    pack<W> in[2] = {*first, *second}, out[2];
    for (int w = 0; w < W; w++) {
        int ia = interleaved ? 2 * w : w, ib = interleaved ? 2 * w + 1 : W + w;
        float a = in[ia / W].x[ia % W], b = in[ib / W].x[ib % W];
        float c = cos_of.x[w], s = sign * sin_of.x[w];
        /* Which of the products is rounded is settled here, for all widths. */
        out[ia / W].x[ia % W] = fmaf(a, c, -__fmul_rn(b, s));
        out[ib / W].x[ib % W] = fmaf(b, c, __fmul_rn(a, s));
    }
    *first = out[0];
    *second = out[1];
}

template <int W, bool interleaved>
__global__ static void turn_rows(struct mal_rope rope, float *x, int64_t ldx) {
    int64_t i = blockIdx.x;
    unsigned packs = (unsigned)(rope.half / W), n = (unsigned)rope.n_heads * packs;
    const pack<W> *cos_of = (const pack<W> *)(rope.cs + i * 2 * rope.half);
    const pack<W> *sin_of = cos_of + packs;
    float sign = rope.inverse ? -1 : 1;
    for (unsigned p = threadIdx.x; p < n; p += blockDim.x) {
        unsigned j = p % packs;
        pack<W> *head = (pack<W> *)(x + i * ldx + p / packs * rope.head_size);
        pack<W> *first = head + (interleaved ? 2 * j : j);
        turn<W, interleaved>(cos_of[j], sin_of[j], sign, first,
                             first + (interleaved ? 1 : packs));
    }
}

static bool starts_pack(const void *p) {
    return (uintptr_t)p % sizeof(pack<WIDE>) == 0;
}

void mal_cuda_rope(struct mal_backend *be, const struct mal_rope *rope, float *x,
                   int64_t ldx) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = (rope->half | rope->head_size | ldx) % WIDE == 0 &&
                starts_pack(rope->cs) && starts_pack(x);
    auto turn_all = rope->interleaved
                        ? (wide ? turn_rows<WIDE, true> : turn_rows<1, true>)
                        : (wide ? turn_rows<WIDE, false> : turn_rows<1, false>);
    int64_t packs = rope->n_heads * (wide ? rope->half / WIDE : rope->half);
    MAL_LAUNCH(cu, turn_all, (unsigned)rope->n, threads_of(packs), 0, *rope, x, ldx);
}
