/* gemm_thin.c - products of a few rows with weights of any type, as in decoding: as fast
 * as the weights can be read, each once.
 *
 * Sums are short: several lanes of a dot product, or blocks of rows of the weights. */
#include <omp.h>
#include <string.h>

#include "core/cpu/cpu.h"
#include "core/round.h"
#include "core/simd.h"

enum {
    LANES = 32,
    QUAD = 4,    /* rows of weights read side by side */
    DOTS = 64,   /* columns of c by one thread at a time */
    SUMS = 4096, /* the same where rows are added up, times rows of c */
    DEPTH = 512, /* rows of weights summed at a time */
    AHEAD = 256  /* columns for which the next rows are fetched at a time */
};

MAL_INLINE float weight_at(const void *b, int64_t i, enum mal_dtype dtype) {
    return dtype == MAL_F32   ? ((const float *)b)[i]
           : dtype == MAL_F16 ? f16_to_f32(((const uint16_t *)b)[i])
                              : bf16_to_f32(((const uint16_t *)b)[i]);
}

/* Sums of a block of c: (m, cols), each row `ld` after the last. */
struct block {
    const struct mal_gemm *g;
    const float *a;
    const void *b; /* at the block's first weight */
    int64_t cols, depth;
    float *sums;
    int64_t ld;
};

/* ---- Weights stored (n,k): dot products ---- */

/* Of n_rows rows of weights from row j on, in `lanes` sums each; all three and m are
 * constant. */
MAL_INLINE void dot_rows(int m, int n_rows, int lanes, enum mal_dtype dtype,
                         const struct block *s, int64_t j) {
    float acc[THIN_ROWS][QUAD][LANES] = {0};
    int64_t k = s->depth, lda = s->g->lda, ldb = s->g->ldb, p = 0;
    const float *a = s->a;
    const void *b = s->b;
    for (; p + lanes <= k; p += lanes) {
        MAL_SIMD_LOOP
        for (int l = 0; l < lanes; l++) {
            for (int q = 0; q < n_rows; q++) {
                float w = weight_at(b, (j + q) * ldb + p + l, dtype);
                for (int i = 0; i < m; i++)
                    acc[i][q][l] = __builtin_fmaf(w, a[i * lda + p + l], acc[i][q][l]);
            }
        }
    }
    for (int i = 0; i < m; i++) {
        for (int q = 0; q < n_rows; q++) {
            float sum = 0;
            MAL_SIMD_SUM(sum)
            for (int l = 0; l < lanes; l++)
                sum += acc[i][q][l];
            for (int64_t l = p; l < k; l++)
                sum += weight_at(b, (j + q) * ldb + l, dtype) * a[i * lda + l];
            s->sums[i * s->ld + j + q] = sum;
        }
    }
}

/* One row of a hardly fills the registers; with more, reading a again for each row of
 * weights is what counts. */
MAL_INLINE void dots(int m, enum mal_dtype dtype, const struct block *s) {
    int64_t j = 0;
    for (; m > 1 && j + QUAD <= s->cols; j += QUAD)
        dot_rows(m, QUAD, LANES / 2, dtype, s, j);
    for (; j < s->cols; j++)
        dot_rows(m, 1, LANES, dtype, s, j);
}

/* ---- Weights stored (k,n): rows of them added up ---- */

/* Columns [j, end) of n_rows rows of weights from row p on; n_rows and m are constant. */
MAL_INLINE void add_rows(int m, int n_rows, enum mal_dtype dtype, const struct block *s,
                         int64_t p, int64_t j, int64_t end) {
    int64_t ldb = s->g->ldb, lda = s->g->lda, ld = s->ld;
    float a[THIN_ROWS][QUAD], *sums = s->sums;
    const void *b = s->b;
    for (int i = 0; i < m; i++)
        for (int q = 0; q < n_rows; q++)
            a[i][q] = s->a[i * lda + p + q];
    MAL_SIMD_LOOP
    for (int64_t c = j; c < end; c++) {
        float w[QUAD];
        for (int q = 0; q < n_rows; q++)
            w[q] = weight_at(b, (p + q) * ldb + c, dtype);
        for (int i = 0; i < m; i++)
            for (int q = 0; q < n_rows; q++)
                sums[i * ld + c] = __builtin_fmaf(a[i][q], w[q], sums[i * ld + c]);
    }
}

/* The processor does not see by itself that the next rows come next: they are pages away.
 */
MAL_INLINE void fetch(const struct block *s, int64_t p, int64_t j, int64_t end) {
    int64_t size = (int64_t)mal_dtype_size(s->g->b_dtype);
    for (int64_t q = p; q < p + QUAD && q < s->depth; q++) {
        const char *row = (const char *)s->b + q * s->g->ldb * size;
        for (int64_t at = j * size; at < end * size; at += 64)
            __builtin_prefetch(row + at);
    }
}

MAL_INLINE void axpys(int m, enum mal_dtype dtype, const struct block *s) {
    int64_t p = 0;
    for (; p + QUAD <= s->depth; p += QUAD) {
        for (int64_t j = 0; j < s->cols; j += AHEAD) {
            int64_t end = s->cols - j < AHEAD ? s->cols : j + AHEAD;
            fetch(s, p + QUAD, j, end);
            add_rows(m, QUAD, dtype, s, p, j, end);
        }
    }
    for (; p < s->depth; p++)
        add_rows(m, 1, dtype, s, p, 0, s->cols);
}

/* ---- One function per layout and type ---- */

#define BY_ROWS(name, kind, dtype)                     \
    static MAL_SIMD void name(const struct block *s) { \
        switch (s->g->m) {                             \
        case 1: kind(1, dtype, s); break;              \
        case 2: kind(2, dtype, s); break;              \
        case 3: kind(3, dtype, s); break;              \
        default: kind(4, dtype, s); break;             \
        }                                              \
    }

_Static_assert(THIN_ROWS == 4, "a case for each number of rows");
BY_ROWS(dots_f32, dots, MAL_F32)
BY_ROWS(dots_f16, dots, MAL_F16)
BY_ROWS(dots_bf16, dots, MAL_BF16)
BY_ROWS(axpys_f32, axpys, MAL_F32)
BY_ROWS(axpys_f16, axpys, MAL_F16)
BY_ROWS(axpys_bf16, axpys, MAL_BF16)

static void dots_of(const struct mal_gemm *g, int64_t j, int64_t cols) {
    float sums[THIN_ROWS * DOTS];
    size_t size = mal_dtype_size(g->b_dtype);
    struct block s = {.g = g,
                      .a = g->a,
                      .b = (const char *)g->b + (size_t)(j * g->ldb) * size,
                      .cols = cols,
                      .depth = g->k,
                      .sums = sums,
                      .ld = DOTS};
    if (g->b_dtype == MAL_F32)
        dots_f32(&s);
    else
        (g->b_dtype == MAL_F16 ? dots_f16 : dots_bf16)(&s);
    mal_cpu_gemm_finish(g, 0, g->m, j, cols, true, sums, DOTS);
}

static void axpys_of(const struct mal_gemm *g, int64_t j, int64_t cols) {
    float sums[SUMS];
    size_t size = mal_dtype_size(g->b_dtype);
    int64_t p = 0;
    do { /* once for k = 0 too */
        memset(sums, 0, (size_t)(g->m * cols) * sizeof *sums);
        struct block s = {.g = g,
                          .a = g->a + p,
                          .b = (const char *)g->b + (size_t)(p * g->ldb + j) * size,
                          .cols = cols,
                          .depth = g->k - p < DEPTH ? g->k - p : DEPTH,
                          .sums = sums,
                          .ld = cols};
        if (g->b_dtype == MAL_F32)
            axpys_f32(&s);
        else
            (g->b_dtype == MAL_F16 ? axpys_f16 : axpys_bf16)(&s);
        mal_cpu_gemm_finish(g, 0, g->m, j, cols, p == 0, sums, cols);
        p += DEPTH;
    } while (p < g->k);
}

void mal_cpu_gemm_thin(const struct mal_gemm *g) {
    int64_t n_threads = omp_get_max_threads();
    int64_t share = ((g->n + n_threads - 1) / n_threads + LANES - 1) / LANES * LANES;
    int64_t most = SUMS / g->m / LANES * LANES;
    int64_t cols = g->trans_b ? DOTS : share < most ? share : most;
#pragma omp parallel for schedule(static) if (g->n * g->k > 16 * PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < g->n; j += cols) {
        int64_t width = g->n - j < cols ? g->n - j : cols;
        (g->trans_b ? dots_of : axpys_of)(g, j, width);
    }
}
