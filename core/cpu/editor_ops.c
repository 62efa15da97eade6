/* editor_ops.c - what hyper-network and editors do row by row and column by column. */
#include <float.h>

#include "core/cpu/cpu.h"
#include "core/simd.h"

/* ---- Normalizer ---- */

static MAL_SIMD void normalize_part(int64_t n, const float *x, const float *mean,
                                    const float *std, float *h) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < n; j++)
        h[j] = (x[j] - mean[j]) / (std[j] + FLT_EPSILON);
}

void mal_cpu_normalize_rows(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                            const float *u, int64_t ldu, const float *g, int64_t ldg,
                            const float *mean, const float *std, float *h) {
#pragma omp parallel for schedule(static) if (n * (du + dg) > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        float *row = h + i * (du + dg);
        normalize_part(du, u + i * ldu, mean, std, row);
        normalize_part(dg, g + i * ldg, mean + du, std + du, row + du);
    }
}

enum { COLUMNS = 64 }; /* of one task */

static MAL_SIMD void column_block(int64_t n, int64_t width, const float *x, int64_t ldx,
                                  double *mean, double *m2) {
    double s[COLUMNS] = {0}, t[COLUMNS] = {0};
    for (int64_t i = 0; i < n; i++) {
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < width; j++)
            s[j] += x[i * ldx + j];
    }
    for (int64_t j = 0; j < width; j++)
        mean[j] = s[j] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < width; j++) {
            double d = x[i * ldx + j] - mean[j];
            t[j] += d * d;
        }
    }
    for (int64_t j = 0; j < width; j++)
        m2[j] = t[j];
}

static void columns(int64_t n, int64_t c, const float *x, int64_t ldx, double *mean,
                    double *m2) {
#pragma omp parallel for schedule(static) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < c; j += COLUMNS)
        column_block(n, c - j < COLUMNS ? c - j : COLUMNS, x + j, ldx, mean + j, m2 + j);
}

void mal_cpu_column_stats(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                          const float *u, int64_t ldu, const float *g, int64_t ldg,
                          double *mean, double *m2) {
    columns(n, du, u, ldu, mean, m2);
    columns(n, dg, g, ldg, mean + du, m2 + du);
}

/* ---- Hyper-network and value differences ---- */

static MAL_SIMD void block_row(int64_t c, const float *z, const float *scale,
                               const float *shift, float *h) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < c; j++)
        h[j] += scale[j] * (z[j] < 0 ? 0 : z[j]) + shift[j];
}

void mal_cpu_block_fwd(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                       const float *scale, const float *shift, float *h) {
#pragma omp parallel for schedule(static) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++)
        block_row(c, z + i * c, scale, shift, h + i * c);
}

static MAL_SIMD double dot(int64_t n, const float *a, const float *b) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < n; j++)
        s += (double)a[j] * (double)b[j];
    return s;
}

static MAL_SIMD void scale_row(int64_t n, float factor, const float *c, float *d) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < n; j++)
        d[j] = factor * c[j];
}

double mal_cpu_dot_row(int64_t n, const float *a, const float *b) {
    return dot(n, a, b);
}

void mal_cpu_scale_row(int64_t n, float factor, const float *c, float *d) {
    scale_row(n, factor, c, d);
}

void mal_cpu_edit_diffs(struct mal_backend *be, int64_t n, int64_t da, int64_t dc,
                        float lr, const float *a, int64_t lda, const float *b,
                        int64_t ldb, const float *c, int64_t ldc, float *d, int64_t ldd) {
#pragma omp parallel for schedule(static) if (n * (da + dc) > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        double product = mal_cpu_dot_row(da, a + i * lda, b + i * ldb);
        mal_cpu_scale_row(dc, (float)(-(double)lr * product), c + i * ldc, d + i * ldd);
    }
}
