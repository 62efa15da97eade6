/* rope.c - rotary positions: angles once a pass, then pairs of channels turned by them.
 */
#include <math.h>

#include "core/cpu/cpu.h"
#include "core/simd.h"

void mal_cpu_rope_angles(struct mal_backend *be, int64_t n, int64_t half,
                         const int32_t *pos, const float *inv_freq, float scale,
                         float *cs) {
#pragma omp parallel for schedule(static) if (n * half > PARALLEL_ELEMENTS / 16)
    for (int64_t i = 0; i < n; i++) {
        float *row = cs + i * 2 * half;
        for (int64_t j = 0; j < half; j++) {
            double angle = (double)((float)pos[i] * inv_freq[j]);
            row[j] = (float)cos(angle) * scale;
            row[half + j] = (float)sin(angle) * scale;
        }
    }
}

/* Channels j and j + half. */
static MAL_SIMD void turn_halves(int64_t half, const float *cos_of, const float *sin_of,
                                 float sign, float *x) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < half; j++) {
        float a = x[j], b = x[half + j], c = cos_of[j], s = sign * sin_of[j];
        x[j] = a * c - b * s;
        x[half + j] = b * c + a * s;
    }
}

/* Channels 2j and 2j + 1. */
static MAL_SIMD void turn_neighbours(int64_t half, const float *cos_of,
                                     const float *sin_of, float sign, float *x) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < half; j++) {
        float a = x[2 * j], b = x[2 * j + 1], c = cos_of[j], s = sign * sin_of[j];
        x[2 * j] = a * c - b * s;
        x[2 * j + 1] = b * c + a * s;
    }
}

void mal_cpu_rope(struct mal_backend *be, const struct mal_rope *rope, float *x,
                  int64_t ldx) {
    int64_t half = rope->half, channels = rope->n_heads * half;
    void (*turn)(int64_t, const float *, const float *, float, float *) =
        rope->interleaved ? turn_neighbours : turn_halves;
    float sign = rope->inverse ? -1 : 1;
#pragma omp parallel for schedule(static) if (rope->n * channels > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rope->n; i++) {
        const float *cs = rope->cs + i * 2 * half;
        for (int64_t h = 0; h < rope->n_heads; h++)
            turn(half, cs, cs + half, sign, x + i * ldx + h * rope->head_size);
    }
}
