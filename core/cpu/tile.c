/* tile.c - the product of small pieces, as one chain of fused multiply-adds per element.
 */
#include "core/cpu/tile.h"

#include "core/simd.h"

/* Inlined with constant rows and cols, the accumulators live in registers. */
MAL_INLINE void block(int rows, int cols, int64_t k, const float *a, int64_t row_a,
                      int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc) {
    float acc[TILE_ROWS][TILE_COLS];
    for (int r = 0; r < rows; r++) {
        MAL_SIMD_LOOP
        for (int j = 0; j < cols; j++)
            acc[r][j] = c[r * ldc + j];
    }
    for (int64_t p = 0; p < k; p++) {
        for (int r = 0; r < rows; r++) {
            float x = a[r * row_a + p * col_a];
            MAL_SIMD_LOOP
            for (int j = 0; j < cols; j++)
                acc[r][j] = __builtin_fmaf(x, b[p * ldb + j], acc[r][j]);
        }
    }
    for (int r = 0; r < rows; r++) {
        MAL_SIMD_LOOP
        for (int j = 0; j < cols; j++)
            c[r * ldc + j] = acc[r][j];
    }
}

/* All rows of `cols` columns; the last rows in a block of their own. */
MAL_INLINE void strip(int64_t m, int cols, int64_t k, const float *a, int64_t row_a,
                      int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc) {
    int64_t i = 0;
    for (; i + TILE_ROWS <= m; i += TILE_ROWS)
        block(TILE_ROWS, cols, k, a + i * row_a, row_a, col_a, b, ldb, c + i * ldc, ldc);
    a += i * row_a;
    c += i * ldc;
    switch (m - i) {
    case 1: block(1, cols, k, a, row_a, col_a, b, ldb, c, ldc); break;
    case 2: block(2, cols, k, a, row_a, col_a, b, ldb, c, ldc); break;
    case 3: block(3, cols, k, a, row_a, col_a, b, ldb, c, ldc); break;
    case 4: block(4, cols, k, a, row_a, col_a, b, ldb, c, ldc); break;
    case 5: block(5, cols, k, a, row_a, col_a, b, ldb, c, ldc); break;
    default: break;
    }
}

static MAL_SIMD void wide_strip(int64_t m, int64_t k, const float *a, int64_t row_a,
                                int64_t col_a, const float *b, int64_t ldb, float *c,
                                int64_t ldc) {
    strip(m, TILE_COLS, k, a, row_a, col_a, b, ldb, c, ldc);
}

static MAL_SIMD void half_strip(int64_t m, int64_t k, const float *a, int64_t row_a,
                                int64_t col_a, const float *b, int64_t ldb, float *c,
                                int64_t ldc) {
    strip(m, TILE_HALF, k, a, row_a, col_a, b, ldb, c, ldc);
}

static MAL_SIMD void narrow_strip(int64_t m, int cols, int64_t k, const float *a,
                                  int64_t row_a, int64_t col_a, const float *b,
                                  int64_t ldb, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        block(1, cols, k, a + i * row_a, row_a, col_a, b, ldb, c + i * ldc, ldc);
}

void mal_cpu_tile(int64_t m, int64_t n, int64_t k, const float *a, int64_t row_a,
                  int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc) {
    int64_t j = 0;
    for (; j + TILE_COLS <= n; j += TILE_COLS)
        wide_strip(m, k, a, row_a, col_a, b + j, ldb, c + j, ldc);
    if (j + TILE_HALF <= n) {
        half_strip(m, k, a, row_a, col_a, b + j, ldb, c + j, ldc);
        j += TILE_HALF;
    }
    if (j < n) narrow_strip(m, (int)(n - j), k, a, row_a, col_a, b + j, ldb, c + j, ldc);
}
