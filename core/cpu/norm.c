/* norm.c - layer norm and RMS norm over rows, RMS norm over heads; statistics in fp64,
 * computed again backwards. */
#include <math.h>

#include "core/cpu/cpu.h"
#include "core/simd.h"

static MAL_SIMD double sum(int64_t c, const float *x) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < c; j++)
        s += x[j];
    return s;
}

static MAL_SIMD double sum_squares_from(int64_t c, const float *x, double mean) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < c; j++)
        s += (x[j] - mean) * (x[j] - mean);
    return s;
}

/* (x - mean) times the returned scale is the normalised row. */
static double row_stats(const struct mal_norm *norm, const float *x, double *mean) {
    double c = (double)norm->c;
    *mean = norm->rms ? 0 : sum(norm->c, x) / c;
    return 1 / sqrt(sum_squares_from(norm->c, x, *mean) / c + (double)norm->eps);
}

static MAL_SIMD void fwd_row(int64_t c, const float *x, double mean, double scale,
                             const float *gain, const float *bias, float *y) {
    if (bias) {
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < c; j++)
            y[j] = (float)((x[j] - mean) * scale) * gain[j] + bias[j];
    } else {
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < c; j++)
            y[j] = (float)((x[j] - mean) * scale) * gain[j];
    }
}

void mal_cpu_norm_fwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                      void *y, enum mal_dtype y_dtype) {
    float *out = y;
#pragma omp parallel for schedule(static) if (norm->n * norm->c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < norm->n; i++) {
        const float *row = x + i * norm->c;
        double mean, scale = row_stats(norm, row, &mean);
        fwd_row(norm->c, row, mean, scale, norm->gain, norm->bias, out + i * norm->c);
    }
}

/* Sum of the gradients of the normalised row, and of them times that row without its
 * scale. */
static MAL_SIMD void bwd_sums(int64_t c, const float *x, double mean, const float *gain,
                              const float *dy, double *sum_d, double *sum_dx) {
    double s = 0, t = 0;
    MAL_SIMD_SUM(s, t)
    for (int64_t j = 0; j < c; j++) {
        double d = (double)dy[j] * (double)gain[j];
        s += d;
        t += d * (x[j] - mean);
    }
    *sum_d = s;
    *sum_dx = t;
}

static MAL_SIMD void bwd_row(int64_t c, const float *x, double mean, double scale,
                             double shift, double slope, const float *gain,
                             const float *dy, float *dx) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < c; j++) {
        double d = (double)dy[j] * (double)gain[j];
        dx[j] += (float)(scale * (d - shift - slope * (x[j] - mean)));
    }
}

void mal_cpu_norm_bwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                      const float *dy, float *dx) {
    int64_t c = norm->c;
#pragma omp parallel for schedule(static) if (norm->n * c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < norm->n; i++) {
        const float *row = x + i * c;
        double mean, sum_d, sum_dx, scale = row_stats(norm, row, &mean);
        bwd_sums(c, row, mean, norm->gain, dy + i * c, &sum_d, &sum_dx);
        double shift = norm->rms ? 0 : sum_d / (double)c;
        double slope = sum_dx * scale * scale / (double)c;
        bwd_row(c, row, mean, scale, shift, slope, norm->gain, dy + i * c, dx + i * c);
    }
}

/* ---- Of heads ---- */

static struct mal_norm of_head(const struct mal_head_norm *norm) {
    return (struct mal_norm){.c = norm->head_size, .rms = true, .eps = norm->eps};
}

void mal_cpu_head_norm_fwd(struct mal_backend *be, const struct mal_head_norm *norm,
                           float *x, int64_t ldx) {
    struct mal_norm head = of_head(norm);
#pragma omp parallel for schedule(static) if (norm->n * norm->n_heads * head.c > \
                                              PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < norm->n; i++) {
        for (int64_t h = 0; h < norm->n_heads; h++) {
            float *row = x + i * ldx + h * head.c;
            double mean, scale = row_stats(&head, row, &mean);
            fwd_row(head.c, row, 0, scale, norm->gain, NULL, row);
        }
    }
}

static MAL_SIMD void bwd_head(int64_t c, const float *x, double scale, double slope,
                              const float *gain, float *dy) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < c; j++)
        dy[j] = (float)(scale * ((double)dy[j] * (double)gain[j] - slope * x[j]));
}

void mal_cpu_head_norm_bwd(struct mal_backend *be, const struct mal_head_norm *norm,
                           const float *x, int64_t ldx, float *dy, int64_t ld_dy) {
    struct mal_norm head = of_head(norm);
#pragma omp parallel for schedule(static) if (norm->n * norm->n_heads * head.c > \
                                              PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < norm->n; i++) {
        for (int64_t h = 0; h < norm->n_heads; h++) {
            const float *row = x + i * ldx + h * head.c;
            float *d = dy + i * ld_dy + h * head.c;
            double mean, sum_d, sum_dx, scale = row_stats(&head, row, &mean);
            bwd_sums(head.c, row, 0, norm->gain, d, &sum_d, &sum_dx);
            bwd_head(head.c, row, scale, sum_dx * scale * scale / (double)head.c,
                     norm->gain, d);
        }
    }
}
