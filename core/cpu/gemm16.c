/* gemm16.c - products with weights in 16 bits, computed in fp32.
 *
 * Each thread widens a panel of weights into scratch that stays in its cache, in strips
 * as wide as the blocks of tile.h, and multiplies all rows of a with it; weights are read
 * once and never widened as a whole. */
#include <string.h>

#include "core/cpu/cpu.h"
#include "core/cpu/tile.h"
#include "core/round.h"
#include "core/simd.h"

enum {
    STRIP = TILE_COLS,              /* columns */
    STRIPS = 8,                     /* of a panel, at most */
    LINE = 32,                      /* weights of a line of the cache */
    AHEAD = 8,                      /* rows asked for before they are read */
    DEPTH = 512,                    /* rows of a panel */
    ROWS = 16 * TILE_ROWS,          /* of a and c at a time */
    PANEL = STRIPS * STRIP * DEPTH, /* floats */
    SCRATCH = PANEL + ROWS * DEPTH, /* of a thread */
    GROUP = 8                       /* rows and columns transposed together */
};

/* ---- Widening ---- */

/* Neighbours in a row of weights. */
typedef uint16_t group __attribute__((vector_size(2 * GROUP)));

MAL_INLINE float widened(uint16_t x, bool f16) {
    return f16 ? f16_to_f32(x) : bf16_to_f32(x);
}

/* Whole strips, each depth * STRIP after the last; row by row, as weights are stored. The
 * next rows are pages away: they are asked for in time. */
MAL_INLINE void widen_strips(bool f16, int64_t depth, int64_t n_strips, const uint16_t *x,
                             int64_t ldx, float *y) {
    for (int64_t p = 0; p < depth; p++) {
        for (int64_t s = 0; s < n_strips; s++) {
            const uint16_t *from = x + p * ldx + s * STRIP;
            float *to = y + (s * depth + p) * STRIP;
            if (p + AHEAD < depth) __builtin_prefetch(from + AHEAD * ldx);
            MAL_SIMD_LOOP
            for (int64_t j = 0; j < STRIP; j++)
                to[j] = widened(from[j], f16);
        }
    }
}

static MAL_SIMD void widen_strips_f16(int64_t depth, int64_t n_strips, const uint16_t *x,
                                      int64_t ldx, float *y) {
    widen_strips(true, depth, n_strips, x, ldx, y);
}

static MAL_SIMD void widen_strips_bf16(int64_t depth, int64_t n_strips, const uint16_t *x,
                                       int64_t ldx, float *y) {
    widen_strips(false, depth, n_strips, x, ldx, y);
}

/* y[j * ldy + i] = x[i * ldx + j] for a square of GROUP rows: three times, the rows of
 * one half are interleaved with those of the other. */
MAL_INLINE void transpose(const uint16_t *x, int64_t ldx, uint16_t *y, int64_t ldy) {
    group a[GROUP], b[GROUP];
    for (int i = 0; i < GROUP; i++)
        memcpy(&a[i], x + i * ldx, sizeof a[i]);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < GROUP / 2; i++) {
            b[2 * i] =
                __builtin_shufflevector(a[i], a[i + GROUP / 2], 0, 8, 1, 9, 2, 10, 3, 11);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + GROUP / 2], 4, 12, 5, 13,
                                                   6, 14, 7, 15);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < GROUP; i++)
        memcpy(y + i * ldy, &a[i], sizeof a[i]);
}

/* Of a matrix that is stored with the strip's columns as rows; depth is a multiple of
 * GROUP. */
MAL_INLINE void widen_rows(bool f16, int64_t depth, const uint16_t *x, int64_t ldx,
                           float *y) {
    uint16_t turned[GROUP * STRIP];
    for (int64_t p = 0; p < depth; p += GROUP) {
        if (p % LINE == 0) {
            for (int64_t j = 0; j < STRIP; j++)
                __builtin_prefetch(x + j * ldx + p + 2 * LINE);
        }
        for (int64_t j = 0; j < STRIP; j += GROUP)
            transpose(x + j * ldx + p, ldx, turned + j, STRIP);
        MAL_SIMD_LOOP
        for (int64_t i = 0; i < GROUP * STRIP; i++)
            y[p * STRIP + i] = widened(turned[i], f16);
    }
}

static MAL_SIMD void widen_rows_f16(int64_t depth, const uint16_t *x, int64_t ldx,
                                    float *y) {
    widen_rows(true, depth, x, ldx, y);
}

static MAL_SIMD void widen_rows_bf16(int64_t depth, const uint16_t *x, int64_t ldx,
                                     float *y) {
    widen_rows(false, depth, x, ldx, y);
}

/* Element by element: y (depth, STRIP), with zeros in columns beyond the matrix. */
static void widen_edge(int64_t depth, int64_t cols, const uint16_t *x, int64_t row,
                       int64_t col, bool f16, float *y) {
    for (int64_t p = 0; p < depth; p++)
        for (int64_t j = 0; j < STRIP; j++)
            y[p * STRIP + j] = j < cols ? widened(x[p * row + j * col], f16) : 0;
}

/* Rows [p, p + depth) and columns [j, j + cols) of op(b) as strips. */
static void make_panel(const struct mal_gemm *g, int64_t p, int64_t depth, int64_t j,
                       int64_t cols, void *panel) {
    float *y = panel;
    bool f16 = g->b_dtype == MAL_F16;
    int64_t row = g->trans_b ? 1 : g->ldb, col = g->trans_b ? g->ldb : 1;
    const uint16_t *x = (const uint16_t *)g->b + p * row + j * col;
    int64_t whole = cols / STRIP, squares = depth / GROUP * GROUP;
    if (!g->trans_b)
        (f16 ? widen_strips_f16 : widen_strips_bf16)(depth, whole, x, g->ldb, y);
    for (int64_t s = 0; s < whole && g->trans_b; s++) {
        const uint16_t *from = x + s * STRIP * col;
        float *to = y + s * STRIP * depth;
        (f16 ? widen_rows_f16 : widen_rows_bf16)(squares, from, g->ldb, to);
        widen_edge(depth - squares, STRIP, from + squares, row, col, f16,
                   to + squares * STRIP);
    }
    if (whole * STRIP < cols)
        widen_edge(depth, cols - whole * STRIP, x + whole * STRIP * col, row, col, f16,
                   y + whole * STRIP * depth);
}

/* ---- Products ---- */

/* Rows [i, i + rows) and columns [p, p + depth) of op(a), dense: rows far apart, most of
 * all by powers of two, would push each other out of the cache. */
static void copy_rows(const struct mal_gemm *g, int64_t i, int64_t rows, int64_t p,
                      int64_t depth, float *y) {
    for (int64_t r = 0; r < rows; r++) {
        if (!g->trans_a) {
            memcpy(y + r * depth, g->a + (i + r) * g->lda + p, (size_t)depth * sizeof *y);
            continue;
        }
        for (int64_t q = 0; q < depth; q++)
            y[r * depth + q] = g->a[(p + q) * g->lda + i + r];
    }
}

/* Adds the product with rows [p, p + depth) of op(b). */
static void multiply_panel(const struct mal_gemm *g, int64_t p, int64_t depth, int64_t j,
                           int64_t cols, const void *panel, void *scratch) {
    const float *b = panel;
    float *a = scratch;
    for (int64_t i = 0; i < g->m; i += ROWS) {
        int64_t rows = g->m - i < ROWS ? g->m - i : ROWS;
        copy_rows(g, i, rows, p, depth, a);
        for (int64_t s = 0; s < cols; s += STRIP) {
            _Alignas(64) float sums[ROWS * STRIP];
            memset(sums, 0, (size_t)(rows * STRIP) * sizeof *sums);
            mal_cpu_tile(rows, STRIP, depth, a, depth, 1, b + s * depth, STRIP, sums,
                         STRIP);
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

void mal_cpu_gemm16(struct mal_backend *be, const struct mal_gemm *g) {
    mal_cpu_gemm_panels(be, g, &panels);
}
