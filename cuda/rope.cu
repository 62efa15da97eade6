/* rope.cu - rotary positions: angles once a pass, then pairs of channels turned by them.
 *
 * A block a row. Angles are turned into cosines and sines in fp64, as on the CPU: fp32's
 * own lose digits far from 0. */
#include <math.h>

#include "cuda/impl.h"
#include "cuda/number.h"

__global__ static void angles_of_rows(int64_t half, const int32_t *pos,
                                      const float *inv_freq, float scale, float *cs) {
    int64_t i = blockIdx.x;
    for (int64_t j = threadIdx.x; j < half; j += blockDim.x) {
        double angle = (double)((float)pos[i] * inv_freq[j]);
        cs[i * 2 * half + j] = (float)cos(angle) * scale;
        cs[i * 2 * half + half + j] = (float)sin(angle) * scale;
    }
}

void mal_cuda_rope_angles(struct mal_backend *be, int64_t n, int64_t half,
                          const int32_t *pos, const float *inv_freq, float scale,
                          float *cs) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, angles_of_rows, (unsigned)n, mal_cuda_threads(half), 0, half, pos,
               inv_freq, scale, cs);
}

/* ---- Turning ---- */

/* W pairs are two packs side by side if interleaved, else two that are `half` apart; in
 * these 2 W channels, where are a and b of pair w? */
template <int W, bool interleaved>
__device__ static void turn(mal_floats<W> cos_of, mal_floats<W> sin_of, float sign,
                            mal_floats<W> *first, mal_floats<W> *second) {
    mal_floats<W> in[2] = {*first, *second}, out[2];
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
    const mal_floats<W> *cos_of = (const mal_floats<W> *)(rope.cs + i * 2 * rope.half);
    const mal_floats<W> *sin_of = cos_of + packs;
    float sign = rope.inverse ? -1 : 1;
    for (unsigned p = threadIdx.x; p < n; p += blockDim.x) {
        unsigned j = p % packs;
        mal_floats<W> *head = (mal_floats<W> *)(x + i * ldx + p / packs * rope.head_size);
        mal_floats<W> *first = head + (interleaved ? 2 * j : j);
        turn<W, interleaved>(cos_of[j], sin_of[j], sign, first,
                             first + (interleaved ? 1 : packs));
    }
}

void mal_cuda_rope(struct mal_backend *be, const struct mal_rope *rope, float *x,
                   int64_t ldx) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = (rope->half | rope->head_size | ldx) % MAL_WIDE == 0 &&
                mal_starts_pack(rope->cs) && mal_starts_pack(x);
    auto turn_all = rope->interleaved
                        ? (wide ? turn_rows<MAL_WIDE, true> : turn_rows<1, true>)
                        : (wide ? turn_rows<MAL_WIDE, false> : turn_rows<1, false>);
    int64_t packs = rope->n_heads * (wide ? rope->half / MAL_WIDE : rope->half);
    MAL_LAUNCH(cu, turn_all, (unsigned)rope->n, mal_cuda_threads(packs), 0, *rope, x,
               ldx);
}
