/* train_ops.c - backward of the editors' own operations, and the optimiser's step. */
#include <math.h>

#include "core/cpu/cpu.h"
#include "core/simd.h"

/* ---- Hyper-network ---- */

enum { COLUMNS = 256 }; /* of one task */

/* Columns [0, width) of all rows; sums in fp64, in the order of the rows. */
static MAL_SIMD void block_columns(int64_t n, int64_t width, int64_t ld, const float *dh,
                                   const float *scale, float *z, float *dscale,
                                   float *dshift, float *dbias) {
    double s_scale[COLUMNS] = {0}, s_shift[COLUMNS] = {0}, s_bias[COLUMNS] = {0};
    for (int64_t i = 0; i < n; i++) {
        const float *d = dh + i * ld;
        float *row = z + i * ld;
        MAL_SIMD_LOOP
        for (int64_t j = 0; j < width; j++) {
            float dz = row[j] < 0 ? 0 : d[j] * scale[j];
            float r = row[j] < 0 ? 0 : row[j];
            s_scale[j] += (double)d[j] * (double)r;
            s_shift[j] += (double)d[j];
            s_bias[j] += (double)dz;
            row[j] = dz;
        }
    }
    for (int64_t j = 0; j < width; j++) {
        dscale[j] += (float)s_scale[j];
        dshift[j] += (float)s_shift[j];
        dbias[j] += (float)s_bias[j];
    }
}

void mal_cpu_block_bwd(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                       const float *scale, float *z, float *dscale, float *dshift,
                       float *dbias) {
#pragma omp parallel for schedule(static) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < c; j += COLUMNS) {
        block_columns(n, c - j < COLUMNS ? c - j : COLUMNS, c, dh + j, scale + j, z + j,
                      dscale + j, dshift + j, dbias + j);
    }
}

/* ---- Value differences ---- */

enum { GROUPS = 64 }; /* of rows: what is summed apart, whatever the number of threads */

static double diffs_rows(const struct mal_edit_diffs_bwd *g, int64_t first,
                         int64_t last) {
    double dlr = 0;
    for (int64_t i = first; i < last; i++) {
        const float *a = g->a + i * g->lda, *c = g->c + i * g->ldc,
                    *e = g->e + i * g->lde;
        double ab = mal_cpu_dot_row(g->da, a, g->b + i * g->ldb),
               ec = mal_cpu_dot_row(g->dc, e, c);
        mal_cpu_scale_row(g->da, (float)(-(double)g->lr * ec), a,
                          g->grad_b + i * g->ld_grad);
        mal_cpu_scale_row(g->dc, (float)(-(double)g->lr * ab), e,
                          g->grad_c + i * g->ld_grad);
        dlr -= ab * ec;
    }
    return dlr;
}

void mal_cpu_edit_diffs_bwd(struct mal_backend *be, const struct mal_edit_diffs_bwd *g) {
    double part[GROUPS];
    int64_t size = (g->n + GROUPS - 1) / GROUPS;
#pragma omp parallel for schedule(static) if (g->n * (g->da + g->dc) > PARALLEL_ELEMENTS)
    for (int64_t p = 0; p < GROUPS; p++) {
        int64_t first = p * size < g->n ? p * size : g->n;
        part[p] = diffs_rows(g, first, first + size < g->n ? first + size : g->n);
    }
    for (int64_t p = 0; p < GROUPS; p++)
        g->dlr[0] += part[p];
}

/* ---- Sums of products ---- */

static MAL_SIMD double row_dot64(int64_t n, const double *a, const double *b) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < n; j++)
        s += a[j] * b[j];
    return s;
}

static MAL_SIMD double row_dot_mixed(int64_t n, const double *a, const float *b) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < n; j++)
        s += a[j] * (double)b[j];
    return s;
}

static double row_dot_of(int64_t n, const void *a, enum mal_dtype a_dtype, const void *b,
                         enum mal_dtype b_dtype) {
    if (a_dtype == MAL_F32 && b_dtype == MAL_F32) return mal_cpu_dot_row(n, a, b);
    if (a_dtype == MAL_F32) return row_dot_mixed(n, b, a);
    return b_dtype == MAL_F32 ? row_dot_mixed(n, a, b) : row_dot64(n, a, b);
}

void mal_cpu_dot(struct mal_backend *be, int64_t n, int64_t c, const void *a,
                 enum mal_dtype a_dtype, int64_t lda, const void *b,
                 enum mal_dtype b_dtype, int64_t ldb, double *out) {
    double part[GROUPS] = {0}, sum = 0;
    size_t a_row = (size_t)lda * mal_dtype_size(a_dtype);
    size_t b_row = (size_t)ldb * mal_dtype_size(b_dtype);
#pragma omp parallel for schedule(static) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t p = 0; p < GROUPS; p++) {
        for (int64_t i = p; i < n; i += GROUPS) {
            part[p] += row_dot_of(c, (const char *)a + (size_t)i * a_row, a_dtype,
                                  (const char *)b + (size_t)i * b_row, b_dtype);
        }
    }
    for (int64_t p = 0; p < GROUPS; p++)
        sum += part[p];
    out[0] = sum;
}

/* ---- Adam ---- */

static MAL_SIMD void adam_part(int64_t n, float *p, float *m, float *v, const float *g,
                               float scale, const float k[6]) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * scale;
        float mean = m[i] + (grad - m[i]) * k[0];
        float square = v[i] * k[1] + grad * grad * k[2];
        m[i] = mean;
        v[i] = square;
        p[i] -= k[3] * mean / (sqrtf(square) / k[4] + k[5]);
    }
}

/* out = scale g + decay (w + p) */
static MAL_SIMD void decay_part(int64_t n, const float *p, const float *w, const float *g,
                                float scale, float decay, float *out) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        out[i] = g[i] * scale + decay * (w[i] + p[i]);
}

static MAL_SIMD void cut_part(int64_t n, float bound, float *p) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        p[i] = p[i] > bound ? bound : p[i] < -bound ? -bound : p[i];
}

enum { BLOCK = 4096 };

static void adam_block(const struct mal_adam *adam, int64_t i, int64_t n,
                       const float k[6]) {
    float wide[BLOCK], decayed[BLOCK], *p = adam->p + i, scale = (float)adam->grad_scale;
    const float *g = adam->g + i;
    if (adam->decay != 0) {
        const char *w = (const char *)adam->w + (size_t)i * mal_dtype_size(adam->w_dtype);
        mal_to_f32(wide, w, adam->w_dtype, (size_t)n);
        decay_part(n, p, wide, g, scale, (float)adam->decay, decayed);
        g = decayed;
        scale = 1;
    }
    adam_part(n, p, adam->m + i, adam->v + i, g, scale, k);
    if (adam->bound > 0) cut_part(n, (float)adam->bound, p);
}

void mal_cpu_adam_step(struct mal_backend *be, const struct mal_adam *adam) {
    double correct1 = 1 - pow(adam->beta1, (double)adam->t);
    double correct2 = 1 - pow(adam->beta2, (double)adam->t);
    const float k[6] = {(float)(1 - adam->beta1), (float)adam->beta2,
                        (float)(1 - adam->beta2), (float)(adam->lr / correct1),
                        (float)sqrt(correct2),    (float)adam->eps};
#pragma omp parallel for schedule(static) if (adam->n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < adam->n; i += BLOCK)
        adam_block(adam, i, adam->n - i < BLOCK ? adam->n - i : BLOCK, k);
}
