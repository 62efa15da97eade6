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
    LANES = 16, /* of a vector */
    PAIRS = 2 * LANES,
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
    const float *a; /* of g, or that as dot_rows() takes it */
    int64_t lda;
    const void *b; /* at the block's first weight */
    int64_t cols, depth;
    float *sums;
    int64_t ld;
};

/* ---- Weights stored (n,k): dot products ---- */

/* Two bf16 weights that lie together, and each of them. */
MAL_INLINE uint32_t pair_at(const void *b, int64_t i) {
    uint32_t pair;
    memcpy(&pair, (const uint16_t *)b + i, sizeof pair);
    return pair;
}

MAL_INLINE float low_of(uint32_t pair) {
    return f32_from_bits(pair << 16);
}

MAL_INLINE float high_of(uint32_t pair) {
    return f32_from_bits(pair & 0xffff0000U);
}

/* Sums of LANES lanes for each row of a and each row of weights. */
typedef float lanes[THIN_ROWS][QUAD][LANES];

/* One lane: weight w of row q with the m rows of a. */
MAL_INLINE void add_products(int m, int q, int l, float w, const float *a, int64_t lda,
                             lanes acc) {
    MAL_UNROLL
    for (int i = 0; i < m; i++)
        acc[i][q][l] = __builtin_fmaf(w, a[i * lda + l], acc[i][q][l]);
}

/* Of n_rows rows of weights from row j on; n_rows and m are constant. bf16 weights are
 * taken apart by pairs, which costs least, and a is in that order. */
MAL_INLINE void dot_rows(int m, int n_rows, enum mal_dtype dtype, const struct block *s,
                         int64_t j) {
    int64_t k = s->depth, lda = s->lda, ldb = s->g->ldb, p = 0;
    int64_t step = dtype == MAL_BF16 ? PAIRS : LANES, size = dtype == MAL_F32 ? 4 : 2;
    const float *a = s->a;
    const void *b = s->b;
    lanes acc; /* zeros where it is used: all of it would take longer than a short row */
    for (int i = 0; i < m; i++)
        for (int q = 0; q < n_rows; q++)
            for (int l = 0; l < LANES; l++)
                acc[i][q][l] = 0;
    for (; p + step <= k; p += step) {
        MAL_UNROLL
        for (int q = 0; q < n_rows; q++) /* of the rows that come next */
            __builtin_prefetch((const char *)b + ((j + n_rows + q) * ldb + p) * size);
        MAL_SIMD_LOOP
        for (int l = 0; l < LANES; l++) {
            MAL_UNROLL
            for (int q = 0; q < n_rows; q++) {
                int64_t at = (j + q) * ldb + p;
                if (dtype == MAL_BF16) {
                    uint32_t pair = pair_at(b, at + 2 * l);
                    add_products(m, q, l, low_of(pair), a + p, lda, acc);
                    add_products(m, q, l, high_of(pair), a + p + LANES, lda, acc);
                } else {
                    add_products(m, q, l, weight_at(b, at + l, dtype), a + p, lda, acc);
                }
            }
        }
    }
    for (int i = 0; i < m; i++) {
        for (int q = 0; q < n_rows; q++) {
            float sum = 0;
            MAL_SIMD_SUM(sum)
            for (int l = 0; l < LANES; l++)
                sum += acc[i][q][l];
            for (int64_t l = p; l < k; l++)
                sum += weight_at(b, (j + q) * ldb + l, dtype) * a[i * lda + l];
            s->sums[i * s->ld + j + q] = sum;
        }
    }
}

/* More rows of weights side by side where there are fewer of a: registers hold both. */
MAL_INLINE void dots(int m, enum mal_dtype dtype, const struct block *s) {
    int together = m > QUAD ? QUAD / 2 : QUAD;
    int64_t j = 0;
    for (; j + together <= s->cols; j += together)
        dot_rows(m, together, dtype, s, j);
    for (; j < s->cols; j++)
        dot_rows(m, 1, dtype, s, j);
}

/* ---- Weights stored (k,n): rows of them added up ---- */

/* Columns [j, end) of n_rows rows of weights from row p on; n_rows and m are constant. */
MAL_INLINE void add_rows(int m, int n_rows, enum mal_dtype dtype, const struct block *s,
                         int64_t p, int64_t j, int64_t end) {
    int64_t ldb = s->g->ldb, lda = s->lda, ld = s->ld;
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
        case 4: kind(4, dtype, s); break;              \
        case 5: kind(5, dtype, s); break;              \
        case 6: kind(6, dtype, s); break;              \
        case 7: kind(7, dtype, s); break;              \
        default: kind(8, dtype, s); break;             \
        }                                              \
    }

_Static_assert(THIN_ROWS == 8, "a case for each number of rows");
BY_ROWS(dots_f32, dots, MAL_F32)
BY_ROWS(dots_f16, dots, MAL_F16)
BY_ROWS(dots_bf16, dots, MAL_BF16)
BY_ROWS(axpys_f32, axpys, MAL_F32)
BY_ROWS(axpys_f16, axpys, MAL_F16)
BY_ROWS(axpys_bf16, axpys, MAL_BF16)

static void dots_of(const struct mal_gemm *g, const float *a, int64_t lda, int64_t j,
                    int64_t cols) {
    float sums[THIN_ROWS * DOTS];
    size_t size = mal_dtype_size(g->b_dtype);
    struct block s = {.g = g,
                      .a = a,
                      .lda = lda,
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
                          .lda = g->lda,
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

/* y (m, k) := the rows of a as dot_rows() takes them beside bf16 weights: of each PAIRS
 * the first of all pairs, then the second. */
static MAL_SIMD void order_rows(const struct mal_gemm *g, float *y) {
    for (int64_t i = 0; i < g->m; i++) {
        const float *a = g->a + i * g->lda;
        float *to = y + i * g->k;
        int64_t p = 0;
        for (; p + PAIRS <= g->k; p += PAIRS) {
            MAL_SIMD_LOOP
            for (int l = 0; l < LANES; l++) {
                to[p + l] = a[p + 2 * l];
                to[p + LANES + l] = a[p + 2 * l + 1];
            }
        }
        memcpy(to + p, a + p, (size_t)(g->k - p) * sizeof *a);
    }
}

static void multiply_dots(struct mal_cpu *cpu, const struct mal_gemm *g) {
    const float *a = g->a;
    int64_t lda = g->lda;
    if (g->b_dtype == MAL_BF16) {
        order_rows(g, (float *)cpu->work);
        a = (float *)cpu->work;
        lda = g->k;
    }
#pragma omp parallel for schedule(static) if (g->n * g->k > 16 * PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < g->n; j += DOTS)
        dots_of(g, a, lda, j, g->n - j < DOTS ? g->n - j : DOTS);
}

static void multiply_axpys(const struct mal_gemm *g) {
    int64_t n_threads = omp_get_max_threads();
    int64_t share = ((g->n + n_threads - 1) / n_threads + LANES - 1) / LANES * LANES;
    int64_t most = SUMS / g->m / LANES * LANES;
    int64_t cols = share < most ? share : most;
#pragma omp parallel for schedule(static) if (g->n * g->k > 16 * PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < g->n; j += cols)
        axpys_of(g, j, g->n - j < cols ? g->n - j : cols);
}

bool mal_cpu_gemm_thin(struct mal_backend *be, const struct mal_gemm *g) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    bool rounded = cpu->bf16 && g->b_dtype == MAL_BF16; /* which is faster sooner */
    int64_t most = rounded ? THIN_ROWS / 2 : THIN_ROWS;
    if (g->trans_a || g->m > most || g->m * g->k > 2 * cpu->n_work) return false;
    if (g->trans_b)
        multiply_dots(cpu, g);
    else
        multiply_axpys(g);
    return true;
}
