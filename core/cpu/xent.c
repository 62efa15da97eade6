/* xent.c - log-probability, rank and largest entry of rows of logits, divergence of two
 * rows, and their gradients. */
#include <math.h>
#include <string.h>

#include "core/cpu/cpu.h"
#include "core/cpu/vmath.h"

enum { LANES = 32 };

/* The largest element; NaN if there is one. Lane by lane, as compilers do not vectorise a
 * maximum that minds NaN. */
static MAL_SIMD float row_max(int64_t v, const float *x) {
    float max[LANES];
    int nans[LANES] = {0}, n_nans = 0;
    for (int l = 0; l < LANES; l++)
        max[l] = -INFINITY;
    int64_t j = 0;
    for (; j + LANES <= v; j += LANES) {
        MAL_SIMD_LOOP
        for (int l = 0; l < LANES; l++) {
            max[l] = x[j + l] > max[l] ? x[j + l] : max[l];
            nans[l] |= x[j + l] != x[j + l];
        }
    }
    for (int l = 0; j + l < v; l++) {
        max[l] = x[j + l] > max[l] ? x[j + l] : max[l];
        nans[l] |= x[j + l] != x[j + l];
    }
    for (int l = 0; l < LANES; l++) {
        max[0] = max[l] > max[0] ? max[l] : max[0];
        n_nans += nans[l];
    }
    return n_nans ? NAN : max[0];
}

static MAL_SIMD double sum_exp(int64_t v, const float *x, float max) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < v; j++)
        s += (double)vexp(x[j] - max);
    return s;
}

/* How many of x are larger than `value`, and how many of the first `before` equal it. */
static MAL_SIMD int64_t count_ahead(int64_t v, const float *x, float value,
                                    int64_t before) {
    int larger = 0, equal = 0;
    MAL_SIMD_SUM(larger)
    for (int64_t j = 0; j < v; j++)
        larger += x[j] > value;
    MAL_SIMD_SUM(equal)
    for (int64_t j = 0; j < before; j++)
        equal += x[j] == value;
    return (int64_t)larger + equal;
}

static int32_t first_equal(const float *x, float value) {
    int32_t j = 0;
    while (x[j] != value)
        j++;
    return j;
}

void mal_cpu_xent_fwd(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                      const int32_t *label, float *logprob, int32_t *rank,
                      int32_t *argmax) {
#pragma omp parallel for schedule(static) if (n * v > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        const float *x = logits + i * v;
        float max = row_max(v, x);
        argmax[i] = isnan(max) ? -1 : first_equal(x, max);
        if (!label) continue;

        logprob[i] = isnan(max) ? NAN : 0;
        rank[i] = 0;
        if (label[i] < 0 || isnan(max)) continue;
        float own = x[label[i]];
        logprob[i] = (float)((double)own - (double)max - log(sum_exp(v, x, max)));
        rank[i] = (int32_t)(1 + count_ahead(v, x, own, label[i]));
    }
}

static MAL_SIMD void softmax_scaled(int64_t v, float *x, float max, float scale) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < v; j++)
        x[j] = vexp(x[j] - max) * scale;
}

void mal_cpu_xent_bwd(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                      const int32_t *label, const float *scale) {
#pragma omp parallel for schedule(static) if (n * v > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        float *x = logits + i * v;
        if (label[i] < 0) {
            memset(x, 0, (size_t)v * sizeof *x);
            continue;
        }
        float max = row_max(v, x);
        double sum = sum_exp(v, x, max);
        /* p - 1 of the label is minus the sum of the others: exact where p is close to 1.
         */
        float own = x[label[i]];
        double others = sum - (double)vexp(own - max);
        softmax_scaled(v, x, max, (float)((double)scale[i] / sum));
        x[label[i]] = (float)(-(double)scale[i] * others / sum);
    }
}

/* logits := scale (q - p), q and p from the maxima and sums given; returns sum p (x - y),
 * of which the divergence is left when the log-sums are put in. */
static MAL_SIMD double kl_row(int64_t v, const float *x, float x_max, double x_sum,
                              float *y, float y_max, double y_sum, float scale) {
    float x_inv = (float)(1 / x_sum), y_inv = (float)(1 / y_sum);
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < v; j++) {
        float a = x[j] - x_max, b = y[j] - y_max;
        float p = vexp(a) * x_inv, q = vexp(b) * y_inv;
        s += (double)p * ((double)a - (double)b);
        y[j] = scale * (q - p);
    }
    return s;
}

void mal_cpu_kl(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                float *logits, const float *scale, float *kl) {
#pragma omp parallel for schedule(static) if (n * v > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        const float *x = base + i * v;
        float *y = logits + i * v, x_max = row_max(v, x), y_max = row_max(v, y);
        double x_sum = sum_exp(v, x, x_max), y_sum = sum_exp(v, y, y_max);
        double s = kl_row(v, x, x_max, x_sum, y, y_max, y_sum, scale[i]);
        kl[i] = (float)(s - log(x_sum) + log(y_sum));
    }
}

/* sum q (y - x - shift), of which the divergence of q from p is left when the log-sums
 * are put in; `shift` is that of the maxima. */
static MAL_SIMD double kl_now_sum(int64_t v, const float *x, const float *y, float y_max,
                                  double y_sum, double shift) {
    float y_inv = (float)(1 / y_sum);
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t j = 0; j < v; j++) {
        double q = (double)(vexp(y[j] - y_max) * y_inv);
        s += q * ((double)y[j] - (double)x[j] - shift);
    }
    return s;
}

/* The log-sums cancel in log q - log p - kl: of it y - x - `past` is left. */
static MAL_SIMD void kl_now_row(int64_t v, const float *x, float *y, float y_max,
                                float factor, double past) {
    MAL_SIMD_LOOP
    for (int64_t j = 0; j < v; j++) {
        float ahead = (float)((double)y[j] - (double)x[j] - past);
        y[j] = factor * vexp(y[j] - y_max) * ahead;
    }
}

void mal_cpu_kl_now(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                    float *logits, const float *scale, float *kl) {
#pragma omp parallel for schedule(static) if (n * v > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        const float *x = base + i * v;
        float *y = logits + i * v, x_max = row_max(v, x), y_max = row_max(v, y);
        double x_sum = sum_exp(v, x, x_max), y_sum = sum_exp(v, y, y_max);
        double shift = (double)y_max - (double)x_max;
        double s = kl_now_sum(v, x, y, y_max, y_sum, shift);
        kl_now_row(v, x, y, y_max, (float)((double)scale[i] / y_sum), shift + s);
        kl[i] = (float)(s - log(y_sum) + log(x_sum));
    }
}
