/* act.c - activation functions, caps and their slopes, element by element.
 *
 * 0.5 (1 + tanh(u)) is the logistic function of 2u: one exp, and exact far out where 1 +
 * tanh cancels. x and y, dy and dx may be the same memory. */
#include <assert.h>

#include "core/cpu/cpu.h"
#include "core/cpu/vmath.h"

enum { BLOCK = 4096, GATE_BLOCK = 1024 };

static const float two_sqrt_2_pi = 1.59576912160573f; /* 2 sqrt(2 / pi) */
static const float cubic = 0.044715f;
static const float sqrt_half = 0.70710678118655f;
static const float inv_sqrt_2pi = 0.39894228040143f;

/* The normal distribution function at x, with e = exp(-x^2 / 2). */
MAL_INLINE float normal_cdf(float x, float e) {
    float z = (x < 0 ? -x : x) * sqrt_half;
    z = z > 10.0f ? 10.0f : z; /* e is 0 there; of infinity verfcx() makes a NaN */
    float tail = 0.5f * e * verfcx(z);
    return x < 0 ? tail : 1.0f - tail;
}

/* The logistic function of w, and its slope; by exp(-|w|), which neither overflows nor
 * cancels. */
MAL_INLINE float logistic(float w, float *slope) {
    float e = vexp(w < 0 ? w : -w);
    float q = 1.0f / (1.0f + e);
    *slope = e * q * q;
    return w < 0 ? e * q : q;
}

/* ---- Forward ---- */

static MAL_SIMD void gelu_tanh_fwd(int64_t n, const float *x, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float v = x[i], slope;
        y[i] = v * logistic(two_sqrt_2_pi * (v + cubic * v * v * v), &slope);
    }
}

static MAL_SIMD void gelu_erf_fwd(int64_t n, const float *x, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float v = x[i];
        y[i] = v * normal_cdf(v, vexp(-0.5f * v * v));
    }
}

static MAL_SIMD void relu_fwd(int64_t n, const float *x, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i]; /* a NaN stays */
}

static MAL_SIMD void silu_fwd(int64_t n, const float *x, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float v = x[i], slope;
        y[i] = v * logistic(v, &slope);
    }
}

static MAL_SIMD void tanh_fwd(int64_t n, const float *x, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = vtanh(x[i]);
}

/* ---- Backward ---- */

static MAL_SIMD void gelu_tanh_bwd(int64_t n, const float *x, const float *dy,
                                   float *dx) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float v = x[i], slope;
        float s = logistic(two_sqrt_2_pi * (v + cubic * v * v * v), &slope);
        float dw = two_sqrt_2_pi * (1.0f + 3.0f * cubic * v * v);
        dx[i] = dy[i] * (s + v * slope * dw);
    }
}

static MAL_SIMD void gelu_erf_bwd(int64_t n, const float *x, const float *dy, float *dx) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float v = x[i];
        float e = vexp(-0.5f * v * v);
        dx[i] = dy[i] * (normal_cdf(v, e) + v * e * inv_sqrt_2pi);
    }
}

static MAL_SIMD void relu_bwd(int64_t n, const float *x, const float *dy, float *dx) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        dx[i] = x[i] < 0 ? 0 : dy[i]; /* slope 1 at 0 */
}

static MAL_SIMD void silu_bwd(int64_t n, const float *x, const float *dy, float *dx) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float v = x[i], slope;
        float s = logistic(v, &slope);
        dx[i] = dy[i] * (s + v * slope);
    }
}

static MAL_SIMD void tanh_bwd(int64_t n, const float *x, const float *dy, float *dx) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float slope;
        logistic(2.0f * x[i], &slope);
        dx[i] = dy[i] * (4.0f * slope);
    }
}

/* ---- Caps ---- */

static MAL_SIMD void cap_fwd(int64_t n, float cap, float *x) {
    float inverse = 1 / cap;
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        x[i] = cap * vtanh(inverse * x[i]);
}

static MAL_SIMD void cap_bwd(int64_t n, float cap, const float *y, float *dy) {
    float inverse = 1 / cap;
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++) {
        float t = inverse * y[i];
        dy[i] *= 1 - t * t;
    }
}

/* ---- Biases and gates ---- */

static MAL_SIMD void add(int64_t n, const float *a, const float *b, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static MAL_SIMD void multiply(int64_t n, const float *a, const float *b, float *y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

/* ---- Entries ---- */

static void (*const fwd[])(int64_t, const float *, float *) = {
    [MAL_GELU_TANH] = gelu_tanh_fwd, [MAL_GELU_ERF] = gelu_erf_fwd, [MAL_RELU] = relu_fwd,
    [MAL_SILU] = silu_fwd,           [MAL_TANH] = tanh_fwd,
};

static void (*const bwd[])(int64_t, const float *, const float *, float *) = {
    [MAL_GELU_TANH] = gelu_tanh_bwd, [MAL_GELU_ERF] = gelu_erf_bwd, [MAL_RELU] = relu_bwd,
    [MAL_SILU] = silu_bwd,           [MAL_TANH] = tanh_bwd,
};

static void act_elements(enum mal_act act, int64_t n, const float *x, float *y) {
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += BLOCK)
        fwd[act](n - i < BLOCK ? n - i : BLOCK, x + i, y + i);
}

void mal_cpu_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                     const float *x, const float *bias, void *y, enum mal_dtype y_dtype) {
    float *out = y;
    if (!bias) {
        act_elements(act, n * c, x, out);
        return;
    }
#pragma omp parallel for schedule(static) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        float *row = out + i * c;
        add(c, x + i * c, bias, row);
        fwd[act](c, row, row);
    }
}

void mal_cpu_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                     const float *dy, float *dx) {
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += BLOCK)
        bwd[act](n - i < BLOCK ? n - i : BLOCK, x + i, dy + i, dx + i);
}

void mal_cpu_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n,
                     const float *gate, const float *x, void *y, enum mal_dtype y_dtype) {
    float *out = y;
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += GATE_BLOCK) {
        int64_t size = n - i < GATE_BLOCK ? n - i : GATE_BLOCK;
        float open[GATE_BLOCK];
        fwd[act](size, gate + i, open);
        multiply(size, open, x + i, out + i);
    }
}

void mal_cpu_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n,
                     const float *gate, const float *x, const float *dy, float *dgate,
                     float *dx) {
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += GATE_BLOCK) {
        int64_t size = n - i < GATE_BLOCK ? n - i : GATE_BLOCK;
        float open[GATE_BLOCK], dopen[GATE_BLOCK];
        fwd[act](size, gate + i, open);
        multiply(size, x + i, dy + i, dopen);
        multiply(size, open, dy + i, dx + i);
        bwd[act](size, gate + i, dopen, dgate + i);
    }
}

void mal_cpu_cap_fwd(struct mal_backend *be, int64_t n, float cap, float *x) {
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += BLOCK)
        cap_fwd(n - i < BLOCK ? n - i : BLOCK, cap, x + i);
}

void mal_cpu_cap_bwd(struct mal_backend *be, int64_t n, float cap, const float *y,
                     float *dy) {
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += BLOCK)
        cap_bwd(n - i < BLOCK ? n - i : BLOCK, cap, y + i, dy + i);
}
