/* versioned.c - the weights of versions: the same bits on every device, processor and
 * number of threads. Sums have one order, stated in backend.h; nothing here goes through
 * BLAS. */
#include <string.h>

#include "core/cpu/cpu.h"
#include "core/cpu/tile.h"
#include "core/round.h"
#include "core/simd.h"

/* ---- Factors ---- */

/* Rows of t in a task, and the part of the rank that is copied out for them (16 KiB). */
enum { TASK_ROWS = 384, TASK_RANK = 128 };

/* The factor whose elements run along a row of t, copied out: panel (rank, cols). */
static void fill_panel(int64_t rank, int64_t cols, const float *x, int64_t row_x,
                       int64_t col_x, float *panel) {
    if (col_x == 1) {
        for (int64_t p = 0; p < rank; p++)
            memcpy(panel + p * TILE_COLS, x + p * row_x, (size_t)cols * sizeof *panel);
        return;
    }
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t p = 0; p < rank; p++)
            panel[p * TILE_COLS + j] = x[p * row_x + j * col_x];
    }
}

void mal_cpu_apply_factors(struct mal_backend *be, int64_t d_in, int64_t d_out,
                           int64_t rank, const float *l, const float *r, bool transposed,
                           float *t) {
    /* t (rows, cols) += a (rows, rank) b (rank, cols): l and r, or r' and l'. */
    int64_t rows = transposed ? d_out : d_in, cols = transposed ? d_in : d_out;
    const float *a = transposed ? r : l, *b = transposed ? l : r;
    int64_t row_a = transposed ? 1 : rank, col_a = transposed ? d_out : 1;
    int64_t row_b = transposed ? 1 : d_out, col_b = transposed ? rank : 1;

#pragma omp parallel for collapse(2) \
    schedule(dynamic) if (rows * cols > PARALLEL_ELEMENTS / 16)
    for (int64_t i = 0; i < rows; i += TASK_ROWS) {
        for (int64_t j = 0; j < cols; j += TILE_COLS) {
            _Alignas(64) float panel[TASK_RANK * TILE_COLS];
            int64_t m = rows - i < TASK_ROWS ? rows - i : TASK_ROWS;
            int64_t n = cols - j < TILE_COLS ? cols - j : TILE_COLS;
            for (int64_t p = 0; p < rank; p += TASK_RANK) {
                int64_t k = rank - p < TASK_RANK ? rank - p : TASK_RANK;
                fill_panel(k, n, b + p * row_b + j * col_b, row_b, col_b, panel);
                mal_cpu_tile(m, n, k, a + i * row_a + p * col_a, row_a, col_a, panel,
                             TILE_COLS, t + i * cols + j, cols);
            }
        }
    }
}

/* ---- Dense ---- */

/* Small enough that both sides of a transposition stay in the cache. */
enum { SQUARE = 64 };

static void add_transposed(int64_t d_in, int64_t d_out, int64_t j0, int64_t n,
                           const float *s, float *t) {
    for (int64_t i0 = 0; i0 < d_in; i0 += SQUARE) {
        int64_t i1 = d_in - i0 < SQUARE ? d_in : i0 + SQUARE;
        for (int64_t j = j0; j < j0 + n; j++) {
            for (int64_t i = i0; i < i1; i++)
                t[j * d_in + i] += s[i * d_out + j];
        }
    }
}

void mal_cpu_apply_dense(struct mal_backend *be, int64_t d_in, int64_t d_out,
                         const float *s, bool transposed, float *t) {
    if (transposed) {
#pragma omp parallel for schedule(static) if (d_in * d_out > PARALLEL_ELEMENTS)
        for (int64_t j = 0; j < d_out; j += SQUARE)
            add_transposed(d_in, d_out, j, d_out - j < SQUARE ? d_out - j : SQUARE, s, t);
    } else {
#pragma omp parallel for schedule(static) if (d_in * d_out > PARALLEL_ELEMENTS)
        for (int64_t i = 0; i < d_in; i++)
            mal_cpu_add_row(d_out, s + i * d_out, t + i * d_out);
    }
}

/* ---- Rounding ---- */

enum { BLOCK = 4096 };

static MAL_SIMD void sum_f32(int64_t n, const float *w0, const float *t, float *w) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        w[i] = w0[i] + t[i];
}

static MAL_SIMD void sum_f16(int64_t n, const float *w0, const float *t, float *w) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        w[i] = round_to_f16(w0[i] + t[i]);
}

static MAL_SIMD void sum_bf16(int64_t n, const float *w0, const float *t, float *w) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        w[i] = round_to_bf16(w0[i] + t[i]);
}

static void sum_rounded(int64_t n, const float *w0, const float *t, enum mal_dtype dtype,
                        float *w) {
    if (dtype == MAL_F16)
        sum_f16(n, w0, t, w);
    else if (dtype == MAL_BF16)
        sum_bf16(n, w0, t, w);
    else
        sum_f32(n, w0, t, w);
}

void mal_cpu_round_weight(struct mal_backend *be, int64_t n, const void *w0,
                          const float *t, enum mal_dtype dtype, void *w,
                          enum mal_dtype w_dtype) {
    size_t size = mal_dtype_size(w_dtype);
    bool narrow = w_dtype != MAL_F32;
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t part = n - i < BLOCK ? n - i : BLOCK;
        const void *base = (const char *)w0 + (size_t)i * size;
        void *out = (char *)w + (size_t)i * size;
        if (!narrow) {
            sum_rounded(part, base, t + i, dtype, out);
            continue;
        }
        float wide[BLOCK];
        mal_to_f32(wide, base, w_dtype, (size_t)part);
        sum_rounded(part, wide, t + i, dtype, wide);
        mal_from_f32(out, wide, w_dtype, (size_t)part);
    }
}

/* ---- Norm ---- */

enum { LANES = 8, PARTS = 256 };

/* Element i goes to sum i mod LANES: an order that no vector width changes. */
static MAL_SIMD double sum_squares_part(int64_t n, const float *x) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < LANES; j++) {
            double v = x[i + j];
            lane[j] += v * v;
        }
    }
    for (int64_t j = 0; i + j < n; j++) {
        double v = x[i + j];
        lane[j] += v * v;
    }
    double sum = 0;
    for (int64_t j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

void mal_cpu_sum_squares(struct mal_backend *be, int64_t n, const float *x, double *out) {
    double part[PARTS];
    int64_t size = (n + PARTS - 1) / PARTS;
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t p = 0; p < PARTS; p++) {
        int64_t start = p * size < n ? p * size : n;
        part[p] = sum_squares_part(n - start < size ? n - start : size, x + start);
    }
    double sum = 0;
    for (int64_t p = 0; p < PARTS; p++)
        sum += part[p];
    out[0] = sum;
}
