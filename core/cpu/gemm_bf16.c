/* gemm_bf16.c - products with bf16 weights by the processor's own instruction for them
 * (vdpbf16ps: two products and their sum a lane, added up in fp32), which has twice the
 * rate of fp32's. What the weights are multiplied with is rounded to bf16.
 *
 * As in gemm16.c each thread keeps a panel of weights in its cache and multiplies all
 * rows of a with it; here as pairs of neighbours along k, one pair a 32-bit word. */
#include <string.h>

#include "core/cpu/cpu.h"
#include "core/round.h"
#include "core/simd.h"

#if defined(__x86_64__)
#    include <immintrin.h>

enum {
    STRIP = 32,                     /* columns: two vectors */
    STRIPS = 8,                     /* of a panel, at most */
    DEPTH = 1024,                   /* rows of a panel */
    PAIRS = DEPTH / 2,              /* words of a column */
    BLOCK_ROWS = 6,                 /* of c held in registers, by a strip */
    ROWS = 16 * BLOCK_ROWS,         /* of a and c at a time */
    PANEL = STRIPS * STRIP * PAIRS, /* words */
    SCRATCH = PANEL + ROWS * PAIRS, /* of a thread */
    SQUARE = 16                     /* rows and columns of pairs turned together */
};

/* Neighbours in a row of pairs. */
typedef uint32_t words __attribute__((vector_size(4 * SQUARE)));

bool mal_cpu_has_bf16(void) {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw");
}

/* ---- Pairs ---- */

MAL_INLINE uint32_t pair_of(uint16_t low, uint16_t high) {
    return (uint32_t)low | (uint32_t)high << 16;
}

/* y (n_pairs, STRIP) of a matrix that is stored (k, n). */
static MAL_SIMD void pair_rows(int64_t n_pairs, const uint16_t *x, int64_t ldx,
                               uint32_t *y) {
    for (int64_t q = 0; q < n_pairs; q++) {
        const uint16_t *low = x + 2 * q * ldx, *high = low + ldx;
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < STRIP; j++)
            y[q * STRIP + j] = pair_of(low[j], high[j]);
    }
}

/* SQUARE words of as many rows, turned: four times, the rows of one half are interleaved
 * with those of the other. */
MAL_INLINE void turn(const uint16_t *x, int64_t ldx, uint32_t *y) {
    words a[SQUARE], b[SQUARE];
    for (int i = 0; i < SQUARE; i++)
        memcpy(&a[i], x + i * ldx, sizeof a[i]);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < SQUARE / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + SQUARE / 2], 0, 16, 1, 17, 2,
                                               18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] =
                __builtin_shufflevector(a[i], a[i + SQUARE / 2], 8, 24, 9, 25, 10, 26, 11,
                                        27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < SQUARE; i++)
        memcpy(y + i * STRIP, &a[i], sizeof a[i]);
}

/* The same of one stored (n, k), where pairs are neighbours. */
static MAL_SIMD void pair_columns(int64_t n_pairs, const uint16_t *x, int64_t ldx,
                                  uint32_t *y) {
    int64_t q = 0;
    for (; q + SQUARE <= n_pairs; q += SQUARE) {
        for (int64_t j = 0; j < STRIP; j++)
            __builtin_prefetch(x + j * ldx + 2 * (q + 2 * SQUARE));
        for (int64_t j = 0; j < STRIP; j += SQUARE)
            turn(x + j * ldx + 2 * q, ldx, y + q * STRIP + j);
    }
    for (; q < n_pairs; q++)
        for (int64_t j = 0; j < STRIP; j++)
            memcpy(&y[q * STRIP + j], x + j * ldx + 2 * q, sizeof *y);
}

/* Element by element, with zeros beyond the matrix. */
static void pair_edge(int64_t depth, int64_t cols, const uint16_t *x, int64_t row,
                      int64_t col, uint32_t *y) {
    for (int64_t p = 0; p < depth; p += 2) {
        for (int64_t j = 0; j < STRIP; j++) {
            const uint16_t *at = x + p * row + j * col;
            uint16_t low = j < cols ? at[0] : 0;
            y[p / 2 * STRIP + j] = pair_of(low, j < cols && p + 1 < depth ? at[row] : 0);
        }
    }
}

/* Rows [p, p + depth) and columns [j, j + cols) of op(b) as strips of pairs. */
static void make_panel(const struct mal_gemm *g, int64_t p, int64_t depth, int64_t j,
                       int64_t cols, void *panel) {
    uint32_t *y = panel;
    int64_t row = g->trans_b ? 1 : g->ldb, col = g->trans_b ? g->ldb : 1;
    const uint16_t *x = (const uint16_t *)g->b + p * row + j * col;
    int64_t n_pairs = (depth + 1) / 2;
    for (int64_t s = 0; s < cols; s += STRIP, y += n_pairs * STRIP) {
        const uint16_t *from = x + s * col;
        if (cols - s < STRIP || depth % 2 != 0)
            pair_edge(depth, cols - s, from, row, col, y);
        else if (g->trans_b)
            pair_columns(n_pairs, from, g->ldb, y);
        else
            pair_rows(n_pairs, from, g->ldb, y);
    }
}

static MAL_SIMD void round_row(int64_t n, const float *x, uint16_t *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = f32_to_bf16(x[i]);
}

/* Rows [i, i + rows) and columns [p, p + depth) of op(a) in bf16, rows of whole pairs. */
static void round_rows(const struct mal_gemm *g, int64_t i, int64_t rows, int64_t p,
                       int64_t depth, uint32_t *y) {
    int64_t n_pairs = (depth + 1) / 2;
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *to = (uint16_t *)(y + r * n_pairs);
        if (depth % 2 != 0) to[depth] = 0;
        if (!g->trans_a) {
            round_row(depth, g->a + (i + r) * g->lda + p, to);
            continue;
        }
        for (int64_t q = 0; q < depth; q++)
            to[q] = f32_to_bf16(g->a[(p + q) * g->lda + i + r]);
    }
}

/* ---- Products ---- */

#    define BF16_CODE __attribute__((target("avx512f,avx512bw,avx512bf16")))

/* sums (n_rows, STRIP) = a (n_rows, n_pairs) by a strip (n_pairs, STRIP), of pairs. */
static inline __attribute__((always_inline)) BF16_CODE void
multiply_rows(int n_rows, int64_t n_pairs, const uint32_t *a, const uint32_t *strip,
              float *sums) {
    __m512 low[BLOCK_ROWS], high[BLOCK_ROWS];
    for (int r = 0; r < n_rows; r++)
        low[r] = high[r] = _mm512_setzero_ps();
    for (int64_t q = 0; q < n_pairs; q++) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(strip + q * STRIP);
        __m512bh b1 = (__m512bh)_mm512_loadu_si512(strip + q * STRIP + STRIP / 2);
        for (int r = 0; r < n_rows; r++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r * n_pairs + q]);
            low[r] = _mm512_dpbf16_ps(low[r], x, b0);
            high[r] = _mm512_dpbf16_ps(high[r], x, b1);
        }
    }
    for (int r = 0; r < n_rows; r++) {
        _mm512_storeu_ps(sums + r * STRIP, low[r]);
        _mm512_storeu_ps(sums + r * STRIP + STRIP / 2, high[r]);
    }
}

static BF16_CODE void multiply_strip(int64_t rows, int64_t n_pairs, const uint32_t *a,
                                     const uint32_t *strip, float *sums) {
    for (; rows >= BLOCK_ROWS; rows -= BLOCK_ROWS) {
        multiply_rows(BLOCK_ROWS, n_pairs, a, strip, sums);
        a += BLOCK_ROWS * n_pairs;
        sums += BLOCK_ROWS * STRIP;
    }
    switch (rows) {
    case 1: multiply_rows(1, n_pairs, a, strip, sums); break;
    case 2: multiply_rows(2, n_pairs, a, strip, sums); break;
    case 3: multiply_rows(3, n_pairs, a, strip, sums); break;
    case 4: multiply_rows(4, n_pairs, a, strip, sums); break;
    case 5: multiply_rows(5, n_pairs, a, strip, sums); break;
    default: break;
    }
}

/* Adds the product with rows [p, p + depth) of op(b). */
static void multiply_panel(const struct mal_gemm *g, int64_t p, int64_t depth, int64_t j,
                           int64_t cols, const void *panel, void *scratch) {
    const uint32_t *b = panel;
    uint32_t *a = scratch;
    int64_t n_pairs = (depth + 1) / 2;
    for (int64_t i = 0; i < g->m; i += ROWS) {
        int64_t rows = g->m - i < ROWS ? g->m - i : ROWS;
        round_rows(g, i, rows, p, depth, a);
        for (int64_t s = 0; s < cols; s += STRIP) {
            _Alignas(64) float sums[ROWS * STRIP];
            multiply_strip(rows, n_pairs, a, b + s * n_pairs, sums);
            mal_cpu_gemm_finish(g, i, rows, j + s, cols - s < STRIP ? cols - s : STRIP,
                                p == 0, sums, STRIP);
        }
    }
}

static const struct mal_panels panels = {.strip = STRIP,
                                         .strips = STRIPS,
                                         .depth = DEPTH,
                                         .panel_words = PANEL,
                                         .scratch_words = SCRATCH,
                                         .make = make_panel,
                                         .multiply = multiply_panel};

void mal_cpu_gemm_bf16(struct mal_backend *be, const struct mal_gemm *g) {
    mal_cpu_gemm_panels(be, g, &panels);
}

#else

bool mal_cpu_has_bf16(void) {
    return false;
}

void mal_cpu_gemm_bf16(struct mal_backend *be, const struct mal_gemm *g) {
    mal_cpu_gemm16(be, g);
}

#endif
