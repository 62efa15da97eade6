/* embed.c - rows looked up, gathered, scattered and added. */
#include <string.h>

#include "core/cpu/cpu.h"
#include "core/simd.h"

static MAL_SIMD void add_elements(int64_t n, const float *x, float *y) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < n; j++)
        y[j] += x[j];
}

void mal_cpu_add_row(int64_t n, const float *x, float *y) {
    add_elements(n, x, y);
}

static MAL_SIMD void scale_elements(int64_t n, float scale, float *y) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < n; j++)
        y[j] *= scale;
}

void mal_cpu_embed(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
                   const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
                   float scale, const float *positions, float *y) {
    size_t row = (size_t)c * mal_dtype_size(tokens_dtype);
#pragma omp parallel for schedule(static) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        mal_to_f32(y + i * c, (const char *)tokens + (size_t)ids[i] * row, tokens_dtype,
                   (size_t)c);
        scale_elements(c, scale, y + i * c);
        if (positions) mal_cpu_add_row(c, positions + pos[i] * c, y + i * c);
    }
}

void mal_cpu_add(struct mal_backend *be, int64_t n, const float *x, float *y) {
    int64_t block = 1 << 13;
#pragma omp parallel for schedule(static) if (n > 2 * PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += block)
        mal_cpu_add_row(n - i < block ? n - i : block, x + i, y + i);
}

void mal_cpu_gather_rows(struct mal_backend *be, int64_t n, int64_t c,
                         const int32_t *rows, const float *x, int64_t ldx, float *y,
                         int64_t ldy) {
#pragma omp parallel for schedule(static) if (n * c > 2 * PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++)
        memcpy(y + i * ldy, x + (rows ? rows[i] : i) * ldx, (size_t)c * sizeof *y);
}

void mal_cpu_scatter_rows(struct mal_backend *be, int64_t n, int64_t c,
                          const int32_t *rows, const float *x, int64_t ldx, float *y,
                          int64_t ldy) {
#pragma omp parallel for schedule(static) if (n * c > 2 * PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++)
        memcpy(y + (rows ? rows[i] : i) * ldy, x + i * ldx, (size_t)c * sizeof *y);
}
